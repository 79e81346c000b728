"""A DNS server that answers every question with random bytes: the other end of long random labels.

How many bytes is in the first three characters of the question's name, to the base of 36; TXT, NULL and CNAME are answered
with a record, anything else with none. It keeps nothing. A file that is started by its path, so it imports nothing of the
laboratory: tunneldns.py starts it, behind iodined where that runs, which hands on what is not its own.
"""

from __future__ import annotations

import argparse
import os
import socket
import struct
import sys

HEAD = struct.Struct("!6H")
RECORD = struct.Struct("!HHHIH")
TYPES = {"CNAME": 5, "NULL": 10, "TXT": 16}
NAME_OF_QUESTION = 0xC00C
"""A pointer to byte 12, where the question's name begins (RFC 1035, 4.1.4)."""
LARGEST_ANSWER_BYTES = 1200
"""What EDNS lets through without fragments."""
LARGEST_LABEL = 63
LARGEST_STRING = 255
SIZE_DIGITS = 3
ANSWER, REFUSED = 0x8580, 0x8585
"""Authoritative answers, the second with the code for "refused"."""


def answer(query: bytes) -> bytes | None:
    """The answer to a query; None when it is no query."""
    if len(query) < HEAD.size + 6:
        return None
    number, flags, questions, *_ = HEAD.unpack_from(query)
    end = _end_of_name(query, HEAD.size)
    if flags & 0x8000 or questions != 1 or end is None or end + 4 > len(query):
        return None
    asked = query[HEAD.size : end + 4]
    (kind,) = struct.unpack_from("!H", query, end)
    try:
        size = int(query[HEAD.size + 1 : HEAD.size + 1 + SIZE_DIGITS], 36)
    except ValueError:
        size = 0
    if kind not in TYPES.values() or size == 0:
        return HEAD.pack(number, REFUSED, 1, 0, 0, 0) + asked
    data = _data(kind, min(size, LARGEST_ANSWER_BYTES))
    return HEAD.pack(number, ANSWER, 1, 1, 0, 0) + asked + RECORD.pack(NAME_OF_QUESTION, kind, 1, 0, len(data)) + data


def _end_of_name(query: bytes, at: int) -> int | None:
    while at < len(query):
        length = query[at]
        if length > LARGEST_LABEL:
            return None
        at += 1 + length
        if length == 0:
            return at
    return None


def _data(kind: int, size: int) -> bytes:
    """So many random bytes as this type holds them; a CNAME holds at most one name of 255."""
    raw = os.urandom(size)
    if kind == TYPES["NULL"]:
        return raw
    step = LARGEST_STRING if kind == TYPES["TXT"] else LARGEST_LABEL
    if kind == TYPES["CNAME"]:
        raw = raw.hex().encode()[: 3 * LARGEST_LABEL]
    parts = [raw[at : at + step] for at in range(0, len(raw), step)]
    return b"".join(bytes([len(part)]) + part for part in parts) + (b"\0" if kind == TYPES["CNAME"] else b"")


def main() -> None:
    """Answer at one address and port until ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        asked.bind((given.address, given.port))
        sys.stdout.write("listening\n")
        sys.stdout.flush()
        while True:
            query, asker = asked.recvfrom(4096)
            said = answer(query)
            if said is not None:
                try:
                    asked.sendto(said, asker)
                except OSError:  # the asker's way is gone: it asks again, or not
                    continue


if __name__ == "__main__":
    main()
