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
    return np.concatenate([*ended, table.drain().copy()])


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
