"""Captures made to break readers, through source, decoder and flow table without compilation: every index is checked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hostile_uncompiled import Chain

PROGRAM = Path(__file__).with_name("hostile_uncompiled.py")
TIME_OUT_S = 120
"""Some ten times of what it takes: whoever needs that long hangs."""


@pytest.mark.slow
@pytest.mark.parametrize(("folder", "most", "frames"), [("malformed", 400, 12_000), ("suricata_verify", 30, 20_000)])
def test_hostile_captures_stay_inside_all_arrays_and_are_counted_to_the_last_byte(
    shared_data: Path, tmp_path: Path, folder: str, most: int, frames: int
) -> None:
    captures = shared_data / "captures" / folder
    command = [sys.executable, str(PROGRAM), str(captures), str(most), str(tmp_path / "flows.npy")]
    run = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=PROGRAM.parents[1],
        env=os.environ | {"NUMBA_DISABLE_JIT": "1", "PYTHONPATH": str(PROGRAM.parents[1])},
        timeout=TIME_OUT_S,
    )
    assert run.returncode == 0, run.stderr
    plain = json.loads(run.stdout)
    assert plain["frames"] > frames
    compiled = Chain()
    flows = compiled.lead_all(captures, most)
    assert plain == compiled.counters()
    assert np.load(tmp_path / "flows.npy").tobytes() == flows.tobytes()
