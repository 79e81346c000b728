"""What a kind of attack is: the label of its flows, the tools that it needs, the parameters that it takes, and how it is run.

The description is checked against `takes` long before anything runs, so a kind says there all that it can be given. `run` is
called by the driver (__main__.py) in a process of its own, inside the attacker's namespace. It gives each Line before it sends
what the line matches: an attack that is ended at its time limit is labelled all the same. So most are generators.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..site import Attack, LabError, Line, Site, Value

Run = Callable[[Attack, Site, Path], Iterable[Line]]
"""The instance, with every parameter of `takes` in `given`; the site; the run's folder. What the instance writes goes to
`instance.folder(...)`. LabError when it cannot be done at all."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of attack."""

    name: str
    label: str
    """As docs/labels.md spells it."""
    programs: tuple[str, ...]
    """Executables that it needs; where a parameter `tool` chooses one, all that may be chosen."""
    packages: tuple[str, ...]
    """Their Debian packages, in the same order."""
    takes: Mapping[str, Value]
    """Every parameter and its default."""
    run: Run
    text: str
    """What it does, in a sentence."""
    quiet: bool = False
    """Its lines match ordinary flows of the attacker too: an inside host does nothing else while it runs."""

    def complete(self, given: Mapping[str, Value]) -> dict[str, Value]:
        """All parameters, the defaults where nothing is given; LabError for one that it does not take, or of another sort."""
        for name, value in given.items():
            if name not in self.takes:
                raise LabError(f"{self.name} takes no {name!r}: it takes {', '.join(self.takes)}")
            if not _same_sort(value, self.takes[name]):
                raise LabError(f"{self.name}: {name} is {value!r}: give a value like {self.takes[name]!r}")
        return {**self.takes, **given}


def _same_sort(value: Value, like: Value) -> bool:
    if isinstance(like, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is type(like)
