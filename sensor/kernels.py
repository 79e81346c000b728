"""How netseq compiles its kernels: one decorator with one set of options, and one cache folder that knows its version.

A cached kernel does not notice that a kernel it calls was edited in another file, so the folder carries netseq's version
and kernels that call one another share a file. Every file with compiled loops imports `njit` from here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar, cast

import numba
import numba.core.config

from sensor import __version__

P = ParamSpec("P")
R = TypeVar("R")


def njit(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` on its first call, keep the machine code on disk, and release the GIL while it runs."""
    return cast(Callable[P, R], numba.njit(cache=True, nogil=True)(function))


def prepare_cache() -> Path:
    """Point numba at this version's cache folder, unless NUMBA_CACHE_DIR names one. Called before the first kernel is imported.

    Returns the folder. $XDG_CACHE_HOME is honoured; a home that cannot be written is numba's to complain about.
    """
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    if chosen:
        return Path(chosen)
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(root) / "netseq" / f"kernels-{__version__}"
    os.environ["NUMBA_CACHE_DIR"] = str(folder)
    numba.core.config.reload_config()  # type: ignore[no-untyped-call]  # numba ships no types for it
    return folder
