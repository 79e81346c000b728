"""The benchmark of conn.log from disk: what it writes is what it says, in every form, and it measures all of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.run_zeek_files import measured, write
from sensor.sources.zeek import ConnLogSource


def test_all_forms_hold_the_same_connections(tmp_path: Path) -> None:
    tables = write(tmp_path, 300)
    flows = {
        form: np.sort(np.concatenate([batch.flows["first_us"] for batch in ConnLogSource([path])]))
        for form, path in tables.items()
    }
    for form, stamps in flows.items():
        if form == "json-ms":
            assert (stamps == flows["tsv"] // 1000 * 1000).all()
        else:
            assert (stamps == flows["tsv"]).all(), form


def test_every_form_is_measured() -> None:
    told = measured(300, runs=1)
    assert told.connections == 300
    forms = {"tsv", "json", "json-iso", "json-ms", "json-nested", "tsv, gzip", "json, gzip", "tsv, followed", "json, followed"}
    assert set(told.per_second) == forms
    assert all(0 < spread.low <= spread.median <= spread.high for spread in told.per_second.values())
