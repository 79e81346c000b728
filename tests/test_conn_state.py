"""conn_state: Zeek's own word for how a connection went, told from flags alone, against Zeek's conn.log of the same packets.

Compared is every flow that is one flow for both: the same two ends, met once on each side, with the same packets each way.
Zeek now and then takes the answering host for the one that began, by its well-known port; netseq goes by who spoke first.
The states of such a pair mirror each other and cannot agree: they are counted apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from conftest import DATA
from naive_flows import Packet, rows_of
from numpy.typing import NDArray

from sensor.decode import Decoder
from sensor.flows import FlowTable
from sensor.schema import ACK, CONN_STATES, FIN, FLOW, ICMP, PSH, RST, SYN, TCP, UDP
from sensor.sources.pcap import CaptureSource
from sensor.sources.zeek import ConnLogSource

TRACES = tuple(sorted(folder.parent.name for folder in (DATA / "zeek").glob("*/trace.pcap.gz")))

Ends = tuple[frozenset[tuple[int, int, int]], int]


class Agreement(NamedTuple):
    """How many flows of a conn.log could be compared, and what came of it."""

    logged: int
    compared: int
    turned: int
    differ: tuple[tuple[str, str], ...]
    """(Zeek's state, netseq's state) where they are not the same."""

    def plus(self, other: Agreement) -> Agreement:
        logged, compared, turned = (mine + theirs for mine, theirs in zip(self[:3], other[:3], strict=True))
        return Agreement(logged, compared, turned, self.differ + other.differ)

    @property
    def share(self) -> float:
        return 1 - len(self.differ) / self.compared

    def __str__(self) -> str:
        agreed = self.compared - len(self.differ)
        return (
            f"conn_state as Zeek's in {agreed} of {self.compared} flows ({self.share:.3%}); {self.turned} begun by the other "
            f"host; {self.logged} logged"
        )


def flows_of(capture: Path) -> NDArray[np.void]:
    decoder, table, parts = Decoder(), FlowTable(), [np.zeros(0, FLOW)]
    parts += [table.feed(decoder.decode(block)).copy() for block in CaptureSource([capture])]
    while len(part := table.drain()):
        parts.append(part.copy())
    return np.concatenate(parts)


def flows_logged(log: Path) -> NDArray[np.void]:
    return np.concatenate([np.zeros(0, FLOW), *(batch.flows.copy() for batch in ConnLogSource([log]))])


def by_ends(rows: NDArray[np.void]) -> dict[Ends, list[np.void]]:
    """TCP and UDP flows under their two ends, whichever began."""
    found: dict[Ends, list[np.void]] = defaultdict(list)
    for row in rows[(rows["protocol"] == TCP) | (rows["protocol"] == UDP)]:
        ends = ((int(row[f"{end}_hi"]), int(row[f"{end}_lo"]), int(row[f"{end}_port"])) for end in ("src", "dst"))
        found[frozenset(ends), int(row["protocol"])].append(row)
    return found


def packets(row: np.void) -> list[int]:
    return [int(row["fwd"]["packets"]), int(row["bwd"]["packets"])]


def compare(capture: Path, log: Path) -> Agreement:
    """Compare the states of all flows that map one to one."""
    logged, mine = flows_logged(log), by_ends(flows_of(capture))
    compared = turned = 0
    differ: list[tuple[str, str]] = []
    for ends, theirs in by_ends(logged).items():
        ours = mine.get(ends, [])
        if len(theirs) != 1 or len(ours) != 1:
            continue
        began_alike = all(theirs[0][name] == ours[0][name] for name in ("src_hi", "src_lo", "src_port"))
        if not began_alike:
            turned += packets(theirs[0]) == packets(ours[0])[::-1]
        elif packets(theirs[0]) == packets(ours[0]):
            compared += 1
            states = CONN_STATES[theirs[0]["conn_state"]], CONN_STATES[ours[0]["conn_state"]]
            differ += [states] if states[0] != states[1] else []
    return Agreement(len(logged), compared, turned, tuple(differ))


NOTHING = Agreement(0, 0, 0, ())


def test_all_states_of_the_traces_beside_the_tests_are_zeeks(record_property: Callable[[str, object], None]) -> None:
    found = NOTHING
    for trace in TRACES:
        folder = DATA / "zeek" / trace
        found = found.plus(compare(folder / "trace.pcap.gz", folder / "tsv" / "conn.log"))
    record_property("told", f"traces beside the tests: {found}")
    assert found.differ == ()
    assert found.compared > 100


def test_states_of_zeeks_test_traces_are_zeeks(shared_data: Path, record_property: Callable[[str, object], None]) -> None:
    found = NOTHING
    for folder in sorted((shared_data / "golden" / "zeek").iterdir()):
        if (folder / "tsv" / "conn.log").is_file() and not folder.name.startswith("_"):
            (capture,) = folder.glob("*.gz")
            found = found.plus(compare(capture, folder / "tsv" / "conn.log"))
    record_property("told", f"Zeek's test traces: {found}")
    assert found.share >= 0.999
    assert found.compared > 700


TWICE = "winrm_psremote_05-16"
"""Two captures have this name, and one log."""


def test_states_of_scans_floods_intrusions_and_office_days_are_zeeks(
    shared_data: Path, record_property: Callable[[str, object], None]
) -> None:
    logs, captures, found = shared_data / "golden" / "zeek-conn", shared_data / "captures", NOTHING
    for log in sorted(logs.rglob("*.conn.log.gz")):
        name = log.name.removesuffix(".conn.log.gz")
        folder = captures / log.parent.relative_to(logs)
        candidates = [path for path in folder.iterdir() if path.name.startswith(name + ".")]
        if name != TWICE:
            (capture,) = candidates
            found = found.plus(compare(capture, log))
    record_property("told", f"larger captures: {found}")
    assert found.differ == (("S1", "OTH"),)  # a SYN+ACK and the ACK of it, and no more: Zeek compares their numbers
    assert found.compared > 100_000


HOST, PEER = 1, 2


def state_of(*flags: int, protocol: int = TCP, payload: int = 0) -> str:
    """conn_state after segments with these flags; negative ones are the peer's."""
    table = FlowTable(expiry=False)
    segments = [
        Packet(n, *((HOST, PEER, 9, 80) if flag >= 0 else (PEER, HOST, 80, 9)), protocol, abs(flag), payload)
        for n, flag in enumerate(flags, 1)
    ]
    assert len(table.feed(rows_of(segments))) == 0
    (row,) = table.drain()
    return CONN_STATES[row["conn_state"]]


OPEN = (SYN, -(SYN | ACK), ACK)
DATA_SENT = (*OPEN, PSH | ACK, -ACK)
ZEEKS_WORDS: dict[str, Sequence[tuple[int, ...]]] = {
    "S0": [(SYN,), (SYN, SYN)],  # connection attempt seen, no reply
    "S1": [(SYN, -(SYN | ACK)), OPEN, DATA_SENT, (SYN, -SYN)],  # established, not terminated
    "SF": [(*OPEN, FIN | ACK, -(FIN | ACK), ACK), (*DATA_SENT, -(FIN | ACK), FIN | ACK), (*OPEN, FIN, RST, -FIN, RST)],
    "REJ": [(SYN, -(RST | ACK)), (SYN, SYN, -RST)],  # connection attempt rejected
    "S2": [(*OPEN, FIN | ACK), (*DATA_SENT, FIN | ACK, -ACK)],  # established and close attempt by originator seen
    "S3": [(*OPEN, -(FIN | ACK)), (*OPEN, -(FIN | ACK), ACK)],  # established and close attempt by responder seen
    "RSTO": [(*OPEN, RST), (*DATA_SENT, RST | ACK), (*OPEN, FIN | ACK, RST)],  # originator aborted
    "RSTR": [(*OPEN, -RST), (*DATA_SENT, -(RST | ACK)), (*OPEN, FIN | ACK, -RST)],  # responder sent a RST
    "RSTOS0": [(SYN, RST), (SYN, SYN, RST)],  # SYN followed by a RST, never a SYN+ACK from the responder
    "RSTRH": [(-(SYN | ACK), -RST)],  # responder sent a SYN+ACK followed by a RST, never a SYN from the originator
    "SH": [(SYN, FIN), (SYN, SYN, FIN)],  # SYN followed by a FIN, never a SYN+ACK from the responder
    "SHR": [(-(SYN | ACK), -FIN)],  # responder sent a SYN+ACK followed by a FIN, never a SYN from the originator
    "OTH": [(ACK,), (PSH | ACK, -ACK), (SYN, FIN, RST), (RST,)],  # no SYN seen, midstream
}


@pytest.mark.parametrize("state", ZEEKS_WORDS)
def test_state_is_what_zeeks_documentation_says(state: str) -> None:
    assert {flags: state_of(*flags) for flags in ZEEKS_WORDS[state]} == dict.fromkeys(ZEEKS_WORDS[state], state)


def test_every_state_is_reached() -> None:
    assert set(ZEEKS_WORDS) == set(CONN_STATES)


def test_rejection_after_data_is_a_reset() -> None:
    assert state_of(SYN, -(SYN | ACK), RST | ACK, -RST, payload=0) == "REJ"
    assert state_of(SYN, -(SYN | ACK), RST | ACK, -RST, payload=1) == "RSTR"


def test_udp_is_told_by_who_spoke() -> None:
    assert state_of(0, protocol=UDP) == "S0"
    assert state_of(0, 0, protocol=UDP) == "S0"
    table = FlowTable(expiry=False)
    table.feed(rows_of([Packet(1, HOST, PEER, 9, 53, UDP), Packet(2, PEER, HOST, 53, 9, UDP)]))
    assert CONN_STATES[table.drain()[0]["conn_state"]] == "SF"


def test_other_protocols_have_no_states() -> None:
    assert state_of(0, protocol=ICMP) == "OTH"
    assert state_of(0, protocol=132) == "OTH"
