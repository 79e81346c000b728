"""One training in several processes: what torchrun's processes tell each other, and a training alone as its simplest case.

Every process reads the same data and shuffles them alike, takes its share of each batch, and the gradients are averaged
(DDP). So the batch is the same however many processes there are. Only three things are ever exchanged: gradients, sums of
what was measured, and the bytes of a checkpoint. torchrun says through the environment which process this is; nccl carries
it all on CUDA, gloo on the CPU.
"""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import torch
import torch.distributed
import torch.distributed.nn  # before there is a group: loaded later (by DDP), its functions' defaults hold the group for good
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclasses.dataclass(frozen=True)
class Together:
    """This process among those that train one model."""

    rank: int = 0
    size: int = 1
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model as training calls it: its gradients are averaged over all processes."""
        return model if self.size == 1 else DistributedDataParallel(model)

    def share(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """This process's share of (B,) row numbers, and 1 for each that counts: all take equally many, at least one."""
        short = -len(chosen) % self.size
        padded = torch.cat([chosen, chosen[:1].expand(short)])
        counts = torch.ones(len(padded))
        counts[len(chosen) :] = 0.0
        return padded[self.rank :: self.size], counts[self.rank :: self.size]

    def sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum of every process's `values`."""
        if self.size == 1:
            return values
        total = torch.from_numpy(np.ascontiguousarray(values)).to(self.device)
        torch.distributed.all_reduce(total)
        return np.asarray(total.cpu().numpy())

    def spread(self, content: bytes) -> bytes:
        """What the first process gives, in all of them."""
        if self.size == 1:
            return content
        length = int(self.sum(np.array([len(content) if self.first else 0], np.float64))[0])
        held = torch.zeros(length, dtype=torch.uint8)
        if self.first:
            held = torch.from_numpy(np.frombuffer(content, np.uint8).copy())
        held = held.to(self.device)
        torch.distributed.broadcast(held, 0)
        return held.cpu().numpy().tobytes()

    def leave(self) -> None:
        """Part from the others. What `wrap` gave must be gone by now.

        gloo's threads end with the last reference to the group. A reference that outlives this leaves them running into the
        interpreter's end, which aborts the process if one of them still lets go of a tensor.
        """
        if self.size > 1:
            torch.distributed.destroy_process_group()


def gather(device: torch.device) -> Together:
    """Meet the processes that torchrun started, on `device` or the local one of its kind; alone without torchrun."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Together(device=device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Together(torch.distributed.get_rank(), size, device)
