"""Computes all columns of FLOW rows with the kernels as plain Python; run by `test_statistics_kernel` as a program of its own.

numba is switched off for a whole process: flows.npy and the rules in, columns.npy out.
"""

from __future__ import annotations

import os
import sys

os.environ["NUMBA_DISABLE_JIT"] = "1"

import numpy as np

from sensor.spellings import STATISTICS
from sensor.statistics import Reading, column


def main(flows: str, columns: str, rules: str) -> None:
    np.seterr(over="ignore")  # the products of 64 bits are meant to wrap
    reading = Reading(np.load(flows), "cicflowmeter" if rules == "cicflowmeter" else "netseq")
    np.save(columns, np.stack([column(reading, name).astype(np.float64) for name in STATISTICS]))


if __name__ == "__main__":
    main(*sys.argv[1:])
