"""What the attention LSTM is compared with: the paper's list of classifiers on single flows, and two stronger ones.

Naive Bayes, a linear SVM, AdaBoost, an MLP and a plain LSTM that reads one flow repeated are those of Zhu et al. 2018; a
random forest and gradient boosted trees are what such tables usually go to. All see the statistics on the model's own kind of
scale, with the unknown marked beside the value, and take scikit-learn's defaults otherwise: this is no contest of tuning.
scikit-learn is an extra and imported when the first is fitted. `netseq-evaluate` calls this.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models import scale

Rows = NDArray[np.float32]
Ints = NDArray[np.int64]


BATCH = 128
"""Flows that the plain LSTM learns from at a time."""
PIECE = 4096
"""Flows that it judges at once."""


class Settings(NamedTuple):
    """What the baselines are fitted with."""

    seed: int = 1
    flows: int = 10
    """How often the plain LSTM reads the flow."""
    units: int = 256
    epochs: int = 10
    """Passes of the plain LSTM and of the MLP."""


Fit = Callable[[Rows, Ints, Rows, Settings], Ints]
"""Training rows with their classes, and test rows: the classes given to these."""


class PlainLSTM(nn.Module):
    """An LSTM without attention whose last state gives the class; it reads the same row `flows` times."""

    def __init__(self, columns: int, classes: int, settings: Settings) -> None:
        super().__init__()
        self.flows = settings.flows
        self.lstm = nn.LSTM(columns, settings.units, batch_first=True)
        self.out = nn.Linear(settings.units, classes)

    def forward(self, rows: Tensor) -> Tensor:
        """(B, F) rows to (B, classes) logits."""
        _, (last, _) = self.lstm(rows[:, None].expand(-1, self.flows, -1))
        return self.out(last[0])  # type: ignore[no-any-return]  # torch leaves the call of a module untyped


def _plain_lstm(rows: Rows, label: Ints, test: Rows, settings: Settings) -> Ints:
    torch.manual_seed(settings.seed)
    model = PlainLSTM(rows.shape[1], int(label.max()) + 1, settings)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    there, truth = torch.from_numpy(rows), torch.from_numpy(label)
    for _ in range(settings.epochs):
        for batch in torch.split(torch.randperm(len(there)), BATCH):
            optimiser.zero_grad(set_to_none=True)
            loss = functional.cross_entropy(model(there[batch]), truth[batch])
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves backward untyped
            optimiser.step()
    with torch.inference_mode():
        given = [model(piece).argmax(dim=1).numpy() for piece in torch.split(torch.from_numpy(test), PIECE)]
    return np.concatenate([np.empty(0, np.int64), *given])


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    """As many threads as torch was given: scikit-learn takes all cores otherwise, and waits for those that are busy."""
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415
    from threadpoolctl import threadpool_limits  # noqa: PLC0415  # scikit-learn brings it along

    with threadpool_limits(torch.get_num_threads()), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # passes are limited on purpose
        yield


def _of_scikit_learn(make: Callable[[Settings], Any]) -> Fit:
    def fit(rows: Rows, label: Ints, test: Rows, settings: Settings) -> Ints:
        with _bounded():
            model = make(settings).fit(rows, label)
            return np.asarray(model.predict(test), np.int64) if len(test) else np.empty(0, np.int64)

    return fit


def _naive_bayes(_: Settings) -> Any:
    from sklearn.naive_bayes import GaussianNB  # noqa: PLC0415

    return GaussianNB()


def _linear_svm(settings: Settings) -> Any:
    from sklearn.svm import LinearSVC  # noqa: PLC0415

    return LinearSVC(random_state=settings.seed, dual=False)


def _adaboost(settings: Settings) -> Any:
    from sklearn.ensemble import AdaBoostClassifier  # noqa: PLC0415

    return AdaBoostClassifier(random_state=settings.seed)


def _mlp(settings: Settings) -> Any:
    from sklearn.neural_network import MLPClassifier  # noqa: PLC0415

    return MLPClassifier(random_state=settings.seed, max_iter=settings.epochs)


def _random_forest(settings: Settings) -> Any:
    from sklearn.ensemble import RandomForestClassifier  # noqa: PLC0415

    return RandomForestClassifier(random_state=settings.seed)


def _gradient_boosting(settings: Settings) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier  # noqa: PLC0415

    # without a penalty, leaves of classes with a handful of rows grow without bounds and take the others along
    return HistGradientBoostingClassifier(random_state=settings.seed, early_stopping=False, l2_regularization=1.0)


BASELINES: dict[str, Fit] = {
    "Naive Bayes": _of_scikit_learn(_naive_bayes),
    "linear SVM": _of_scikit_learn(_linear_svm),
    "AdaBoost": _of_scikit_learn(_adaboost),
    "MLP": _of_scikit_learn(_mlp),
    "LSTM, one flow repeated": _plain_lstm,
    "random forest": _of_scikit_learn(_random_forest),
    "gradient boosting": _of_scikit_learn(_gradient_boosting),
}
"""The paper's five, then the two stronger ones."""
RANKING = {"random forest": _random_forest, "gradient boosting": _gradient_boosting}
"""Those whose certainty ranks flows as well: what single flows tell, where the false alarms are counted."""


def rank(name: str, rows: Rows, label: Ints, test: Rows, settings: Settings) -> NDArray[np.float64]:
    """(T,) how certain one of RANKING, fitted on (N, F) rows with classes, is that test rows are of any class but 0."""
    with _bounded():
        model = RANKING[name](settings).fit(rows, label)
        told = model.predict_proba(test) if len(test) else np.empty((0, len(model.classes_)))
    return np.asarray(1.0 - told[:, model.classes_ == 0].sum(axis=1), np.float64)


def prepared(training: Rows, test: Rows) -> tuple[Rows, Rows]:
    """Both scaled as the training rows ask for; columns beside the values mark what is unknown, where that varies at all."""
    known = scale.fit(training)
    centre, spread = known.to(torch.device("cpu"))
    both = [scale.scaled(torch.from_numpy(rows), centre, spread) for rows in (training, test)]
    marked = both[0][1].std(dim=0, unbiased=False) > 0
    joined = [torch.cat([values, marks[:, marked]], dim=1).numpy() for values, marks in both]
    return joined[0], joined[1]


def thinned(label: Ints, rows: Ints, most: int, seed: int) -> Ints:
    """At most about `most` of `rows`, drawn at random within each class, none of which is left without a row."""
    if len(rows) <= most:
        return rows
    random, kept = np.random.default_rng(seed), []
    for number in np.unique(label[rows]):
        mine = rows[label[rows] == number]
        kept.append(random.permutation(mine)[: max(1, round(len(mine) * most / len(rows)))])
    return np.sort(np.concatenate(kept))
