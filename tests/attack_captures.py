"""What tests of the laboratory's attacks share: processes that end with a block, a capture, labels held against its flows."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from namespaces import PATIENCE_S, Wire, wait_until
from numpy.typing import NDArray

from sensor.assembly import Assembly
from sensor.config import Settings
from sensor.labels import Labels
from sensor.sources.pcap import CaptureSource

ROOT = Path(__file__).parents[1]


@contextmanager
def running(argv: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, which is ended with the block."""
    with log.open("ab") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=output, cwd=ROOT, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def captured(wire: Wire, folder: Path) -> Iterator[Path]:
    """Everything at the far end of the wire during the block."""
    path, log = folder / "capture.pcap", folder / "tcpdump.txt"
    inside = ("ip", "netns", "exec", wire.receiver.name)
    tcpdump = ("tcpdump", "--immediate-mode", "-i", wire.far, "-s", "160", "-n", "-U", "-Z", "root", "-w", str(path))
    with running((*inside, *tcpdump), log) as process:
        wait_until(lambda: log.exists() and b"listening" in log.read_bytes(), "tcpdump")
        yield path
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(PATIENCE_S) == 0


def flows_of(path: Path) -> NDArray[np.void]:
    """The flows of a capture, as netseq makes them."""
    assembly = Assembly(Settings())
    batches = [batch.flows for block in CaptureSource([path]) for batch in assembly.feed(block)]
    return np.concatenate([*batches, *(batch.flows for batch in assembly.drain())])


def labelled(flows: NDArray[np.void], record: dict[str, Any]) -> list[str]:
    """The label of each flow by the record's lines, "" for none."""
    times = f"{record['start_us'] / 1e6:.6f},{record['end_us'] / 1e6:.6f}"
    rows = ["from,to,src,dst,src_port,dst_port,protocol,label,both"]
    for line in record["lines"]:
        cells = (line["src"], line["dst"], line["src_port"], line["dst_port"], line["protocol"], record["label"])
        rows.append(f"{times},{','.join(cells)},{'yes' if line['both'] else 'no'}")
    labels = Labels.parse("\n".join(rows).encode(), "labels.csv")
    return [labels.lines[place].label if place >= 0 else "" for place in labels.of(flows)]
