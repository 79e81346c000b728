from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model_examples import PARTS, SIZES, grammar, manifest, some_turns

from models.assemble import Begin, Rows, assemble, fit, gather
from models.checkpoint import Bundle
from models.evaluate import auc, highest
from models.grow import grow_model
from models.train import Epoch, Settings, Trainer, batches, sort_conversations, stretches
from models.words import Shape, WordLSTM


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small matrices gain nothing from threads, and on a busy machine the threads wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


QUICK = Settings(epochs=8, rate=1e-2, dropout=0.0, unlearned_share=0.0, weight_decay=0.0, batch_words=128)


def bundle_of(seed: int = 1, attacks: tuple[Rows, ...] = (), begin: Begin | None = None, rows: Rows | None = None) -> Bundle:
    sizes = (SIZES[0] + (len(begin.came_from) if begin else 0), *SIZES[1:])
    known = manifest(sizes, spread=(0.0,) * sizes[0])
    return assemble([rows or grammar(40, 30, seed=1)], attacks, known, dataclasses.replace(QUICK, seed=seed), begin=begin)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(1, 10), st.integers(0, 5))
def test_every_word_is_judged_once_with_no_more_past_than_its_conversation_has(
    lengths: list[int], stretch: int, warm: int
) -> None:
    restart = np.concatenate([np.arange(length) == 0 for length in lengths])
    cut = stretches(restart, Settings(stretch=stretch, warm=warm))
    judged = sorted(row for one in cut for row in range(one.judged, one.stop))
    assert judged == list(range(len(restart)))
    begins = np.flatnonzero(restart)
    for one in cut:
        assert one.start >= begins[begins <= one.judged].max()
        assert one.judged - one.start <= warm


def test_batches_hold_every_word_of_every_conversation_in_order() -> None:
    turned = some_turns(300, 9, seed=3)
    order, begins = sort_conversations(turned.slots, turned.restart)
    made = batches(turned.words[order], begins, Settings(stretch=7, warm=3, batch_words=64))
    assert sum(int(batch.judged.sum()) for batch in made) == 300
    held = torch.cat([batch.words[batch.judged] for batch in made]).numpy()
    assert sorted(map(tuple, held)) == sorted(map(tuple, turned.words))


def test_training_reaches_the_entropy_of_a_grammar() -> None:
    # what cannot be known: one coin a word, and the service of each conversation's first word
    epochs: list[Epoch] = []
    rows = grammar(60, 30, seed=2)
    order, begins = sort_conversations(rows.slots, rows.restart)
    made = batches(rows.words[order], begins, QUICK)
    trainer = Trainer(Shape(SIZES, 32, 16), dataclasses.replace(QUICK, epochs=12), unlearned=np.arange(SIZES[0]))
    trainer.run(made, made, epochs.append)
    entropy = np.log(2) + np.log(3) / 30
    assert entropy * 0.98 < trainer.measure(made) < entropy + 0.05
    assert epochs[0].number == 1
    assert epochs[-1].train_nats < epochs[0].train_nats


def test_the_same_seed_gives_the_same_model_and_another_seed_another() -> None:
    few = grammar(20, 10, seed=1)
    one, same, other = (bundle_of(seed, rows=few).model.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_training_stops_when_the_held_back_words_are_predicted_no_better() -> None:
    rows, noise = grammar(30, 20, seed=1), grammar(30, 20, seed=9, services=(5, 6, 7, 8))
    made, held = (batches(one.words, one.restart, QUICK) for one in (rows, noise))
    trainer = Trainer(Shape(SIZES, 16, 8), dataclasses.replace(QUICK, epochs=40, patience=3), unlearned=np.arange(SIZES[0]))
    history = trainer.run(made, held)
    assert len(history) < 40
    assert not any(epoch.best for epoch in history[-3:])
    assert trainer.measure(held) == pytest.approx(min(epoch.validation_nats for epoch in history if epoch.best), abs=1e-4)


def test_words_that_lose_their_service_in_training_make_ranges_expected() -> None:
    rows = grammar(40, 20, seed=1)
    order, begins = sort_conversations(rows.slots, rows.restart)
    made = batches(rows.words[order], begins, QUICK)
    unlearned = np.array([0, 1, 1, 1, 1, 1, 1, 1, 1])
    nats = []
    for share in (0.0, 0.2):
        settings = dataclasses.replace(QUICK, unlearned_share=share)
        trainer = Trainer(Shape(SIZES, 16, 8), settings, unlearned=unlearned)
        trainer.run(made, made)
        with torch.inference_mode():
            nats.append(float(trainer.model.eval()(torch.tensor([[[1, 0, 1, 0]]]))[0, 0, 0]))
    assert nats[1] < 2 < nats[0]


def scan(count: int) -> Rows:
    """Attacks: conversations of one word with a service that nobody uses, among benign ones."""
    rows = grammar(40, 10, seed=5)
    words = np.tile(np.array([[8, 0, 5, 3]], np.int16), (count, 1))
    slots = np.arange(40, 40 + count, dtype=np.int32)
    yes, no = np.ones(count, np.bool_), np.zeros(count, np.bool_)
    more = Rows(words, slots, yes, np.full(count, 9), yes, no)
    return Rows._make(np.concatenate([getattr(rows, name), getattr(more, name)]) for name in Rows._fields)


def test_a_verdict_fitted_on_attacks_tells_others_of_their_kind_apart() -> None:
    bundle = bundle_of(attacks=(scan(20),))
    found = gather(bundle, scan(31), 1.0)
    assert int(found.attack.sum()) == 31
    verdicts = highest(bundle.weights.verdict(found.largest, found.mean), found.hours)
    assert auc(verdicts[found.attack], verdicts[found.benign]) > 0.99
    assert bundle.calibration.p_value(verdicts[found.attack]).max() < 0.05
    lstm = fit([gather(bundle, grammar(40, 30, seed=1), 0.2)], [found], PARTS, voices=("lstm",))
    assert (lstm.largest[4:] == 0).all()


def test_further_training_teaches_a_site_s_own_service() -> None:
    shipped = bundle_of()
    site = grammar(40, 30, seed=4, services=(2, 3, 9))  # 9 is new: so far it counted as 1
    grown = bundle_of(begin=Begin(shipped, np.array([1])), rows=site)
    assert grown.model.shape.sizes[0] == 10
    found = gather(grown, site, 1.0)
    assert found.mean[found.hours.last, 4].max() < 3  # "rare service": a third of all words are 9
    assert (grown.weights.mean == shipped.weights.mean).all()  # no attacks to fit it on again


def test_a_grown_model_predicts_old_services_as_before_and_new_ones_less() -> None:
    torch.manual_seed(0)
    model = WordLSTM(Shape(SIZES, 16, 8)).eval()
    grown = grow_model(model, np.array([1, 1])).eval()
    words = torch.from_numpy(some_turns(30, 1).words.astype(np.int64))[None]
    with torch.inference_mode():
        before, after = model(words), grown(words)
        assert torch.allclose(before[..., 1:], after[..., 1:], atol=1e-5)
        assert float((after - before)[..., 0].max()) < 0.2
        new = words.clone()
        new[..., 0] = 9
        old = words.clone()
        old[..., 0] = 1
        assert bool((grown(new)[..., 0, 0] > grown(old)[..., 0, 0] + 2).all())


def test_nothing_to_train_or_to_fit_on_is_said_in_one_line() -> None:
    with pytest.raises(ValueError, match="too few benign flows"):
        bundle_of(rows=Rows._make(column[:2] for column in grammar(2, 1, seed=1)))
    with pytest.raises(ValueError, match="conversation-hours"):
        bundle_of(rows=Rows._make(column[:20] for column in grammar(2, 10, seed=1)))
    with pytest.raises(ValueError, match="--attacks"):
        bundle_of(attacks=(grammar(5, 5, seed=1),))
