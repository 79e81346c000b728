"""Attacks on the laboratory's own hosts: well-known tools, and harmless stand-ins where only the traffic matters.

One file for each family; what a kind is, kind.py says; how an instance is run and recorded, __main__.py.
"""

from __future__ import annotations

from . import floods, guesses, scans, slow, standins_inside, standins_quiet, standins_web
from .kind import Kind

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        *guesses.KINDS,
        *slow.KINDS,
        *floods.KINDS,
        *scans.KINDS,
        *standins_web.KINDS,
        *standins_inside.KINDS,
        *standins_quiet.KINDS,
    )
}
"""Every kind that a description may name."""
