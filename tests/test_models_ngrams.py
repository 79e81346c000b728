from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.ngrams import DISCOUNT, Backoff

SIZE = 3


def column(values: list[int]) -> np.ndarray:
    return np.array(values, np.int16)[:, None]


def starts(count: int, *begins: int) -> np.ndarray:
    return np.isin(np.arange(count), [0, *begins])


def slow(text: list[int], context: list[int], value: int) -> float:
    """The same by its definition, for one sentence `text`: `context` is what stands before, its last value last."""
    padded = [SIZE] * 4 + text
    if not context:
        return (text.count(value) + 0.5) / (len(text) + 0.5 * SIZE)
    after = [padded[i] for i in range(4, len(padded)) if padded[i - len(context) : i] == context]
    lower = slow(text, context[1:], value)
    if not after:
        return lower
    return (max(after.count(value) - DISCOUNT, 0) + DISCOUNT * len(set(after)) * lower) / len(after)


@settings(max_examples=40)
@given(st.lists(st.integers(0, SIZE - 1), min_size=1, max_size=25), st.lists(st.integers(0, SIZE - 1), min_size=1, max_size=8))
def test_the_nats_are_those_of_the_definition(text: list[int], asked: list[int]) -> None:
    model = Backoff(column(text), starts(len(text)), (SIZE,))
    padded = [SIZE] * 4 + asked
    truth = [-np.log(slow(text, padded[i : i + 4], asked[i])) for i in range(len(asked))]
    assert model.nats(column(asked), starts(len(asked)))[:, 0] == pytest.approx(truth)


def test_probabilities_of_a_context_sum_to_one() -> None:
    random = np.random.default_rng(0)
    model = Backoff(random.integers(0, SIZE, (200, 2)).astype(np.int16), starts(200, 50), (SIZE, SIZE))
    said = np.array([[0, 1], [1, 1], [2, 0], [0, 0]], np.int16)
    for position in range(4):
        total = np.zeros(2)
        for value in range(SIZE):
            changed = said.copy()
            changed[position] = value
            total += np.exp(-model.nats(changed, starts(4))[position])
        assert total == pytest.approx([1, 1])


def test_a_phrase_longer_than_a_pair_is_learned() -> None:
    phrase = column([0, 1, 0, 2] * 50)  # after 0 comes 1 or 2: only a longer context knows which
    pair, five = (Backoff(phrase, starts(200), (SIZE,), order) for order in (2, 5))
    assert five.nats(phrase, starts(200)).mean() < 0.1
    assert pair.nats(phrase, starts(200)).mean() > 0.3


def test_a_restart_forgets_what_was_said() -> None:
    phrase = column([0, 1, 0, 2] * 20)
    model = Backoff(phrase, starts(80), (SIZE,))
    assert model.nats(phrase, starts(80, 40))[40] == pytest.approx(model.nats(phrase[40:], starts(40))[0])
