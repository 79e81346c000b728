"""What a setting can be: kinds of values with their ranges, and the struct that all sections are made from.

Apart from `config`, which tells every setting, so that its table stays one to be read at a stretch.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Tunnel = Literal["vlan", "mpls", "pppoe", "gre", "ipip", "6in4", "vxlan", "geneve", "gtpu"]
"""Layers that decode can look through. Teredo is not one of them: it stays plain UDP."""


Seconds = Annotated[float, Meta(gt=0, le=30 * 86_400)]
Quiet = Annotated[float, Meta(ge=0, le=30 * 86_400)]
Slots = Annotated[int, Meta(ge=64, le=1 << 26)]
Rows = Annotated[int, Meta(ge=1, le=1 << 20)]
Probability = Annotated[float, Meta(gt=0, le=1)]
Threads = Annotated[int, Meta(ge=1, le=1024)]
Budget = Annotated[float, Meta(gt=0, le=1e6)]
Count = Annotated[int, Meta(ge=1, le=10**9)]
Ports = Annotated[int, Meta(ge=1, le=65_535)]
Mebibytes = Annotated[int, Meta(ge=1, le=1 << 24)]
Days = Annotated[float, Meta(ge=0, le=365)]
Patience = Annotated[float, Meta(gt=0, le=600)]
Facility = Literal[
    "user", "daemon", "auth", "authpriv", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"
]
Device = Annotated[str, Meta(pattern=r"^(auto|cpu|cuda(:\d+)?)$")]


Close = Literal["both", "first-fin"]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What all sections share: they are frozen, and know exactly their own keys."""
