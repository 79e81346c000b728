"""Connections a second from conn.log to FLOW rows, on one core: TSV, JSON with its forms of time, nested names, and gzip.

The logs are generated: all 22 columns that Zeek 8 writes, hosts as many as a large site has, one row in ten over IPv6, and
as many unset fields as an office day has. They are written to a folder first and read whole as `netseq-replay` reads them,
sorting and FLOW rows included, and as the follower of a growing log reads what lies there. Prints one JSON object:
connections per CPU second by form (median, lowest, highest), the rows, and the machine's load when it began.
"""

from __future__ import annotations

import gzip
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from benchmarks.measure import Spread
from sensor.kernels import prepare_cache

ROWS = 200_000
RUNS = 5
BEGIN_S = 1_700_000_000

FIELDS = (
    "ts", "uid", "id.orig_h", "id.orig_p", "id.resp_h", "id.resp_p", "proto", "service", "duration", "orig_bytes", "resp_bytes",
    "conn_state", "local_orig", "local_resp", "missed_bytes", "history", "orig_pkts", "orig_ip_bytes", "resp_pkts",
    "resp_ip_bytes", "tunnel_parents", "ip_proto",
)  # fmt: skip
HEADER = (
    "#separator \\x09\n#set_separator\t,\n#empty_field\t(empty)\n#unset_field\t-\n#path\tconn\n#open\t2023-11-14-22-13-20\n"
    "#fields\t" + "\t".join(FIELDS) + "\n#types\ttime\tstring\taddr\tport\taddr\tport\tenum\tstring\tinterval\tcount\tcount"
    "\tstring\tbool\tbool\tcount\tstring\tcount\tcount\tcount\tcount\tset[string]\tcount\n"
)

Row = dict[str, object]


class Told(msgspec.Struct):
    """What this program prints."""

    connections: int
    load: float
    """One minute's load average of the machine before the first measurement."""
    per_second: dict[str, Spread]


def hosts(rng: random.Random) -> tuple[list[str], list[str]]:
    """Make addresses: 5,000 of the site, 50,000 elsewhere, a tenth of each IPv6."""
    own = [f"10.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(1, 255)}" for _ in range(4_500)]
    own += [f"2001:db8:{rng.randrange(65_536):x}::{rng.randrange(65_536):x}" for _ in range(500)]
    far = [".".join(str(rng.randrange(1, 255)) for _ in range(4)) for _ in range(45_000)]
    far += [f"2606:{rng.randrange(1, 65_536):x}:{rng.randrange(1, 65_536):x}::{rng.randrange(65_536):x}" for _ in range(5_000)]
    return own, far


def rows(count: int) -> Iterator[Row]:
    """Yield connections almost in the order of their end, as Zeek writes them; the same ones at every call."""
    rng = random.Random(7)
    own, far = hosts(rng)
    for number in range(count):
        seconds = number / 500 - rng.expovariate(0.2)
        udp = rng.random() < 0.4
        row: Row = {
            "ts": round(BEGIN_S + seconds, 6),
            "uid": "C" + "".join(rng.choices("abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ0123456789", k=17)),
            "id.orig_h": rng.choice(own),
            "id.orig_p": rng.randrange(1024, 65_536),
            "id.resp_h": rng.choice(far),
            "id.resp_p": 53 if udp else rng.choice((80, 443, 443, 443, 22, 8080)),
            "proto": "udp" if udp else "tcp",
        }
        if rng.random() < 0.8:
            row |= {"service": "dns" if udp else rng.choice(("ssl", "http", "ssh"))}
        if rng.random() < 0.85:
            sent, received = int(rng.lognormvariate(6, 2)), int(rng.lognormvariate(8, 2))
            row |= {"duration": rng.expovariate(0.2), "orig_bytes": sent, "resp_bytes": received}
        row |= {
            "conn_state": rng.choice(("SF", "SF", "SF", "S0", "REJ", "RSTO", "S1")),
            "local_orig": True,
            "local_resp": False,
            "missed_bytes": 0,
            "history": "Dd" if udp else "ShADadFf",
            "orig_pkts": rng.randrange(1, 40),
            "orig_ip_bytes": int(rng.lognormvariate(7, 2)),
            "resp_pkts": rng.randrange(40),
            "resp_ip_bytes": int(rng.lognormvariate(9, 2)),
        }
        if rng.random() < 0.01:
            row |= {"tunnel_parents": [f"C{number}parent"]}
        yield row | {"ip_proto": 17 if udp else 6}


def cell(value: object) -> str:
    """Write a value as Zeek's TSV has it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "T" if value else "F"
    if isinstance(value, float):
        return f"{value:.6f}"
    return ",".join(value) if isinstance(value, list) else str(value)


def nested(row: Row) -> Row:
    """Give the four parts of the key a record of their own, as Zeek's to_json() does."""
    key = {name[3:]: value for name, value in row.items() if name.startswith("id.")}
    return {"ts": row["ts"], "uid": row["uid"], "id": key} | {
        name: value for name, value in row.items() if name not in ("ts", "uid") and not name.startswith("id.")
    }


def dated(row: Row) -> Row:
    """Tell the time as JSON_TS_ISO8601 does, with the fields that Corelight and Log::default_ext_func put first."""
    at = datetime.fromtimestamp(float(str(row["ts"])), UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return {"_path": "conn", "_write_ts": at} | row | {"ts": at}


def write(folder: Path, count: int) -> dict[str, Path]:
    """Write the same connections in every form; returns the files by form."""
    tables = {form: folder / f"{form}.log" for form in ("tsv", "json", "json-iso", "json-ms", "json-nested")}
    texts: dict[str, list[str]] = {form: [] for form in tables}
    texts["tsv"].append(HEADER)
    for row in rows(count):
        texts["tsv"].append("\t".join(cell(row.get(name)) for name in FIELDS) + "\n")
        forms = {"json": row, "json-iso": dated(row), "json-ms": row | {"ts": int(float(str(row["ts"])) * 1000)}}
        for form, one in (forms | {"json-nested": nested(row)}).items():
            texts[form].append(msgspec.json.encode(one).decode() + "\n")
    for form, path in tables.items():
        path.write_text("".join(texts[form]))
    for form in ("tsv", "json"):
        packed = folder / f"{form}.log.gz"
        packed.write_bytes(gzip.compress(tables[form].read_bytes(), 6))
        tables[f"{form}, gzip"] = packed
    return tables


def whole(path: Path) -> int:
    """Read a log as netseq-replay does; returns how many connections came. Raises ValueError for a line that was not read."""
    from sensor.sources.zeek import ConnLogSource  # noqa: PLC0415  # kernels are imported after their cache folder is chosen

    source = ConnLogSource([path])
    got = sum(len(batch.flows) for batch in source)
    if source.damages:
        raise ValueError(f"{path}: {source.damages[0]}")
    return got


def followed(path: Path) -> int:
    """Read a log as a running sensor does that finds it there, up to its present end."""
    from sensor.sources.zeek_follow import ConnLogFollower  # noqa: PLC0415  # as above

    follower = ConnLogFollower(path, tell=lambda event, line: None, wait_s=0.001)
    got = 0
    for batch in follower:
        got += len(batch.flows)
        if not len(batch.flows):
            follower.stop()
    follower.close()
    return got


def measured(count: int = ROWS, runs: int = RUNS) -> Told:
    """Read every form `runs` times after one pass that is not timed, the forms in turn; this thread's CPU time counts."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as place:
        tables = write(Path(place), count)
        roads: dict[str, tuple[Callable[[Path], int], Path]] = {form: (whole, path) for form, path in tables.items()}
        roads |= {f"{form}, followed": (followed, tables[form]) for form in ("tsv", "json")}
        rates: dict[str, list[float]] = {name: [] for name in roads}
        for turn in range(runs + 1):
            for name, (read, path) in roads.items():
                begun_s = time.thread_time()
                got = read(path)
                spent_s = time.thread_time() - begun_s
                if got != count:
                    raise ValueError(f"{name}: {got} of {count} connections were read")
                if turn:
                    rates[name].append(count / spent_s)
    return Told(count, load, {name: Spread.of(values) for name, values in rates.items()})


if __name__ == "__main__":
    prepare_cache()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    told = measured(10_000, 1) if sys.argv[1:2] == ["--quick"] else measured()
    sys.stdout.buffer.write(msgspec.json.encode(told))
