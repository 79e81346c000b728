from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models.together import Together, gather


@pytest.mark.parametrize("rows", [1, 2, 5, 8])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_row_of_a_batch_counts_in_one_process_and_all_take_equally_many(rows: int, size: int) -> None:
    chosen = torch.arange(10, 10 + rows)
    shares = [Together(rank, size).share(chosen) for rank in range(size)]
    assert len({len(part) for part, _ in shares}) == 1
    counted = torch.cat([part[counts > 0] for part, counts in shares])
    assert sorted(counted.tolist()) == chosen.tolist()
    assert sum(float(counts.sum()) for _, counts in shares) == rows
    assert all(len(part) for part, _ in shares)


def test_alone_nothing_is_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    alone = gather(torch.device("cpu"))
    assert alone == Together()
    assert alone.first
    assert alone.sum(np.array([1.0, 2.0])).tolist() == [1.0, 2.0]
    assert alone.spread(b"all") == b"all"
    model = nn.Linear(1, 1)
    assert alone.wrap(model) is model
    alone.leave()


GATHERED = """
import numpy as np, torch
from models.together import gather
together = gather(torch.device("cuda"))
total = int(together.sum(np.array([together.rank + 1.0]))[0])
print(torch.distributed.get_backend(), together.device, torch.cuda.current_device(), total, together.spread(b"all"))
together.leave()
"""


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices: nccl takes one process on each")
def test_processes_on_cuda_meet_by_nccl_each_on_the_device_of_its_local_rank() -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--no-python"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    command = [*torchrun, sys.executable, "-c", GATHERED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [f"nccl cuda:{rank} {rank} 3 b'all'" for rank in range(2)]
