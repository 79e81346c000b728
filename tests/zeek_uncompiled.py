"""Reads mutated payloads of Zeek with the kernels as plain Python, in arrays that refuse an index beyond them.

Run by `test_zeek_messages` as a program of its own, because numba is switched off for a whole process: payloads in hexadecimal
come as JSON on standard input, what became of each goes out. The functions are the test's too.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence

from sensor.sources.zeek_batches import BatchReader, NoBatch
from sensor.sources.zeek_binary import read_payloads


def mutants(seeds: Sequence[bytes], each: int) -> list[bytes]:
    """Seeds with some bytes changed, cut, doubled or put elsewhere; the same in every run."""
    chance = random.Random(1)
    made = list(seeds)
    for seed in seeds:
        for _ in range(each):
            payload = bytearray(seed)
            for _ in range(chance.randint(1, 4)):
                at = chance.randrange(len(payload) or 1)
                payload[at : at + chance.choice([0, 1, 1, 1, 8])] = chance.choice(
                    [b"", bytes([chance.randrange(256)]), b"\xff", b"\x0e", b"\x80", payload[at : at + chance.randrange(40)]]
                )
            made.append(bytes(payload))
    return made


def outcome(payload: bytes) -> str:
    """What became of a payload as an event and as a batch, every number told."""
    event = read_payloads([payload])
    told = f"{event.became.tolist()} {event.cells.tolist()}" if event.became[0] < 2 else f"{event.became.tolist()}"
    try:
        batch = BatchReader().read(payload)
    except NoBatch:
        return "refused" if event.became[0] > 2 else told  # no event that could be read
    return f"{told} {batch.path!r} {batch.cells.tolist()}"


if __name__ == "__main__":
    json.dump([outcome(bytes.fromhex(text)) for text in json.load(sys.stdin)], sys.stdout)
