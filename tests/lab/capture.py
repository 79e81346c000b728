"""The capture of a run: tcpdump on br-inside, which shows it every frame that is sent inside, once.

A bridge in promiscuous mode hands itself each frame that a port takes in, once however many ports it leaves by, and past no
queue. Copies to a veth pair, the obvious way, were lost when a scan made the router ask for fifty dead hosts in one breath:
each question goes to forty ports, and the kernel's queue holds a thousand. Whether all was seen is counted: what the ports took
in, and what tcpdump wrote. tcpdump does not notice a full disk (libpcap ignores what fwrite returns), so free space is watched
here, and the run ended while there is still room for its labels. Called by run.py.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from .network import BRIDGES, SWITCH, Network, wait_until
from .processes import Process, Processes
from .site import LabError

BUFFER_KB = 65536
"""Of the kernel, for tcpdump: 160 bytes and a header of each frame, a quarter of a million frames."""

RESERVE_BYTES = 16 << 20
"""Free space below which a disk counts as full: several seconds of the fastest flood, then labels, schedule and logs."""

READ_S = 5.0
"""How long tcpdump may take to read what the kernel has for it: it reads once a second at least."""

ASK_S = 0.1
"""Between two questions how far tcpdump is."""

PRIORITY = "-10"
"""tcpdump's niceness: a run has no second chance to see a packet."""

END_S = 10.0
"""How long tcpdump may take to write out what it has."""


@dataclass(frozen=True, slots=True)
class Report:
    """What became of the frames that were sent inside."""

    sent: int
    """Taken in by the ports of br-inside since tcpdump listened; a few that came just before are captured and not counted."""
    captured: int
    """Written by tcpdump."""
    dropped: int
    """Not written because tcpdump was too slow (its own count)."""
    undelivered: int
    """Copies that found the queue to their host full, as when a frame for all goes to forty hosts: captured all the same."""

    @property
    def missed(self) -> int:
        """Sent and not captured; below zero by those few."""
        return self.sent - self.captured


class Capture:
    """A capture for the time of a with block.

    `path` ends in .pcap (Debian's AppArmor lets tcpdump write nothing else). LabError when it cannot start and, from `check`,
    which is to be called every second, when the disk is full; what was captured until then is whole.
    """

    def __init__(self, network: Network, path: Path, snaplen: int = 160) -> None:
        self.network = network
        self.path = path
        self.snaplen = snaplen
        self._processes = Processes()
        self._tcpdump: Process | None = None
        self._before = (0, 0)
        self._report: Report | None = None

    def __enter__(self) -> Self:
        if self.path.suffix != ".pcap":
            raise LabError(f"{self.path}: a capture's name must end in .pcap")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._refuse_full("nothing is started")
        options = f"-i {BRIDGES['inside']} -n -s {self.snaplen} -B {BUFFER_KB} -Z root".split()
        argv = ["nice", "-n", PRIORITY, "tcpdump", *options]
        log = self.path.with_suffix(".log")
        log.unlink(missing_ok=True)
        command = ["ip", "netns", "exec", SWITCH, *argv, "-w", str(self.path.absolute())]
        tcpdump = self._tcpdump = self._processes.start(command, log, name="tcpdump")
        try:
            wait_until(lambda: tcpdump.poll() is not None or "listening on" in log.read_text(), "tcpdump to listen")
            self._processes.check()
        except BaseException:
            self._processes.end()
            raise
        self._before = self._counts()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def check(self) -> None:
        """LabError when the disk is full, or tcpdump ended by itself."""
        self._processes.check()
        self._refuse_full("the run ends here; what was captured and labelled until now can be used")

    @property
    def ended(self) -> bool:
        """Whether it has been, and its counts are known."""
        return self._report is not None

    def report(self) -> Report:
        """The counts, once the capture has ended; LabError before."""
        if self._report is None:
            raise LabError("the capture is still running: its counts are known when it has ended")
        return self._report

    def _refuse_full(self, outcome: str) -> None:
        folder = self.path.absolute().parent
        free = shutil.disk_usage(folder).free
        if free < RESERVE_BYTES:
            kept = RESERVE_BYTES >> 20
            raise LabError(f"the disk of {folder} is full ({free >> 20} MB left, {kept} are kept free): {outcome}")

    def _end(self) -> None:
        """End tcpdump when it has read every frame that was sent until now."""
        tcpdump = self._tcpdump
        assert tcpdump is not None
        sent, undelivered = (now - before for now, before in zip(self._counts(), self._before, strict=True))
        until = time.monotonic() + READ_S
        while tcpdump.poll() is None and self._told("captured") < sent and time.monotonic() < until:
            tcpdump.send(signal.SIGUSR1)
            time.sleep(ASK_S)
        self._processes.end(END_S)
        self._report = Report(sent, self._told("captured"), self._told("dropped by kernel"), undelivered)

    def _told(self, what: str) -> int:
        """The last count that tcpdump told."""
        assert self._tcpdump is not None
        found = re.findall(rf"(\d+) packets? {what}", self._tcpdump.log.read_text(errors="replace"))
        return int(found[-1]) if found else 0

    def _counts(self) -> tuple[int, int]:
        """Frames that the ports of br-inside took in, and those that they could not deliver, so far."""
        done = subprocess.run(["ip", "-n", SWITCH, "-j", "-s", "link"], capture_output=True, text=True, check=True)
        ports = set(self.network.inside_ports)
        counts = [link["stats64"] for link in json.loads(done.stdout) if link["ifname"] in ports]
        return sum(count["rx"]["packets"] for count in counts), sum(count["tx"]["dropped"] for count in counts)
