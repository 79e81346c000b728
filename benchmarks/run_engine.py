"""Replay one capture as `netseq-replay` does, and print every counter as one JSON object: the command prints a summary only."""

from __future__ import annotations

import sys

import msgspec

from sensor import config
from sensor.commands import reading, replay
from sensor.detect_ignore import Ignored
from sensor.kernels import prepare_cache


def counted(path: str) -> dict[str, int]:
    """Return the counters after the capture at `path`, with the default limits and the model on the CPU."""
    settings = config.load(None, ["model.device=cpu"])
    return replay.run(reading.open_source([path], settings), replay.open_engine(settings), [], Ignored(), quiet=True).counters


if __name__ == "__main__":
    prepare_cache()
    sys.stdout.buffer.write(msgspec.json.encode(counted(sys.argv[1])))
