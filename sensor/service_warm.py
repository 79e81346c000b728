"""Warming up: every kernel is compiled, and every model has judged, before the sensor says that it is ready.

A few made-up packets go all the way through tables of the smallest size with the models that will judge, so that what is
compiled then is what runs later. Nothing of it is kept.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from models.checkpoint import Bundle
from models.multiflow_checkpoint import FlowBundle
from sensor.config import Settings
from sensor.engine import Engine, Judge
from sensor.schema import FRAME, FrameBlock

if TYPE_CHECKING:
    import torch

LEAST_SLOTS = 64
"""The smallest table that settings allow."""
ETHERNET = 1
"""LINKTYPE_ETHERNET."""
FIN_ACK, SYN, ACK_PSH = 0x11, 0x02, 0x18


def warm(settings: Settings, bundle: Bundle, flows: FlowBundle | None, device: torch.device | None) -> None:
    """Take some packets from frame to verdict. Raises what Judge raises."""
    small = msgspec.structs.replace(
        settings,
        flows=msgspec.structs.replace(settings.flows, table=LEAST_SLOTS),
        conversations=msgspec.structs.replace(settings.conversations, table=LEAST_SLOTS),
    )
    engine = Engine(small, bundle, flows, device=device)
    for again in range(2):  # the second time meets the conversation that the first one left
        engine.feed(_frames(again))
        engine.tick((1 + again) * 1_000_000_000)
    engine.drain()
    Judge(small, bundle, flows, device=device).adopt(engine.judge)  # what takes a state up has kernels of its own


def _frames(start_s: int) -> FrameBlock:
    """A connection with data in it, as Ethernet frames."""
    sent = [_tcp(0, SYN, 0), _tcp(1, SYN | 0x10, 0), _tcp(0, ACK_PSH, 40), _tcp(1, ACK_PSH, 400), _tcp(0, FIN_ACK, 0)]
    sent.append(_tcp(1, FIN_ACK, 0))
    rows = np.zeros(len(sent), FRAME)
    offset = 0
    for number, frame in enumerate(sent):
        rows[number]["ts_us"] = start_s * 1_000_000_000 + number * 1000
        rows[number]["offset"] = offset
        rows[number]["captured_bytes"] = rows[number]["wire_bytes"] = len(frame)
        rows[number]["link_type"] = ETHERNET
        offset += len(frame)
    data = np.frombuffer(b"".join(sent), np.uint8)
    return FrameBlock(data, rows)


def _tcp(back: int, flags: int, payload_bytes: int) -> bytes:
    """One TCP segment over IPv4 over Ethernet between two addresses for documentation (RFC 5737)."""
    hosts = [bytes((192, 0, 2, 1)), bytes((192, 0, 2, 2))]
    ports = [49_152, 443]
    if back:
        hosts.reverse()
        ports.reverse()
    segment = struct.pack("!HHIIBBHHH", *ports, 1, 1, 0x50, flags, 8192, 0, 0) + bytes(payload_bytes)
    packet = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(segment), 0, 0, 64, 6, 0, *hosts)
    return bytes(12) + b"\x08\x00" + packet + segment
