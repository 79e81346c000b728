"""Small models and made-up conversations that several tests of `models` share."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from models.assemble import Rows
from models.calibrate import calibrate
from models.checkpoint import Bundle, Manifest
from models.frequency import Counts
from models.verdict import Weights, columns
from models.words import Shape, WordLSTM

SIZES = (9, 2, 6, 4)
PARTS = ("service", "heading", "sent", "outcome")
SPREAD = (5.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


class Turned(NamedTuple):
    """Words with their turns, as a scorer takes them."""

    words: NDArray[np.int16]
    slots: NDArray[np.int32]
    restart: NDArray[np.bool_]
    hour: NDArray[np.int64]

    def cut(self, start: int, stop: int) -> Turned:
        return Turned._make(column[start:stop] for column in self)


def some_words(count: int, seed: int = 0, sizes: tuple[int, ...] = SIZES) -> NDArray[np.int16]:
    random = np.random.default_rng(seed)
    return np.stack([random.integers(0, size, count) for size in sizes], axis=1).astype(np.int16)


def some_turns(count: int, slots: int, seed: int = 0) -> Turned:
    """Words of several conversations, with restarts, and hours that never go back within one."""
    random = np.random.default_rng(seed)
    slot = random.integers(0, slots, count).astype(np.int32)
    restart = random.random(count) < 0.1
    restart[np.unique(slot, return_index=True)[1]] = True
    return Turned(some_words(count, seed), slot, restart, np.sort(random.integers(0, 4, count)))


def manifest(sizes: tuple[int, ...] = SIZES, **changes: object) -> Manifest:
    known: dict[str, object] = {
        "name": "example",
        "version": "1",
        "parts": PARTS,
        "sizes": sizes,
        "units": 16,
        "head": 8,
        "vocabulary": {"version": 1},
        "spread": SPREAD[: sizes[0]],
        "unlearned": tuple(range(sizes[0])),
        "source_kind": "conn.log",
    }
    return Manifest(**(known | changes))  # type: ignore[arg-type]  # the fields' types are the manifest's to check


def example(seed: int = 0) -> Bundle:
    """An untrained model with all evidence weighed and a calibration that is not flat."""
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    made = manifest()
    evidence = len(columns(len(SIZES)))
    return Bundle(
        made,
        WordLSTM(Shape(SIZES, made.units, made.head)).eval(),
        Counts.of(some_words(400, seed), SIZES),
        Weights(random.random(evidence), random.random(evidence), -3.0),
        calibrate(random.normal(20, 5, 2000), 2.0),
    )


def grammar(conversations: int, length: int, seed: int, services: tuple[int, ...] = (2, 3, 4)) -> Rows:
    """Conversations that go through `services` in a circle; the size follows from the service, one part is a fair coin."""
    random = np.random.default_rng(seed)
    start = random.integers(0, len(services), conversations)
    step = (start[:, None] + np.arange(length)[None, :]) % len(services)
    service = np.array(services)[step]
    words = np.stack([service, np.zeros_like(service), service % 6, random.integers(0, 2, service.shape)], axis=-1)
    flat = words.transpose(1, 0, 2).reshape(-1, 4).astype(np.int16)
    slots = np.tile(np.arange(conversations, dtype=np.int32), length)
    restart = np.arange(len(flat)) < conversations
    quiet = np.zeros(len(flat), np.bool_)
    return Rows(flat, slots, restart, np.arange(len(flat)) // (len(flat) // 6 + 1), quiet, ~quiet)
