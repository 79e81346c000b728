"""The word LSTM: reads a conversation word by word and says how likely each part of the next word was.

A word is P small integers, one per part (service, sizes, outcome, ...). The LSTM's hidden state predicts the next word
part by part, each part given the ones before it, so that the joint probability of a word is the plain product over its
parts: its surprise is an exact sum of nats, and every part can say what it expected instead. A single softmax over whole
words would need a closed list of words; one softmax per part needs a list of some tens of values each, and a word that
never occurred in training still has a probability.

`WordLSTM` is what `train` fits. `Folded` is the same network laid out for scoring: the embeddings are multiplied with
the LSTM's input weights once, at load, so that reading a word is a sum of P table rows and the step costs one matrix
product, h x W_hh. `resident` keeps the states and calls `Folded`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

EMBEDDING_WIDTH = 32
"""Widest embedding of a part. One with fewer values gets as many as it has, save the first, which further training makes
grow. Folding makes the width free at scoring."""

TAIL_SLACK = 1e-6
"""Two values whose probabilities differ by less than this share count as equally likely: float noise must not decide."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """All that fixes the size of a word LSTM."""

    sizes: tuple[int, ...]
    """Number of values of each part."""
    units: int = 128
    head: int = 48
    """Hidden width of each part's prediction."""


class WordLSTM(nn.Module):
    """P embeddings, one LSTM layer, and P predictions in a chain."""

    def __init__(self, shape: Shape, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        parts, head = len(shape.sizes), shape.head
        widths = [EMBEDDING_WIDTH, *(min(EMBEDDING_WIDTH, size) for size in shape.sizes[1:])]
        self.embed = nn.ModuleList(nn.Embedding(size, width) for size, width in zip(shape.sizes, widths, strict=True))
        self.lstm = nn.LSTM(sum(widths), shape.units, batch_first=True)
        self.heads = nn.Linear(shape.units, parts * head)
        self.before = nn.ModuleList(
            nn.Embedding(size, (parts - 1 - place) * head) for place, size in enumerate(shape.sizes[:-1])
        )
        self.out = nn.ModuleList(nn.Linear(head, size) for size in shape.sizes)
        self.dropout = nn.Dropout(dropout)
        for table in self.before.parameters():
            nn.init.normal_(table, std=0.1)

    def forward(self, words: Tensor) -> Tensor:
        """Nats of every part of every word: (N, T, P) integers -> (N, T, P) floats, word t given the words before it.

        The state before the first word is zero, as `resident` has it after a restart.
        """
        read = torch.cat([embed(words[..., place]) for place, embed in enumerate(self.embed)], dim=-1)
        hidden, _ = self.lstm(self.dropout(read))
        known = functional.pad(hidden[:, :-1], (0, 0, 1, 0))
        reached = self._reach(self.dropout(known), words)
        nats = [
            functional.cross_entropy(
                out(self.dropout(reached[..., place, :])).movedim(-1, 1), words[..., place], reduction="none"
            )
            for place, out in enumerate(self.out)
        ]
        return torch.stack(nats, dim=-1)

    def _reach(self, known: Tensor, words: Tensor) -> Tensor:
        """Hidden layer of every part's prediction: (N, T, P, head), from the state and the parts before."""
        parts, head = len(self.shape.sizes), self.shape.head
        reached = self.heads(known)
        for place, table in enumerate(self.before):
            reached = reached + functional.pad(table(words[..., place]), ((place + 1) * head, 0))
        return functional.relu(reached).view(*words.shape[:-1], parts, head)


@dataclasses.dataclass(frozen=True)
class Folded:
    """A trained word LSTM as the tables and matrices that scoring reads; all tensors on one device, no gradients."""

    shape: Shape
    offsets: Tensor
    """(P,) first row of each part in the tables."""
    gate_table: Tensor
    """(sum of sizes, 4 * units): row of value v of part k is its embedding times W_ih; the biases sit in part 0's rows."""
    reach_table: Tensor
    """(sum of sizes, P * head): what a value adds to the predictions of the parts after it; the bias sits in part 0's rows."""
    recurrent: Tensor
    """(units, 4 * units): W_hh, transposed; gates in torch's order: input, forget, cell, output."""
    heads: Tensor
    """(units, P * head)."""
    out_weight: tuple[Tensor, ...]
    """P times (head, size)."""
    out_bias: tuple[Tensor, ...]
    """P times (size,)."""
    spread: Tensor
    """(sizes[0],) ln of how many different things each value of the first part stands for: see `judge`."""

    def rows(self, words: Tensor) -> Tensor:
        """Rows of the two tables that a word's parts select: (B, P) integers -> (B, P)."""
        return words.to(self.offsets.dtype) + self.offsets

    def read(self, rows: Tensor) -> Tensor:
        """What the words add to the gates: (B, 4 * units)."""
        return functional.embedding_bag(rows, self.gate_table, mode="sum")

    def step(self, read: Tensor, hidden: Tensor, cell: Tensor) -> None:
        """Advance states in place by one word each: hidden, cell (B, units); `read` (B, 4 * units) is overwritten."""
        gates = read.addmm_(hidden, self.recurrent)
        units = self.shape.units
        inward, forget, output = gates[:, :units], gates[:, units : 2 * units], gates[:, 3 * units :]
        gates[:, : 2 * units].sigmoid_()
        output.sigmoid_()
        cell.mul_(forget).addcmul_(inward, gates[:, 2 * units : 3 * units].tanh_())
        torch.tanh(cell, out=hidden)
        hidden.mul_(output)

    def reach(self, hidden: Tensor, rows: Tensor) -> Tensor:
        """Hidden layer of the predictions of words from the states before them: (B, P * head)."""
        given = functional.embedding_bag(rows, self.reach_table, mode="sum")
        return given.addmm_(hidden, self.heads).relu_()

    def distribution(self, reached: Tensor, place: int) -> Tensor:
        """Probabilities of all values of one part: (B, size)."""
        head = self.shape.head
        logits = torch.addmm(self.out_bias[place], reached[:, place * head : (place + 1) * head], self.out_weight[place])
        return torch.softmax(logits, dim=1)

    def judge(self, reached: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """Probability of each seen value, and of all values no likelier than it: (B, P) and (B, P).

        A value of the first part may stand for many things ("another registered port": some ten thousand). The seen one
        is one of them, so the value's probability is spread evenly over them before anything is compared.
        """
        seen = reached.new_empty(words.shape)
        tail = reached.new_empty(words.shape)
        each = torch.exp(-self.spread)
        for place in range(len(self.shape.sizes)):
            mass = self.distribution(reached, place)
            single = mass * each if place == 0 else mass
            likely = single.gather(1, words[:, place, None].long())
            seen[:, place] = likely[:, 0]
            tail[:, place] = mass.masked_fill_(single > likely * (1 + TAIL_SLACK), 0).sum(dim=1)
        return seen, tail


def fold(model: WordLSTM, spread: Tensor, device: torch.device | None = None) -> Folded:
    """Lay a trained network out for scoring, on `device` (the processor if None), in float32; `spread` as in Folded."""
    shape = model.shape
    tensors = {name: tensor.detach().cpu().float() for name, tensor in model.state_dict().items()}

    def place_on(tensor: Tensor) -> Tensor:
        return tensor.to(device).contiguous()

    parts = range(len(shape.sizes))
    return Folded(
        shape=shape,
        offsets=_offsets(shape.sizes).to(device),
        gate_table=place_on(_gate_table(shape, tensors)),
        reach_table=place_on(_reach_table(shape, tensors)),
        recurrent=place_on(tensors["lstm.weight_hh_l0"].T),
        heads=place_on(tensors["heads.weight"].T),
        out_weight=tuple(place_on(tensors[f"out.{place}.weight"].T) for place in parts),
        out_bias=tuple(place_on(tensors[f"out.{place}.bias"]) for place in parts),
        spread=place_on(spread.float()),
    )


def _gate_table(shape: Shape, tensors: dict[str, Tensor]) -> Tensor:
    """Embeddings times input weights, part upon part, with both of torch's biases in the first part's rows."""
    pieces, start = [], 0
    for place in range(len(shape.sizes)):
        embedding = tensors[f"embed.{place}.weight"]
        stop = start + embedding.shape[1]
        pieces.append(embedding @ tensors["lstm.weight_ih_l0"][:, start:stop].T)
        start = stop
    pieces[0] = pieces[0] + tensors["lstm.bias_ih_l0"] + tensors["lstm.bias_hh_l0"]
    return torch.cat(pieces)


def _reach_table(shape: Shape, tensors: dict[str, Tensor]) -> Tensor:
    """What each value adds to the predictions of the parts after it; the last part adds nothing."""
    parts, head = len(shape.sizes), shape.head
    pieces = [functional.pad(tensors[f"before.{place}.weight"], ((place + 1) * head, 0)) for place in range(parts - 1)]
    pieces.append(torch.zeros(shape.sizes[-1], parts * head))
    pieces[0] = pieces[0] + tensors["heads.bias"]
    return torch.cat(pieces)


def _offsets(sizes: Sequence[int]) -> Tensor:
    """First row of each part when the parts' tables are stacked."""
    return torch.tensor([sum(sizes[:place]) for place in range(len(sizes))], dtype=torch.int32)
