"""Training of the multi-flow model: labelled flows and a split in, the weights that judge held-back flows best out.

Every flow with a class is the end of one window. Classes are rarely of one size (one bot for ten thousand scans), so that
the loss weighs rare ones more, up to a limit: without one the few flows of a rare class outweigh everything and half of
what the model then calls by its name is benign, which is how the paper comes to a precision of 0.05. Or batches are drawn
from all classes alike. Training stops when the loss of the held-back flows, weighted as in training, falls no more.
Macro F1 is told beside it but decides nothing: in a class of seven held-back flows one flow moves it by a seventh, and
the best of thirty epochs would be the luckiest.

All random numbers of an epoch follow from seed, epoch and process. So a checkpoint after an epoch needs no generator's
state, and going on from one gives to the bit what an uninterrupted training gives; on one thread, the same seed gives the
same weights.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models import scale, unfinished
from models.flowset import FlowSet, Ints, Split, class_counts
from models.multiflow import MultiFlow, Shape
from models.together import Together
from models.unfinished import About, CheckpointDoesNotFit, Passed
from models.windows import sequences

SHARPEST = 0.25
"""Least temperature: held-back flows that are all judged right want none at all, and an attack's probability would be 1."""

Weighing = Literal["capped", "balanced", "none"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to train."""

    seed: int = 1
    epochs: int = 30
    patience: int = 5
    """Epochs without a better validation before training stops."""
    batch: int = 256
    """Windows of all processes together."""
    rate: float = 2e-3
    warm_up: float = 0.05
    """Share of all steps in which the learning rate rises; it falls like a cosine afterwards."""
    least_rate: float = 0.02
    """Of `rate`, at the end."""
    clip: float = 1.0
    dropout: float = 0.1
    weight_decay: float = 1e-2
    weights: Weighing = "capped"
    """capped: the loss weighs rare classes more; balanced: batches are drawn from all classes alike; none: neither."""
    cap: float = 10.0
    """Most that a flow of a rare class weighs, with the most frequent class's at 1."""
    mixed: Literal["cuda", "always", "never"] = "cuda"
    """Where the network is computed in bfloat16 while training."""


class Measured(NamedTuple):
    """How rows were judged."""

    nats: float
    """Mean loss, weighted by class as in training."""
    confusion: NDArray[np.float64]
    """(classes, classes) rows of each class, by the class that they were given."""

    @property
    def accuracy(self) -> float:
        """Share of rows given their class."""
        return float(np.trace(self.confusion) / max(1.0, self.confusion.sum()))

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the classes that are there."""
        right, true, given = np.diag(self.confusion), self.confusion.sum(axis=1), self.confusion.sum(axis=0)
        there = true > 0
        return float(np.mean(2 * right[there] / (true + given)[there])) if there.any() else 0.0


def class_weights(counts: Ints, settings: Settings) -> NDArray[np.float32]:
    """(classes,) weight in the loss: 1 for the most frequent class, at most the cap, 0 for one that is not trained on."""
    weights = np.ones(len(counts))
    if settings.weights != "none":
        weights = np.minimum(counts.max() / np.maximum(counts, 1), settings.cap)
    return np.where(counts > 0, weights, 0.0).astype(np.float32)


class Trainer:
    """Fits one multi-flow model. Construct, then `run`; the weights that judge the held-back flows best are left in `model`.

    Raises ValueError when there is nothing to learn.
    """

    def __init__(
        self, flows: FlowSet, split: Split, shape: Shape, settings: Settings, *, together: Together | None = None
    ) -> None:
        self.shape, self.settings, self.split = shape, settings, split
        self.together = together or Together()
        self.device = self.together.device
        trained = flows.rows[split.training]
        counts = class_counts(flows.label[split.training], shape.classes)
        _check(trained, counts, shape)
        self.scale = scale.fit(trained)
        self.history: list[Passed] = []
        self.kept = 0
        """The epoch whose checkpoint stands, in the process that writes it; 0 while there is none."""
        self._unkept = False
        self._sha256 = _fingerprint(flows, split)
        self._rows = torch.from_numpy(flows.rows).to(self.device)
        self._label = torch.from_numpy(flows.label).to(self.device)
        windows = sequences(flows.slots, split.restart, shape.flows).astype(np.int32)
        self._windows = torch.from_numpy(windows).to(self.device)
        self._training = torch.from_numpy(split.training)
        self._classes = [torch.from_numpy(split.training[flows.label[split.training] == one]) for one in np.flatnonzero(counts)]
        self._held_weights = torch.from_numpy(class_weights(counts, settings)).to(self.device)
        even = settings.weights == "balanced"  # rare classes are drawn more often, and weigh no more
        self._weights = torch.ones_like(self._held_weights) if even else self._held_weights
        torch.manual_seed(settings.seed)
        self.model = MultiFlow(shape, self.scale, settings.dropout).to(self.device)
        self._untrained = np.flatnonzero(counts == 0).tolist()
        self.model.close(self._untrained)
        self._called: nn.Module = self.model
        self._names = [name for name, _ in self.model.named_parameters()]
        self._optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=settings.rate, weight_decay=settings.weight_decay, fused=True
        )
        self._best = self._copy()

    def run(
        self,
        progress: Callable[[Passed], None] | None = None,
        checkpoint: Path | None = None,
        *,
        resume: bool = False,
        warn: Callable[[str], None] | None = None,
    ) -> list[Passed]:
        """Train until the held-back flows are judged no better; returns the history.

        With `checkpoint`, the training is kept in that file after every epoch; with `resume` it goes on from there, if the file
        is there. `warn` hears at once when no checkpoint can be written, and when one can again. Raises CheckpointDoesNotFit,
        and ValueError when the loss is no number any more.
        """
        if checkpoint and resume:
            self._go_on(checkpoint)
        self._called = self.together.wrap(self.model)
        try:
            while len(self.history) < self.settings.epochs and self._stale() < self.settings.patience:
                number = len(self.history) + 1
                train_nats = self._epoch(number)
                finite = all(bool(torch.isfinite(weights).all()) for weights in self.model.parameters())
                if not (finite and math.isfinite(train_nats)):
                    raise ValueError(f"training diverged in epoch {number} (the loss is {train_nats:g}): give a lower --rate")
                self._judge(number, train_nats)
                if checkpoint and self.together.first:
                    self._keep(checkpoint, warn or (lambda _: None))
                if progress is not None:
                    progress(self.history[-1])
        finally:
            self._called = self.model
        self.model.load_state_dict(self._best)
        self.model.close(self._untrained)  # again: weight decay has drawn at it
        return self.history

    def measure(self, rows: Ints) -> Measured:
        """Judge rows without dropout; every process takes its share."""
        mine = rows[self.together.rank :: self.together.size]
        classes = self.shape.classes
        sums, confusion = np.zeros(2), np.zeros((classes, classes))
        label = self._label[torch.from_numpy(mine).to(self.device)]
        logits = self._logits(mine)
        weights = self._held_weights[label]
        nats = functional.cross_entropy(logits, label, reduction="none").double()
        sums[:] = float((nats * weights).sum()), float(weights.sum())
        np.add.at(confusion, (label.cpu().numpy(), logits.argmax(dim=1).cpu().numpy()), 1.0)
        sums, confusion = self.together.sum(sums), self.together.sum(confusion)
        return Measured(float(sums[0]) / max(float(sums[1]), 1e-9), confusion)

    def logits(self, rows: Ints) -> NDArray[np.float32]:
        """(R, classes) logits of rows, without temperature, all in this process."""
        return np.asarray(self._logits(rows).cpu().numpy())

    def temperature(self) -> float:
        """What the logits must be divided by for the held-back flows' probabilities to be true; 1 when none are held back.

        Flows of a class that was never trained are left out: no temperature makes them any truer.
        """
        rows, label = self.split.validation, self._label.cpu().numpy()
        rows = rows[~np.isin(label[rows], self._untrained)]
        return temperature(self.logits(rows), label[rows])

    def _logits(self, rows: Ints) -> Tensor:
        self.model.eval()
        parts = [torch.zeros(0, self.shape.classes, device=self.device)]
        with torch.inference_mode():
            parts += [self.model(*self._gathered(part)).logits for part in self._cut(torch.from_numpy(rows), 4)]
        return torch.cat(parts)

    def _gathered(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Windows of (B,) rows as the model takes them: (B, n, F) and (B,)."""
        windows = self._windows[rows.to(self.device)]
        return self._rows[windows.clamp(min=0)], (windows >= 0).sum(dim=1)

    def _epoch(self, number: int) -> float:
        """One pass; mean loss of all processes."""
        self.model.train()
        settings, together = self.settings, self.together
        torch.manual_seed(_seed(settings.seed, number, 1 + together.rank))  # of dropout
        total = torch.zeros(2, dtype=torch.float64, device=self.device)
        steps = math.ceil(len(self._training) / settings.batch)
        mixed = settings.mixed == "always" or (settings.mixed == "cuda" and self.device.type == "cuda")
        for place, chosen in enumerate(self._batches(number)):
            self._set_rate((number - 1) * steps + place, settings.epochs * steps)
            rows, counts = together.share(chosen)
            whole = self._weights[self._label[chosen.to(self.device)]].sum()
            label = self._label[rows.to(self.device)]
            weights = self._weights[label] * counts.to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=mixed):
                logits = self._called(*self._gathered(rows)).logits
            loss = (functional.cross_entropy(logits.float(), label, reduction="none") * weights).sum()
            self._optimiser.zero_grad(set_to_none=True)
            # DDP takes the mean over processes, and the mean over the whole batch is wanted
            (loss * (together.size / whole)).backward()  # type: ignore[no-untyped-call]  # torch leaves backward untyped
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip)
            self._optimiser.step()
            total += torch.stack([loss.detach(), weights.sum()])
        summed = together.sum(total.cpu().numpy())
        return float(summed[0] / summed[1])

    def _batches(self, number: int) -> Iterator[Tensor]:
        """The row numbers of an epoch's batches, the same in every process."""
        random = torch.Generator().manual_seed(_seed(self.settings.seed, number, 0))
        count = len(self._training)
        if self.settings.weights == "balanced":
            drawn = torch.randint(len(self._classes), (count,), generator=random)
            within = torch.rand(count, generator=random, dtype=torch.float64)
            rows = torch.empty(count, dtype=torch.int64)
            for place, members in enumerate(self._classes):
                here = drawn == place
                rows[here] = members[(within[here] * len(members)).long()]
        else:
            rows = self._training[torch.randperm(count, generator=random)]
        yield from self._cut(rows)

    def _cut(self, rows: Tensor, batches: int = 1) -> Iterator[Tensor]:
        """Rows in pieces of so many batches."""
        size = batches * self.settings.batch
        yield from (rows[first : first + size] for first in range(0, len(rows), size))

    def _set_rate(self, step: int, steps: int) -> None:
        """Learning rate of a step: a rise in a straight line, then half a cosine."""
        settings = self.settings
        rising = max(1, round(settings.warm_up * steps))
        share = (step + 1) / rising
        if step >= rising:
            through = (step - rising) / max(1, steps - rising)
            share = settings.least_rate + (1 - settings.least_rate) * (1 + math.cos(math.pi * through)) / 2
        for group in self._optimiser.param_groups:
            group["lr"] = settings.rate * share

    def _judge(self, number: int, train_nats: float) -> None:
        """Measure the held-back flows, and keep the weights if they are the best so far."""
        nats, macro_f1, better = None, None, True  # with nothing held back the last weights are the best
        if len(self.split.validation):
            measured = self.measure(self.split.validation)
            nats, macro_f1 = measured.nats, measured.macro_f1
            better = all(past.validation_nats is None or nats < past.validation_nats for past in self.history)
        if better:
            self._best = self._copy()
        self.history.append(Passed(number, self.settings.epochs, train_nats, nats, macro_f1, better))

    def _stale(self) -> int:
        """Epochs since the best one."""
        return len(self.history) - max((past.number for past in self.history if past.best), default=0)

    def _copy(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}

    def _about(self) -> About:
        return About(
            shape=dataclasses.asdict(self.shape),
            settings=dataclasses.asdict(self.settings),
            data_sha256=self._sha256,
            history=self.history,
        )

    def _keep(self, checkpoint: Path, warn: Callable[[str], None]) -> None:
        """Write the checkpoint; if it cannot be written, training goes on, and the last good one stands."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self._best.items()}
        for place, state in self._optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{self._names[place]}.{kind}": value for kind, value in state.items()}
        number = len(self.history)
        try:
            unfinished.write(checkpoint, self._about(), tensors)
        except OSError as wrong:
            stands = f"that of epoch {self.kept} still stands" if self.kept else "there is none yet"
            if not self._unkept:
                warn(f"{checkpoint}: no checkpoint after epoch {number} ({wrong.strerror}): {stands}, and training goes on")
            self._unkept = True
            return
        if self._unkept:
            warn(f"{checkpoint}: a checkpoint again, after epoch {number}")
        self.kept, self._unkept = number, False

    def _go_on(self, checkpoint: Path) -> None:
        """Take a checkpoint up, which the first process reads for all."""
        read = unfinished.read(checkpoint) if self.together.first else None
        content = msgspec.msgpack.decode(self.together.spread(msgspec.msgpack.encode(read)), type=bytes | None)
        if content is None:  # there is no file, which an empty one is not
            return
        about, tensors = unfinished.decode(checkpoint, content, self._about())
        held = self.model.state_dict()
        wanted = {f"{part}.{name}": tensor.shape for part in ("model", "best") for name, tensor in held.items()}
        for name in self._names:
            sizes = {"step": torch.Size([]), "exp_avg": held[name].shape, "exp_avg_sq": held[name].shape}
            wanted |= {f"optimiser.{name}.{kind}": size for kind, size in sizes.items()}
        sizes_held = {name: tensor.shape for name, tensor in tensors.items()}
        other = sorted(name for name in wanted.keys() | tensors.keys() if wanted.get(name) != sizes_held.get(name))
        if other:
            raise CheckpointDoesNotFit(f"{checkpoint}: its numbers do not fit ({other[0]}): {unfinished.AFRESH}")
        moments = {place: _part(tensors, f"optimiser.{name}.") for place, name in enumerate(self._names)}
        groups = self._optimiser.state_dict()["param_groups"]
        self._optimiser.load_state_dict({"state": moments, "param_groups": groups})
        self.model.load_state_dict(_part(tensors, "best."))
        self._best = self._copy()
        self.model.load_state_dict(_part(tensors, "model."))
        self.history = about.history
        self.kept = len(self.history)


def temperature(logits: NDArray[np.float32], label: Ints) -> float:
    """The divisor of (R, classes) logits that makes the labels the least surprising (Guo et al. 2017); 1 for no labels."""
    if not len(label):
        return 1.0
    exact, right = torch.from_numpy(logits).double(), torch.from_numpy(label)

    def nats(logarithm: float) -> float:
        return float(functional.cross_entropy(exact / math.exp(logarithm), right))

    low, high, golden = math.log(SHARPEST), -math.log(SHARPEST), (math.sqrt(5) - 1) / 2
    while high - low > 1e-4:  # the nats have one minimum: they are convex in the inverse
        left, right_end = high - golden * (high - low), low + golden * (high - low)
        if nats(left) <= nats(right_end):
            high = right_end
        else:
            low = left
    return math.exp((low + high) / 2)


def _check(trained: NDArray[np.float32], counts: Ints, shape: Shape) -> None:
    """Raise ValueError when nothing can be learned from these."""
    if len(counts) > shape.classes:
        raise ValueError(f"a flow has class {len(counts) - 1}, and the model has {shape.classes} classes")
    if trained.shape[1] != shape.columns:
        raise ValueError(f"the flows have {trained.shape[1]} columns, and the model reads {shape.columns}")
    if np.count_nonzero(counts) < 2:
        raise ValueError(f"{len(trained):,} flows to train on are all of one class: give labelled attacks and benign flows")
    if not any(np.isfinite(trained[:, column]).any() for column in range(shape.columns)):
        raise ValueError("not one column is known in the flows to train on: give other columns")


def _fingerprint(flows: FlowSet, split: Split) -> str:
    """SHA-256 of all that training reads."""
    digest = hashlib.sha256()
    for array in (flows.rows, flows.label, flows.slots, split.restart, split.training, split.validation):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _seed(*numbers: int) -> int:
    """One seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1


def _part(tensors: dict[str, Tensor], beginning: str) -> dict[str, Tensor]:
    return {name.removeprefix(beginning): tensor for name, tensor in tensors.items() if name.startswith(beginning)}
