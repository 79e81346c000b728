"""Packet sockets with a ring: how one is opened on an interface, what can be asked of it, and the memory of all rings.

Everything here is a call to the kernel (packet(7), netdevice(7)); numbers are those of linux/if_packet.h and linux/filter.h,
which Python does not have. A socket is made deaf, given its filter, its ring and its group, and only then bound, so that it
never hears a packet that it should not. Called by `sensor.sources.ring`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import socket
import struct
import threading
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from sensor.sources import bpf

SOL_PACKET = 263
PACKET_ADD_MEMBERSHIP, PACKET_RX_RING, PACKET_STATISTICS, PACKET_VERSION, PACKET_RESERVE = 1, 5, 6, 10, 12
PACKET_FANOUT, PACKET_IGNORE_OUTGOING = 18, 23
TPACKET_V3, PACKET_MR_PROMISC, ETH_P_ALL = 2, 1, 3
FANOUT_HASH, FANOUT_UNIQUE_ID, FANOUT_IGNORE_OUTGOING = 0, 0x2000, 0x4000
SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27
SIOCGIFFLAGS, SIOCGIFHWADDR, IFF_UP = 0x8913, 0x8927, 1
NAME_BYTES = 16  # of an interface, with the NUL at its end

ETHERNET, RAW_IP = 1, 101
"""LINKTYPE_*. A tap's or tunnel's packets begin with the IP header."""
ARPHRD_LOOPBACK = 772
LINK_TYPES = {1: ETHERNET, ARPHRD_LOOPBACK: ETHERNET, 519: RAW_IP, 768: RAW_IP, 776: RAW_IP, 65534: RAW_IP}
"""ARPHRD_* (linux/if_arp.h) to LINKTYPE_*, as libpcap has it: Ethernet, loopback, raw IP, IPIP, 6in4, none (tun, WireGuard)."""
DLT_RAW = 12  # the number that libpcap's compiler has for RAW_IP on Linux

BLOCK_BYTES = 256 << 10
"""Of a ring's block. Under light traffic the kernel hands over a block every block_ms, however little is in it, so it is the
number of blocks that bounds how long a reader may be held up: 256 in the default ring, 5 s. Larger blocks are hardly cheaper
to read (108 ns a frame at 256 KiB, 104 at 1 MiB, 96 at 4 MiB, for frames of 370 bytes on a veth pair of a busy machine with
two cores). A frame must fit into one."""
LEAST_BLOCKS = 16
TAG_ROOM_BYTES = 4  # before each frame: a VLAN tag is put back there

MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS = 0x01, 0x02, 0x10, 0x20


NO_PERMISSION = (
    "capturing needs the capability CAP_NET_RAW: run netseq-sensor as the service, as root, or give it with "
    "'setcap cap_net_raw+ep' to the program that runs it (readlink -f of the venv's bin/python)"
)


class InterfaceFailed(Exception):  # noqa: N818  # it states a fact, as StopIteration does
    """What was named cannot be captured from. Its text is one line that says what to do."""


class Statistics(NamedTuple):
    """What a socket's ring took since it was asked last."""

    packets: int
    """With those that were dropped."""
    drops: int
    freezes: int


class Interface(NamedTuple):
    """An interface as it is now."""

    name: str
    number: int
    """Another one after it was deleted and made again."""
    up: bool
    hardware: int
    """ARPHRD_*."""

    @property
    def link_type(self) -> int:
        """LINKTYPE_*. Raises InterfaceFailed for what netseq does not understand."""
        if self.hardware not in LINK_TYPES:
            raise InterfaceFailed(
                f"{self.name}: its link layer (ARPHRD {self.hardware}) is not understood: name another interface"
            )
        return LINK_TYPES[self.hardware]


def find(name: str) -> Interface | None:
    """Look an interface up in this thread's network namespace; None if there is none of that name."""
    raw = name.encode(errors="surrogateescape")
    if not 0 < len(raw) < NAME_BYTES or b"\0" in raw:
        return None
    request = struct.pack("16s24x", raw)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            number = socket.if_nametoindex(name)
            flags = struct.unpack_from("H", fcntl.ioctl(asking, SIOCGIFFLAGS, request), NAME_BYTES)[0]
            hardware = struct.unpack_from("H", fcntl.ioctl(asking, SIOCGIFHWADDR, request), NAME_BYTES)[0]
        except OSError:
            return None
    return Interface(name, number, bool(flags & IFF_UP), hardware)


def found(name: str) -> Interface:
    """Look an interface up. Raises InterfaceFailed, with the names that there are."""
    interface = find(name)
    if interface is None:
        names = ", ".join(name for _, name in socket.if_nameindex())
        raise InterfaceFailed(f"there is no interface {name!r}: there are {names}")
    return interface


def packet_socket() -> socket.socket:
    """A packet socket that hears nothing yet. Raises InterfaceFailed without the right to, OSError where there are none."""
    try:
        return socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    except PermissionError as error:
        raise InterfaceFailed(NO_PERMISSION) from error


def filter_for(interface: Interface, expression: str) -> bytes:
    """Compile a filter for an interface; b"" for an empty one. Raises InterfaceFailed with the expression."""
    if not expression.strip():
        return b""
    link_type = DLT_RAW if interface.link_type == RAW_IP else interface.link_type
    try:
        return bpf.compiled(expression, link_type, interface.name if interface.up else None)
    except ValueError as error:
        raise InterfaceFailed(f"{interface.name}: the filter {expression!r} does not compile: {error}") from error
    except OSError as error:
        raise InterfaceFailed(f"a filter needs libpcap (Debian: apt install libpcap0.8): {error}") from error


def attach(hearing: socket.socket, program: bytes) -> None:
    """Let a socket hear only what a program lets through; b"": everything."""
    if not program:
        with contextlib.suppress(FileNotFoundError):  # it had none
            hearing.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
        return
    held = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("@HP", len(program) // bpf.INSTRUCTION_BYTES, ctypes.addressof(held))
    hearing.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, head)


class FanoutGroups:
    """The groups in which the workers of one capture share interfaces; one object for all of them, from any thread.

    The kernel gives a flow, by a hash that is the same both ways and on every interface, to the n-th socket that joined.
    So workers join in the order of their numbers, after an interface came back too: else the halves of a tap would be read
    by different workers. Fragments are not put together before (PACKET_FANOUT_FLAG_DEFRAG): that would hand over other
    frames than were on the wire. They are hashed by their addresses alone, so the fragments of a packet meet in one worker,
    which may be another than the one with the rest of their flow. In tunnels over UDP (VXLAN, GENEVE, GTP-U) the kernel sees
    the outer ports, which are not the same both ways: traffic that consists of such tunnels wants one worker.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ids: dict[int, int] = {}
        self._members: dict[int, set[int]] = {}

    def join(self, hearing: socket.socket, interface: Interface, worker: int) -> bool:
        """Join a bound socket to the interface's group; False while it is another worker's turn."""
        with self._lock:
            members = self._members.setdefault(interface.number, set())
            if members != set(range(worker)):
                return False
            flags = FANOUT_IGNORE_OUTGOING if interface.hardware == ARPHRD_LOOPBACK else 0
            flags |= 0 if members else FANOUT_UNIQUE_ID  # the kernel finds a number that no other process has
            asked = (FANOUT_HASH | flags) << 16 | (self._ids[interface.number] if members else 0)
            hearing.setsockopt(SOL_PACKET, PACKET_FANOUT, struct.pack("I", asked))
            self._ids[interface.number] = hearing.getsockopt(SOL_PACKET, PACKET_FANOUT) & 0xFFFF
            members.add(worker)
            return True

    def leave(self, number: int, worker: int) -> None:
        """Forget a worker whose socket on the interface of this number is closed."""
        with self._lock:
            self._members.get(number, set()).discard(worker)


class RingPlan(NamedTuple):
    """How a socket's ring is made."""

    blocks: int
    block_ms: int
    """The kernel hands a block over when it is full, or after this time with frames in it."""
    promiscuous: bool

    @property
    def ring_bytes(self) -> int:
        """Bytes of the ring."""
        return self.blocks * BLOCK_BYTES


def plan(ring_mib: int, block_ms: int, promiscuous: bool) -> RingPlan:
    """A ring of about this size; never fewer than LEAST_BLOCKS blocks."""
    return RingPlan(max(LEAST_BLOCKS, (ring_mib << 20) // BLOCK_BYTES), block_ms, promiscuous)


def no_ring(name: str, ring: RingPlan, error: OSError) -> InterfaceFailed:
    """What to say when there is no memory for a ring."""
    return InterfaceFailed(f"{name}: the kernel gives no ring of {ring.ring_bytes >> 20} MiB ({error.strerror}): ask for less")


def open_ring(
    interface: Interface, ring: RingPlan, expression: str, join: Callable[[socket.socket], bool] | None = None
) -> socket.socket | None:
    """Open a packet socket with a ring that hears the interface; None while `join` says that it is not this one's turn.

    Raises InterfaceFailed for what the user can mend, OSError where the interface went away meanwhile.
    """
    hearing = packet_socket()
    try:
        program = filter_for(interface, expression)
        hearing.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V3)
        hearing.setsockopt(SOL_PACKET, PACKET_RESERVE, TAG_ROOM_BYTES)
        # In this version frames lie as closely as they can; the slots that are asked for, one a block, are not used.
        request = struct.pack("7I", BLOCK_BYTES, ring.blocks, BLOCK_BYTES, ring.blocks, ring.block_ms, 0, 0)
        try:
            hearing.setsockopt(SOL_PACKET, PACKET_RX_RING, request)
        except OSError as error:
            if error.errno not in (errno.ENOMEM, errno.EINVAL):
                raise
            raise no_ring(interface.name, ring, error) from error
        _attach(hearing, interface, expression, bpf.REJECT if join else program)
        if interface.hardware == ARPHRD_LOOPBACK:  # it hears each packet as it goes out and as it comes in
            hearing.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        if ring.promiscuous:
            hearing.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, struct.pack("IHH8x", interface.number, PACKET_MR_PROMISC, 0))
        hearing.bind((interface.name, ETH_P_ALL))
        if join is not None:
            # Until it has joined it would hear what is the other workers', hence the filter that lets nothing through.
            if not join(hearing):
                hearing.close()
                return None
            _attach(hearing, interface, expression, program)
    except BaseException:
        hearing.close()
        raise
    return hearing


def _attach(hearing: socket.socket, interface: Interface, expression: str, program: bytes) -> None:
    try:
        attach(hearing, program)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOMEM):
            raise
        raise InterfaceFailed(
            f"{interface.name}: the kernel does not take the filter {expression!r} ({error.strerror}): make it shorter"
        ) from error


def statistics(hearing: socket.socket) -> Statistics:
    """Ask for what happened since the last time: the kernel begins anew."""
    return Statistics(*struct.unpack("3I", hearing.getsockopt(SOL_PACKET, PACKET_STATISTICS, 12)))


class RingMemory:
    """Room for several rings in one array, so that frames of all of them can stand in one block.

    Where no ring is laid there are zeros, which say that the kernel has handed over nothing. The memory goes when the last
    view of it goes, so a block of frames that someone still holds leads nowhere else.
    """

    def __init__(self, rings: int, ring_bytes: int) -> None:
        self._ring_bytes = ring_bytes
        self._map = mmap.mmap(-1, rings * ring_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.writable = np.frombuffer(self._map, np.uint8)
        self.data = self.writable.view()
        self.data.flags.writeable = False
        self._mmap = ctypes.CDLL(None, use_errno=True).mmap
        self._mmap.restype = ctypes.c_void_p
        self._mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]

    def lay(self, number: int, hearing: socket.socket) -> None:
        """Lay the ring of a socket in place `number`. Raises OSError."""
        self._lay(number, MAP_SHARED | MAP_FIXED, hearing.fileno())

    def clear(self, number: int) -> None:
        """Take the ring out again."""
        self._lay(number, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1)

    def _lay(self, number: int, flags: int, descriptor: int) -> None:
        begin = self.writable.ctypes.data + number * self._ring_bytes
        got = self._mmap(begin, self._ring_bytes, mmap.PROT_READ | mmap.PROT_WRITE, flags, descriptor, 0)
        if got != begin:
            number = ctypes.get_errno()
            raise OSError(number, f"a ring cannot be mapped: {errno.errorcode.get(number, number)}")
