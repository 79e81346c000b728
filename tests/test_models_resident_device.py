"""The road of a batch that is planned on its device: the same results as by the host's plans, and nothing asked of the host."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_examples import example, some_turns
from test_models_resident_flows import bundle, rows_of
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models import resident_device, resident_flows
from models.calibrate import Calibration, Tail, calibrate
from models.groups import group
from models.lanes import Batch, Laid, Lanes
from models.resident import Scorer
from models.resident_device import DeviceRoad
from models.resident_flows import FlowScored, FlowScorer
from models.rounds import Rounds, plan
from models.scored import Scored

CPU, NOWHERE = torch.device("cpu"), torch.device("meta")
"""Tensors on the meta device have shapes and no values: whoever asks for a value gets an error."""
STATES = 1e-4
"""Float noise of sums in another order, in nats and log-odds."""


def pieces(count: int, cuts: Sequence[int]) -> Iterator[slice]:
    bounds = sorted({0, count, *(cut for cut in cuts if cut < count)})
    return (slice(start, stop) for start, stop in itertools.pairwise(bounds))


def assert_alike(one: Scored | FlowScored, other: Scored | FlowScored) -> None:
    """Every field alike: p-values by their ratio, since small ones are told apart."""
    for name in one._fields:
        here, there = (np.asarray(getattr(scored, name)) for scored in (one, other))
        assert here.shape == there.shape, name
        assert here.dtype == there.dtype, name
        if name == "p_value":
            np.testing.assert_allclose(here, there, rtol=2e-2, err_msg=name)
        elif name == "expected":
            assert (here != there).sum() <= here.size / 100, name  # two values may be equally likely but for float noise
        elif name not in ("explained", "contribution", "voice"):
            np.testing.assert_allclose(here, there, atol=STATES, rtol=1e-3, err_msg=name)
    np.testing.assert_array_equal(one.explained, other.explained)


def assert_same_state(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, kept in one.items():
        assert kept.dtype == other[name].dtype
        torch.testing.assert_close(kept, other[name], atol=STATES, rtol=1e-3, equal_nan=True, msg=name)


def both(rounds: int, slots: int) -> tuple[Scorer, Scorer]:
    here, there = (
        Scorer(example(), conversations=slots, device=CPU, rounds=rounds, planned_there=planned) for planned in (False, True)
    )
    return here, there


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 1000),
    count=st.integers(1, 300),
    slots=st.sampled_from((1, 2, 5, 40, 300)),
    rounds=st.sampled_from((1, 3, 8, 64)),
    cuts=st.lists(st.integers(1, 300), max_size=4),
)
def test_both_roads_score_words_alike(seed: int, count: int, slots: int, rounds: int, cuts: list[int]) -> None:
    turned, (here, there) = some_turns(count, slots, seed), both(rounds, slots)
    for cut in pieces(count, cuts):
        part = turned.cut(cut.start, cut.stop)
        assert_alike(*(scorer.score(*part, explain_p=2.0) for scorer in (here, there)))
    assert here.shed == there.shed
    assert_same_state(here.state(), there.state())


def test_both_roads_explain_the_same_rows_of_a_flood() -> None:
    turned, (here, there) = some_turns(3000, 2, 7), both(8, 2)
    one, other = (scorer.score(*turned, explain_p=0.3) for scorer in (here, there))
    assert_alike(one, other)
    assert 0 < len(one.explained) < 3000
    assert one.shed == other.shed > 2900
    np.testing.assert_allclose(one.contribution, other.contribution, atol=1e-4)
    assert np.mean(one.voice == other.voice) > 0.99


def test_both_roads_give_the_same_evidence_to_fit_a_verdict_on() -> None:
    turned, (here, there) = some_turns(2500, 30, 4), both(64, 30)
    for one, other in zip(here.evidence(*turned), there.evidence(*turned), strict=True):
        np.testing.assert_allclose(one, other, atol=STATES)


@pytest.mark.parametrize("begun_there", [False, True])
def test_each_road_goes_on_from_the_other_s_state(begun_there: bool) -> None:
    turned, (here, there) = some_turns(300, 10, 5), both(64, 10)
    first, second = (there, here) if begun_there else (here, there)
    first.score(*turned.cut(0, 150), explain_p=0.0)
    second.restore({name: tensor.clone() for name, tensor in first.state().items()})
    assert_alike(*(scorer.score(*turned.cut(150, 300), explain_p=0.0) for scorer in (first, second)))
    with pytest.raises(RuntimeError):
        both(64, 11)[1].restore(first.state())


def test_an_empty_batch_is_scored_and_changes_nothing() -> None:
    scorer = both(64, 4)[1]
    before = {name: tensor.clone() for name, tensor in scorer.state().items()}
    scored = scorer.score(*some_turns(5, 4).cut(0, 0), explain_p=1.0)
    assert scored.verdict.shape == (0,)
    assert scored.expected.shape == (0, 4, 3)
    assert_same_state(before, scorer.state())


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 1000),
    count=st.integers(1, 300),
    slots=st.sampled_from((1, 2, 5, 40)),
    again=st.sampled_from((0.0, 0.1, 1.0)),
    known=st.integers(0, 300),
    cuts=st.lists(st.integers(1, 300), max_size=4),
)
def test_both_roads_score_windows_alike(seed: int, count: int, slots: int, again: float, known: int, cuts: list[int]) -> None:
    """The first `known` flows lack no statistic, so that some batches are read the shorter way."""
    rng = np.random.default_rng(seed)
    rows, slot, restart = rows_of(count, seed), rng.integers(0, slots, count).astype(np.int32), rng.random(count) < again
    rows[:known] = np.nan_to_num(rows[:known], nan=7.0)
    here, there = (FlowScorer(bundle(), slots=slots, device=CPU, planned_there=planned) for planned in (False, True))
    for cut in pieces(count, cuts):
        assert_alike(*(scorer.score(rows[cut], slot[cut], restart[cut], explain_p=2.0) for scorer in (here, there)))
    assert_same_state({**here.state(), "windows": Tensor()}, {**there.state(), "windows": Tensor()})


def test_each_road_goes_on_from_the_other_s_windows() -> None:
    rows, slot, restart = rows_of(5000, 3), np.arange(5000, dtype=np.int32) % 7, np.zeros(5000, np.bool_)
    here, there = (FlowScorer(bundle(), slots=7, device=CPU, planned_there=planned) for planned in (False, True))
    for first, second in ((here, there), (there, here)):
        first.score(rows, slot, restart, explain_p=0.0)
        second.restore({name: tensor.clone() for name, tensor in first.state().items()})
        assert_alike(*(one.score(rows[:40], slot[:40], restart[:40], explain_p=2.0) for one in (first, second)))


batches = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=60)


@given(batches, st.integers(1, 8))
def test_the_device_steps_what_the_host_s_plan_steps(batch: list[tuple[int, bool]], rounds: int) -> None:
    slots, restart = np.array([slot for slot, _ in batch], np.int32), np.array([again for _, again in batch], np.bool_)
    made, groups = plan(slots, restart, rounds), group(torch.from_numpy(slots))
    laid = Rounds(len(batch), rounds, CPU)
    steps = laid.lay(groups, torch.from_numpy(restart).index_select(0, groups.order))
    assert sorted(made.shed.tolist()) == sorted(groups.order[~steps.kept].tolist())
    again = dict(zip(made.rows.tolist(), made.restart.tolist(), strict=True))
    for place in torch.nonzero(steps.kept)[:, 0].tolist():
        at, row = int(steps.at[place]), int(groups.order[place])
        assert int(steps.rows[at]) == place
        assert bool(steps.keep[at] == 0) == again[row]
    starts = np.cumsum([0, *made.widths])[:-1].tolist()
    number = {row: int(np.searchsorted(starts, index, side="right")) for index, row in enumerate(made.rows.tolist())}
    for place in torch.nonzero(steps.kept)[:, 0].tolist():
        cut = laid.cuts[number[int(groups.order[place])] - 1]
        assert cut.start <= int(steps.at[place]) < cut.stop


def calibrations() -> Iterator[Calibration]:
    rng = np.random.default_rng(1)
    yield calibrate(rng.normal(0, 3, 5000), 2.0)
    yield calibrate(rng.standard_t(2, 5000), 2.0)
    yield calibrate(np.arange(20.0), 1.0)
    yield calibrate(np.zeros(50), 1.0)


@pytest.mark.parametrize("calibration", [*calibrations()])
def test_p_values_are_those_of_the_calibration(calibration: Calibration) -> None:
    verdicts = np.concatenate([np.linspace(-20, 60, 997), calibration.verdicts, [np.nan, np.inf, -np.inf]])
    told = Tail(calibration, CPU).p_value(torch.from_numpy(verdicts)).numpy()
    np.testing.assert_allclose(told, calibration.p_value(verdicts), rtol=1e-12)


class Asked(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Fails on whatever a CUDA device would have to ask or be told by the host for: what the meta device itself lets pass.

    These are tensors of the host as an index, and masks as indices.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> object:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        assert all(tensor.device == NOWHERE for tensor in tensors), f"{func} reads a tensor of the host"
        if func.overloadpacket._qualified_op_name in {"aten::index", "aten::index_put", "aten::index_put_"}:
            assert all(index is None or index.dtype != torch.bool for index in args[1]), f"{func} counts a mask"
        self.operations += 1
        return func(*args, **(kwargs or {}))


def word_step(device: torch.device, laid: Laid) -> tuple[Callable[..., object], list[Tensor]]:
    scorer = Scorer(example(), conversations=8, device=device, rounds=laid.rounds, planned_there=True)
    assert isinstance(scorer._road, DeviceRoad)
    return scorer._road.laid(laid), [torch.from_numpy(column).to(device) for column in some_turns(laid.rows, 8)]


def flow_step(device: torch.device, laid: Laid) -> tuple[Callable[..., object], list[Tensor]]:
    scorer = FlowScorer(bundle(), slots=5, device=device, planned_there=True)
    assert isinstance(scorer._road, resident_flows.DeviceRoad)
    slots, restart = np.arange(laid.rows, dtype=np.int32) % 5, np.zeros(laid.rows, np.bool_)
    return scorer._road.laid(laid), [torch.from_numpy(column).to(device) for column in (rows_of(laid.rows), slots, restart)]


Made = Callable[[torch.device, Laid], tuple[Callable[..., object], list[Tensor]]]


@pytest.mark.parametrize("made", [word_step, flow_step])
def test_a_step_asks_the_host_nothing(made: Made) -> None:
    step, given = made(NOWHERE, Laid(64, 16))
    with torch.inference_mode(), Asked() as asked:
        step(*given)
    assert asked.operations > 50


@pytest.mark.parametrize("made", [word_step, flow_step])
def test_a_step_is_one_graph_without_a_branch_on_data(made: Made) -> None:
    step, given = made(CPU, Laid(64, 4))
    torch._dynamo.reset()
    with torch.no_grad():
        torch.compile(step, fullgraph=True, backend="eager")(*given)


@pytest.mark.parametrize(
    "asks",
    [
        lambda x: x * x.sum().item(),
        lambda x: x[: int(x.argmax())],
        lambda x: x.cpu(),
        lambda x: x[x > 0],
        lambda x: x.index_put_((x > 0,), x.sum()),
        lambda x: x.index_select(0, torch.tensor([0, 1])),
        lambda x: x.nonzero(),
        torch.unique,
        lambda x: x if x.any() else -x,
    ],
)
def test_what_would_ask_the_host_is_noticed(asks: Callable[[Tensor], object]) -> None:
    asks(torch.ones(4))  # it is no error by itself
    with pytest.raises((RuntimeError, NotImplementedError, AssertionError)), torch.inference_mode(), Asked():
        asks(torch.ones(4, device=NOWHERE))


def test_results_come_in_order_and_a_batch_is_under_way_while_one_is_taken() -> None:
    launched: list[int] = []

    def lay(laid: Laid) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        def step(numbers: Tensor) -> tuple[Tensor, Tensor]:
            launched.append(int(numbers[0]))
            return numbers * 2, numbers.clone()

        return step

    lanes = Lanes([torch.full((8,), -1.0)], lay, CPU)
    batches = (Batch(Laid(4 + 4 * (number % 2)), (np.full(3, number, np.float32),)) for number in range(5))
    ahead = []
    for number, (packed, kept) in enumerate(lanes.run(batches)):
        assert packed.tolist() == [2.0 * number] * 3 + [-2.0] * (len(packed) - 3)
        assert kept[0] == number
        ahead.append(launched[-1] - number)
    assert ahead == [1, 1, 1, 1, 0]


def test_few_rounds_are_laid_out_for_a_batch_of_few_flows_each(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Laid] = []
    lay = DeviceRoad.laid

    def noted(road: DeviceRoad, laid: Laid) -> Callable[..., object]:
        asked.append(laid)
        return lay(road, laid)

    monkeypatch.setattr(DeviceRoad, "laid", noted)
    scorer = both(64, 300)[1]
    for count, slots in ((200, 200), (200, 100), (200, 20), (300, 2), (300, 300)):
        turned = some_turns(count, 300)._replace(slots=np.arange(count, dtype=np.int32) % slots)
        scorer.score(*turned, explain_p=0.0)
    small, large = resident_device.ROWS
    assert asked == [Laid(small, 1), Laid(small, 4), Laid(small, 16), Laid(large, 64), Laid(large, 1)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("flows_each", [1, 40])
def test_cuda_waits_for_no_batch_but_by_its_event(flows_each: int) -> None:
    device, count = torch.device("cuda"), 70_000  # more than a piece of either model: both lanes are used
    slots, restart = (np.arange(count) % (count // flows_each)).astype(np.int32), np.zeros(count, np.bool_)
    words = Scorer(example(), conversations=count, device=device)
    flows = FlowScorer(bundle(), slots=count, device=device)

    def once() -> None:
        words.score(some_turns(count, 1).words, slots, restart, np.zeros(count, np.int64), explain_p=-1.0)
        flows.score(rows_of(count), slots, restart, explain_p=-1.0)

    once()  # captures the graphs
    torch.cuda.set_sync_debug_mode("error")
    try:
        once()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_scores_windows_as_the_processor_does() -> None:
    rows, slot, restart = rows_of(40_000, 3), np.arange(40_000, dtype=np.int32) % 700, np.zeros(40_000, np.bool_)
    here, there = (FlowScorer(bundle(), slots=700, device=torch.device(name)) for name in ("cpu", "cuda"))
    one, other = (scorer.score(rows, slot, restart, explain_p=0.0) for scorer in (here, there))
    np.testing.assert_allclose(one.probability, other.probability, atol=1e-3)
    np.testing.assert_allclose(one.verdict, other.verdict, atol=1e-2)
