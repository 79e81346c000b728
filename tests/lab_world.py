"""Runs a little site in a world of its own, for the tests of the laboratory's clients: its servers and its agents.

`python -m tests.lab.world python tests/lab_world.py DIR`, where DIR has hosts.json and schedule.json. Without capture and
without attacks: it says what agents and servers make of each other. Exit status 1 when an agent's is.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from lab.network import Network, wait_until
from lab.services import SERVICES, ready
from lab.site import Host, Plan, Site

READY_S = 90.0
LEAD_S = 1.5
"""Agents load before the run's clock starts."""


def main(folder: Path) -> int:
    """Run it to its end."""
    site, plan = Site.read(folder / "hosts.json"), Plan.read(folder / "schedule.json")
    (folder / "logs").mkdir(exist_ok=True)
    with Network(site, logs=folder / "logs") as network:
        for host in network.hosts:
            for name in host.services:
                _start(network, host, name, folder)
        for host in network.hosts:
            for name in host.services:
                wait_until(partial(_is_ready, network, host, name), f"{name} of {host.name}", READY_S)
        start = f"{time.time() + LEAD_S}"
        who = sorted({event.host for event in plan.events})
        agents = [
            network.popen(
                name,
                [sys.executable, "-m", "tests.lab.behaviour", name, "--run", str(folder), "--start", start],
                log=folder / "logs" / f"agent-{name}.log",
                name=f"agent of {name}",
                expected=True,
            )
            for name in who
        ]
        ends = [agent.wait(site.seconds + 60.0) for agent in agents]
    return int(any(ends))


def _start(network: Network, host: Host, name: str, folder: Path) -> None:
    def launch(argv: Sequence[str]) -> None:
        network.popen(host.name, argv, log=folder / "logs" / f"{host.name}-{name}.log", name=f"{name} of {host.name}")

    SERVICES[name].start(host, network.site, folder, launch)


def _is_ready(network: Network, host: Host, name: str) -> bool:
    network.processes.check()
    return ready(host, SERVICES[name])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
