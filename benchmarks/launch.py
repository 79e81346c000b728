"""Start one command on given cores, wait for it, and write down what the kernel says it cost.

A small process of its own, because a child's peak memory counts from the size of whoever started it: the benchmark, with
numpy and a capture in memory, would hide that of a small tool. Needs the standard library only; `measure` starts it.
"""

import json
import os
import sys
import time


def main() -> None:
    """`launch.py REPORT CORES COMMAND...`: CORES are numbers with commas; REPORT gets one JSON object."""
    report, cores, *command = sys.argv[1:]
    os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    before_s = time.perf_counter()
    child = os.posix_spawnp(command[0], command, os.environ)
    _, status, usage = os.wait4(child, 0)
    cost = {
        "wall_s": time.perf_counter() - before_s,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * 1024,
        "status": os.waitstatus_to_exitcode(status),
    }
    with open(report, "w", encoding="utf-8") as file:
        json.dump(cost, file)


if __name__ == "__main__":
    main()
