from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from model_examples import SIZES, SPREAD, some_words

from models.words import Folded, Shape, WordLSTM, fold

NO_SPREAD = torch.zeros(SIZES[0])


@pytest.fixture(scope="module")
def model() -> WordLSTM:
    torch.manual_seed(3)
    return WordLSTM(Shape(SIZES, units=16, head=8)).eval()


def stepped(folded: Folded, words: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities and tails of (N, T, P) words, one word after the other from a zero state."""
    hidden, cell = torch.zeros(len(words), 16), torch.zeros(len(words), 16)
    seen, tails = [], []
    for place in range(words.shape[1]):
        rows = folded.rows(words[:, place])
        one, tail = folded.judge(folded.reach(hidden, rows), words[:, place])
        seen.append(one)
        tails.append(tail)
        folded.step(folded.read(rows), hidden, cell)
    return torch.stack(seen, dim=1), torch.stack(tails, dim=1)


@torch.inference_mode()
def test_folded_tables_predict_what_the_trained_network_predicts(model: WordLSTM) -> None:
    words = torch.from_numpy(some_words(60).astype(np.int64)).view(6, 10, 4)
    seen, _ = stepped(fold(model, NO_SPREAD), words)
    assert torch.allclose(-seen.log(), model(words), atol=1e-5)


@torch.inference_mode()
def test_probabilities_of_all_words_sum_to_one(model: WordLSTM) -> None:
    every = torch.tensor(list(itertools.product(*(range(size) for size in SIZES))))
    before = torch.from_numpy(some_words(3, seed=5).astype(np.int64))
    words = torch.cat([before.expand(len(every), 3, 4), every[:, None]], dim=1)
    nats = model(words)[:, -1].sum(dim=-1)
    assert float(torch.exp(-nats.double()).sum()) == pytest.approx(1.0, abs=1e-5)


@torch.inference_mode()
def test_each_part_is_predicted_from_the_parts_before_it_and_not_from_those_after(model: WordLSTM) -> None:
    words = torch.from_numpy(some_words(40, seed=2).astype(np.int64))[:, None]
    changed = words.clone()
    changed[..., 2] = (changed[..., 2] + 1) % SIZES[2]
    before, after = model(words), model(changed)
    assert torch.equal(before[..., :2], after[..., :2])
    assert not torch.allclose(before[..., 3], after[..., 3])


@torch.inference_mode()
def test_a_word_is_predicted_from_the_words_before_it_and_not_from_itself(model: WordLSTM) -> None:
    words = torch.from_numpy(some_words(30, seed=4).astype(np.int64)).view(3, 10, 4)
    changed = words.clone()
    changed[:, 5, 3] = (changed[:, 5, 3] + 1) % SIZES[3]
    before, after = model(words), model(changed)
    assert torch.equal(before[:, :5], after[:, :5])
    assert torch.equal(before[:, 5, :3], after[:, 5, :3])
    assert not torch.allclose(before[:, 6], after[:, 6])


@torch.inference_mode()
def test_tail_is_the_mass_of_values_no_likelier_than_the_seen_one(model: WordLSTM) -> None:
    folded = fold(model, NO_SPREAD)
    words = torch.from_numpy(some_words(50, seed=6).astype(np.int64))
    reached = folded.reach(torch.zeros(50, 16), folded.rows(words))
    _, tails = folded.judge(reached, words)
    for place in range(4):
        mass = folded.distribution(reached, place).double().numpy()
        for row in range(50):
            likely = mass[row, words[row, place]]
            assert float(tails[row, place]) == pytest.approx(mass[row][mass[row] <= likely * (1 + 1e-6)].sum(), abs=1e-5)


@torch.inference_mode()
def test_a_value_that_stands_for_many_things_shares_its_probability_among_them(model: WordLSTM) -> None:
    words = torch.zeros(1, 4, dtype=torch.int64)
    alone, shared = (fold(model, spread) for spread in (NO_SPREAD, torch.tensor(SPREAD)))
    rows = alone.rows(words)
    whole, _ = alone.judge(alone.reach(torch.zeros(1, 16), rows), words)
    each, tail = shared.judge(shared.reach(torch.zeros(1, 16), rows), words)
    assert float(each[0, 0]) == pytest.approx(float(whole[0, 0]) * np.exp(-SPREAD[0]), rel=1e-5)
    assert torch.equal(each[:, 1:], whole[:, 1:])
    assert float(tail[0, 0]) == pytest.approx(float(whole[0, 0]), rel=1e-5)  # the rarest of all: its own mass, undivided


def test_a_word_of_one_part_is_a_word() -> None:
    model = WordLSTM(Shape((7,), units=8, head=4)).eval()
    words = torch.arange(5)[None, :, None]
    folded = fold(model, torch.zeros(7))
    with torch.inference_mode():
        seen, _ = folded.judge(folded.reach(torch.zeros(1, 8), folded.rows(words[:, 0])), words[:, 0])
        assert torch.allclose(-seen.log(), model(words)[:, 0], atol=1e-5)
