"""Every activity of the laboratory's hosts, in several ways, against its real servers, in a world of namespaces (root)."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from lab.behaviour import ACTIVITIES
from lab.services import wanting
from lab.site import Event, Host, Plan, Site, Value
from worlds import MOST_S, ROOT, command, skip_without_worlds

LIMIT_S = 240.0
"""What is not done by then is cut: agents end when all is done."""


def _world_site() -> Site:
    return Site(
        (
            Host("router", "router", "inside", ("192.0.2.1",)),
            Host("dns", "server", "inside", ("192.0.2.2",), services=("dns",)),
            Host("intranet", "server", "inside", ("192.0.2.3",), ("2001:db8:1::3",), services=("http", "https", "health")),
            Host("post", "server", "inside", ("192.0.2.4",), services=("mail",)),
            Host("files", "server", "inside", ("192.0.2.5",), services=("ftp", "smb", "ssh")),
            Host("store", "server", "inside", ("192.0.2.6",), services=("sql", "ntp")),
            Host("talk", "server", "inside", ("192.0.2.7",), services=("chat", "stream", "repo")),
            Host("office1", "office", "inside", ("192.0.2.20",), ("2001:db8:1::20",)),
            Host("dev1", "developer", "inside", ("192.0.2.21",), ("2001:db8:1::21",)),
            Host("gone", "internet", "outside", ("198.51.100.99",), down=True),
        ),
        "lab.example",
        LIMIT_S,
        60.0,
    )


VARIANTS: dict[str, list[Mapping[str, Value]]] = {
    "web": [{}, {"tls": False}, {"ipv6": True}, {"client": "curl"}, {"keep_alive": False, "parallel": 6}, {"abort": 1.0}],
    "resolve": [{}, {"tcp": True}, {"missing": 1.0}],
    "mail_send": [{} for _ in range(6)],
    "mail_read": [{}, {"idle_s": 120.0}, {}, {}],
    "ftp": [{}, {"passive": False}, {"upload": True}, {"client": "lftp"}],
    "sftp": [{}, {"upload": True}],
    "ssh": [{"commands": 4}],
    "smb": [{}, {"upload": True}],
    "sql": [{}, {"client": "psql"}],
    "update": [{}, {"client": "curl"}],
    "chat": [{"minutes": 4.0, "every_s": 60.0}],
    "stream": [{"minutes": 2.0}],
    "monitor": [{"rounds": 2, "every_s": 120.0}],
    "backup": [{"megabytes": 2.0}, {"megabytes": 2.0, "way": "ftp"}],
    "dead": [{"tries": 1}, {"host": "intranet", "port": 81}],
    "ping": [{"count": 2}, {"host": "intranet", "ipv6": True, "count": 2}],
    "api": [{"calls": 8, "every_s": 15.0}, {"tls": False, "calls": 8, "every_s": 15.0}],
}


@pytest.mark.root
@pytest.mark.slow
def test_every_activity_gets_what_it_wants_of_real_servers(tmp_path: Path) -> None:
    skip_without_worlds()
    around = _world_site()
    lacking = [program for program, _ in wanting(around)]
    lacking += [tool for tool in ("curl", "ssh", "sftp", "smbclient", "lftp", "psql", "ping") if shutil.which(tool) is None]
    if lacking:
        pytest.skip(f"not installed: {', '.join(lacking)}")
    asked = [(what, variant) for what in ACTIVITIES for variant in VARIANTS.get(what, [{}])]
    events = [
        Event(0.1 * turn, ("office1", "dev1")[turn % 2], what, turn, variant) for turn, (what, variant) in enumerate(asked)
    ]
    around.write(tmp_path / "hosts.json")
    Plan(tuple(events), ()).write(tmp_path / "schedule.json")
    argv = command(sys.executable, "tests/lab_world.py", str(tmp_path))
    done = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT_S + 2 * MOST_S, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    outcomes = [json.loads((tmp_path / "agents" / f"{name}.json").read_bytes()) for name in ("office1", "dev1")]
    for outcome in outcomes:
        assert (outcome["failed"], outcome["cut"], outcome["never"], outcome["mistakes"]) == ({}, {}, {}, [])
    assert sum(sum(outcome["done"].values()) for outcome in outcomes) == len(events)
