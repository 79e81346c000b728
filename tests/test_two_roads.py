"""The same packets by way of netseq's own flows and by way of Zeek's conn.log: their words must say the same."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sensor.conversations import Conversations
from sensor.decode import Decoder
from sensor.flows import FlowTable
from sensor.sources.pcap import CaptureSource
from sensor.sources.zeek import ConnLogSource
from sensor.words import PARTS, Vocabulary

CAPTURES = ("chrissanders/http_espn", "chrissanders/synscan", "elcabezzonn/chip_host_signin", "elcabezzonn/impacket_psexec")
SAME_START_US = 2000
"""Zeek and netseq agree on a connection's first packet but for odd ones (retransmitted SYNs after a time-out)."""


def by_packets(capture: Path) -> NDArray[np.void]:
    table, decoder = FlowTable(), Decoder()
    ended = [table.feed(decoder.decode(block)).copy() for block in CaptureSource([capture])]
    while len(rest := table.drain()):
        ended.append(rest.copy())
    return np.concatenate(ended)


def by_log(log: Path) -> NDArray[np.void]:
    return np.concatenate([batch.flows for batch in ConnLogSource([log])])


def keys(flows: NDArray[np.void]) -> list[tuple[int, ...]]:
    names = ("src_hi", "src_lo", "dst_hi", "dst_lo", "src_port", "dst_port", "protocol", "icmp_type")
    return list(zip(*(flows[name].tolist() for name in names), strict=True))


def words_of(flows: NDArray[np.void]) -> NDArray[np.int16]:
    vocabulary = Vocabulary.learn([flows], min_count=10**9)  # ranges only: nothing is learned of either road
    return vocabulary.words(flows, Conversations().turn(flows))


def agreement(packets: NDArray[np.void], log: NDArray[np.void]) -> Counter[str]:
    """Parts that agree over flows that both roads have, by part; "flows" and "found" count Zeek's and those matched."""
    places: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for place, key in enumerate(keys(packets)):
        places[key].append(place)
    ours, theirs, told = words_of(packets), words_of(log), Counter(flows=len(log))
    for place, key in enumerate(keys(log)):
        started = log["first_us"][place]
        near = [one for one in places[key] if abs(packets["first_us"][one] - started) < SAME_START_US]
        if near:
            told["found"] += 1
            told.update(part for part, same in zip(PARTS, ours[near[0]] == theirs[place], strict=True) if same)
    return told


def test_words_of_packets_agree_with_those_of_zeeks_log_as_often_as_the_documentation_says(
    shared_data: Path, record_property: Callable[[str, object], None]
) -> None:
    """The figures are those of docs/words.md."""
    told: Counter[str] = Counter()
    for name in CAPTURES:
        [capture] = (shared_data / "captures").glob(f"{name}.*")
        told += agreement(by_packets(capture), by_log(shared_data / "golden/zeek-conn" / f"{name}.conn.log.gz"))
    shares = {part: round(told[part] / told["found"], 3) for part in PARTS}
    record_property("told", f"{told['flows']} flows, {told['found']} found by both roads; agreement {shares}")
    assert told["flows"] == 2203
    assert round(told["found"] / told["flows"], 3) >= 0.994
    for part in PARTS:  # the gap also depends on the order of ending, which time-outs decide
        assert shares[part] >= (0.986 if part == "gap" else 0.997), part


LEFT_OUT = {"elcabezzonn/winrm_psremote_05-16": "two captures have this name, and the log does not tell which one it is of"}
PROMISED = ("service", "heading", "outcome", "sent", "received")
"""Parts that both roads can fill alike; lasting and gap depend on when a flow is said to end."""


def ends(flows: NDArray[np.void]) -> list[tuple[object, ...]]:
    """What a connection is called whoever began it: both ends, protocol and ICMP type."""
    both = (zip(*(flows[f"{side}_{name}"].tolist() for name in ("hi", "lo", "port")), strict=True) for side in ("src", "dst"))
    rest = flows["protocol"].tolist(), flows["icmp_type"].tolist()
    return [(*sorted(pair), protocol, kind) for *pair, protocol, kind in zip(*both, *rest, strict=True)]


def one_to_one(packets: NDArray[np.void], log: NDArray[np.void]) -> tuple[list[int], list[int]]:
    """Rows of both roads that have a name which each road has once: neither cut by a time-out nor used again."""
    ours, theirs = ends(packets), ends(log)
    counts = Counter(ours)
    places = {name: place for place, name in enumerate(ours) if counts[name] == 1}
    again = Counter(theirs)
    found = [(places[name], place) for place, name in enumerate(theirs) if again[name] == 1 and name in places]
    return [ours for ours, _ in found], [theirs for _, theirs in found]


def test_the_two_roads_agree_on_nineteen_of_twenty_connections_of_every_capture_with_a_log(
    shared_data: Path, record_property: Callable[[str, object], None]
) -> None:
    logs = sorted((shared_data / "golden/zeek-conn").rglob("*.conn.log.gz"))
    told: Counter[str] = Counter()
    by_capture: dict[str, dict[str, float]] = {}
    for log in logs:
        name = str(log.relative_to(shared_data / "golden/zeek-conn")).removesuffix(".conn.log.gz")
        captures = list((shared_data / "captures" / name).parent.glob(f"{Path(name).name}.*"))
        if name in LEFT_OUT:
            assert len(captures) > 1
            continue
        packets, theirs = by_packets(captures[0]), by_log(log)
        here, there = one_to_one(packets, theirs)
        same = words_of(packets)[here] == words_of(theirs)[there]
        told.update(
            connections=len(theirs), matched=len(here), **{part: int(same[:, at].sum()) for at, part in enumerate(PARTS)}
        )
        by_capture[name] = {part: float(same[:, at].mean()) for at, part in enumerate(PARTS)} if here else {}
    shares = {part: told[part] / told["matched"] for part in PARTS}
    means = {part: float(np.mean([one[part] for one in by_capture.values() if one])) for part in PARTS}
    low = {
        name: sorted(part for part in PROMISED if one[part] < 0.95)
        for name, one in by_capture.items()
        if one and min(one[part] for part in PROMISED) < 0.95
    }
    record_property(
        "told",
        f"{told['connections']} connections of {len(by_capture)} captures, {told['matched']} one to one; "
        f"agreement { ({part: round(share, 4) for part, share in shares.items()}) }; "
        f"mean of captures { ({part: round(share, 4) for part, share in means.items()}) }; below 0.95: {low}",
    )
    assert told["connections"] > 120_000
    assert told["matched"] > 100_000
    for part in PROMISED:
        assert shares[part] >= 0.95, part
        assert means[part] >= 0.95, part
