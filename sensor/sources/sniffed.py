"""Live capture through libpcap, frame by frame: what stands in where the kernel's rings are not to be had.

That is on other systems than Linux, and where a sandbox does not know the rings. It is the same source with the same counters,
some ten times slower: libpcap hands over one frame at a time, and each is copied. Frames of several interfaces are put in
order within a block only. `open_live` decides which one it is, and says so when it is this one; `sensor.commands` calls it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from sensor.schema import FRAME, FrameBlock
from sensor.sources.bpf import WHOLE_FRAME_BYTES, encoded, libpcap
from sensor.sources.ring import fanned_out
from sensor.sources.ring_socket import NO_PERMISSION, InterfaceFailed

WITHOUT_RINGS = (errno.EAFNOSUPPORT, errno.ESOCKTNOSUPPORT, errno.EPROTONOSUPPORT, errno.ENOPROTOOPT, errno.ENOSYS)
"""How a system says that it has no packet sockets, or none with such rings."""

BUFFER_BYTES = 8 << 20  # of a block's frames; one of the longest must still fit behind the others
LOOK_S = 1.0  # how often a lost interface is tried again
NO_SUCH_DEVICE, NOT_PERMITTED, NOT_UP = -5, -8, -9  # PCAP_ERROR_* of pcap.h
FRAME_OVERHEAD_BYTES = 48  # in libpcap's buffer, at the least
READY_MS = 10  # libpcap waits as long for more frames
HELD_S = 0.25  # and the end so long for those that it still holds: many times as long, since a busy machine's timers are late

LINK_TYPES = {0: 0, 1: 1, 9: 9, 12: 101, 14: 101, 101: 101, 108: 108, 113: 113, 276: 276}
"""DLT_* to LINKTYPE_*, of what the decoder understands; raw IP has another number on each system."""


class LiveSource(Protocol):
    """What both ways to capture live have in common; RingSource tells it."""

    frames: int
    wire_bytes: int

    @property
    def listening(self) -> list[str]:
        """Names of the interfaces that are not lost."""

    def __iter__(self) -> Iterator[FrameBlock]: ...

    def stop(self) -> None:
        """Hear nothing more and end the iteration, after what was heard."""

    def close(self) -> None:
        """Give everything back."""

    def counters(self) -> dict[str, int]:
        """What was lost so far, by the names of sensor/metrics.py."""


class _Handle:
    """One interface, open or waited for."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.number = number
        self.pcap: Any = None
        self.descriptor = -1
        self.link_type = 1
        self.drops = self.drops_before = self.losses = 0
        self.lost = False


class SniffedSource:
    """Frames of interfaces as they come, by libpcap. Parameters, errors and the rest are those of RingSource."""

    def __init__(
        self,
        interfaces: Sequence[str],
        *,
        filter: str = "",  # as in RingSource
        promiscuous: bool = True,
        ring_mib: int = 64,
        block_frames: int = 4096,
        wait_s: float = 0.1,
        tell: Callable[[str, str], None] = lambda _event, _what: None,
    ) -> None:
        if not interfaces or len(set(interfaces)) < len(interfaces):
            raise InterfaceFailed(f"name each interface once: {', '.join(interfaces) or 'none is named'}")
        try:
            self._text = encoded(filter)
        except ValueError as error:
            raise InterfaceFailed(f"{interfaces[0]}: the filter {filter!r} does not compile: {error}") from error
        self.frames = 0
        self.wire_bytes = 0
        self._filter, self._promiscuous, self._buffer_bytes = filter, promiscuous, min(ring_mib, 1024) << 20
        self._wait_s, self._tell = wait_s, tell
        self._lock = threading.RLock()  # of the handles: counters are read from other threads
        self._stopping = False
        self._quiet_s = self._unlooked_s = 0.0
        self._rows = np.empty(block_frames, FRAME)
        self._bytes = np.empty(BUFFER_BYTES, np.uint8)
        self._data = self._bytes.view()
        self._data.flags.writeable = False
        self._woken, self._wake = os.pipe()
        self._handles = [_Handle(name, number) for number, name in enumerate(interfaces)]
        try:
            self._pcap = libpcap()
            for handle in self._handles:
                self._open(handle)
        except OSError as error:
            self.close()
            raise InterfaceFailed(f"capturing needs libpcap (Debian: apt install libpcap0.8): {error}") from error
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[FrameBlock]:
        """Blocks of frames, each valid until the next one is asked for; an empty one whenever wait_s passed without frames."""
        left = self._buffer_bytes * len(self._handles)  # of what was heard before the stop there is no more
        while self._wake >= 0 and left > 0:
            last = self._stopping
            count = self._read()
            if last:
                left -= int(self._rows["captured_bytes"][:count].sum(dtype=np.int64)) + count * FRAME_OVERHEAD_BYTES
            if count:
                self._quiet_s = 0.0
                block = FrameBlock(self._data, self._rows[:count])
                self.frames += count
                self.wire_bytes += int(block.frames["wire_bytes"].sum(dtype=np.int64))
                yield block
            elif last:
                if not self._held():
                    return
            elif self._await() >= self._wait_s:
                self._quiet_s = 0.0
                yield FrameBlock(self._data, self._rows[:0])

    def stop(self) -> None:
        """End the iteration after what was heard; from a signal handler or any thread."""
        self._stopping = True
        if self._wake >= 0:
            os.write(self._wake, b".")

    def close(self) -> None:
        """Give everything back, when the iteration is over."""
        if self._wake < 0:
            return
        for handle in self._handles:
            self._shut(handle)
        os.close(self._woken)
        os.close(self._wake)
        self._wake = -1

    @property
    def listening(self) -> list[str]:
        """Names of the interfaces that are not lost."""
        return [handle.name for handle in self._handles if not handle.lost]

    def counters(self) -> dict[str, int]:
        """What was lost so far, by the names of sensor/metrics.py; from any thread at any time."""
        counters = {"interfaces_up": len(self.listening)}
        for handle in self._handles:
            self._count(handle)
            counters[f"packets_dropped.{handle.name}"] = handle.drops_before + handle.drops
            counters[f"interfaces_lost.{handle.name}"] = handle.losses
            counters[f"interfaces_down.{handle.name}"] = int(handle.lost)
        return counters

    def _read(self) -> int:
        """Copy what is there, a frame of each interface in turn, up to a block."""
        head = ctypes.POINTER(self._pcap.pcap_pkthdr)()
        body = ctypes.POINTER(ctypes.c_ubyte)()
        count = used = 0
        came = True
        while came:
            came = False
            for handle in self._handles:
                if handle.pcap is None or count == len(self._rows) or used > BUFFER_BYTES - WHOLE_FRAME_BYTES:
                    continue
                status = self._pcap.pcap_next_ex(handle.pcap, ctypes.byref(head), ctypes.byref(body))
                if status < 0:
                    self._lose(handle)
                if status != 1:
                    continue
                told, size = head.contents, min(head.contents.caplen, WHOLE_FRAME_BYTES)
                us = told.ts.tv_sec * 1_000_000 + told.ts.tv_usec
                ctypes.memmove(self._bytes.ctypes.data + used, body, size)
                self._rows[count] = (us, used, size, told.len, handle.link_type, handle.number, 0)
                count, used, came = count + 1, used + size, True
        if len(self._handles) > 1:
            self._rows[:count] = self._rows[:count][np.argsort(self._rows["ts_us"][:count], kind="stable")]
        return count

    def _await(self) -> float:
        """Wait for frames, wait_s in all at most; how long it has been quiet. Looks for lost interfaces on the way."""
        timeout_s = max(self._wait_s - self._quiet_s, 0.0)
        listening = [handle.descriptor for handle in self._handles if handle.pcap is not None]
        ready, _, _ = select.select([self._woken, *listening], [], [], timeout_s)
        if self._woken in ready:
            os.read(self._woken, 64)
        if ready:
            return 0.0
        self._quiet_s += timeout_s
        self._unlooked_s += timeout_s
        if self._unlooked_s >= LOOK_S:
            self._unlooked_s = 0.0
            for handle in self._handles:
                self._look(handle)
        return self._quiet_s

    def _held(self) -> bool:
        """Whether frames came that libpcap still held when the end was asked for."""
        listening = [handle.descriptor for handle in self._handles if handle.pcap is not None]
        return bool(listening and select.select(listening, [], [], HELD_S)[0])

    def _look(self, handle: _Handle) -> None:
        """Try a lost interface again."""
        if not handle.lost:
            return
        try:
            self._open(handle)
        except InterfaceFailed:
            return
        if handle.pcap is not None:
            handle.lost = False
            self._tell("interface_back", handle.name)

    def _lose(self, handle: _Handle) -> None:
        self._shut(handle)
        if not handle.lost:
            handle.lost = True
            handle.losses += 1
            self._tell("interface_lost", handle.name)

    def _open(self, handle: _Handle) -> None:
        """Open an interface; one that is down is lost. Raises InterfaceFailed."""
        pcap, error = self._pcap, ctypes.create_string_buffer(self._pcap.PCAP_ERRBUF_SIZE)
        opened = pcap.pcap_create(os.fsencode(handle.name), error)
        if not opened:
            raise InterfaceFailed(f"{handle.name}: {error.value.decode(errors='replace')}")
        try:
            pcap.pcap_set_snaplen(opened, WHOLE_FRAME_BYTES)
            pcap.pcap_set_promisc(opened, int(self._promiscuous))
            pcap.pcap_set_timeout(opened, READY_MS)
            pcap.pcap_set_buffer_size(opened, self._buffer_bytes)
            status = pcap.pcap_activate(opened)
            if status == NOT_UP:
                pcap.pcap_close(opened)
                self._lose(handle)
                return
            self._settle(handle, opened, status)
        except BaseException:
            pcap.pcap_close(opened)
            raise
        with self._lock:
            handle.pcap = opened

    def _settle(self, handle: _Handle, opened: Any, status: int) -> None:
        """Give an opened interface its filter, and see what its frames begin with. Raises InterfaceFailed."""
        pcap = self._pcap

        def words() -> str:
            return str(pcap.pcap_geterr(opened).decode(errors="replace"))

        if status == NOT_PERMITTED:
            raise InterfaceFailed(NO_PERMISSION)
        if status == NO_SUCH_DEVICE:
            names = ", ".join(name for _, name in socket.if_nameindex())
            raise InterfaceFailed(f"there is no interface {handle.name!r}: there are {names}")
        if status < 0:
            raise InterfaceFailed(f"{handle.name}: {pcap.pcap_statustostr(status).decode()} {words()}".strip())
        link = pcap.pcap_datalink(opened)
        if link not in LINK_TYPES:
            raise InterfaceFailed(f"{handle.name}: its link layer (DLT {link}) is not understood: name another interface")
        handle.link_type = LINK_TYPES[link]
        program = pcap.bpf_program()
        if self._filter.strip():
            if pcap.pcap_compile(opened, ctypes.byref(program), self._text, 1, 0xFFFF_FFFF) != 0:
                raise InterfaceFailed(f"{handle.name}: the filter {self._filter!r} does not compile: {words()}")
            refused = pcap.pcap_setfilter(opened, ctypes.byref(program)) != 0
            pcap.pcap_freecode(ctypes.byref(program))
            if refused:
                raise InterfaceFailed(f"{handle.name}: the filter {self._filter!r} cannot be used: {words()}")
        if pcap.pcap_setnonblock(opened, 1, ctypes.create_string_buffer(pcap.PCAP_ERRBUF_SIZE)) != 0:
            raise InterfaceFailed(f"{handle.name}: {words()}")
        handle.descriptor = pcap.pcap_get_selectable_fd(opened)

    def _count(self, handle: _Handle) -> None:
        """Ask libpcap, which adds up itself, for the drops."""
        with self._lock:
            told = self._pcap.pcap_stat()
            if handle.pcap is not None and self._pcap.pcap_stats(handle.pcap, ctypes.byref(told)) == 0:
                handle.drops = told.ps_drop

    def _shut(self, handle: _Handle) -> None:
        with self._lock:
            if handle.pcap is None:
                return
            self._count(handle)
            handle.drops_before, handle.drops = handle.drops_before + handle.drops, 0
            self._pcap.pcap_close(handle.pcap)
            handle.pcap = None


def open_live(
    interfaces: Sequence[str],
    workers: int = 1,
    *,
    tell: Callable[[str, str], None],
    rings: Callable[..., Sequence[LiveSource]] = fanned_out,
    **settings: Any,
) -> Sequence[LiveSource]:
    """Capture from the kernel's rings, or from libpcap where there are none: tell("fallback", why) is then called.

    settings: the keywords of RingSource. rings: makes the sources that are tried first. Returns one source for each of
    `workers` threads; of libpcap there is only one, whatever was asked for. Raises InterfaceFailed.
    """
    try:
        if not hasattr(socket, "AF_PACKET"):
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        return rings(interfaces, workers, tell=tell, **settings)
    except OSError as error:
        if error.errno not in WITHOUT_RINGS:
            raise
        tell("fallback", f"no packet socket with a ring ({error.strerror}): capturing through libpcap, which is slower")
    settings.pop("block_ms", None)
    return [SniffedSource(interfaces, tell=tell, **settings)]
