from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from model_examples import PARTS, SIZES, SPREAD, Turned, example, some_turns

from models.checkpoint import Bundle
from models.frequency import build
from models.resident import PIECE, Scored, Scorer
from models.verdict import CEILING, Weights, columns
from models.words import fold

PER_ROW = ("nats", "part_nats", "part_tail", "frequency_nats", "verdict", "p_value")


def score(scorer: Scorer, turned: Turned, explain_p: float = 0.0) -> Scored:
    return scorer.score(*turned, explain_p=explain_p)


def in_pieces(bundle: Bundle, turned: Turned, size: int, rounds: int = 64) -> dict[str, np.ndarray]:
    scorer = Scorer(bundle, conversations=64, device=torch.device("cpu"), rounds=rounds)
    scored = [score(scorer, turned.cut(start, start + size)) for start in range(0, len(turned.words), size)]
    return {name: np.concatenate([getattr(one, name) for one in scored]) for name in PER_ROW}


def one_by_one(bundle: Bundle, turned: Turned) -> tuple[np.ndarray, np.ndarray]:
    """The slow truth: states and evidence in plain dictionaries. Nats (N, P) and verdicts (N,)."""
    spread = torch.tensor(SPREAD, dtype=torch.float64)
    lstm, frequency = fold(bundle.model, spread), build(bundle.counts, spread)
    states: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    so_far: dict[int, list[np.ndarray]] = {}
    hours: dict[int, int] = {}
    nats, verdicts = [], []
    for word, slot, restart, hour in zip(*turned, strict=True):
        this = torch.from_numpy(word.astype(np.int64))[None]
        hidden, cell = (torch.zeros(1, 16), torch.zeros(1, 16)) if restart else states[slot]
        rows = lstm.rows(this)
        seen, tail = lstm.judge(lstm.reach(hidden, rows), this)
        lstm.step(lstm.read(rows), hidden, cell)
        states[slot] = hidden, cell
        frequent = frequency.nats(this).numpy()[0]
        mixture = -np.log((seen[0, 0].item() + np.exp(-frequent[0])) / 2)
        evidence = np.clip(np.concatenate([-np.log(tail.numpy()[0]), frequent, [mixture]]), 0, CEILING)
        if restart or hours.get(slot) != hour:
            so_far[slot] = []
        hours[slot] = hour
        so_far[slot].append(evidence)
        table = np.stack(so_far[slot])
        nats.append(-np.log(seen.numpy()[0]))
        verdicts.append(bundle.weights.verdict(table.max(axis=0)[None], table.mean(axis=0)[None])[0])
    return np.stack(nats), np.array(verdicts)


@torch.inference_mode()
def test_a_batch_is_scored_as_if_flows_came_one_at_a_time() -> None:
    bundle, turned = example(), some_turns(400, 12)
    nats, verdicts = one_by_one(bundle, turned)
    scored = score(Scorer(bundle, conversations=12, device=torch.device("cpu")), turned)
    assert np.allclose(scored.part_nats, nats, atol=1e-4)
    assert np.allclose(scored.verdict, verdicts, atol=1e-3)
    assert np.allclose(scored.nats, nats.sum(axis=1), atol=1e-4)


@pytest.mark.parametrize("size", [1, 7, 100])
def test_scores_do_not_depend_on_how_the_flows_are_cut_into_batches(size: int) -> None:
    bundle, turned = example(), some_turns(500, 20, seed=1)
    whole, cut = in_pieces(bundle, turned, 500), in_pieces(bundle, turned, size)
    for name in PER_ROW:
        assert np.allclose(whole[name], cut[name], rtol=1e-4, atol=1e-4), name


def test_a_batch_longer_than_a_piece_is_scored_whole() -> None:
    turned = some_turns(PIECE + 300, 40, seed=2)
    scored = score(Scorer(example(), conversations=64, device=torch.device("cpu"), rounds=10_000), turned, explain_p=1.0)
    cut = in_pieces(example(), turned, 999, rounds=10_000)
    assert np.allclose(scored.verdict, cut["verdict"], atol=1e-4)
    assert (scored.explained == np.arange(PIECE + 300)).all()
    assert len(scored.expected) == PIECE + 300


def test_a_restart_forgets_the_state_and_the_hour() -> None:
    turned = some_turns(40, 1, seed=3)
    turned.restart[:] = False
    turned.restart[[0, 25]] = True
    scorer = Scorer(example(), conversations=1, device=torch.device("cpu"))
    both = score(scorer, turned)
    fresh = score(Scorer(example(), conversations=1, device=torch.device("cpu")), turned.cut(25, 40))
    assert np.allclose(both.part_nats[25:], fresh.part_nats, atol=1e-5)
    assert np.allclose(both.verdict[25:], fresh.verdict, atol=1e-5)


def test_a_flood_is_shed_and_counted_and_the_frequencies_still_judge_all_of_it() -> None:
    flood = some_turns(1000, 1, seed=4)
    scorer = Scorer(example(), conversations=4, device=torch.device("cpu"), rounds=8)
    scored = score(scorer, flood)
    assert scored.shed == scorer.shed == int(np.isnan(scored.nats).sum()) == 992
    assert np.isnan(scored.part_nats).all(axis=1).sum() == 992
    for name in ("frequency_nats", "verdict", "p_value"):
        assert np.isfinite(getattr(scored, name)).all()
    score(scorer, flood)
    assert scorer.shed == 2 * 992


def test_shed_flows_do_not_dilute_the_lstm_s_mean() -> None:
    bundle = example()
    evidence = columns(len(SIZES))
    mean = np.array([1.0 if column.voice == "lstm" else 0.0 for column in evidence])
    bundle = dataclasses.replace(bundle, weights=Weights(np.zeros(len(evidence)), mean, 0.0))
    turned = some_turns(64, 1, seed=5)
    turned.words[:] = turned.words[0]
    turned.restart[1:] = False
    turned.hour[:] = 0
    shed = score(Scorer(bundle, conversations=1, device=torch.device("cpu"), rounds=4), turned)
    kept = np.flatnonzero(~np.isnan(shed.nats))
    alone = score(Scorer(bundle, conversations=1, device=torch.device("cpu")), Turned._make(column[kept] for column in turned))
    assert np.allclose(shed.verdict[kept], alone.verdict, atol=1e-4)


def test_explanations_name_the_likeliest_values_and_share_out_the_verdict() -> None:
    bundle, turned = example(), some_turns(300, 10, seed=6)
    scorer = Scorer(bundle, conversations=10, device=torch.device("cpu"))
    scored = score(scorer, turned, explain_p=0.3)
    assert 0 < len(scored.explained) < 300
    assert (scored.p_value[scored.explained] <= 0.3).all()
    assert scored.expected.shape == (len(scored.explained), len(PARTS), 3)
    assert (np.diff(scored.expected_probability, axis=2) <= 1e-6).all()
    assert (scored.expected[:, 1, 1:] == -1).all()  # the heading has two values, and one of them was seen
    assert (scored.expected != turned.words[scored.explained][..., None]).all()
    assert np.allclose(scored.contribution.sum(axis=1), 1.0, atol=1e-5)


def test_what_was_seen_is_told_by_the_voice_that_weighed_most() -> None:
    split = np.array([float((column.voice == "lstm") == (column.place % 2 == 0)) for column in columns(len(SIZES))])
    bundle = dataclasses.replace(example(), weights=Weights(split, split, 0.0))
    scored = score(Scorer(bundle, conversations=10, device=torch.device("cpu")), some_turns(300, 10, seed=6), explain_p=1.0)
    by_voice = np.where(scored.voice == 0, scored.part_nats, scored.frequency_nats)
    assert 0.1 < scored.voice.mean() < 0.9
    assert np.allclose(-np.log(scored.seen_probability), by_voice, atol=1e-3)


@pytest.mark.parametrize("voice", ["lstm", "given"])
def test_what_was_expected_instead_is_told_by_the_same_voice_as_what_was_seen(voice: str) -> None:
    """Every other value put in place of the seen one has, by that voice, the probability that was told of it."""
    evidence, place = columns(len(SIZES)), 2
    only = np.array([1.0 if (column.voice, column.place) == (voice, place) else 0.0 for column in evidence])
    bundle, turned = dataclasses.replace(example(), weights=Weights(only, only, 0.0)), some_turns(1, 1)
    scored = score(Scorer(bundle, conversations=1, device=torch.device("cpu")), turned, explain_p=1.0)
    for rank in range(3):
        other = turned.words.copy()
        other[0, place] = scored.expected[0, place, rank]
        again = score(Scorer(bundle, conversations=1, device=torch.device("cpu")), turned._replace(words=other))
        nats = again.part_nats if voice == "lstm" else again.frequency_nats
        assert -np.log(scored.expected_probability[0, place, rank]) == pytest.approx(nats[0, place], abs=1e-4)


def test_ports_of_a_range_are_expected_one_by_one() -> None:
    bundle, turned = example(), some_turns(20, 1)
    scored = score(Scorer(bundle, conversations=1, device=torch.device("cpu"), rounds=1), turned, explain_p=1.0)
    each = bundle.counts.alone(0) * np.exp(-np.array(SPREAD))
    for row in np.flatnonzero(np.isnan(scored.nats)):
        assert each[scored.expected[row, 0, 0]] == np.delete(each, turned.words[row, 0]).max()
        assert np.allclose(scored.expected_probability[row, 0], each[scored.expected[row, 0]], rtol=1e-4)


def test_what_weighs_more_in_the_verdict_contributes_more_and_names_its_voice() -> None:
    evidence = columns(len(SIZES))
    for voice, place, code in (("lstm", 2, 0), ("given", 3, 1)):
        only = np.array([1.0 if (column.voice, column.place) == (voice, place) else 0.0 for column in evidence])
        bundle = dataclasses.replace(example(), weights=Weights(only, np.zeros(len(evidence)), 0.0))
        scored = score(Scorer(bundle, conversations=10, device=torch.device("cpu")), some_turns(50, 10), explain_p=1.0)
        told = scored.contribution.sum(axis=1) > 0  # what was fully expected is no evidence, and nothing to share out
        assert told.mean() > 0.5
        assert np.allclose(scored.contribution[told, place], 1.0)
        assert (scored.voice[told, place] == code).all()


def test_shed_flows_are_explained_by_the_frequencies() -> None:
    bundle = example()
    scored = score(Scorer(bundle, conversations=1, device=torch.device("cpu"), rounds=2), some_turns(50, 1), explain_p=1.0)
    shed = np.flatnonzero(np.isnan(scored.nats))
    assert len(shed) == 48
    assert (scored.voice[shed] == 1).all()
    assert np.allclose(-np.log(scored.seen_probability[shed]), scored.frequency_nats[shed], atol=1e-3)


def test_a_scorer_goes_on_from_a_saved_state() -> None:
    bundle, turned = example(), some_turns(300, 10, seed=7)
    first = Scorer(bundle, conversations=10, device=torch.device("cpu"))
    score(first, turned.cut(0, 150))
    second = Scorer(bundle, conversations=10, device=torch.device("cpu"))
    second.restore({name: tensor.clone() for name, tensor in first.state().items()})
    rest = turned.cut(150, 300)
    before, after = score(first, rest), score(second, rest)
    assert (before.verdict == after.verdict).all()
    with pytest.raises(RuntimeError):
        Scorer(bundle, conversations=11, device=torch.device("cpu")).restore(first.state())


def test_an_empty_batch_is_scored() -> None:
    scored = score(Scorer(example(), conversations=4, device=torch.device("cpu")), some_turns(5, 2).cut(0, 0), explain_p=1.0)
    assert scored.verdict.shape == (0,)
    assert scored.expected.shape == (0, len(PARTS), 3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_scores_as_the_processor_does() -> None:
    bundle, turned = example(), some_turns(3000, 50, seed=8)
    here = score(Scorer(bundle, conversations=50, device=torch.device("cpu")), turned, explain_p=0.1)
    there = score(Scorer(bundle, conversations=50, device=torch.device("cuda")), turned, explain_p=0.1)
    assert np.allclose(here.part_nats, there.part_nats, atol=1e-3, equal_nan=True)
    assert np.allclose(here.verdict, there.verdict, atol=1e-2)
