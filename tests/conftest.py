"""What all tests share: the large public data sets, when they are there."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from benchmarks.recorded import data_folder
from sensor.kernels import prepare_cache

prepare_cache()  # before any test imports a kernel

# A shell starts what it runs in the background with interrupts ignored, and children inherit that: tests send them.
signal.signal(signal.SIGINT, signal.default_int_handler)

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the large captures and logs; tests that want it skip where it is absent."""
    folder = data_folder()
    if not folder.is_dir():
        pytest.skip(f"the large data sets are not at {folder} (set NETSEQ_DATA)")
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests recorded as "told": measures that are better read than only asserted."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "told":
                terminalreporter.write_line(str(value))


def said(captured: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """Standard output and error so far, without the news that kernels are compiled, which depends on what ran before."""
    out, err = captured.readouterr()
    return out, "".join(line for line in err.splitlines(keepends=True) if "compiling kernels, once" not in line)
