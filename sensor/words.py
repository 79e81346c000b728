"""Words: what one flow says, in a handful of small integers.

A word has parts, so that a model can weigh and explain each by itself, and every part can be filled from packets and from
Zeek's conn.log alike. Sizes and times are octaves (floor of the base-2 logarithm), because a transfer of 900 bytes and one
of 1,000 are the same event. docs/words.md tells each value and why it is cut there.

    service   protocol and the responder's port where training saw it often enough, else a range; ICMP by type
    heading   begun by the host that began the conversation (0) or by the other (1)
    sent      octave of the payload bytes of the one who began the flow
    received  octave of the payload bytes of the other
    outcome   Zeek's conn_state
    lasting   octave of the milliseconds from the first packet to the last
    gap       0 for a conversation's first flow, else 1 + octave of the milliseconds since the start of the flow before

Two further alphabets are the ones of Radford et al. 2018: `protobytes` (first letter of the protocol, octave of the total
payload) and `ports` (the smaller port, 10000 and above in one bucket), of one part each, learned whole. The engine and the
training command call this; `vocabulary` holds what is learned, and a model's manifest carries it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.schema import CONN_STATES
from sensor.vocabulary import Kind, Lexicon, VocabularyDoesNotFit, octave

VERSION = 1
"""Of the rules in this file: a vocabulary of another version is refused, because its numbers mean something else."""

PARTS = ("service", "heading", "sent", "received", "outcome", "lasting", "gap")
Alphabet = Literal["parts", "protobytes", "ports"]
ALPHABETS: tuple[Alphabet, ...] = ("parts", "protobytes", "ports")

BYTES_TOP = 32
"""Octave of 4 GB: a longer transfer says no more."""
MS_TOP = 27
"""Octave of 37 hours, longer than any table keeps a flow."""
SIZES = {
    "heading": 2,
    "sent": BYTES_TOP + 1,
    "received": BYTES_TOP + 1,
    "outcome": len(CONN_STATES),
    "lasting": MS_TOP + 1,
    "gap": MS_TOP + 2,
}
"""Values of the parts that nothing is learned of."""

OUTCOMES = {
    "S0": "attempt, no answer",
    "S1": "established, not closed",
    "SF": "established and closed",
    "REJ": "attempt, refused",
    "S2": "established, only the beginner closed",
    "S3": "established, only the responder closed",
    "RSTO": "established, aborted by the beginner",
    "RSTR": "aborted by the responder",
    "RSTOS0": "attempt and reset by the beginner, no answer",
    "RSTRH": "answer and reset by the responder, no attempt seen",
    "SH": "attempt and close by the beginner, no answer",
    "SHR": "answer and close by the responder, no attempt seen",
    "OTH": "seen from the middle on",
}
"""Zeek's words for its conn_states, shortened (Zeek's documentation of conn.log)."""

_LEARNED: dict[str, Kind] = {"service": "service", "protobytes": "protobytes", "ports": "ports"}


class Turns(NamedTuple):
    """What each flow of a batch is to its conversation; row i belongs to flow i."""

    slots: NDArray[np.int32]
    """Row of the conversation's state, below `capacity`; fixed while the conversation lives."""
    restart: NDArray[np.bool_]
    """This flow is the first one of its conversation: whatever the slot's state held belongs to the past or to another pair."""
    gap_us: NDArray[np.int64]
    """Distance from the start of the conversation's flow before to this flow's start, us, never negative; -1 for the first.
    From start to start, because starts are the same on both roads, whatever timeout ended the flows."""
    hour: NDArray[np.int64]
    """Hour of packet time (since the epoch) in which the flow ended; it never goes back within a conversation."""
    heading: NDArray[np.uint8]
    """0: this flow was begun by the host that began the conversation's first flow; 1: by the other one."""
    began_us: NDArray[np.int64]
    """Start of the conversation's first flow."""


class Vocabulary:
    """Which parts a word has and what their values mean.

    `learn` makes one from training flows, `from_json` from a manifest. `words` turns batches into (n, len(parts)) int16.
    """

    def __init__(self, alphabet: Alphabet, parts: Sequence[str], lexicon: Lexicon | None) -> None:
        known = PARTS if alphabet == "parts" else (alphabet,)
        wrong = [part for part in parts if part not in known] or [part for part in set(parts) if list(parts).count(part) > 1]
        if wrong or not parts:
            raise VocabularyDoesNotFit(
                f"a word of the alphabet {alphabet!r} has no parts {list(parts)}: choose from {list(known)}"
            )
        if (lexicon is not None) != any(part in _LEARNED for part in parts):
            raise VocabularyDoesNotFit(f"a vocabulary of the parts {list(parts)} lacks, or does not need, a learned part")
        self.alphabet: Alphabet = alphabet
        self.parts = tuple(parts)
        self.lexicon = lexicon

    @classmethod
    def learn(
        cls,
        flows: Iterable[NDArray[np.void]],
        *,
        alphabet: Alphabet = "parts",
        parts: Sequence[str] = PARTS,
        min_count: int = 5,
        most: int = 1000,
    ) -> Vocabulary:
        """Learn from batches of FLOW rows, of training data only.

        What fewer than `min_count` flows have is not learned: it falls into a range or is unknown, which is how a model
        gets to know, in training, how often the unfamiliar comes. At most `most` values are learned. The order of the
        flows plays no part.
        """
        chosen = tuple(parts) if alphabet == "parts" else (alphabet,)
        kind = next((_LEARNED[part] for part in chosen if part in _LEARNED), None)
        lexicon = Lexicon.learn(kind, flows, min_count=min_count, most=most) if kind else None
        return cls(alphabet, chosen, lexicon)

    def sizes(self) -> tuple[int, ...]:
        """Number of values of each part."""
        return tuple(self._size(part) for part in self.parts)

    def _size(self, part: str) -> int:
        if part in _LEARNED:
            assert self.lexicon is not None, "the constructor saw to it"
            return self.lexicon.size
        return SIZES[part]

    def grown(
        self, flows: Iterable[NDArray[np.void]], *, min_count: int = 5, most: int = 1000
    ) -> tuple[Vocabulary, NDArray[np.int64]]:
        """For further training: this vocabulary with a site's own learned values behind those that it has.

        The second result (n,) holds, for each of the n new values, the one that stood for it so far.
        """
        if self.lexicon is None:
            return self, np.empty(0, np.int64)
        lexicon, stood = self.lexicon.grown(flows, min_count=min_count, most=most)
        return Vocabulary(self.alphabet, self.parts, lexicon), stood

    def unlearned(self, part: str) -> NDArray[np.int64]:
        """What each value of a part would be if nothing were learned: training replaces some, to get used to the unfamiliar."""
        if part in _LEARNED and self.lexicon is not None:
            return self.lexicon.unlearned()
        return np.arange(self._size(part))

    def members(self, part: str) -> NDArray[np.int64]:
        """How many different things each value of a part stands for; octaves count as one."""
        if part in _LEARNED and self.lexicon is not None:
            return self.lexicon.members()
        return np.ones(self._size(part), np.int64)

    def words(self, flows: NDArray[np.void], turns: Turns) -> NDArray[np.int16]:
        """(n, len(parts)) words of (n,) FLOW rows with their turns, as `Conversations.turn` gave them for the same rows."""
        words = np.empty((len(flows), len(self.parts)), np.int16)
        for place, part in enumerate(self.parts):
            words[:, place] = self._values(part, flows, turns)
        return words

    def _values(self, part: str, flows: NDArray[np.void], turns: Turns) -> NDArray[np.integer]:
        if part in _LEARNED:
            assert self.lexicon is not None, "the constructor saw to it"
            return self.lexicon.values(flows)
        if part == "heading":
            return turns.heading
        if part == "sent":
            return np.minimum(octave(flows["fwd"]["payload"]["sum"]), BYTES_TOP)
        if part == "received":
            return np.minimum(octave(flows["bwd"]["payload"]["sum"]), BYTES_TOP)
        if part == "outcome":
            return np.asarray(np.minimum(flows["conn_state"], len(CONN_STATES) - 1))
        if part == "lasting":
            return np.minimum(octave((flows["last_us"] - flows["first_us"]) // 1000), MS_TOP)
        steps = 1 + np.minimum(octave(turns.gap_us // 1000), MS_TOP)
        return np.asarray(np.where(turns.gap_us < 0, 0, steps))

    def describe(self, part: str, value: int, flow: np.void | None = None) -> str:
        """Say a value in words for analysts; with the FLOW row, what the vocabulary does not know is named all the same."""
        if part in _LEARNED:
            assert self.lexicon is not None, "the constructor saw to it"
            return self.lexicon.describe(value, flow)
        if part == "heading":
            return "begun by the host that began the conversation" if value == 0 else "begun by the other host"
        if part == "outcome":
            return f"{CONN_STATES[value]}: {OUTCOMES[CONN_STATES[value]]}"
        if part in ("sent", "received"):
            return _span_of_bytes(value)
        if part == "gap":
            return "first flow of the conversation" if value == 0 else _span_of_ms(value - 1)
        return _span_of_ms(value)

    def to_json(self) -> dict[str, object]:
        """What a manifest carries; `from_json` reads it back."""
        learned = self.lexicon.to_json() if self.lexicon else []
        return {
            "version": VERSION,
            "alphabet": self.alphabet,
            "parts": list(self.parts),
            "sizes": list(self.sizes()),
            "learned": learned,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, object]) -> Vocabulary:
        """Rebuild a vocabulary from a manifest; VocabularyDoesNotFit says in one line why it cannot be used."""
        version, sizes = stored.get("version"), stored.get("sizes")
        if version != VERSION:
            raise VocabularyDoesNotFit(f"the vocabulary has version {version!r}, this netseq reads {VERSION}: train again")
        alphabet, parts, learned = stored.get("alphabet"), stored.get("parts"), stored.get("learned")
        if alphabet not in ALPHABETS or not isinstance(parts, Sequence) or not isinstance(learned, Sequence):
            raise VocabularyDoesNotFit("the vocabulary lacks its alphabet, its parts or its learned values")
        chosen = [str(part) for part in parts]
        kind = next((_LEARNED[part] for part in chosen if part in _LEARNED), None)
        vocabulary = cls(ALPHABETS[ALPHABETS.index(alphabet)], chosen, Lexicon.from_json(kind, learned) if kind else None)
        if sizes != list(vocabulary.sizes()):
            raise VocabularyDoesNotFit(
                f"the vocabulary says that its parts have {sizes} values, they have {vocabulary.sizes()}"
            )
        return vocabulary


def _span_of_bytes(value: int) -> str:
    """Bytes of an octave: 2^value - 1 up to 2^(value + 1) - 2."""
    if value == 0:
        return "no bytes"
    if value < 10:
        return f"{(1 << value) - 1} to {(2 << value) - 2} bytes"
    step, unit = divmod(value, 10)
    name = ("bytes", "KB", "MB", "GB")[step]
    return f"{1 << unit} {name} or more" if value == BYTES_TOP else f"{1 << unit} to {2 << unit} {name}"


def _span_of_ms(value: int) -> str:
    """Milliseconds of an octave, in the unit that reads best."""
    if value == 0:
        return "under 1 ms"
    low, high = (1 << value) - 1, (2 << value) - 1
    for unit_ms, unit in ((3_600_000, "h"), (60_000, "min"), (1_000, "s")):
        if high >= unit_ms:
            top = f"{low / unit_ms:.2g} {unit} or more"
            return top if value == MS_TOP else f"{low / unit_ms:.2g} to {high / unit_ms:.2g} {unit}"
    return f"{low} to {high} ms"
