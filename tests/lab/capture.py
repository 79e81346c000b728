"""The capture of a run: tcpdump at the end of the cable that takes a copy of every frame that is sent inside.

Each port of br-inside copies what comes in, from a host or the router, to the cable, so that a frame is seen once however many
ports it leaves by. Whether that held is counted at three places: what the ports copied, what came out of the cable, and what
tcpdump wrote. tcpdump does not notice a full disk (libpcap ignores what fwrite returns), so free space is
watched here, and the run ended while there is still room for its labels. Called by run.py.
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
from typing import Any, Self, cast

from .network import MIRROR, SWITCH, TAP, Network, batch, wait_until
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
    """Taken in by the ports of br-inside while the capture ran."""
    mirrored: int
    """Come out of the cable; a few more than were sent when hosts still sent while the counts were read."""
    captured: int
    """Written by tcpdump."""
    dropped: int
    """Not written because tcpdump was too slow (its own count)."""

    @property
    def missed(self) -> int:
        """Sent and not captured."""
        return max(self.sent, self.mirrored) - self.captured


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
        self._before = 0
        self._report: Report | None = None

    def __enter__(self) -> Self:
        if self.path.suffix != ".pcap":
            raise LabError(f"{self.path}: a capture's name must end in .pcap")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._refuse_full("nothing is started")
        argv = ["nice", "-n", PRIORITY, "tcpdump", "-i", TAP, "-n", "-s", str(self.snaplen), "-B", str(BUFFER_KB), "-Z", "root"]
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
        self._before = self._mirrored()
        for port in self.network.inside_ports:
            copy = f"filter add dev {port} ingress protocol all u32 match u32 0 0 action mirred egress mirror dev {MIRROR}"
            batch(SWITCH, [f"qdisc add dev {port} clsact", copy], program="tc")
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def check(self) -> None:
        """LabError when the disk is full, or tcpdump ended by itself."""
        self._processes.check()
        self._refuse_full("the run ends here; what was captured and labelled until now can be used")

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
        sent = self._sent()
        batch(SWITCH, [f"qdisc del dev {port} clsact" for port in self.network.inside_ports], program="tc")
        mirrored = self._mirrored() - self._before
        until = time.monotonic() + READ_S
        while tcpdump.poll() is None and self._told("captured") < mirrored and time.monotonic() < until:
            tcpdump.send(signal.SIGUSR1)
            time.sleep(ASK_S)
        self._processes.end(END_S)
        self._report = Report(sent, mirrored, self._told("captured"), self._told("dropped by kernel"))

    def _told(self, what: str) -> int:
        """The last count that tcpdump told."""
        assert self._tcpdump is not None
        found = re.findall(rf"(\d+) packets? {what}", self._tcpdump.log.read_text(errors="replace"))
        return int(found[-1]) if found else 0

    def _sent(self) -> int:
        """Frames that the ports of br-inside copied so far."""
        return sum(
            action["stats"]["packets"]
            for port in self.network.inside_ports
            for row in _json("tc", "-s", "filter", "show", "dev", port, "ingress")
            for action in row.get("options", {}).get("actions", ())
        )

    def _mirrored(self) -> int:
        """Frames that came out of the cable since it was laid."""
        return int(_json("ip", "-s", "link", "show", "dev", TAP)[0]["stats64"]["rx"]["packets"])


def _json(program: str, *words: str) -> list[dict[str, Any]]:
    done = subprocess.run([program, "-n", SWITCH, "-j", *words], capture_output=True, text=True, check=True)
    return cast("list[dict[str, Any]]", json.loads(done.stdout))
