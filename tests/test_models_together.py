from __future__ import annotations

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
