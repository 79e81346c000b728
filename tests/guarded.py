"""For kernels that run uncompiled: an array that refuses what numpy would take for an index from the end."""

from __future__ import annotations

from typing import Any

import numpy as np


class Guarded(np.ndarray[Any, Any]):
    """An array with one index at a time, which must lie inside it."""

    def __getitem__(self, at: Any) -> Any:
        self.check(at)
        return super().__getitem__(at)

    def __setitem__(self, at: Any, value: Any) -> None:
        self.check(at)
        super().__setitem__(at, value)

    def check(self, at: Any) -> None:
        if isinstance(at, int | np.integer) and not 0 <= at < len(self):
            raise IndexError(f"{at} of {len(self)}")
