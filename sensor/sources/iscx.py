"""The flows of ISCX IDS 2012 (Shiravi et al. 2012) as they were published: XML, one element with named children for each flow.

A file has hundreds of megabytes, most of it payload in Base64, so that it is read element by element and forgotten at once.
Only what a flow's token and host pair are made of is kept: ends, protocol, bytes both ways, times, and the tag. Times have
no zone and are taken as UTC. What cannot be read is counted, and a file that breaks off is read as far as it goes.
`netseq-evaluate radford2018` reads it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from sensor.addresses import halves
from sensor.schema import END_LOG, FLOW, FlowBatch

PROTOCOLS = {"icmp_ip": 1, "igmp": 2, "tcp_ip": 6, "udp_ip": 17, "ipv6icmp": 58}
"""Names of protocols in these files; any other is 255."""
OTHER = 255


class IscxSource:
    """Files of flows, in their order; iterating yields FlowBatch with labels, "" for Normal."""

    def __init__(self, paths: Sequence[str], block_flows: int = 8192) -> None:
        self.paths = list(paths)
        self.damage_counts = Counter[str]()
        """Flows and files that could not be read, by reason."""
        self._block_flows = block_flows

    def __iter__(self) -> Iterator[FlowBatch]:
        rows = np.zeros(self._block_flows, FLOW)
        labels: list[str] = []
        for path in self.paths:
            for fields in self._elements(path):
                try:
                    fill(rows[len(labels)], fields)
                except (KeyError, ValueError, OverflowError):
                    self.damage_counts["a flow without its fields"] += 1
                    rows[len(labels)] = np.zeros((), FLOW)
                    continue
                labels.append("" if fields.get("Tag") == "Normal" else fields.get("Tag", ""))
                if len(labels) == self._block_flows:
                    yield FlowBatch(rows, labels=labels)
                    rows, labels = np.zeros(self._block_flows, FLOW), []
        if labels:
            yield FlowBatch(rows[: len(labels)], labels=labels)

    def _elements(self, path: str) -> Iterator[dict[str, str]]:
        """The children's texts of each flow of a file."""
        try:
            with Path(path).open("rb") as content:
                # expat holds back entities that would grow without bounds, since its version 2.4.1
                walk = ElementTree.iterparse(content, events=("start", "end"))
                _, root = next(walk)
                for event, element in walk:
                    if event == "end" and element.find("startDateTime") is not None:
                        yield {child.tag: (child.text or "").strip() for child in element}
                        root.clear()
        except (ElementTree.ParseError, StopIteration):
            self.damage_counts["a file whose XML breaks off"] += 1


def fill(row: np.void, fields: dict[str, str]) -> None:
    """One FLOW row of a flow's texts. Raises KeyError, ValueError and OverflowError for what is missing or cannot be."""
    first, last = (datetime.fromisoformat(fields[name]) for name in ("startDateTime", "stopDateTime"))
    row["src_hi"], row["src_lo"] = halves(fields["source"])
    row["dst_hi"], row["dst_lo"] = halves(fields["destination"])
    row["src_port"], row["dst_port"] = int(fields["sourcePort"]), int(fields["destinationPort"])
    row["protocol"] = PROTOCOLS.get(fields["protocolName"].lower(), OTHER)
    row["first_us"], row["last_us"] = (int(time.replace(tzinfo=UTC).timestamp()) * 1_000_000 for time in (first, last))
    row["fwd"]["payload"]["sum"] = int(fields["totalSourceBytes"])
    row["bwd"]["payload"]["sum"] = int(fields["totalDestinationBytes"])
    row["end"] = END_LOG
