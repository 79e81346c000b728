"""How netseq compiles its kernels: one decorator with one set of options, one cache folder that knows its version, `prefetch`.

A cached kernel does not notice that a kernel it calls was edited in another file, so the folder's name carries netseq's
version and a digest of the sources beside this one. Every file with compiled loops imports `njit` from here.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, ParamSpec, TypeVar, cast

import numba
import numba.core.config
import numba.core.event
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from sensor import __version__

P = ParamSpec("P")
R = TypeVar("R")

KEPT_CACHES = 4
"""Cache folders of other sources that are kept: of other versions, or of a branch that will be back."""


def njit(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` on its first call, keep the machine code on disk, and release the GIL while it runs."""
    return cast(Callable[P, R], numba.njit(cache=True, nogil=True)(function))


def loop(function: Callable[P, R]) -> Callable[P, R]:
    """The same for the outermost loop over rows that calls `part`s: without reference counts, so it must not make arrays.

    Counting references to arrays, atomically, at every call in the loop took 100 of 135 ns a packet in the decoder.
    `_nrt` is numba's own name, which its type hints do not tell, for the run-time that counts them.
    """
    compiled = numba.njit(cache=True, nogil=True, _nrt=False)  # type: ignore[call-overload]  # see above
    return cast(Callable[P, R], compiled(function))


def part(function: Callable[P, R]) -> Callable[P, R]:
    """A piece of a `loop`, written into it by the compiler: not called, not cached on its own (36 to 15 ns a packet)."""
    compiled = numba.njit(nogil=True, _nrt=False, forceinline=True)  # type: ignore[call-overload]  # as above
    return cast(Callable[P, R], compiled(function))


def _digest() -> str:
    """Eight characters that change when any module of this package does."""
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:8]


class Cache(NamedTuple):
    """Where compiled kernels are kept."""

    folder: Path
    refused: Path | None = None
    """The folder that would have been used and cannot be written; `folder` is then gone when the process ends."""


def prepare_cache() -> Cache:
    """Point numba at this version's cache folder, or the one that NUMBA_CACHE_DIR names. Called before kernels are imported.

    $XDG_CACHE_HOME is honoured. A folder that cannot be written is replaced by a temporary one: numba would turn to
    __pycache__, whose kernels know no digest, or give up. Folders of earlier sources go, but for the few used last.
    """
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    ours = Path(root) / "netseq" / f"kernels-{__version__}-{_digest()}"
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    cache = Cache(Path(chosen) if chosen else ours)
    try:
        cache.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache.folder):
            pass
    except OSError:
        cache = Cache(Path(tempfile.mkdtemp(prefix="netseq-kernels-")), refused=cache.folder)
        atexit.register(shutil.rmtree, cache.folder, ignore_errors=True)
    else:
        if not chosen:
            _forget_old(ours)
    os.environ["NUMBA_CACHE_DIR"] = str(cache.folder)
    numba.core.config.reload_config()  # type: ignore[no-untyped-call]  # numba ships no types for it
    return cache


def _forget_old(ours: Path) -> None:
    """Remove the folders beside `ours` that were used the longest ago; one in use by another process is recent."""
    with contextlib.suppress(OSError):  # another process tidies up as well
        os.utime(ours)
        others = [folder for folder in ours.parent.glob("kernels-*") if folder != ours]
        others.sort(key=lambda folder: folder.stat().st_mtime_ns)
        for folder in others[:-KEPT_CACHES]:
            shutil.rmtree(folder, ignore_errors=True)


def when_compiling(tell: Callable[[], None]) -> None:
    """Call `tell` once, before the first kernel of this process is compiled; never if all come from the cache."""

    class Told(numba.core.event.Listener):
        done = False

        def on_start(self, event: object) -> None:
            if not self.done:
                self.done = True
                tell()

        def on_end(self, event: object) -> None:
            """Part of numba's interface."""

    numba.core.event.register("numba:compile", Told())  # type: ignore[no-untyped-call]  # as above


# numba ships no types for what follows: a compiler's intrinsics, built from llvmlite values.
def _asking(for_writing: bool):  # type: ignore[no-untyped-def]
    """Code that asks for a line with LLVM's llvm.prefetch: to be kept in all caches, as data."""

    def code(context, builder, signature, args):  # type: ignore[no-untyped-def]
        array = context.make_array(signature.args[0])(context, builder, args[0])
        index = context.cast(builder, args[1], signature.args[1], types.intp)
        offset = context.cast(builder, args[2], signature.args[2], types.intp)
        base = builder.bitcast(array.data, ir.IntType(8).as_pointer())
        place = builder.gep(base, [builder.add(builder.mul(index, array.itemsize), offset)])
        i32 = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [place.type, i32, i32, i32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")  # type: ignore[no-untyped-call]
        builder.call(function, [place, i32(int(for_writing)), i32(3), i32(1)])
        return context.get_dummy_value()

    return code


def _prefetch(typing_context, array, index, offset):  # type: ignore[no-untyped-def]
    """Code for `prefetch`."""
    return types.void(array, index, offset), _asking(for_writing=True)


def _prefetch_read(typing_context, array, index, offset):  # type: ignore[no-untyped-def]
    """Code for `prefetch_read`."""
    return types.void(array, index, offset), _asking(for_writing=False)


def _load32_code(context, builder, signature, args):  # type: ignore[no-untyped-def]
    array = context.make_array(signature.args[0])(context, builder, args[0])
    at = context.cast(builder, args[1], signature.args[1], types.intp)
    base = builder.bitcast(array.data, ir.IntType(8).as_pointer())
    place = builder.bitcast(builder.gep(base, [at]), ir.IntType(32).as_pointer())
    number = builder.load(place, align=1)
    turned = builder.bswap(number)
    big = context.cast(builder, args[2], signature.args[2], types.boolean)
    return builder.zext(builder.select(big, turned, number), ir.IntType(64))


def _load32(typing_context, array, at, big):  # type: ignore[no-untyped-def]
    """Code for `load32`, on the little-endian machines that numba knows."""
    return types.int64(array, at, big), _load32_code


if TYPE_CHECKING or numba.config.DISABLE_JIT:

    def load32(data: NDArray[np.uint8], at: int, big: bool) -> int:
        """The four bytes from `at` on as an unsigned number, in one load: from single bytes, the compiler makes four of it."""
        return int.from_bytes(bytes([data[at], data[at + 1], data[at + 2], data[at + 3]]), "big" if big else "little")

    def prefetch(array: NDArray[np.generic], index: np.int64, offset: np.int64) -> None:
        """Ask early for the cache line of byte `offset` of item `index`, to write there without a wait."""

    def prefetch_read(array: NDArray[np.generic], index: np.int64, offset: np.int64) -> None:
        """The same for a line that is only read: 85 to 79 ns a frame in mapped files, whose pages cannot be written."""
else:
    prefetch = intrinsic(_prefetch)
    prefetch_read = intrinsic(_prefetch_read)
    load32 = intrinsic(_load32)
