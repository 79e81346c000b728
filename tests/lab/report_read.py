"""A run of the laboratory read back for the report: its flows, whose they are, and when its attacks began in packet time.

Labels say what a flow is; a report also asks of which attack. The label file tells both, since the lines of every instance
stand below its name, so flows are held against it once more, line by line. report.py calls this for every run it is given.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.commands.classes import UNKNOWN, Classes
from sensor.commands.datasets import DataSet, read
from sensor.commands.label_files import LabelFiles, labelled

from .check_flows import owners_of
from .output import LABELS, Instance, Manifest, instances
from .site import LabError

DAY_S = 86_400


class Run(NamedTuple):
    """A run of N flows."""

    folder: Path
    data: DataSet
    """With the labels of its label file."""
    told: list[Instance]
    of: NDArray[np.int64]
    """(N,) which of `told` each flow is of; -1 for none."""
    manifest: Manifest

    @property
    def seconds(self) -> float:
        """Packet time from the first packet to the last."""
        flows = self.data.flows
        return float(flows["last_us"].max() - flows["first_us"].min()) / 1e6

    @property
    def days(self) -> float:
        """The same in days."""
        return self.seconds / DAY_S

    def by_kind(self) -> DataSet:
        """Its flows with the kind of their attack in place of the label."""
        kinds = np.array([*(one.kind for one in self.told), ""], dtype=np.str_)
        known = self.data.attack & (self.of >= 0)
        return self.data._replace(labels=np.where(known, kinds[self.of], self.data.labels))

    def by_class(self) -> DataSet:
        """Its flows with the class of their label, as docs/labels.md groups them, where it has one."""
        classes, (labels, of) = Classes(), np.unique(self.data.labels, return_inverse=True)
        numbers = [classes.number(str(label)) if label else UNKNOWN for label in labels]
        names = [classes.names[number] if number >= 0 else label for label, number in zip(labels, numbers, strict=True)]
        return self.data._replace(labels=np.array(names, dtype=np.str_)[of])


def read_run(folder: Path) -> Run:
    """Read a run's folder. Raises LabError, LabelsError, Misuse, NotACapture."""
    if not (folder / LABELS).is_file():
        raise LabError(f"{folder}: no {LABELS} there: it holds no run of the laboratory")
    manifest, told = Manifest.read(folder), instances(folder)
    (labels,) = LabelFiles([], [str(folder)]).of(str(folder))
    data = read(str(folder))
    if not len(data.flows):
        raise LabError(f"{folder}: no flows in its capture: nothing to report on")
    lines = labels.of(data.flows)
    places = {one.name: place for place, one in enumerate(told)}
    owner = np.array([*(places.get(name, -1) for name in owners_of(folder / LABELS, labels)), -1], np.int64)
    return Run(folder, labelled(data, [labels]), told, owner[lines], manifest)
