"""Lexicons: the learned parts of a word, and how what training saw becomes a number.

A lexicon maps a key that can be computed from any flow (protocol and port; a token of the 2018 paper) to a value. It is a
table over all possible keys, filled once: looking a batch up is one indexing, whatever was learned. Values come in three
groups: 0 is unknown; then the values that every model has (for services the ranges, so that a port that training never
saw still says "some registered TCP port"); then what was learned, most frequent first. Only training data fills the last
group. `words` owns the alphabets and calls this; a model's manifest carries `to_json`'s list of names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sensor.schema import ICMP, ICMPV6, SCTP, TCP, UDP

UNKNOWN = 0
"""Value of every learned part for what neither training nor a range covers."""

Kind = Literal["service", "protobytes", "ports"]

PORTS = 65_536
_ICMP, _ICMPV6, _OTHER = 3 * PORTS, 3 * PORTS + 256, 3 * PORTS + 512
SERVICE_KEYS = 3 * PORTS + 768
"""Keys of services: ports of TCP, UDP and SCTP, types of ICMP and ICMPv6, then the other protocols' numbers."""

TRANSPORTS = ((TCP, "tcp"), (UDP, "udp"), (SCTP, "sctp"))
RANGES = ((0, 1024, "well-known"), (1024, 49_152, "registered"), (49_152, PORTS, "ephemeral"))
"""Port ranges of RFC 6335, section 6."""
RANGE_NAMES = (
    *(f"another {kind} {name} port" for _, name in TRANSPORTS for _, _, kind in RANGES),
    "another icmp type",
    "another icmp6 type",
    "another protocol",
)
"""Values 1 to 12 of the service part."""

TOKEN_LETTERS = {ICMP: "I", 2: "I", TCP: "T", UDP: "U", 47: "G", 50: "E", ICMPV6: "I", SCTP: "S"}
"""First letters of the protocols' names, as in the paper; "O" for any other protocol."""
TOKEN_OCTAVES = 64
PROTOBYTES_KEYS = 26 * TOKEN_OCTAVES
HIGH_PORT = 10_000
"""From here on the paper's `ports` alphabet has one bucket."""


class VocabularyDoesNotFit(Exception):  # noqa: N818  # reads as the sentence it is, like the other refusals
    """A vocabulary that this version cannot use; str() is the one line for the user."""


def octave(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """floor(log2(count + 1)) of non-negative integers, exactly: 0, 1, 1, 2, 2, 2, 2, 3 for 0 to 7. Negative ones count as 0."""
    # float64 holds the integers up to 2^53 exactly, and frexp reads the exponent: no logarithm, nothing to round
    clipped = np.clip(counts, 0, (1 << 53) - 2)
    return np.asarray(np.frexp((clipped + 1).astype(np.float64))[1] - 1, dtype=np.int64)


def keys_of(kind: Kind, flows: NDArray[np.void]) -> NDArray[np.int64]:
    """(n,) keys of (n,) FLOW rows in the key space of a kind of lexicon."""
    protocol = flows["protocol"].astype(np.int64)
    if kind == "service":
        port = flows["dst_port"].astype(np.int64)
        icmp_type = flows["icmp_type"].astype(np.int64)
        keys: NDArray[np.int64] = np.select(
            [protocol == TCP, protocol == UDP, protocol == SCTP, protocol == ICMP, protocol == ICMPV6],
            [port, PORTS + port, 2 * PORTS + port, _ICMP + icmp_type, _ICMPV6 + icmp_type],
            _OTHER + protocol,
        )
        return keys
    if kind == "protobytes":
        payload: NDArray[np.int64] = flows["fwd"]["payload"]["sum"] + flows["bwd"]["payload"]["sum"]
        letters: NDArray[np.int64] = _LETTERS[protocol]
        return letters * TOKEN_OCTAVES + octave(payload)
    smaller: NDArray[np.int64] = np.minimum(flows["src_port"], flows["dst_port"]).astype(np.int64)
    return np.minimum(smaller, np.int64(HIGH_PORT))


_LETTERS = np.array([ord(TOKEN_LETTERS.get(protocol, "O")) - ord("A") for protocol in range(256)], np.int64)


def _name(kind: Kind, key: int) -> str:
    """What a key is called, in manifests and in reasons: "445/tcp", "type 8/icmp", "protocol 47"; "T8"; "22"."""
    if kind == "protobytes":
        letter, size = divmod(key, TOKEN_OCTAVES)
        return f"{chr(ord('A') + letter)}{size}"
    if kind == "ports":
        return str(key) if key < HIGH_PORT else f"{HIGH_PORT}+"
    if key >= _OTHER:
        return f"protocol {key - _OTHER}"
    if key >= _ICMPV6:
        return f"type {key - _ICMPV6}/icmp6"
    if key >= _ICMP:
        return f"type {key - _ICMP}/icmp"
    transport, port = divmod(key, PORTS)
    return f"{port}/{TRANSPORTS[transport][1]}"


def _key_space(kind: Kind) -> int:
    return {"service": SERVICE_KEYS, "protobytes": PROTOBYTES_KEYS, "ports": HIGH_PORT + 1}[kind]


def _ranges() -> NDArray[np.int16]:
    """Value of each service key before anything is learned."""
    table = np.empty(SERVICE_KEYS, np.int16)
    value = 1
    for transport in range(len(TRANSPORTS)):
        for first, end, _ in RANGES:
            table[transport * PORTS + first : transport * PORTS + end] = value
            value += 1
    for first, end in ((_ICMP, _ICMPV6), (_ICMPV6, _OTHER), (_OTHER, SERVICE_KEYS)):
        table[first:end] = value
        value += 1
    return table


class Lexicon:
    """One learned part: `kind` says what is named, `learned` holds the keys that own a value, in the order of their values."""

    def __init__(self, kind: Kind, learned: Sequence[int]) -> None:
        self.kind = kind
        self.learned = tuple(learned)
        self._fixed = 1 + (len(RANGE_NAMES) if kind == "service" else 0)
        self._table = _ranges() if kind == "service" else np.full(_key_space(kind), UNKNOWN, np.int16)
        self._table[list(self.learned)] = np.arange(self._fixed, self.size, dtype=np.int16)

    @classmethod
    def learn(cls, kind: Kind, flows: Iterable[NDArray[np.void]], *, min_count: int, most: int) -> Lexicon:
        """Keep what at least `min_count` flows have, the `most` frequent of it; ties by key, so any batching gives the same."""
        counts = np.zeros(_key_space(kind), np.int64)
        for batch in flows:
            counts += np.bincount(keys_of(kind, batch), minlength=len(counts))
        frequent = np.flatnonzero(counts >= max(min_count, 1))
        order = np.lexsort((frequent, -counts[frequent]))
        return cls(kind, [int(key) for key in frequent[order[:most]]])

    def grown(self, flows: Iterable[NDArray[np.void]], *, min_count: int, most: int) -> tuple[Lexicon, NDArray[np.int64]]:
        """This lexicon with what a site's flows have behind what it has already, and what stood for the new values so far.

        Values keep their meaning; the second result (n,) holds the old value of each of the n new ones.
        """
        seen = Lexicon.learn(self.kind, flows, min_count=min_count, most=most).learned
        new = [key for key in seen if key not in set(self.learned)]
        return Lexicon(self.kind, [*self.learned, *new]), self._table[new].astype(np.int64)

    def unlearned(self) -> NDArray[np.int64]:
        """(size,) the value that each value's key would have if it had not been learned: its range, or unknown."""
        ground = Lexicon(self.kind, [])._table
        return np.concatenate([np.arange(self._fixed), ground[list(self.learned)]]).astype(np.int64)

    def members(self) -> NDArray[np.int64]:
        """(size,) how many keys each value stands for: 1 for a learned one, thousands for a range; at least 1."""
        return np.maximum(np.bincount(self._table, minlength=self.size), 1).astype(np.int64)

    @property
    def size(self) -> int:
        """Values, unknown and ranges included."""
        return self._fixed + len(self.learned)

    def values(self, flows: NDArray[np.void]) -> NDArray[np.int16]:
        """(n,) values of (n,) FLOW rows."""
        values: NDArray[np.int16] = self._table[keys_of(self.kind, flows)]
        return values

    def describe(self, value: int, flow: np.void | None = None) -> str:
        """Words for analysts; with the FLOW row at hand, ranges and unknown also say what was really seen."""
        if value >= self._fixed:
            return _name(self.kind, self.learned[value - self._fixed])
        general = RANGE_NAMES[value - 1] if value != UNKNOWN else "never seen in training"
        if flow is None:
            return general
        seen = _name(self.kind, int(keys_of(self.kind, np.array([flow], flow.dtype))[0]))
        return f"{seen} ({general})"

    def to_json(self) -> list[str]:
        """Names of the learned values, in order."""
        return [_name(self.kind, key) for key in self.learned]

    @classmethod
    def from_json(cls, kind: Kind, names: Sequence[object]) -> Lexicon:
        """Read `to_json`'s list back; a name that no key has raises VocabularyDoesNotFit."""
        learned: list[int] = []
        for name in names:
            key = _key(kind, name) if isinstance(name, str) else None
            if key is None:
                raise VocabularyDoesNotFit(f"the vocabulary's {kind} {name!r} is none that this netseq knows")
            learned.append(key)
        if len(set(learned)) != len(learned):
            raise VocabularyDoesNotFit(f"the vocabulary names a {kind} twice")
        return cls(kind, learned)


def _key(kind: Kind, name: str) -> int | None:
    """The key that has this name, or None."""
    digits = "".join(letter for letter in name if letter.isascii() and letter.isdigit())
    if not digits or len(digits) > len("65535"):
        return None
    number = int(digits)
    if kind == "service":
        bases = {"icmp": _ICMP, "icmp6": _ICMPV6, "tcp": 0, "udp": PORTS, "sctp": 2 * PORTS}
        transport = name.partition("/")[2]
        if transport == "icmp6":
            number = int(digits[:-1] or "0")
        key = bases.get(transport, _OTHER) + number
    elif kind == "protobytes":
        key = (ord(name[0]) - ord("A")) * TOKEN_OCTAVES + number
    else:
        key = number
    return key if 0 <= key < _key_space(kind) and _name(kind, key) == name else None
