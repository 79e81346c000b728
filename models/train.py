"""Training of the word LSTM: sequences of words in, the weights that predict held-back words best out.

A sequence is one conversation from a restart on, because that is what scoring starts from a zero state. Long ones are cut
into stretches that overlap: the overlap warms the state up and is not counted, so that no word is judged without a past
it would have in production. Stretches of similar length share a batch; the batches are shuffled by a seeded generator,
and on one thread the same seed gives the same weights to the last bit.

Services that training never saw must not look impossible later: now and then a service is replaced by the
range it belongs to, as input and as what is to be predicted, so that the rest of such a word is predicted sensibly and
the unfamiliar has a small probability everywhere instead of none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.words import Shape, WordLSTM

Ints = NDArray[np.integer]


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to train. The defaults made the shipped model; docs/models.md tells what else was tried."""

    seed: int = 1
    epochs: int = 30
    patience: int = 4
    """Epochs without a better validation before training stops."""
    rate: float = 3e-3
    clip: float = 1.0
    dropout: float = 0.3
    weight_decay: float = 1e-2
    unlearned_share: float = 0.1
    """Share of words whose first part is replaced by what it would be if it had not been learned."""
    batch_words: int = 2048
    stretch: int = 192
    """Words of a sequence that are judged together."""
    warm: int = 64
    """Words before a stretch that only warm the state up."""


class Epoch(NamedTuple):
    """What one pass over the data gave, for a progress display."""

    number: int
    of: int
    train_nats: float
    """Mean nats per word, with dropout."""
    validation_nats: float
    best: bool


class Batch(NamedTuple):
    """Stretches of one length class: words (N, T, P) and which of them are judged (N, T)."""

    words: Tensor
    judged: Tensor


class Stretch(NamedTuple):
    """Rows [start, stop) of the sorted words, of which those from `judged` on count."""

    start: int
    stop: int
    judged: int


def stretches(restart: NDArray[np.bool_], settings: Settings) -> list[Stretch]:
    """Cut sorted rows into stretches: a sequence begins wherever `restart` (N,) is set; row 0 must be set."""
    begins = np.append(np.flatnonzero(restart), len(restart))
    cut: list[Stretch] = []
    for begin, end in zip(begins[:-1].tolist(), begins[1:].tolist(), strict=True):
        cut.extend(
            Stretch(max(begin, start - settings.warm), min(end, start + settings.stretch), start)
            for start in range(begin, end, settings.stretch)
        )
    return cut


def batches(words: Ints, restart: NDArray[np.bool_], settings: Settings) -> list[Batch]:
    """All stretches of sorted words (N, P), padded with zeros inside batches of some `batch_words` words."""
    cut = sorted(stretches(restart, settings), key=lambda one: (one.stop - one.start, one.start))
    made: list[Batch] = []
    group: list[Stretch] = []
    for one in cut:
        if group and (len(group) + 1) * (one.stop - one.start) > settings.batch_words:
            made.append(_padded(words, group))
            group = []
        group.append(one)
    if group:
        made.append(_padded(words, group))
    return made


def _padded(words: Ints, group: list[Stretch]) -> Batch:
    """One batch from stretches sorted by length."""
    longest = group[-1].stop - group[-1].start
    padded = torch.zeros(len(group), longest, words.shape[1], dtype=torch.int64)
    judged = torch.zeros(len(group), longest, dtype=torch.bool)
    for row, (start, stop, first) in enumerate(group):
        padded[row, : stop - start] = torch.from_numpy(words[start:stop].astype(np.int64))
        judged[row, first - start : stop - start] = True
    return Batch(padded, judged)


def sort_conversations(slots: Ints, restart: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Order that brings each conversation's rows together, and the restarts in that order: (N,) and (N,)."""
    order = np.argsort(slots, kind="stable")
    begins = restart[order].copy()
    ordered = slots[order]
    begins[:1] = True
    begins[1:] |= ordered[1:] != ordered[:-1]
    return order, begins


class Trainer:
    """Fits one word LSTM. Construct, then `run`; the best weights on the validation words are left in `model`.

    `unlearned` (sizes[0],) says what each value of the first part would be had it not been learned (a range, unknown).
    """

    def __init__(
        self,
        shape: Shape,
        settings: Settings,
        *,
        unlearned: NDArray[np.integer],
        begin: WordLSTM | None = None,
        device: torch.device | None = None,
    ) -> None:
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.device = device or torch.device("cpu")
        self.model = WordLSTM(shape, settings.dropout)
        if begin is not None:
            self.model.load_state_dict(begin.state_dict())
        self.model.to(self.device)
        self._unlearned = torch.from_numpy(unlearned.astype(np.int64))
        self._random = torch.Generator().manual_seed(settings.seed)

    def run(
        self, training: list[Batch], validation: list[Batch], progress: Callable[[Epoch], None] | None = None
    ) -> list[Epoch]:
        """Train until the validation words stop being predicted better. Returns the history; raises nothing of its own."""
        settings = self.settings
        optimiser = torch.optim.AdamW(self.model.parameters(), lr=settings.rate, weight_decay=settings.weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.epochs, eta_min=settings.rate / 20)
        best, best_nats, history = self._copy(), self.measure(validation), list[Epoch]()
        stale = 0
        for number in range(1, settings.epochs + 1):
            train_nats = self._epoch(training, optimiser)
            schedule.step()
            nats = self.measure(validation)
            better = nats < best_nats
            if better:
                best, best_nats = self._copy(), nats
            stale = 0 if better else stale + 1
            history.append(Epoch(number, settings.epochs, train_nats, nats, better))
            if progress is not None:
                progress(history[-1])
            if stale >= settings.patience:
                break
        self.model.load_state_dict(best)
        return history

    def measure(self, words: list[Batch]) -> float:
        """Mean nats per judged word, without dropout."""
        self.model.eval()
        with torch.inference_mode():
            sums = [self._nats(batch, training=False) for batch in words]
        return sum(float(nats) for nats, _ in sums) / max(1, sum(count for _, count in sums))

    def _epoch(self, training: list[Batch], optimiser: torch.optim.Optimizer) -> float:
        """One pass in shuffled order; mean nats per word."""
        self.model.train()
        total, counted = 0.0, 0
        for batch in self._shuffled(training):
            nats, count = self._nats(batch, training=True)
            optimiser.zero_grad(set_to_none=True)
            (nats / max(1, count)).backward()  # type: ignore[no-untyped-call]  # torch leaves backward untyped
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
            optimiser.step()
            total, counted = total + float(nats.detach()), counted + count
        return total / max(1, counted)

    def _shuffled(self, training: list[Batch]) -> Iterator[Batch]:
        for place in torch.randperm(len(training), generator=self._random).tolist():
            yield training[place]

    def _nats(self, batch: Batch, *, training: bool) -> tuple[Tensor, int]:
        """Sum of nats over the judged words of a batch, and their number."""
        words = batch.words
        if training and self.settings.unlearned_share > 0:
            replaced = torch.rand(words.shape[:2], generator=self._random) < self.settings.unlearned_share
            words = words.clone()
            words[..., 0] = torch.where(replaced, self._unlearned[words[..., 0]], words[..., 0])
        nats = self.model(words.to(self.device)).sum(dim=-1)
        return (nats * batch.judged.to(self.device)).sum(), int(batch.judged.sum())

    def _copy(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
