"""Words: exact octaves, services and their ranges, the paper's alphabets, and vocabularies that survive their manifest."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sensor.conversations import Conversations
from sensor.schema import CONN_STATES, FLOW, GRE, ICMP, ICMPV6, SCTP, TCP, UDP
from sensor.vocabulary import RANGE_NAMES, UNKNOWN, VocabularyDoesNotFit, octave
from sensor.words import BYTES_TOP, MS_TOP, PARTS, SIZES, Alphabet, Vocabulary

PART = {part: place for place, part in enumerate(PARTS)}


def flow(
    protocol: int = TCP, dst_port: int = 0, *, src_port: int = 40_000, sent: int = 0, received: int = 0, icmp_type: int = 0
) -> NDArray[np.void]:
    row = np.zeros(1, FLOW)
    row["src_lo"], row["dst_lo"] = 1, 2
    row["protocol"], row["src_port"], row["dst_port"], row["icmp_type"] = protocol, src_port, dst_port, icmp_type
    row["fwd"]["payload"]["sum"], row["bwd"]["payload"]["sum"] = sent, received
    return row


def words_of(vocabulary: Vocabulary, *flows: NDArray[np.void]) -> NDArray[np.int16]:
    rows = np.concatenate(flows)
    return vocabulary.words(rows, Conversations().turn(rows))


def service_of(vocabulary: Vocabulary, row: NDArray[np.void]) -> str:
    return vocabulary.describe("service", int(words_of(vocabulary, row)[0, PART["service"]]))


any_flow = st.builds(
    flow,
    st.integers(0, 255),
    st.integers(0, 65_535),
    src_port=st.integers(0, 65_535),
    sent=st.integers(0, 2**62),
    received=st.integers(0, 2**40),
    icmp_type=st.integers(0, 255),
)
FEW = Vocabulary.learn([np.concatenate([flow(TCP, 445), flow(UDP, 53), flow(ICMP, icmp_type=8)])], min_count=1)


@settings(max_examples=500)
@given(st.lists(st.integers(0, 2**53 - 2), min_size=1))
def test_octave_is_floor_of_the_binary_logarithm_of_one_more(counts: list[int]) -> None:
    assert octave(np.array(counts)).tolist() == [(count + 1).bit_length() - 1 for count in counts]


def test_octave_is_exact_on_both_sides_of_every_power_of_two() -> None:
    edges = [(1 << power) + step for power in range(1, 53) for step in (-2, -1, 0)]
    assert octave(np.array(edges)).tolist() == [(edge + 1).bit_length() - 1 for edge in edges]


def test_octave_of_counts_no_float_holds_stays_in_the_top_octaves_and_negative_is_zero() -> None:
    assert octave(np.array([2**62, 2**63 - 1, -1, -(2**63)])).tolist() == [52, 52, 0, 0]


@pytest.mark.parametrize(
    ("row", "service"),
    [
        (flow(TCP, 445), "445/tcp"),
        (flow(UDP, 53), "53/udp"),
        (flow(ICMP, icmp_type=8), "type 8/icmp"),
        (flow(TCP, 53), "another well-known tcp port"),
        (flow(TCP, 0), "another well-known tcp port"),
        (flow(TCP, 1023), "another well-known tcp port"),
        (flow(TCP, 1024), "another registered tcp port"),
        (flow(UDP, 49_151), "another registered udp port"),
        (flow(UDP, 49_152), "another ephemeral udp port"),
        (flow(SCTP, 65_535), "another ephemeral sctp port"),
        (flow(ICMP, icmp_type=13), "another icmp type"),
        (flow(ICMPV6, icmp_type=8), "another icmp6 type"),
        (flow(GRE), "another protocol"),
        (flow(0), "another protocol"),
    ],
)
def test_service_is_learned_or_falls_into_its_range(row: NDArray[np.void], service: str) -> None:
    assert service_of(FEW, row) == service


def test_the_port_of_a_service_is_that_of_the_one_who_answers() -> None:
    assert service_of(FEW, flow(TCP, 40_000, src_port=445)) == "another registered tcp port"


@given(any_flow)
def test_every_flow_has_a_service_and_none_is_unknown(row: NDArray[np.void]) -> None:
    assert words_of(FEW, row)[0, PART["service"]] != UNKNOWN


def test_a_service_seen_less_often_than_min_count_is_not_learned() -> None:
    often, seldom = [flow(TCP, 80)] * 5, [flow(TCP, 81)] * 4
    vocabulary = Vocabulary.learn([np.concatenate(often + seldom)], min_count=5)
    assert service_of(vocabulary, flow(TCP, 80)) == "80/tcp"
    assert service_of(vocabulary, flow(TCP, 81)) == "another well-known tcp port"
    assert vocabulary.sizes()[0] == 1 + len(RANGE_NAMES) + 1


def test_the_most_frequent_services_are_kept_when_there_are_too_many() -> None:
    rows = [flow(TCP, port) for port, count in ((80, 3), (81, 2), (82, 2), (83, 1)) for _ in range(count)]
    vocabulary = Vocabulary.learn([np.concatenate(rows)], min_count=1, most=2)
    assert vocabulary.to_json()["learned"] == ["80/tcp", "81/tcp"]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.sampled_from([80, 81, 443, 8080]), min_size=1, max_size=30),
    st.randoms(use_true_random=False),
    st.integers(1, 30),
)
def test_learning_does_not_depend_on_order_or_batches(ports: list[int], shuffle: random.Random, size: int) -> None:
    rows = [flow(TCP, port) for port in ports]
    learned = Vocabulary.learn([np.concatenate(rows)], min_count=2).to_json()
    shuffle.shuffle(rows)
    batches = [np.concatenate(rows[start : start + size]) for start in range(0, len(rows), size)]
    assert Vocabulary.learn(batches, min_count=2).to_json() == learned


@settings(max_examples=50, deadline=None)
@given(st.lists(any_flow, min_size=1, max_size=20), st.lists(st.integers(0, 255), min_size=1, max_size=20))
def test_every_value_lies_below_its_size_and_can_be_described(flows: list[NDArray[np.void]], states: list[int]) -> None:
    rows = np.concatenate(flows)
    rows["conn_state"] = np.resize(states, len(rows))
    rows["last_us"] = np.resize([0, 10**6, 10**15, -5], len(rows))
    words = FEW.words(rows, Conversations().turn(rows))
    assert words.dtype == np.int16
    assert (words >= 0).all()
    assert (words < FEW.sizes()).all()
    for word, row in zip(words.tolist(), rows, strict=True):
        assert all(FEW.describe(part, value, row) for part, value in zip(PARTS, word, strict=True))


def test_sent_received_and_lasting_are_octaves_capped_at_their_top() -> None:
    row = flow(sent=1000, received=2**50)
    row["last_us"] = 999_999
    word = words_of(FEW, row)[0]
    assert (word[PART["sent"]], word[PART["received"]], word[PART["lasting"]]) == (9, BYTES_TOP, 9)
    row["last_us"] = 10**15
    assert words_of(FEW, row)[0, PART["lasting"]] == MS_TOP


def test_gap_is_zero_for_the_first_flow_and_one_more_than_its_octave_after() -> None:
    rows = np.concatenate([flow(), flow(), flow()])
    rows["first_us"] = rows["last_us"] = [0, 999, 999 + 7000]
    words = FEW.words(rows, Conversations().turn(rows))[:, PART["gap"]].tolist()
    assert words == [0, 1, 4]
    assert [FEW.describe("gap", value) for value in words] == ["first flow of the conversation", "under 1 ms", "7 to 15 ms"]


def test_heading_says_whether_the_conversations_beginner_began_the_flow() -> None:
    there, back = flow(), flow()
    back["src_lo"], back["dst_lo"] = 2, 1
    assert words_of(FEW, there, back, there)[:, PART["heading"]].tolist() == [0, 1, 0]
    assert words_of(FEW, back, there)[:, PART["heading"]].tolist() == [0, 1]


def test_outcome_is_the_conn_state() -> None:
    rows = np.concatenate([flow() for _ in CONN_STATES])
    rows["conn_state"] = np.arange(len(CONN_STATES))
    assert words_of(FEW, rows)[:, PART["outcome"]].tolist() == list(range(len(CONN_STATES)))
    assert FEW.describe("outcome", CONN_STATES.index("S0")) == "S0: attempt, no answer"


def test_only_the_chosen_parts_are_made_in_the_chosen_order() -> None:
    vocabulary = Vocabulary.learn([flow(TCP, 80)], parts=("outcome", "service"), min_count=1)
    row = flow(TCP, 80)
    row["conn_state"] = 3
    assert words_of(vocabulary, row).tolist() == [[3, vocabulary.sizes()[1] - 1]]
    assert Vocabulary.learn([], parts=("sent", "gap")).sizes() == (SIZES["sent"], SIZES["gap"])


@pytest.mark.parametrize(
    ("row", "token"),
    [
        (flow(TCP, 80, sent=100, received=27), "T7"),
        (flow(TCP, 80, sent=100, received=26), "T6"),
        (flow(UDP, 53), "U0"),
        (flow(ICMP, sent=1), "I1"),
        (flow(ICMPV6, sent=1), "I1"),
        (flow(GRE, sent=3), "G2"),
        (flow(99), "O0"),
    ],
)
def test_protobytes_is_the_protocols_letter_and_the_octave_of_all_payload(row: NDArray[np.void], token: str) -> None:
    vocabulary = Vocabulary.learn([row], alphabet="protobytes", min_count=1)
    assert vocabulary.to_json()["learned"] == [token]
    assert vocabulary.describe("protobytes", int(words_of(vocabulary, row)[0, 0])) == token


@pytest.mark.parametrize(
    ("ports", "token"), [((40_000, 80), "80"), ((80, 40_000), "80"), ((40_000, 10_000), "10000+"), ((9_999, 50_000), "9999")]
)
def test_ports_is_the_smaller_port_and_one_bucket_above(ports: tuple[int, int], token: str) -> None:
    row = flow(TCP, ports[1], src_port=ports[0])
    assert Vocabulary.learn([row], alphabet="ports", min_count=1).to_json()["learned"] == [token]


@pytest.mark.parametrize("alphabet", ["protobytes", "ports"])
def test_tokens_that_training_never_saw_are_unknown(alphabet: Alphabet) -> None:
    vocabulary = Vocabulary.learn([flow(TCP, 80)], alphabet=alphabet, min_count=1)
    assert words_of(vocabulary, flow(UDP, 90, sent=5)).tolist() == [[UNKNOWN]]
    assert vocabulary.describe(alphabet, UNKNOWN) == "never seen in training"
    assert vocabulary.describe(alphabet, UNKNOWN, flow(UDP, 90, sent=5)[0]).endswith("(never seen in training)")


def test_an_unlearned_port_is_named_when_the_flow_is_at_hand() -> None:
    row = flow(TCP, 4444)
    value = int(words_of(FEW, row)[0, 0])
    assert FEW.describe("service", value, row[0]) == "4444/tcp (another registered tcp port)"


@pytest.mark.parametrize("alphabet", ["parts", "protobytes", "ports"])
def test_a_vocabulary_read_back_from_its_manifest_makes_the_same_words(alphabet: Alphabet) -> None:
    rng = np.random.default_rng(3)
    rows = np.concatenate(
        [
            flow(int(p), int(port), src_port=int(port) // 3, sent=int(n), icmp_type=int(n) % 200)
            for p, port, n in zip(
                rng.choice([1, 6, 17, 58, 132, 47, 200], 300),
                rng.integers(0, 65_536, 300),
                rng.integers(0, 5000, 300),
                strict=True,
            )
        ]
    )
    vocabulary = Vocabulary.learn([rows], alphabet=alphabet, min_count=1)
    again = Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json())))
    turns = Conversations().turn(rows)
    assert again.sizes() == vocabulary.sizes()
    assert (again.words(rows, turns) == vocabulary.words(rows, turns)).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": 99}, "version 99"),
        ({"version": None}, "version None"),
        ({"alphabet": "runes"}, "lacks its alphabet"),
        ({"parts": ["service", "colour"]}, "colour"),
        ({"parts": ["service", "service"]}, "service"),
        ({"parts": []}, "choose from"),
        ({"parts": None}, "lacks its alphabet"),
        ({"learned": ["445/tcp", "445/tcp", "53/udp"]}, "twice"),
        ({"learned": ["99999/tcp"]}, "99999/tcp"),
        ({"learned": ["+80/tcp"]}, "+80/tcp"),
        ({"learned": [80]}, "80"),
        ({"sizes": [1, 2]}, "[1, 2]"),
        ({"alphabet": "ports"}, "choose from"),
    ],
)
def test_a_vocabulary_that_does_not_fit_is_refused_in_one_line(change: dict[str, object], says: str) -> None:
    with pytest.raises(VocabularyDoesNotFit) as refused:
        Vocabulary.from_json(FEW.to_json() | change)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("value", range(BYTES_TOP + 1))
def test_the_words_for_bytes_bracket_the_octave(value: int) -> None:
    units = {"bytes": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30}
    told = FEW.describe("sent", value).split()
    if value == 0:
        assert told == ["no", "bytes"]
        return
    low = int(told[0]) * units[told[-1] if told[-1] in units else told[1]]
    assert octave(np.array([low]))[0] == value
    if told[-1] in units:
        high = int(told[2]) * units[told[-1]]
        assert octave(np.array([high - (value >= 10)]))[0] in (value, value + (value >= 10))


def test_the_words_for_times_grow_with_the_octave() -> None:
    seconds = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
    lows = []
    for value in range(1, MS_TOP + 1):
        told = FEW.describe("lasting", value).split()
        unit = next(word for word in told if word in seconds)
        lows.append(float(told[0]) * seconds[unit])
    assert lows == sorted(lows)
    for value, low in enumerate(lows, 1):
        assert low == pytest.approx(((1 << value) - 1) / 1000, rel=0.06)


def test_learning_without_a_learned_part_leaves_the_flows_unread() -> None:
    assert Vocabulary.learn(iter([]), parts=("heading",)).lexicon is None
