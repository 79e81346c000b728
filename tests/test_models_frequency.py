from __future__ import annotations

import numpy as np
import pytest
import torch
from model_examples import SIZES, SPREAD, some_words

from models.frequency import HALF, LEAN, Bigram, Counts, build
from models.grow import grow_counts

NO_SPREAD = torch.zeros(SIZES[0], dtype=torch.float64)


def test_frequencies_sum_to_one_also_for_values_never_seen() -> None:
    counts = Counts.of(some_words(50)[:, :], SIZES)
    for place in range(len(SIZES)):
        assert counts.alone(place).sum() == pytest.approx(1.0)
        assert counts.alone(place).min() > 0
        assert np.allclose(counts.given(place).sum(axis=1), 1.0)


def test_a_value_seen_n_times_has_n_and_a_half_sightings() -> None:
    words = np.array([[1, 0, 2, 0]] * 7 + [[2, 0, 3, 0]] * 3, np.int16)
    alone = Counts.of(words, SIZES).alone(2)
    assert alone[2] == pytest.approx((7 + HALF) / (10 + HALF * SIZES[2]))
    given = Counts.of(words, SIZES).given(2)
    assert given[1, 2] == pytest.approx((7 + LEAN * alone[2]) / (7 + LEAN))
    assert np.allclose(given[5], alone)  # nothing known of service 5: what is known of all


def test_table_on_the_device_holds_the_nats_of_the_counts() -> None:
    words = some_words(80, seed=1)
    counts = Counts.of(some_words(500, seed=2), SIZES)
    nats = build(counts, NO_SPREAD).nats(torch.from_numpy(words)).numpy()
    for place in range(4):
        assert np.allclose(nats[:, place], -np.log(counts.alone(place)[words[:, place]]), atol=1e-5)
    for place in range(1, 4):
        expected = -np.log(counts.given(place)[words[:, 0], words[:, place]])
        assert np.allclose(nats[:, 3 + place], expected, atol=1e-5)


def test_distribution_is_what_the_table_says_with_the_spread_taken_back() -> None:
    counts = Counts.of(some_words(500, seed=2), SIZES)
    frequency = build(counts, torch.tensor(SPREAD, dtype=torch.float64))
    first = torch.tensor([0, 3, 8])
    assert np.allclose(frequency.distribution(0, first).numpy(), counts.alone(0), atol=1e-6)
    assert np.allclose(frequency.distribution(2, first).numpy(), counts.given(2)[[0, 3, 8]], atol=1e-6)
    rare = frequency.nats(torch.tensor([[0, 0, 0, 0]]))
    assert float(rare[0, 0]) == pytest.approx(-np.log(counts.alone(0)[0]) + SPREAD[0], abs=1e-5)


def test_bigram_expects_what_followed_before_and_knows_the_start() -> None:
    words = np.array([[1, 0, 0, 0], [2, 0, 0, 0]] * 200, np.int16)
    restart = np.arange(400) % 4 == 0
    nats = Bigram(words, restart, SIZES).nats(
        np.array([[1, 0, 0, 0], [2, 0, 0, 0], [2, 0, 0, 0]], np.int16), np.array([True, False, False])
    )
    assert nats[1, 0] < 0.2
    assert nats[2, 0] > 2
    assert nats[0, 0] < 0.3


def test_a_site_s_own_sightings_outweigh_the_shipped_ones() -> None:
    shipped, own = (
        Counts.of(np.tile([[1, 0, 0, 0]], (100, 1)), SIZES),
        Counts.of(np.tile([[9, 0, 0, 0]], (100, 1)), (10, *SIZES[1:])),
    )
    together = own.plus(grow_counts(shipped, (10, *SIZES[1:])))
    alone = together.alone(0)
    assert alone[9] / alone[1] == pytest.approx(100.5 / 10.5)
