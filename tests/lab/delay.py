"""Delay and loss of links: tc netem where the kernel has it, else a delay line in user space between router and outside.

Netem sits on both ends of a host's link. Kernels built without sch_netem (some clouds' and containers') leave only user space:
this process holds two TAP interfaces, one in the router's namespace and one that is a port of br-outside, and carries every
frame across when it is due. The frame's outside address tells the delay and the loss. Hosts inside then have no delay. Frames
of one delay stay in order. A frame costs two system calls and one entry of a heap. Started by network.py.
"""

from __future__ import annotations

import argparse
import fcntl
import gc
import heapq
import json
import os
import random
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from .site import Host, LabError, Site
from .world import within

TUNSETIFF = 0x4004_54CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
"""linux/if_tun.h: frames as they are on the wire, nothing before them."""

NETEM_FRAMES = 20_000
"""Netem's own limit of 1,000 frames would lose frames of a flood that is merely delayed."""

WAITING_FRAMES = 100_000
"""Most frames in the delay line: five seconds of 20,000 frames a second, 150 MB at worst. More are dropped and counted."""

BATCH = 64
"""Frames read from one side before what is due is written: at 20,000 a second a batch is 3 ms, at rest it is one frame."""

FRAME_BYTES = 2048
"""More than an Ethernet frame of 1500 bytes with its header can have."""

IDLE_S = 0.25
"""Longest wait: a signal's handler does not end a select (PEP 475)."""

PRIORITY = -10
"""Of the process: what it is late, the links are slow."""

ETHERTYPE = slice(12, 14)
IPV4, IPV6 = b"\x08\x00", b"\x86\xdd"
IPV4_SOURCE, IPV4_DESTINATION = slice(26, 30), slice(30, 34)
IPV6_SOURCE, IPV6_DESTINATION = slice(22, 38), slice(38, 54)
"""Where an Ethernet frame has them (RFC 791, RFC 8200)."""

Link = tuple[int, float]
"""Delay in nanoseconds, share of frames lost."""

AT_ONCE: Link = (0, 0.0)
"""ARP, neighbour discovery and addresses of no host."""


def netem_command(interface: str, host: Host) -> list[str]:
    """The tc command that gives one end of a host's link its delay and loss; empty when it has neither."""
    words = []
    if host.delay_ms > 0:
        words += ["delay", f"{host.delay_ms:g}ms"]
    if host.loss > 0:
        words += ["loss", f"{host.loss * 100:g}%"]
    if not words:
        return []
    return ["tc", "qdisc", "add", "dev", interface, "root", "netem", "limit", str(NETEM_FRAMES), *words]


def links(site: Site) -> dict[str, Link]:
    """Delay and loss by address, of all hosts outside that have any."""
    return {
        address: (round(host.delay_ms * 1e6), host.loss)
        for host in site.hosts
        if host.network == "outside" and (host.delay_ms > 0 or host.loss > 0)
        for address in (*host.ipv4, *host.ipv6)
    }


class DelayLine:
    """What is on its way, and when it is due; knows no clock and no file, so that it can be tested with neither."""

    def __init__(self, table: Mapping[str, Link], seed: int = 0, most: int = WAITING_FRAMES) -> None:
        self.table = {_packed(address): link for address, link in table.items()}
        self.chance = random.Random(seed)
        self.most = most
        self.waiting: list[tuple[int, int, int, bytes]] = []
        self.taken = 0
        self.lost = 0
        self.dropped = 0

    def take(self, frame: bytes, side: int, now_ns: int) -> bool:
        """Take a frame that came from side 0 (the router) or 1 (outside); whether it is to be written at once."""
        kind = frame[ETHERTYPE]
        if kind == IPV4:
            address = frame[IPV4_SOURCE if side else IPV4_DESTINATION]
        elif kind == IPV6:
            address = frame[IPV6_SOURCE if side else IPV6_DESTINATION]
        else:
            return True
        delay_ns, loss = self.table.get(address, AT_ONCE)
        if loss > 0 and self.chance.random() < loss:
            self.lost += 1
            return False
        if delay_ns == 0:
            return True
        if len(self.waiting) >= self.most:
            self.dropped += 1
            return False
        self.taken += 1  # frames of the same nanosecond keep their order
        heapq.heappush(self.waiting, (now_ns + delay_ns, self.taken, side, frame))
        return False

    def due(self, now_ns: int) -> tuple[int, int, bytes] | None:
        """When the next frame was due, the side that it came from, and the frame; nothing when none is due yet."""
        if not self.waiting or self.waiting[0][0] > now_ns:
            return None
        due_ns, _, side, frame = heapq.heappop(self.waiting)
        return due_ns, side, frame

    def next_s(self, now_ns: int) -> float | None:
        """Seconds until the next frame is due, nothing when none waits."""
        return max(0, self.waiting[0][0] - now_ns) / 1e9 if self.waiting else None


class Carrier:
    """Carries frames between two TAP interfaces by way of a delay line."""

    def __init__(self, line: DelayLine, taps: tuple[int, int]) -> None:
        self.line = line
        self.taps = taps
        self.carried = 0
        self.refused = 0
        self.late_ns = 0
        self.latest_ns = 0
        self.stopping = False

    def run(self) -> None:
        """Carry until told to stop."""
        clock = time.monotonic_ns
        while not self.stopping:
            wait_s = self.line.next_s(clock())
            ready, _, _ = select.select(self.taps, (), (), IDLE_S if wait_s is None else min(wait_s, IDLE_S))
            for tap in ready:
                self._read(0 if tap == self.taps[0] else 1)
            self._write_due(clock())

    def _read(self, side: int) -> None:
        tap, take, read, now_ns = self.taps[side], self.line.take, os.read, time.monotonic_ns()
        try:
            for _ in range(BATCH):
                frame = read(tap, FRAME_BYTES)
                if take(frame, side, now_ns):
                    self._write(side, frame)
        except BlockingIOError:
            return

    def _write_due(self, now_ns: int) -> None:
        while (due := self.line.due(now_ns)) is not None:
            due_ns, side, frame = due
            self._write(side, frame)
            self.late_ns += now_ns - due_ns
            self.latest_ns = max(self.latest_ns, now_ns - due_ns)

    def _write(self, side: int, frame: bytes) -> None:
        try:
            os.write(self.taps[1 - side], frame)
        except OSError:  # the interface is down, or the kernel has no memory: a wire would lose the frame too
            self.refused += 1
        else:
            self.carried += 1

    def report(self) -> dict[str, float]:
        """What it carried and lost, and how late it was."""
        line = self.line
        return {
            "carried": self.carried,
            "lost_as_told": line.lost,
            "dropped_full": line.dropped,
            "refused": self.refused,
            "late_mean_us": self.late_ns / 1e3 / max(1, line.taken),
            "late_most_us": self.latest_ns / 1e3,
        }


def open_tap(name: str) -> int:
    """Attach to a TAP interface of the calling thread's network namespace; LabError without /dev/net/tun."""
    try:
        tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    except OSError as error:
        raise LabError(f"/dev/net/tun cannot be opened ({error.strerror}): modprobe tun") from error
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return tap


def main(arguments: Sequence[str]) -> int:
    """Carry frames until SIGTERM, then print what was carried."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab.delay", description="Carry frames between two TAP interfaces.")
    parser.add_argument("hosts", type=Path, help="hosts.json")
    parser.add_argument("ends", nargs=2, metavar="NAMESPACE/INTERFACE", help="the router's end, then that outside")
    told = parser.parse_args(arguments)
    router, outside = (end.partition("/") for end in told.ends)
    taps = (within(router[0], lambda: open_tap(router[2])), within(outside[0], lambda: open_tap(outside[2])))
    carrier = Carrier(DelayLine(links(Site.read(told.hosts))), taps)

    def stop(*_: object) -> None:
        carrier.stopping = True

    signal.signal(signal.SIGTERM, stop)
    os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    gc.freeze()
    gc.disable()  # nothing here makes cycles, and a collection would walk over every waiting frame
    sys.stdout.write("carrying\n")
    sys.stdout.flush()
    carrier.run()
    sys.stdout.write(json.dumps(carrier.report()) + "\n")
    return 0


def _packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except LabError as error:
        sys.exit(f"{error}")
