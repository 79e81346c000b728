"""A Debian 12 of the tests' own, booted by systemd-nspawn: what `make install` puts into it runs there as on any machine.

The tree is made once by debootstrap and kept in a cache folder; each machine lays a file system of its own over it, so that no
test sees what another left. A machine has no network but what a test makes in it. Registration with machined is left out
(`--register=no`), so commands are run by entering the namespaces of its first process.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "netseq-system"
SUITE, MIRROR = "bookworm", "http://deb.debian.org/debian"
PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "procps", "iproute2", "python3", "python3-venv", "make"),
    *("tcpreplay", "libpcap0.8", "logrotate", "curl", "man-db"),
)
"""What the tests need, and what docs/operations.md has an operator install."""

PYTHON = "/usr/bin/python3"
"""Debian's own: a virtual environment made outside names it, and must find it inside."""

NEEDED = ("debootstrap", "systemd-nspawn", "nsenter", "mount", PYTHON)
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
INSIDE = {"PATH": PATH, "LC_ALL": "C.UTF-8", "HOME": "/root", "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"}


MEMORY, ROOM = Path("/dev/shm"), 6 << 30  # noqa: S108  # folders of random names are made in it
"""Where installations are made, if that much is free: a disk that trims what is removed took minutes for a gigabyte."""


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder for some gigabytes, in memory if there is room; it is removed at the end."""
    available = int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]) << 10
    roomy = MEMORY.is_dir() and min(available // 2, shutil.disk_usage(MEMORY).free) > ROOM
    with tempfile.TemporaryDirectory(prefix="netseq-system-", dir=MEMORY if roomy else None) as made:
        Path(made).chmod(0o755)
        yield Path(made)


def why_not() -> str:
    """Why no machine can be booted here, or ""."""
    if os.geteuid() != 0:
        return "booting a machine needs root"
    missing = [command for command in NEEDED if shutil.which(command) is None]
    if missing:
        return f"booting a machine needs {', '.join(missing)} (Debian: debootstrap systemd-container util-linux python3-venv)"
    version = said([PYTHON, "-c", "import sys, ensurepip; print(sys.version_info[:2])"])
    return "" if version.strip() == "(3, 11)" else f"{PYTHON} is {version}, and Debian 12 has Python 3.11"


def said(command: Sequence[str]) -> str:
    """Standard output of a command that is run in the source folder; a failure shows all that it said."""
    done = subprocess.run(command, check=False, text=True, capture_output=True, cwd=ROOT, timeout=1200)
    if done.returncode:
        pytest.fail(f"{' '.join(command)}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def tree() -> Path:
    """The tree of a fresh Debian 12, from the cache or made now (a minute, and 340 MB)."""
    recipe = hashlib.sha256(f"{SUITE} {MIRROR} {PACKAGES}".encode()).hexdigest()[:8]
    made = CACHE / f"debian-{recipe}"
    if not made.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        for old in CACHE.glob("debian-*"):
            shutil.rmtree(old)
        part = Path(tempfile.mkdtemp(prefix="debian-", dir=CACHE))
        part.chmod(0o755)
        said(["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(part), MIRROR])
        shutil.rmtree(part / "var/cache/apt", ignore_errors=True)
        part.rename(made)
    return made


def wheels() -> Path:
    """A folder with all that netseq requires, for a machine without a network; from the cache or downloaded now."""
    wanted = (ROOT / "setup.cfg").read_text() + (ROOT / "constraints.txt").read_text()
    made = CACHE / f"wheels-{hashlib.sha256(wanted.encode()).hexdigest()[:8]}"
    if not made.is_dir():
        for old in CACHE.glob("wheels-*"):
            shutil.rmtree(old)
        part = Path(tempfile.mkdtemp(prefix="wheels-", dir=CACHE))
        with tempfile.TemporaryDirectory() as source:  # setuptools would write into the folder that it builds
            for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "sensor", "models"):
                copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
                copy(ROOT / name, Path(source) / name)
            pip = [PYTHON, "-m", "venv", f"{source}/venv"]
            said(pip)
            constraints = ["-c", str(ROOT / "constraints.txt")]
            download = [f"{source}/venv/bin/pip", "download", "--quiet", "--dest", str(part), *constraints]
            said([*download, f"{source}[zstd]", "setuptools>=77", "wheel"])
        for own in part.glob("netseq-*"):
            own.unlink()
        part.rename(made)
    return made


class Machine:
    """A booted Debian; `root` is its tree as seen from outside."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.leader = 0
        """The machine's first process, by its number outside."""

    def boot(self) -> None:
        """Boot, and wait until all that starts at boot has started."""
        own = "".join(filter(str.isalnum, self._folder.name))  # a name that ends with "_" is none for a machine
        command = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--private-network", "--link-journal=no"]
        command += [f"--machine=netseq-{os.getpid()}-{own}", "-D", str(self.root), "--boot"]
        with (self._folder / "console").open("wb") as console:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console)
        until(self._find_leader, 30, self.console)
        until(lambda: self.ok("systemctl", "is-system-running", "--wait"), 60, self.console)

    def _find_leader(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.console()
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        started = [int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text().strip() == "systemd"]
        self.leader = started[0] if started else 0
        return bool(self.leader)

    def run(self, *command: str) -> str:
        """Run a command inside, as root; returns its standard output. A failure shows all that it said, and the journal."""
        done = self._enter(command)
        if done.returncode:
            journal = self._enter(["journalctl", "-n", "60", "-o", "cat"]).stdout
            pytest.fail(f"{' '.join(command)}: status {done.returncode}\n{done.stdout}{done.stderr}\njournal:\n{journal}")
        return done.stdout

    def ok(self, *command: str) -> bool:
        """Whether a command inside succeeds."""
        return self._enter(command).returncode == 0

    def _enter(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        enter = ["nsenter", "--target", str(self.leader), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]
        whole = [*enter, "env", "--chdir=/", *command]  # the folder of this process is none inside
        return subprocess.run(
            whole, check=False, env=INSIDE, text=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=600
        )

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).strip()

    def journal(self, unit: str) -> str:
        """All messages of a unit and about it."""
        return self.run("journalctl", f"--unit={unit}", "--output=cat", "--no-pager")

    def console(self) -> str:
        """What was written to the machine's console, for a failure."""
        return (self._folder / "console").read_text(errors="replace")[-4000:]

    def off(self) -> None:
        """Power off; a machine that does not obey is ended."""
        if self._process is None:
            return
        if self.leader and self._process.poll() is None:
            self._enter(["systemctl", "poweroff"])
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            os.kill(self.leader or self._process.pid, signal.SIGKILL)
            self._process.wait(30)


@contextlib.contextmanager
def machine() -> Iterator[Machine]:
    """A machine that is not booted yet, over the cached tree; it is taken away at the end."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with folder() as place:
        for name in ("changes", "work", "root"):
            (place / name).mkdir()
        layers = f"lowerdir={tree()},upperdir={place}/changes,workdir={place}/work"
        said(["mount", "-t", "overlay", "overlay", "-o", layers, str(place / "root")])
        made = Machine(place)
        try:
            _try_to_start(made)
            yield made
        finally:
            made.off()
            said(["umount", str(place / "root")])


def _try_to_start(made: Machine) -> None:
    """Skip where nspawn cannot start anything."""
    enter = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--private-network", "-D", str(made.root), "true"]
    tried = subprocess.run(enter, check=False, capture_output=True, text=True, timeout=60)
    if tried.returncode:
        pytest.skip(f"systemd-nspawn cannot start a machine here: {tried.stderr.strip()}")


def until(fact: Callable[[], object], seconds: float, tell: Callable[[], str]) -> None:
    """Wait until something is so, at most so long; fails with what `tell` says."""
    end = time.monotonic() + seconds
    while not fact():
        if time.monotonic() > end:
            pytest.fail(f"not so after {seconds:g} s\n{tell()}")
        time.sleep(0.1)
