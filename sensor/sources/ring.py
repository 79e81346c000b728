"""Live capture: frames of one or several interfaces, straight from the memory that the kernel writes them to.

Each interface has a packet socket with a ring of its own (`ring_socket`); one thread walks them all (`ring_kernel`), merged
by stamp, and hands over rows that point into the rings. Blocks of a ring go back to the kernel when the next block of
frames is asked for, so nothing is copied and nothing is overwritten under a reader. Who reads too slowly loses frames in
the kernel, which counts them. Several threads share the interfaces with one RingSource each (`fanned_out`).

Frames are those that tcpdump would write: VLAN tags that the kernel took out are put back; on a loopback interface, which
hears each packet going out and coming in, the way out is left out. With segmentation offload (GRO, LRO, TSO; `ethtool -k`) a
frame may be a number of packets in one and longer than the MTU: flows then count fewer packets than were on the wire, and as
many bytes of payload; `ethtool -K eth0 gro off lro off` on a machine that only listens.

No clock is read. Time that passes without packets is told by the waits that ended empty, time under load by the stamps. An
interface that goes down is heard again as soon as it is up; one that was deleted and made again is opened anew. Used by
`sensor.commands`; where packet sockets are not to be had, `sensor.sources.sniffed` stands in.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from sensor.schema import FRAME, FrameBlock
from sensor.sources.bpf import REJECT
from sensor.sources.ring_kernel import RING, give_back, walk_rings
from sensor.sources.ring_socket import (
    BLOCK_BYTES,
    ETHERNET,
    FanoutGroups,
    Interface,
    InterfaceFailed,
    RingMemory,
    attach,
    filter_for,
    find,
    found,
    no_ring,
    open_ring,
    packet_socket,
    plan,
    statistics,
)

__all__ = ["FanoutGroups", "InterfaceFailed", "RingSource", "check", "fanned_out"]

GONE = (errno.ENODEV, errno.ENXIO, errno.ENETDOWN)
"""What is said of an interface that went away while it was opened."""

TICK_MS = 4
"""By which the kernel's timer may be late that hands blocks over (at 250 Hz, as in Debian)."""

LOOK_S = 1.0
"""How often a lost interface is looked for."""
LAST_WAITS, LAST_WAIT_S = 20, 0.05
"""How often, and how long each time, the end waits at most until the kernel has handed over what is in the rings: it takes
two times block_ms, and more on a machine that is short of time."""


def _untold(_event: str, _interface: str) -> None:
    """Tell nobody."""


class _Tap:
    """One interface that is listened on, or waited for."""

    def __init__(self, number: int, interface: Interface) -> None:
        self.number = number
        self.name = interface.name
        self.interface_number = interface.number
        self.hearing: socket.socket | None = None
        self.lost = False
        self.losses = self.drops = self.freezes = 0
        self.taken = 0
        """Packets that the kernel put into its rings."""


class RingSource:
    """Frames of interfaces as they come. Iterate once, in one thread; the rest may be called from any.

    interfaces: names. filter: an expression of tcpdump's. ring_mib: memory of each interface's ring. block_ms: frames wait
    as long for others at most (twice, where several interfaces are put in order). workers, worker, groups: this is one of
    several that share the interfaces' flows; see `fanned_out`. block_frames: frames in a block at most. wait_s: an empty
    block is handed over when so much time passed without a frame. tell: called with "interface_lost" or "interface_back"
    and the interface's name, by the first of several workers alone.

    Raises InterfaceFailed for an interface that does not exist, is not understood, or may not be listened on, and for a
    filter that does not compile; OSError where there are no packet sockets. An interface that is down is waited for.
    """

    def __init__(
        self,
        interfaces: Sequence[str],
        *,
        filter: str = "",  # the word of tcpdump and of the setting
        promiscuous: bool = True,
        ring_mib: int = 64,
        block_ms: int = 20,
        workers: int = 1,
        worker: int = 0,
        groups: FanoutGroups | None = None,
        block_frames: int = 4096,
        wait_s: float = 0.1,
        tell: Callable[[str, str], None] = _untold,
    ) -> None:
        if not interfaces or len(set(interfaces)) < len(interfaces):
            raise InterfaceFailed(f"name each interface once: {', '.join(interfaces) or 'none is named'}")
        if not 0 <= worker < workers or (workers > 1 and groups is None):
            raise ValueError("workers share their groups, and are numbered from 0")
        present = [found(name) for name in interfaces]
        packet_socket().close()  # without the right to there is no need to look further
        for interface in present:
            filter_for(interface, filter)
        self.frames = 0
        """Frames handed over so far."""
        self.wire_bytes = 0
        """Their bytes on the wire."""
        self._plan = plan(ring_mib, block_ms, promiscuous)
        self._filter = filter
        self._groups = groups if workers > 1 else None
        self._worker = worker
        self._wait_s = wait_s
        self._tell = tell
        self._taps = [_Tap(number, interface) for number, interface in enumerate(present)]
        try:
            self._memory = RingMemory(len(present), self._plan.ring_bytes)
        except OSError as error:
            raise no_ring(", ".join(interfaces), self._plan, error) from error
        self._rings = np.zeros(len(present), RING)
        self._rows = np.empty(block_frames, FRAME)
        walk_rings(self._memory.writable, self._rings[:0], self._rows, 0)  # compiled now, not when packets come
        give_back(self._memory.writable, self._rings[:0])
        self._lock = threading.Lock()  # of the sockets: counters are read from other threads
        self._stopping = self._deaf = self._closed = False
        self._quiet_s = self._unlooked_s = 0.0
        self._looked_us = 0
        self._broken = 0
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._events = select.epoll()
        self._events.register(self._wake, select.EPOLLIN)
        try:
            for tap, interface in zip(self._taps, present, strict=True):
                if not (interface.up and self._open_at_first(tap, interface)):
                    self._lose(tap)
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[FrameBlock]:
        """Blocks of frames, each valid until the next one is asked for; an empty one whenever wait_s passed without frames."""
        data, waits = self._memory.data, 0
        give_back(self._memory.writable, self._rings)  # of an iteration that was broken off
        held_us = 2000 * (self._plan.block_ms + TICK_MS)
        hold_us = held_us
        while not self._closed:
            if self._stopping and not self._deaf:
                self._deafen()
            count = walk_rings(self._memory.writable, self._rings, self._rows, 0 if self._stopping else hold_us)
            hold_us = held_us
            if count:
                self._quiet_s = 0.0
                yield self._account(FrameBlock(data, self._rows[:count]))
                if not self._closed:
                    give_back(self._memory.writable, self._rings)
                    self._look_by_stamps(int(self._rows[count - 1]["ts_us"]))
                continue
            give_back(self._memory.writable, self._rings)  # of blocks that had no sound frame
            self._count()
            if self._stopping:
                if waits == LAST_WAITS or self._drained():
                    return
                waits += 1
                self._await(LAST_WAIT_S)
            elif self._holding():
                hold_us = held_us if self._await(held_us / 1e6) else 0
            elif not self._await(self._wait_s - self._quiet_s) and self._quiet_s >= self._wait_s:
                self._quiet_s = 0.0
                yield FrameBlock(data, self._rows[:0])

    def stop(self) -> None:
        """Hear nothing more and end the iteration, after what the rings still hold; from a signal handler or any thread."""
        self._stopping = True
        if not self._closed:
            os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Give everything back, when the iteration is over. Frames that someone still holds turn to zeros."""
        if self._closed:
            return
        self._closed = True
        for tap in self._taps:
            self._shut(tap)
        self._events.close()
        os.close(self._wake)

    def counters(self) -> dict[str, int]:
        """What was lost so far, by the names of sensor/metrics.py; from any thread at any time.

        The workers' counters can be added up: what is an interface's own is told by the first worker alone.
        """
        self._count()
        counters = {"ring_blocks_broken": self._broken + int(self._rings["broken"].sum())}
        if self._worker == 0:
            counters["interfaces_up"] = len(self.listening)
        for tap in self._taps:
            counters[f"packets_dropped.{tap.name}"] = tap.drops
            counters[f"ring_freezes.{tap.name}"] = tap.freezes
            if self._worker == 0:
                counters[f"interfaces_lost.{tap.name}"] = tap.losses
                counters[f"interfaces_down.{tap.name}"] = int(tap.lost)
        return counters

    @property
    def listening(self) -> list[str]:
        """Names of the interfaces that are not lost."""
        return [tap.name for tap in self._taps if not tap.lost]

    def _account(self, block: FrameBlock) -> FrameBlock:
        self.frames += len(block.frames)
        self.wire_bytes += int(block.frames["wire_bytes"].sum(dtype=np.int64))
        return block

    def _count(self) -> None:
        """Add what the kernel counted since the last time."""
        with self._lock:
            for tap in self._taps:
                if tap.hearing is not None:
                    packets, drops, freezes = statistics(tap.hearing)
                    tap.drops += drops
                    tap.freezes += freezes
                    tap.taken += packets - drops

    def _drained(self) -> bool:
        """Whether every frame that the kernel put into a ring was handed over."""
        return self.frames >= sum(tap.taken for tap in self._taps)

    def _holding(self) -> bool:
        """Whether frames wait only for older ones of another interface."""
        return bool((self._rings["left"] > 0).any())

    def _await(self, timeout_s: float) -> bool:
        """Wait for the kernel, for that long at most; False if nothing happened. Looks after the interfaces on the way."""
        events = self._events.poll(max(timeout_s, 0.0))
        for descriptor, event in events:
            if descriptor == self._wake:
                os.eventfd_read(self._wake)
            elif event & (select.EPOLLERR | select.EPOLLHUP):
                self._failed(descriptor)
        if not events:
            self._quiet_s += timeout_s
            self._unlooked_s += timeout_s
            if self._unlooked_s >= LOOK_S:
                self._look()
        return bool(events)

    def _look_by_stamps(self, now_us: int) -> None:
        """Under load no wait ends empty: then the frames' stamps tell when to look after the interfaces."""
        self._count()
        if abs(now_us - self._looked_us) >= LOOK_S * 1e6:
            self._looked_us = now_us
            self._await(0.0)
            self._look()

    def _deafen(self) -> None:
        """Hear nothing further, so that what the rings hold has an end."""
        self._deaf = True
        for tap in self._taps:
            if tap.hearing is not None:
                attach(tap.hearing, REJECT)

    def _failed(self, descriptor: int) -> None:
        for tap in self._taps:
            if tap.hearing is None or tap.hearing.fileno() != descriptor:
                continue
            if tap.hearing.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) and not tap.lost:
                self._lose(tap)

    def _lose(self, tap: _Tap) -> None:
        tap.lost = True
        tap.losses += 1
        self._say("interface_lost", tap)

    def _say(self, event: str, tap: _Tap) -> None:
        if self._worker == 0:  # the others see the same
            self._tell(event, tap.name)

    def _look(self) -> None:
        """See whether lost interfaces are back."""
        self._unlooked_s = 0.0
        for tap in self._taps:
            if not tap.lost or self._stopping:
                continue
            interface = find(tap.name)
            if interface is None or not interface.up:
                continue
            # With its old number the kernel has the socket listening again by itself.
            if (tap.hearing is not None and tap.interface_number == interface.number) or self._open_again(tap, interface):
                tap.lost = False
                self._say("interface_back", tap)

    def _open_at_first(self, tap: _Tap, interface: Interface) -> bool:
        try:
            return self._open(tap, interface)
        except OSError as error:
            if error.errno not in GONE:
                raise
            return False

    def _open_again(self, tap: _Tap, interface: Interface) -> bool:
        try:
            return self._open(tap, interface)
        except (OSError, InterfaceFailed):  # gone again meanwhile, or come back as something else: looked for again
            return False

    def _open(self, tap: _Tap, interface: Interface) -> bool:
        """Put a new ring in the place of a tap's; False while it is another worker's turn. Its blocks must be given back."""
        self._shut(tap)
        groups, worker = self._groups, self._worker
        join = None if groups is None else lambda hearing: groups.join(hearing, interface, worker)
        hearing = open_ring(interface, self._plan, self._filter, join)
        if hearing is None:
            return False
        tap.interface_number = interface.number
        self._memory.lay(tap.number, hearing)
        base, ring = tap.number * self._plan.ring_bytes, self._rings[tap.number]
        self._broken += int(ring["broken"])
        self._rings[tap.number] = 0
        ring["base"], ring["block_bytes"], ring["blocks"] = base, BLOCK_BYTES, self._plan.blocks
        ring["link_type"], ring["source"] = interface.link_type, tap.number
        ring["tagged"] = interface.link_type == ETHERNET
        with self._lock:
            tap.hearing = hearing
        self._events.register(hearing, select.EPOLLIN | select.EPOLLERR | select.EPOLLET)
        return True

    def _shut(self, tap: _Tap) -> None:
        """Close a tap's socket and take its ring out of the memory."""
        self._count()
        with self._lock:
            hearing, tap.hearing = tap.hearing, None
        if hearing is None:
            return
        if self._groups is not None:
            self._groups.leave(tap.interface_number, self._worker)
        self._memory.clear(tap.number)
        hearing.close()  # epoll forgets it


def fanned_out(interfaces: Sequence[str], workers: int, **settings: Any) -> list[RingSource]:
    """One RingSource for each of several threads, which share the interfaces' flows between them.

    settings: the keywords of RingSource. Raises what it raises.
    """
    groups, sources = FanoutGroups(), list[RingSource]()
    try:
        for worker in range(workers):
            sources.append(RingSource(interfaces, workers=workers, worker=worker, groups=groups, **settings))
    except BaseException:
        for source in sources:
            source.close()
        raise
    return sources


def check(interfaces: Sequence[str], filter: str = "") -> list[Interface]:  # as above
    """Look whether these could be captured from, without listening: they exist, may be opened, and the filter compiles.

    Returns what was found of each, such as whether it is up. Raises InterfaceFailed.
    """
    present = [found(name) for name in interfaces]
    packet_socket().close()
    for interface in present:
        filter_for(interface, filter)  # asks for the link type, too
    return present
