"""Questions whose names are long random labels: what a DNS tunnel's look like, with nothing in them.

The first three characters tell the other end (services/responder.py) how many random bytes it is to answer.
"""

from __future__ import annotations

import random
import struct

from ..services.responder import HEAD, LARGEST_ANSWER_BYTES, LARGEST_LABEL, SIZE_DIGITS, TYPES

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
LONGEST_NAME = 253
"""RFC 1035, 2.3.4, without the length of the first label and the root."""
EDNS = struct.pack("!BHHIH", 0, 41, 4096, 0, 0)
"""An OPT record (RFC 6891): longer answers than 512 bytes are welcome."""


def name(chance: random.Random, zone: str, out_bytes: int, back_bytes: int) -> str:
    """A name of about so many random characters below the zone, as many as fit, which asks for so many bytes."""
    size, back = "", min(back_bytes, LARGEST_ANSWER_BYTES)
    for _ in range(SIZE_DIGITS):
        back, digit = divmod(back, 36)
        size = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + size
    room = LONGEST_NAME - len(zone) - 1
    room -= room // LARGEST_LABEL + 1  # dots
    letters = size + "".join(chance.choices(LETTERS, k=min(out_bytes, room - SIZE_DIGITS)))
    step = chance.randint(40, LARGEST_LABEL)
    step = step if len(letters) + len(letters) // step <= room else LARGEST_LABEL
    return ".".join([*(letters[at : at + step] for at in range(0, len(letters), step)), zone])


def question(chance: random.Random, zone: str, record: str, out_bytes: int, back_bytes: int) -> bytes:
    """A query (RFC 1035) of a type of TYPES for such a name."""
    labels = name(chance, zone, out_bytes, back_bytes).encode().split(b".")
    asked = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    return HEAD.pack(chance.getrandbits(16), 0x0100, 1, 0, 0, 1) + asked + struct.pack("!HH", TYPES[record], 1) + EDNS
