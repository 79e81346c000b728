"""A batch on its way through a device: copied there, scored in one launch, its results copied back once.

A model's step is a function of tensors of fixed shapes that asks the host nothing, so that on CUDA it is captured once as a
graph (for each number of rows and rounds that it is laid out for) and a batch costs one launch. Input and output lie in pinned
memory, the copies do not wait, and the host waits once a batch, for its results. Two lanes take turns: while the device works
on one batch, the host fetches the results of the one before and fills in the next. What the step keeps beside its results lies
on the device until its lane is used again, and few rows are asked about. On a processor the same steps run as they are.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.groups import Groups

Array = NDArray[Any]
Kept = TypeVar("Kept")
Step = Callable[..., tuple[Tensor, Kept]]
"""From a batch's tensors on the device to its packed results, and what may be asked of it later."""

LANES = 2
"""One on the device and one at the host. A third would only let results wait."""
WARM = 3
"""Runs before a capture, on a side stream: libraries lay out their memory in these (PyTorch's notes on CUDA graphs)."""


class Laid(NamedTuple):
    """The fixed sizes that a batch is stepped in."""

    rows: int
    """The batch is padded to so many."""
    rounds: int = 1
    """No conversation has more flows in it, or else its flows are sampled."""
    complete: bool = False
    """Of all that is read, everything is known."""


class Batch(NamedTuple):
    """A batch for a lane: at most `laid.rows` rows."""

    laid: Laid
    arrays: tuple[Array, ...]


class Lanes(Generic[Kept]):
    """Takes batches through a device. `idle` is a batch of as many rows as ever come, all of them padding: what a step does
    with these touches nothing that belongs to anybody. `lay` makes a step of fixed sizes.
    """

    def __init__(self, idle: Sequence[Tensor], lay: Callable[[Laid], Step[Kept]], device: torch.device) -> None:
        self._lanes = [_Lane(idle, lay, device) for _ in range(LANES)]

    def run(self, batches: Iterable[Batch]) -> Iterator[tuple[NDArray[np.float32], Kept]]:
        """Packed results of each batch and what its step kept. Both are a lane's own, and hold until the next is asked for."""
        under_way: deque[_Lane[Kept]] = deque()
        for lane, batch in zip(itertools.cycle(self._lanes), batches):
            if len(under_way) == LANES:
                yield under_way.popleft().collect()
            lane.submit(batch)
            under_way.append(lane)
        while under_way:
            yield under_way.popleft().collect()


class _Prepared(NamedTuple, Generic[Kept]):
    """A step that is ready to be run on a lane's tensors."""

    launch: Callable[[], tuple[Tensor, Kept]]
    home: Tensor
    """Where its results go in host memory."""


class _Lane(Generic[Kept]):
    """Memory for one batch, and the steps that were laid out in it."""

    def __init__(self, idle: Sequence[Tensor], lay: Callable[[Laid], Step[Kept]], device: torch.device) -> None:
        self._device, self._lay, self._idle = device, lay, idle
        self._cuda = device.type == "cuda"
        self._host = [given.clone().pin_memory() if self._cuda else given.clone() for given in idle]
        self._there = [given.to(device, copy=True) for given in idle]
        self._prepared: dict[Laid, _Prepared[Kept]] = {}
        self._pool = torch.cuda.graph_pool_handle() if self._cuda else None
        self._done = torch.cuda.Event() if self._cuda else None  # type: ignore[no-untyped-call]
        self._home = torch.empty(0)
        self._kept: Kept

    @torch.inference_mode()
    def submit(self, batch: Batch) -> None:
        """Send a batch off. On CUDA nothing here waits for the device, once the batch's sizes were met before."""
        rows, count = batch.laid.rows, len(batch.arrays[0])
        if self._done is not None:
            self._done.synchronize()  # a batch that was never collected still owns the pinned memory
        with torch.cuda.device(self._device) if self._cuda else contextlib.nullcontext():
            prepared = self._prepared.get(batch.laid) or self._prepare(batch.laid)
            for host, there, idle, array in zip(self._host, self._there, self._idle, batch.arrays, strict=True):
                host.numpy()[:count] = array
                host[count:rows] = idle[count:rows]
                there[:rows].copy_(host[:rows], non_blocking=True)
            found, self._kept = prepared.launch()
            self._home = prepared.home
            self._home.copy_(found, non_blocking=True)
            if self._done is not None:
                self._done.record()

    def collect(self) -> tuple[NDArray[np.float32], Kept]:
        """Wait for the batch that was sent off, and give its results."""
        if self._done is not None:
            self._done.synchronize()
        return self._home.numpy(), self._kept

    def _prepare(self, laid: Laid) -> _Prepared[Kept]:
        """Lay a step out. It is tried on padding, so no state changes."""
        step = self._lay(laid)
        given = [there[: laid.rows] for there in self._there]
        for there, idle in zip(given, self._idle, strict=True):
            there.copy_(idle[: laid.rows])
        launch = self._capture(step, given) if self._cuda else lambda: step(*given)
        found, _ = launch()
        home = torch.empty(found.shape, dtype=found.dtype, pin_memory=self._cuda)
        self._prepared[laid] = prepared = _Prepared(launch, home)
        return prepared

    def _capture(self, step: Step[Kept], given: list[Tensor]) -> Callable[[], tuple[Tensor, Kept]]:
        """Capture a step as a CUDA graph. A lane's graphs share their memory: only one of them is ever under way."""
        here, side = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(here)
        with torch.cuda.stream(side):
            for _ in range(WARM):
                step(*given)
        here.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            found = step(*given)

        def launch() -> tuple[Tensor, Kept]:
            graph.replay()
            return found

        return launch


def pack(groups: Groups, p_value: Tensor, *blocks: Tensor) -> Tensor:
    """One row of float32 of a sorted batch's (B,) p-values, float64, and (B, C) `blocks`: block after block, unsorted."""
    every = [p_value.view(torch.float32).view(-1, 2), *blocks]
    rows = groups.unsorted(torch.cat(every, dim=1))
    return torch.cat([block.flatten() for block in torch.split(rows, [block.shape[1] for block in every], dim=1)])


class Results(NamedTuple):
    """What a batch of B rows came to that is told of every row: memory for all of its pieces."""

    p_value: NDArray[np.float64]
    """(B,)."""
    blocks: tuple[NDArray[np.float32], ...]
    """(B, width) each."""

    @classmethod
    def of(cls, rows: int, widths: Sequence[int]) -> Results:
        """Memory that is not filled in yet."""
        return cls(np.empty(rows), tuple(np.empty((rows, width), np.float32) for width in widths))

    def take(self, cut: slice, packed: NDArray[np.float32], rows: int) -> None:
        """Fill a piece in from what was packed of it, padded to `rows`."""
        count, widths = len(self.p_value[cut]), [block.shape[1] for block in self.blocks]
        p_value, *parts = np.split(packed, np.cumsum([2 * rows, *(rows * width for width in widths[:-1])]))
        self.p_value[cut] = p_value.view(np.float64)[:count]
        for block, part, width in zip(self.blocks, parts, widths, strict=True):
            block[cut] = part.reshape(rows, width)[:count]


def fitting(sizes: Sequence[int], count: int) -> int:
    """The least of rising `sizes` that `count` rows fit in."""
    return next(size for size in sizes if size >= count)


def cuts(count: int, rows: int) -> list[slice]:
    """Cut a batch into pieces of at most so many rows; an empty one is one piece."""
    return [slice(start, min(start + rows, count)) for start in range(0, max(count, 1), rows)]
