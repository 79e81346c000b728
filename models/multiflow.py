"""The attention LSTM over the last flows: from the statistics of n flows to the class of the last one (AMF-LSTM).

Zhu et al. 2018, "Attention-based Multi-Flow Model for Network Anomaly Detection": an LSTM reads the statistics of the current
and the n - 1 flows before it, oldest first; additive attention weighs its states; the attended context and the last state
give the class. What is ours: a column that the source cannot tell is marked as unknown beside its value instead of being
a zero, and a conversation younger than n flows has a shorter window instead of a padded one. The attention tells an
analyst which of the flows made the class.

`MultiFlow` is what training fits, on windows laid out by `windows`. `Laid` is the same network for scoring: every flow is
multiplied with the LSTM's input weights once and not once for each window that it is in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.scale import Scale, scaled

CLOSED = -1e4
"""Logit of a class that was never trained: beyond what any temperature brings back, and a number in float16 too."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """All that fixes the size of a multi-flow model."""

    columns: int
    classes: int
    flows: int = 10
    """The current flow and the ones before it that are read."""
    units: int = 256
    attention: int = 64
    """Width of the attention's hidden layer."""


class Judged(NamedTuple):
    """What a batch of B windows of n flows came to."""

    logits: Tensor
    """(B, classes)."""
    attention: Tensor
    """(B, n) weight of each flow, oldest first, summing to 1; 0 for flows that are not there."""


class MultiFlow(nn.Module):
    """One LSTM layer, additive attention, one linear layer."""

    def __init__(self, shape: Shape, scale: Scale, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        centre, spread = scale.to(torch.device("cpu"))
        self.register_buffer("centre", centre, persistent=False)  # the manifest holds them
        self.register_buffer("spread", spread, persistent=False)
        self.lstm = nn.LSTM(2 * shape.columns, shape.units, batch_first=True)
        self.state = nn.Linear(shape.units, shape.attention, bias=False)
        self.last = nn.Linear(shape.units, shape.attention)
        self.energy = nn.Linear(shape.attention, 1, bias=False)
        self.out = nn.Linear(2 * shape.units, shape.classes)
        self.dropout = nn.Dropout(dropout)

    @torch.no_grad()
    def close(self, classes: Sequence[int]) -> None:
        """Never call anything one of `classes`: without a flow to learn from, their weights are what chance gave them."""
        for number in classes:
            self.out.weight[number] = 0.0
            self.out.bias[number] = CLOSED

    def forward(self, rows: Tensor, lengths: Tensor) -> Judged:
        """Judge (B, n, F) statistics, NaN where unknown; of window b the last `lengths[b]` flows count, the current one last.

        The LSTM starts each window at zero with the first flow that is there, so short windows are moved to the front.
        """
        length, batch = rows.shape[1], torch.arange(len(rows), device=rows.device)
        place = torch.arange(length, device=rows.device)[None]
        moved = (place + (length - lengths)[:, None]) % length
        values, known = scaled(rows[batch[:, None], moved], self.get_buffer("centre"), self.get_buffer("spread"))
        states, _ = self.lstm(self.dropout(torch.cat([values, known], dim=-1)))
        last = states[batch, lengths - 1]
        energy = self.energy(torch.tanh(self.state(states) + self.last(last)[:, None]))[..., 0]
        there = place < lengths[:, None]
        attention = torch.softmax(energy.masked_fill(~there, -torch.inf), dim=1)
        context = torch.einsum("bn,bnu->bu", attention, states.masked_fill(~there[..., None], 0.0))
        logits = self.out(self.dropout(torch.cat([context, last], dim=-1)))
        return Judged(logits, torch.zeros_like(attention).scatter(1, moved, attention))


@dataclasses.dataclass(frozen=True)
class Laid:
    """A trained multi-flow model as the matrices that scoring reads; all on one device, no gradients.

    They are of one type, save those of the last layer, which decides between classes and costs nothing: they are float32.
    """

    shape: Shape
    centre: Tensor
    spread: Tensor
    values_in: Tensor
    """(F, 4 * units): input weights of the scaled values; gates in torch's order: input, forget, cell, output."""
    known_in: Tensor
    """(F, 4 * units): input weights of what is known."""
    all_known_in: Tensor
    """(4 * units,): both biases, and the sum of `known_in`: what a flow adds of which everything is known."""
    recurrent: Tensor
    """(units, 4 * units)."""
    state: Tensor
    """(units, attention)."""
    last: Tensor
    """(units, attention)."""
    last_bias: Tensor
    energy: Tensor
    """(attention,)."""
    out: Tensor
    """(2 * units, classes)."""
    out_bias: Tensor

    def read(self, rows: Tensor, *, complete: bool = False) -> Tensor:
        """What (R, F) flows add to the gates: (R, 4 * units). `complete` says that of all that matter, everything is known."""
        values, known = scaled(rows, self.centre, self.spread)
        given = torch.addmm(self.all_known_in, values.to(self.recurrent.dtype), self.values_in)
        return given if complete else given.addmm_((known - 1).to(self.recurrent.dtype), self.known_in)

    def judge(self, read: Tensor, windows: Tensor) -> Judged:
        """Judge windows of `read` flows: (B, n) rows of it, oldest first, the current flow last, -1 where there is none."""
        length, units = windows.shape[1], self.shape.units
        hidden = read.new_zeros(len(windows), units)
        cell = torch.zeros_like(hidden)
        states = read.new_empty(length, len(windows), units)
        there = windows >= 0
        for step in range(length):
            gates = torch.addmm(read.index_select(0, windows[:, step].clamp(min=0)), hidden, self.recurrent)
            gates[:, : 2 * units].sigmoid_()
            gates[:, 3 * units :].sigmoid_()
            cell.mul_(gates[:, units : 2 * units]).addcmul_(gates[:, :units], gates[:, 2 * units : 3 * units].tanh_())
            begun = there[:, step, None]
            cell.mul_(begun)
            hidden = torch.tanh(cell, out=states[step]).mul_(gates[:, 3 * units :])
        last = torch.addmm(self.last_bias, hidden, self.last)
        energy = torch.tanh((states @ self.state).add_(last)) @ self.energy
        attention = torch.softmax(energy.T.float().masked_fill_(~there, -torch.inf), dim=1)
        context = torch.einsum("bn,nbu->bu", attention.to(states.dtype), states)
        logits = torch.addmm(self.out_bias, torch.cat([context, hidden], dim=1).float(), self.out)
        return Judged(logits, attention)


def lay(model: MultiFlow, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> Laid:
    """Lay a trained network out for scoring, on `device` (the processor if None), with matrices of `dtype`."""
    tensors = {name: tensor.detach().cpu().float() for name, tensor in model.state_dict().items()}
    given, columns = tensors["lstm.weight_ih_l0"].T, model.shape.columns
    bias = tensors["lstm.bias_ih_l0"] + tensors["lstm.bias_hh_l0"] + given[columns:].sum(dim=0)

    def place_on(tensor: Tensor) -> Tensor:
        return tensor.to(device, dtype).contiguous()

    return Laid(
        shape=model.shape,
        centre=model.get_buffer("centre").detach().to(device),
        spread=model.get_buffer("spread").detach().to(device),
        values_in=place_on(given[:columns]),
        known_in=place_on(given[columns:]),
        all_known_in=place_on(bias),
        recurrent=place_on(tensors["lstm.weight_hh_l0"].T),
        state=place_on(tensors["state.weight"].T),
        last=place_on(tensors["last.weight"].T),
        last_bias=place_on(tensors["last.bias"]),
        energy=place_on(tensors["energy.weight"][0]),
        out=tensors["out.weight"].T.to(device).contiguous(),
        out_bias=tensors["out.bias"].to(device),
    )
