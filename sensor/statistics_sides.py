"""The columns that each direction of a flow has, forward and backward alike. `statistics` puts them in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from sensor.statistics_column import BOTH, PACKETS, Column, Values, four
from sensor.statistics_reading import Numbers, Reading, Side, ratio

_NONE = "no such column"
_FIRST_ONLY = "looks at the flow's first packet only"
_WHOLE_NUMBER = "a whole number"
_ONE_TOO_FEW = "divided by long_gaps, which is one too few; 0 where there is no gap"


def _double(values: NDArray[np.int64]) -> NDArray[np.float64]:
    """A sum that CICFlowMeter writes with a decimal point."""
    return values.astype(np.float64)


class _Direction:
    """One direction's words in the table, and its columns."""

    def __init__(self, name: str, word: str, other: str, side: Callable[[Reading], Side]) -> None:
        self.name = name
        """As it stands in the columns' names, "Fwd" or "Bwd"."""
        self.field = name.lower()
        """The field of FLOW."""
        self.word = word
        self.other = other
        self.side = side
        self.forward = name == "Fwd"

    def of(self, field: str) -> Values:
        """A field of SIDE."""
        return lambda r: self.side(r).field(field)

    def columns(self) -> Iterator[Column]:
        """All rows of the table for this direction."""
        yield from self._lengths()
        yield from self._gaps()
        yield from self._headers()
        yield from self._bulks()
        yield from self._subflows()
        yield from self._windows()
        yield from self._counts()

    # fmt: off

    def _lengths(self) -> Iterator[Column]:
        f, packets = self.field, f"{self.word} packets"
        mean = f"{f}.payload.sum / {f}.packets"
        yield Column(
            "Total Fwd Packet" if self.forward else "Total Bwd packets", "packets", f"Packets of the {self.word} direction",
            f"{f}.packets", BOTH, lambda r: self.side(r).packets,
        )
        yield Column(
            f"Total Length of {self.name} Packet", "bytes", f"Payload of all {packets}", f"{f}.payload.sum", BOTH,
            lambda r: _double(self.side(r).payload.total), "payload ends where the captured bytes end, as in all lengths",
        )
        spread = f"sqrt((n * {f}.payload.square - sum^2) / (n * (n - 1))), n = {f}.packets"
        formulas = (mean, spread, f"{f}.payload.high", f"{f}.payload.low")
        yield from four(
            f"{self.name} Packet Length", "bytes", f"the payloads of {packets}", formulas, lambda r: self.side(r).payload,
            road=True,
        )
        yield Column(
            f"{self.name} Segment Size Avg", "bytes", f"The same as {self.name} Packet Length Mean", mean, BOTH,
            lambda r: self.side(r).payload.mean,
        )

    def _gaps(self) -> Iterator[Column]:
        f, what = self.field, f"the times between consecutive {self.word} packets"
        yield Column(
            f"{self.name} IAT Total", "us", f"Sum of {what}", f"{f}.last_us - {f}.first_us", PACKETS,
            lambda r: self.side(r).gaps.total,
        )
        formulas = (
            f"({f}.last_us - {f}.first_us) / n, n = {f}.packets - 1", f"sqrt((n * {f}.gap.square - sum^2) / (n * (n - 1)))",
            f"{f}.gap.high", f"{f}.gap.low",
        )
        yield from four(f"{self.name} IAT", "us", what, formulas, lambda r: self.side(r).gaps)

    def _headers(self) -> Iterator[Column]:
        f, packets = self.field, f"{self.word} packets"
        zero = f"0 unless the flow's first packet is a {self.word} one"
        yield Column(
            f"{self.name} Header Length", "bytes", f"Transport headers of all {packets}, options included",
            f"{f}.header_bytes", PACKETS, self.of("header_bytes"),
        )
        yield Column(
            f"{self.name} Seg Size Min", "bytes", f"Smallest transport header of {packets}", f"{f}.smallest_header_bytes",
            PACKETS, self._smallest_header, zero, "as netseq" if self.forward else _NONE,
        )
        yield Column(
            f"{self.name} IP Bytes", "bytes", f"{self.word.capitalize()} packets from the IP header to their end",
            f"{f}.ip_bytes", BOTH, self.of("ip_bytes"),
        )

    def _bulks(self) -> Iterator[Column]:
        f = self.field
        run = f"a bulk: 4 or more {self.word} payload packets, no gap over 1 s, no {self.other} payload between"
        was = "always 0" if self.forward else f"runs of both directions mixed, {_WHOLE_NUMBER}"
        for name, unit, field, what in (
            ("Bytes", "bytes", "bulk_bytes", "Payload"), ("Packet", "packets", "bulk_packets", "Packets")
        ):
            yield Column(
                f"{self.name} {name}/Bulk Avg", unit, f"{what} of {run}", f"{f}.{field} / {f}.bulk_count", PACKETS,
                self._per_bulk(field), original=was,
            )
        yield Column(
            f"{self.name} Bulk Rate Avg", "bytes/s", f"Payload of all {self.word} bulks over the time they took; 0 for no time",
            f"{f}.bulk_bytes / {f}.bulk_us * 10^6", PACKETS, self._bulk_rate, original=was,
        )

    def _subflows(self) -> Iterator[Column]:
        f, part = self.field, "for each part of the flow between gaps over 1 s"
        yield Column(
            f"Subflow {self.name} Packets", "packets", f"{self.word.capitalize()} packets {part}",
            f"{f}.packets / (long_gaps + 1)", PACKETS, lambda r: ratio(self.side(r).packets, r.subflows), _ONE_TOO_FEW,
            _WHOLE_NUMBER,
        )
        yield Column(
            f"Subflow {self.name} Bytes", "bytes", f"{self.word.capitalize()} payload {part}",
            f"{f}.payload.sum / (long_gaps + 1)", PACKETS, lambda r: ratio(self.side(r).payload.total, r.subflows),
            _ONE_TOO_FEW, _WHOLE_NUMBER,
        )

    def _windows(self) -> Iterator[Column]:
        yield Column(
            "FWD Init Win Bytes" if self.forward else "Bwd Init Win Bytes", "bytes",
            f"TCP window, not scaled, that the {self.word} side announced first; 0 if it announced none",
            f"{self.field}.first_nonzero_window", PACKETS, self._first_window,
            "the window of the flow's first packet; 0 when that one is backward" if self.forward else "",
            "" if self.forward else "the window of the last backward packet",
        )

    def _counts(self) -> Iterator[Column]:
        f, sent = self.field, f"{self.word.capitalize()} packets"
        for flag in ("PSH", "URG", "RST"):
            was = _NONE if flag == "RST" else _FIRST_ONLY if self.forward else f"{_FIRST_ONLY}, so 0"
            yield Column(
                f"{self.name} {flag} Flags", "packets", f"{sent} with {flag}", f"{f}.{flag.lower()}", PACKETS,
                self.of(flag.lower()), original=was,
            )
        yield Column(
            f"{self.name} Packets/s", "packets/s", f"{sent} a second; 0 for a flow without duration",
            f"{f}.packets / duration", BOTH, lambda r: ratio(self.side(r).packets, r.seconds),
        )
        yield Column(
            f"{self.name} Act Data Pkts", "packets", f"{sent} with payload", f"{f}.data_packets", PACKETS,
            self.of("data_packets"), original="leaves out the flow's first packet" if self.forward else _NONE,
        )
        yield Column(
            f"{self.name} TCP Retrans. Count", "packets",
            f"{self.word.capitalize()} TCP segments equal to an earlier one in number, acknowledgement, payload and window",
            f"{f}.retransmissions", PACKETS, self.of("retransmissions"), original=_NONE,
        )

    # fmt: on

    def _per_bulk(self, field: str) -> Values:
        return lambda r: ratio(self.side(r).field(field), self.side(r).field("bulk_count"))

    def _bulk_rate(self, r: Reading) -> Numbers:
        taken_us = self.side(r).field("bulk_us")
        return ratio(self.side(r).field("bulk_bytes"), (taken_us if r.faithful else np.maximum(taken_us, 0)) / 1e6)

    def _smallest_header(self, r: Reading) -> Numbers:
        smallest = self.side(r).field("smallest_header_bytes")
        return np.where(r.turned != self.forward, smallest, 0) if r.faithful else smallest

    def _first_window(self, r: Reading) -> Numbers:
        if r.faithful and self.forward:
            return np.where(r.turned, 0, self.side(r).field("first_window"))
        return self.side(r).field("first_nonzero_window")


SIDES: tuple[Column, ...] = (
    *_Direction("Fwd", "forward", "backward", lambda r: r.fwd).columns(),
    *_Direction("Bwd", "backward", "forward", lambda r: r.bwd).columns(),
)
