"""The compiled walk over the headers of a frame: bytes in, one PACKET row or the reason why there is none out.

The walk speaks ethertypes. Link layers, tags, labels and tunnels (`decode_layers`) give the kind of the next header and
where it begins; an IP header (`decode_ip`) gives a protocol instead; a tunnel turns that into a kind again; anything else
ends the walk in one row. A kind below zero is the reason why there will be none.

Three rules make rows independent of how much was captured. Lengths come from IP headers, never from the captured bytes
(an IP length of zero, as segmentation offload leaves behind, means up to the end of the frame on the wire, or to
FRAME_BYTES where a false wire length lies beyond). A tunnel whose inside yields no packet does not hide the one around it:
the walk is repeated with that tunnel closed. Fragments without a transport header get the ports of the first one from a
bounded table, or are counted.

Every read is checked against `cap`, the end of the captured bytes, at the edge of its header. All pieces are written into
one loop by the compiler, whichever file they lie in. `sensor.decode.Decoder` owns the arrays and calls `decode_frames`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sensor.decode_bytes import (
    BAD_TRANSPORT,
    CAPTURED,
    CUT_TRANSPORT,
    DONE,
    IPV4,
    IPV6,
    LINK_TYPE,
    OUTSIDE_BLOCK,
    PLAIN,
    TOO_DEEP,
    Bytes,
    Rows,
    signed,
    u8,
    u16,
    u32,
)
from sensor.decode_ip import HELD_TUNNEL, NO_SLOT, finish, ipv4, ipv6, remember
from sensor.decode_layers import layer, link_header, tunnel
from sensor.kernels import loop, part
from sensor.schema import ICMP, ICMPV6, NOTE_FRAGMENT, NOTE_TUNNEL, SCTP, TCP, UDP

HEADERS = 32  # looked through per frame, so that made-up nesting costs no more than a microsecond; real traffic has under 12
FRAME_BYTES = 1 << 18  # of a frame, as `sources` hand over at most: the sums of squares in schema.SIZES rely on it


@part
def transport(data: Bytes, at: int, cap: int, end: int, limit: int, row: np.void, protocol: int, on: int) -> int:
    """Finish `row` from the header at `at`: DONE, or the reason why not. `limit` is CICFlowMeter's end of the payload."""
    ports = protocol in (TCP, UDP, SCTP)
    icmp = protocol in (ICMP, ICMPV6)
    header = 20 if protocol == TCP else 12 if protocol == SCTP else 8 if protocol == UDP or icmp else 0
    needed = 16 if protocol == TCP else 4 if ports else 2 if icmp else 0  # up to TCP's window; ports; type and code
    if at + header > end:
        return BAD_TRANSPORT
    if needed > 0 and at + needed > cap:
        return CUT_TRANSPORT
    if protocol == TCP:
        header = (u8(data, at + 12) >> 4) * 4
        if header < 20 or at + header > end:
            return BAD_TRANSPORT
    payload = end - at - header
    if on & CAPTURED:
        header = min(header, cap - at) if ports else 0
        payload = max(limit - at - header, 0) if ports else 0
    finish(row, protocol, u16(data, at) if ports else 0, u16(data, at + 2) if ports else 0, header, payload, 0)
    if protocol == TCP:
        row["seq"] = u32(data, at + 4)
        row["ack"] = u32(data, at + 8)
        row["tcp_flags"] = u8(data, at + 13)
        row["window"] = u16(data, at + 14)
    elif icmp:
        row["icmp_type"] = u8(data, at)
        row["icmp_code"] = u8(data, at + 1)
    return DONE


@part
def walk(
    data: Bytes, start: int, cap: int, end: int, link_type: int, row: np.void, table: Rows, on: int, open_tunnels: int
) -> tuple[int, int]:
    """Look through the headers of one frame: (DONE or a reason, number of tunnels entered; never over `open_tunnels`)."""
    kind, at = link_header(data, start, cap, link_type)
    captured_end = cap
    tunnels = 0
    for _ in range(HEADERS):
        ip = at
        if kind == IPV4:
            protocol, at, end, slot = ipv4(data, at, cap, end, row, table, on)
        elif kind == IPV6:
            protocol, at, end, slot = ipv6(data, at, cap, end, row, table, on)
        elif kind < 0:
            return kind, tunnels
        else:
            kind, at = layer(data, at, cap, kind, on)
            continue
        if protocol < 0:
            return protocol, tunnels
        cap = min(cap, end)  # padding is not looked at
        kind, inside = tunnel(data, at, cap, protocol, on) if tunnels < open_tunnels else (PLAIN, at)
        if kind != PLAIN:
            tunnels += 1
            at = inside
            if slot != NO_SLOT:
                table[slot]["state"] = HELD_TUNNEL
            continue
        limit = cap if link_type == 1 and ip == start + 14 else captured_end
        result = transport(data, at, cap, end, limit, row, protocol, on)
        if slot != NO_SLOT and result == DONE:
            row["notes"] = NOTE_FRAGMENT
            remember(table[slot], row)
        return result, tunnels
    return TOO_DEEP, tunnels


@part
def decode_frame(data: Bytes, frame: np.void, row: np.void, table: Rows, on: int) -> int:
    """DONE with `row` written, or the reason why not."""
    start, captured, wire = signed(frame["offset"]), signed(frame["captured_bytes"]), signed(frame["wire_bytes"])
    if start < 0 or start > len(data) - captured:
        return OUTSIDE_BLOCK
    cap, end = start + min(captured, FRAME_BYTES), start + min(max(captured, wire), FRAME_BYTES)
    row["ts_us"] = frame["ts_us"]
    open_tunnels = HEADERS
    while True:
        result, tunnels = walk(data, start, cap, end, signed(frame["link_type"]), row, table, on, open_tunnels)
        if result == DONE and tunnels > 0:
            row["notes"] = row["notes"] | NOTE_TUNNEL
        if result == DONE or result <= TOO_DEEP or tunnels == 0:
            return result
        open_tunnels = tunnels - 1


@loop
def decode_frames(
    data: Bytes,
    frames: Rows,
    packets: Rows,
    table: Rows,
    skipped: NDArray[np.int64],
    link_types: NDArray[np.int64],
    on: int,
) -> int:
    """Write one row of `packets` for each frame that has one, count the others; returns the number of rows."""
    rows = 0
    for i in range(len(frames)):
        result = decode_frame(data, frames[i], packets[rows], table, on)
        if result == DONE:
            rows += 1
            continue
        skipped[~result] += 1
        if result == LINK_TYPE:
            link_types[frames[i]["link_type"]] += 1
    return rows
