"""What an activity is: a name, the parameters that a description may give it, and where its code lies.

The code is named, not imported: a description is checked and a schedule drawn without it, and an agent (there are about twenty
of them on two processor cores) loads only what its own host does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from random import Random
from typing import TYPE_CHECKING, cast

from ..site import Host, LabError, Site, Value

if TYPE_CHECKING:
    from .tools import Tools

Run = Callable[[Host, Site, Random, Mapping[str, Value], "Tools"], Awaitable[None]]
"""Do it once, with all parameters given; raises what goes wrong, which the agent counts."""


@dataclass(frozen=True, slots=True)
class Activity:
    """Something ordinary that a host can do."""

    name: str
    code: str
    """The function that does it, as module.function of this package."""
    takes: Mapping[str, Value]
    """Its parameters and what they are when nothing is given."""
    flows: float
    """How many flows it makes with these, roughly."""
    grows_with: str = ""
    """The parameter that the number of flows is proportional to; nothing where it hardly depends on one."""
    services: tuple[str, ...] = ()
    """It fails where no host of the site offers these."""
    text: str = ""
    """What it is, for those who write descriptions."""

    def estimate(self, given: Mapping[str, Value]) -> float:
        """About how many flows it makes with these parameters."""
        if not self.grows_with:
            return self.flows
        usual, now = self.takes[self.grows_with], self.complete(given)[self.grows_with]
        return self.flows * _size(now) / max(_size(usual), 1.0)

    def complete(self, given: Mapping[str, Value]) -> dict[str, Value]:
        """All parameters, those not given as usual; LabError for one that it does not take or of another type."""
        for key, value in given.items():
            if key not in self.takes:
                raise LabError(f"activity {self.name} takes no {key!r}: it takes {', '.join(self.takes)}")
            usual = self.takes[key]
            if isinstance(usual, float) and isinstance(value, int) and not isinstance(value, bool):
                continue
            if type(value) is not type(usual):
                raise LabError(f"{key} of activity {self.name} must be {_kind(usual)}, as {usual!r}, not {value!r}")
        return {**self.takes, **given}

    def run(self) -> Run:
        """The function that does it, loaded now."""
        module, function = self.code.split(".")
        return cast(Run, getattr(import_module(f".{module}", __package__), function))


def whole(value: Value) -> int:
    """A parameter that is a whole number."""
    return int(number(value))


def number(value: Value) -> float:
    """A parameter that is a number; Activity.complete has seen to it."""
    assert not isinstance(value, list | str)
    return float(value)


def _size(value: Value) -> float:
    return float(len(value)) if isinstance(value, list | str) else float(value)


def _kind(value: Value) -> str:
    if isinstance(value, bool):
        return "true or false"
    return {str: "a text", int: "a whole number", float: "a number", list: "a list of texts"}[type(value)]
