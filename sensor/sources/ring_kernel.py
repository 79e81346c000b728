"""The compiled walk over the kernel's rings: frames of all interfaces in the order of their stamps, without copying a byte.

A ring (TPACKET_V3, linux/if_packet.h and Documentation/networking/packet_mmap.rst) is a circle of blocks in memory shared
with the kernel. The kernel fills a block with frames, each behind a header of its own, and hands it over by a bit in the
block's status; the reader hands it back by clearing that. The rings of all interfaces lie one behind the other in one array,
so rows of several interfaces can stand in one block of frames, and they must: the two halves of a tap are two interfaces,
and an answer that is read before its question makes a flow that runs the wrong way.

Rings are merged by stamp. While one of them is empty, a frame that it has already got may not be visible yet, because the
kernel hands a block over when it is full or has waited; so frames are held back until the newest stamp that is visible
anywhere lies `hold_us` behind them. A ring that is more than half full is read at once: order matters less than loss, and a
clock that was set back must not keep a ring waiting.

Order in memory. The status is loaded with acquire and stored with release semantics, as C11 has them: what the kernel wrote
before it set the bit is seen after the bit is seen, and nothing is read from a block after it is given back. On x86 both are
plain moves and only bind the compiler; on arm64 they are the instructions ldar and stlr.

The kernel is trusted and checked all the same: a header that leads outside its block ends that block, which is counted.
`sensor.sources.ring` calls `walk_rings` and `give_back`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from sensor.kernels import load32, loop, part, prefetch_read

RING = np.dtype(
    [
        ("base", "<i8"),  # first byte of the ring in the array
        ("block_bytes", "<i8"),
        ("blocks", "<i8"),
        ("link_type", "<i8"),
        ("source", "<i8"),  # number of the interface
        ("tagged", "<i8"),  # 1: Ethernet, where a VLAN tag is put back behind the addresses
        ("block", "<i8"),  # number of the block that is read
        ("left", "<i8"),  # frames left in it; 0: it is not entered yet
        ("at", "<i8"),  # header of the next frame
        ("head_us", "<i8"),  # its stamp
        ("held", "<i8"),  # blocks before `block` that are read and not given back
        ("ready", "<i8"),  # blocks from `block` on that the kernel has handed over
        ("newest_us", "<i8"),  # last stamp in them
        ("broken", "<i8"),  # blocks that ended at a header that leads outside
    ]
)
"""One ring and how far it is read. `base` to `tagged` are the owner's, the rest is the walk's."""

# Of a block (tpacket_block_desc): its status, frames in it, where the first one begins, the last stamp's seconds and ns.
STATUS, FRAMES, FIRST, LAST_S, LAST_NS, BLOCK_HEADER_BYTES = 8, 12, 16, 40, 44, 48
# Of a frame (tpacket3_hdr): where the next one begins, its stamp, its lengths, its status, where its bytes begin, its tag.
NEXT, SECONDS, NANOSECONDS, CAPTURED, WIRE, FRAME_STATUS, MAC, TCI, TPID, HEADER_BYTES = 0, 4, 8, 12, 16, 20, 24, 32, 36, 48

KERNEL, USER = 0, 1
"""Who owns a block: the bit TP_STATUS_USER of its status."""
VLAN_VALID, TPID_VALID = 0x10, 0x40

TAG_BYTES, ADDRESSES_BYTES = 4, 12
DOT1Q = 0x8100  # the tag's kind where the kernel does not tell another
LEAST_MAC = 72
"""The frame begins behind its header and its link-layer address (68 bytes), and the room for a tag that was reserved."""

FRAME_LIMIT = 262_144
"""Bytes of the longest frame, as for capture files (`walk.FRAME_LIMIT`)."""

NEVER_US = 2**62


def _acquire(typing_context, array, at):  # type: ignore[no-untyped-def]  # numba ships no types
    """Code for `load_status`."""

    def code(context, builder, signature, args):  # type: ignore[no-untyped-def]
        word = _word(context, builder, signature, args)  # type: ignore[no-untyped-call]  # as above
        return builder.zext(builder.load_atomic(word, "acquire", 4), ir.IntType(64))

    return types.int64(array, at), code


def _release(typing_context, array, at, status):  # type: ignore[no-untyped-def]  # as above
    """Code for `store_status`."""

    def code(context, builder, signature, args):  # type: ignore[no-untyped-def]
        word = _word(context, builder, signature, args)  # type: ignore[no-untyped-call]  # as above
        number = context.cast(builder, args[2], signature.args[2], types.int32)
        builder.store_atomic(number, word, "release", 4)
        return context.get_dummy_value()

    return types.void(array, at, status), code


def _word(context, builder, signature, args):  # type: ignore[no-untyped-def]  # as above
    """The place of the aligned 32-bit word that begins at byte `at`."""
    array = context.make_array(signature.args[0])(context, builder, args[0])
    at = context.cast(builder, args[1], signature.args[1], types.intp)
    base = builder.bitcast(array.data, ir.IntType(8).as_pointer())
    return builder.bitcast(builder.gep(base, [at]), ir.IntType(32).as_pointer())


if TYPE_CHECKING or numba.config.DISABLE_JIT:

    def load_status(data: NDArray[np.uint8], at: int) -> int:
        """The status of a block, and with it all that the kernel wrote before."""
        return load32(data, at, False)

    def store_status(data: NDArray[np.uint8], at: int, status: int) -> None:
        """Set the status of a block after all that was read of it."""
        data[at], data[at + 1], data[at + 2], data[at + 3] = status, 0, 0, 0
else:
    load_status = intrinsic(_acquire)
    store_status = intrinsic(_release)


@part
def place(ring: np.void, ahead: int) -> int:
    """Where the block begins that comes `ahead` blocks after the one that is read."""
    return int(ring["base"] + (ring["block"] + ahead) % ring["blocks"] * ring["block_bytes"])


@part
def stamp_us(data: NDArray[np.uint8], at: int) -> int:
    """Seconds and nanoseconds at `at` as microseconds, rounded down as the readers of capture files do."""
    return load32(data, at, False) * 1_000_000 + load32(data, at + 4, False) // 1000


@part
def leave(ring: np.void) -> None:
    """Be done with a block; it is given back later, since rows point into it."""
    ring["left"] = 0
    ring["block"] = (ring["block"] + 1) % ring["blocks"]
    ring["held"] += 1
    ring["ready"] = max(ring["ready"] - 1, 0)


@part
def fits(data: NDArray[np.uint8], ring: np.void) -> bool:
    """Whether the next frame's header, and the frame, lie inside the block that is read."""
    begin, at = place(ring, 0), ring["at"]
    end = begin + ring["block_bytes"]
    if at < begin + BLOCK_HEADER_BYTES or at > end - HEADER_BYTES:
        return False
    mac = load32(data, at + MAC, False) & 0xFFFF
    return bool(mac >= LEAST_MAC and load32(data, at + CAPTURED, False) <= end - at - mac)


@part
def stand(data: NDArray[np.uint8], ring: np.void) -> bool:
    """Enter blocks until the ring stands on a sound frame; False where the kernel has handed over no further one."""
    while ring["left"] == 0 or not fits(data, ring):
        if ring["left"] > 0:
            ring["broken"] += 1
            leave(ring)
        if ring["held"] >= ring["blocks"]:
            return False
        begin = place(ring, 0)
        if load_status(data, begin + STATUS) & USER == 0:
            return False
        ring["left"] = load32(data, begin + FRAMES, False)
        ring["at"] = begin + load32(data, begin + FIRST, False)
        if ring["left"] == 0:
            leave(ring)
    ring["head_us"] = stamp_us(data, ring["at"] + SECONDS)
    return True


@part
def look_ahead(data: NDArray[np.uint8], ring: np.void) -> None:
    """Count the blocks that the kernel has handed over, and learn the last stamp in them."""
    while ring["ready"] < ring["blocks"] - ring["held"]:
        begin = place(ring, ring["ready"])
        if load_status(data, begin + STATUS) & USER == 0:
            return
        ring["ready"] += 1
        ring["newest_us"] = stamp_us(data, begin + LAST_S)


@part
def put_tag_back(data: NDArray[np.uint8], begin: int, tpid: int, tci: int) -> None:
    """Make room behind the addresses, which move forward, and write the tag there, as it was on the wire."""
    for byte in range(begin - TAG_BYTES, begin - TAG_BYTES + ADDRESSES_BYTES):
        data[byte] = data[byte + TAG_BYTES]
    tag = begin - TAG_BYTES + ADDRESSES_BYTES
    data[tag], data[tag + 1] = tpid >> 8 & 0xFF, tpid & 0xFF
    data[tag + 2], data[tag + 3] = tci >> 8 & 0xFF, tci & 0xFF


@part
def take(data: NDArray[np.uint8], ring: np.void, row: np.void) -> None:
    """Write the row of the frame on which the ring stands, and go on to the next in its block."""
    at = ring["at"]
    begin = at + (load32(data, at + MAC, False) & 0xFFFF)
    captured, wire = load32(data, at + CAPTURED, False), load32(data, at + WIRE, False)
    status = load32(data, at + FRAME_STATUS, False)
    if status & VLAN_VALID != 0 and ring["tagged"] != 0 and captured >= ADDRESSES_BYTES:
        kind = load32(data, at + TPID, False) & 0xFFFF if status & TPID_VALID != 0 else DOT1Q
        put_tag_back(data, begin, kind, load32(data, at + TCI, False))
        begin, captured, wire = begin - TAG_BYTES, captured + TAG_BYTES, wire + TAG_BYTES
    row["ts_us"] = ring["head_us"]
    row["offset"] = begin
    row["captured_bytes"] = min(captured, FRAME_LIMIT)
    row["wire_bytes"] = wire
    row["link_type"] = ring["link_type"]
    row["source"] = ring["source"]
    row["reserved"] = 0
    following = load32(data, at + NEXT, False)
    ring["left"] -= 1
    if ring["left"] == 0:
        leave(ring)
    elif following < HEADER_BYTES:  # it would stand still
        ring["broken"] += 1
        leave(ring)
    else:
        ring["at"] = at + following
        if at + following < len(data):  # else the next look finds that it does not fit
            prefetch_read(data, np.int64(at + following), np.int64(0))


@part
def choose(data: NDArray[np.uint8], rings: NDArray[np.void], hold_us: int) -> tuple[int, int]:
    """Which ring is next, -1 for none, and up to which stamp it may be read before another one is."""
    chosen, first_us, limit_us, newest_us = -1, NEVER_US, NEVER_US, -NEVER_US
    fullest, blocks = -1, 0
    empty = False
    for number in range(len(rings)):
        ring = rings[number]
        if not stand(data, ring):
            empty = True
            continue
        look_ahead(data, ring)
        if 2 * ring["ready"] > max(ring["blocks"], 2 * blocks):
            fullest, blocks = number, ring["ready"]
        newest_us = max(newest_us, ring["newest_us"])
        if ring["head_us"] < first_us or chosen < 0:
            chosen, limit_us, first_us = number, first_us, ring["head_us"]
        else:
            limit_us = min(limit_us, ring["head_us"])
    if fullest >= 0 and len(rings) > 1:
        return fullest, rings[fullest]["newest_us"]
    if empty and hold_us > 0:
        limit_us = min(limit_us, newest_us - hold_us)
        if first_us > limit_us:
            chosen = -1
    return chosen, limit_us


@loop
def walk_rings(data: NDArray[np.uint8], rings: NDArray[np.void], frames: NDArray[np.void], hold_us: int) -> int:
    """Write FRAME rows of what the kernel has handed over, oldest first. Returns how many.

    data: (bytes,) all rings; VLAN tags are put back in place. rings: (n,) RING, moved on. frames: (m,) FRAME, overwritten.
    hold_us: how long frames wait for older ones of a ring that is empty; 0: they do not.
    """
    rows = 0
    while rows < len(frames):
        number, limit_us = choose(data, rings, hold_us if len(rings) > 1 else 0)
        if number < 0:
            break
        ring = rings[number]
        take(data, ring, frames[rows])  # also where its stamp is over the limit: a full ring after a clock was set back
        rows += 1
        while rows < len(frames) and stand(data, ring) and ring["head_us"] <= limit_us:
            take(data, ring, frames[rows])
            rows += 1
    return rows


@loop
def give_back(data: NDArray[np.uint8], rings: NDArray[np.void]) -> None:
    """Hand the blocks that are read to the kernel: the rows that point into them are done with."""
    for number in range(len(rings)):
        ring = rings[number]
        for behind in range(ring["held"], 0, -1):
            store_status(data, place(ring, ring["blocks"] - behind) + STATUS, KERNEL)
        ring["held"] = 0
