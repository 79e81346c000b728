"""Rows to look at: the ordinary ones that the multi-flow model is surest to be attacks, and the attacks it takes for ordinary.

Of each the class that was given, which flow of the window had most of the attention, and the statistics of that flow that
stand farthest from the middle of the training data. A row is told by its file and its place in there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from models.flowset import FlowSet, Split
from models.multiflow import MultiFlow
from models.scale import scaled
from models.windows import sequences
from sensor.commands.flowsets import DataRead
from sensor.commands.report import Table, Value

SHOWN = 10
COLUMNS = 3
"""Statistics that are told of a flow."""
HEAD = ("row", "truth", "given", "probability", "attended and farthest")


class Network(NamedTuple):
    """A model, however it came to be."""

    model: MultiFlow
    classes: Sequence[str]
    columns: Sequence[str]
    flows: int
    temperature: float


def examples(
    network: Network,
    verdict: NDArray[np.float32],
    flows: FlowSet,
    split: Split,
    data: Sequence[DataRead],
    where: str = "",
) -> Iterator[Table]:
    """The top false alarms and the top misses among the test rows, by their (T,) verdicts; `where` names the split."""
    order = split.test[np.argsort(-verdict, kind="stable")]
    attack = flows.label[order] > 0
    windows = sequences(flows.slots, split.restart, network.flows) if len(order) else np.empty((0, 1), np.int64)
    of = f", {where}" if where else ""
    for title, rows in (
        ("Ordinary rows with the highest verdicts", order[~attack]),
        ("Attacks with the lowest verdicts", order[attack][::-1]),
    ):
        if len(rows):
            told = [_row(network, flows, windows[row], int(row), data) for row in rows[:SHOWN].tolist()]
            yield Table(f"{title}{of}, {len(told)} of {len(rows):,}", HEAD, told, prose=True)


@torch.inference_mode()
def _row(network: Network, flows: FlowSet, window: NDArray[np.int64], row: int, data: Sequence[DataRead]) -> tuple[Value, ...]:
    length = int((window >= 0).sum())
    rows = torch.from_numpy(flows.rows[np.maximum(window, 0)])[None]
    judged = network.model(rows, torch.tensor([length]))
    probability = torch.softmax(judged.logits[0] / network.temperature, dim=0)
    place = int(judged.attention[0].argmax())
    centre, spread = (network.model.get_buffer(name) for name in ("centre", "spread"))
    distance = scaled(rows[0, place], centre, spread)[0].numpy()
    farthest = [
        f"{network.columns[column]} {flows.rows[window[place], column]:g} ({distance[column]:+.1f})"
        for column in np.argsort(-np.abs(distance), kind="stable")[:COLUMNS]
        if distance[column]
    ]
    back = len(window) - 1 - place
    which = "this flow" if not back else f"the flow {back} before"
    told = f"{which} has {float(judged.attention[0, place]):.0%} of the attention: {'; '.join(farthest) or 'nothing is far'}"
    given = int(probability.argmax())
    truth = network.classes[int(flows.label[row])]
    return _named(row, data), truth, network.classes[given], float(probability[given]), told


def _named(row: int, data: Sequence[DataRead]) -> str:
    """The file that a row is of, and its number in there."""
    for one in data:
        if row < one.rows:
            return f"{one.path} row {row + 1:,}"
        row -= one.rows
    return f"row {row + 1:,}"
