"""Where a sensor's traffic comes from: interfaces, a folder of captures, or a running Zeek; one kind at a time.

`service_parts` asks for the sources at the start, and again at a reload that changes them. What a source must know over a
restart, the files that it has read, goes into the state under its kind.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from sensor.config import Settings
from sensor.schema import FlowBatch
from sensor.service_capture import LiveSource
from sensor.service_folder import FolderSource
from sensor.service_folder import Mark as FileMark
from sensor.sinks.zeek_own import Endpoint, capture_filter, endpoints, foreign
from sensor.sources.ring import InterfaceFailed
from sensor.sources.ring import check as check_interfaces
from sensor.sources.sniffed import open_live
from sensor.sources.zeek import NotAConnLog
from sensor.sources.zeek_follow import ConnLogFollower
from sensor.sources.zeek_source import ADDRESSES, ZeekRefused, ZeekSource, read_curve

REFUSALS = (InterfaceFailed, ZeekRefused, NotAConnLog)
"""What opening a source may raise, besides OSError of a folder: one line each."""

Tell = Callable[[str, str], None]


class Sources(NamedTuple):
    """Sources that are open, one for each capture worker."""

    each: Sequence[LiveSource]
    patient: bool
    """They can wait: nothing need be shed on their account."""

    def marks(self) -> dict[str, object]:
        """What was read, for the next start."""
        inner = (source.source if isinstance(source, Foreign) else source for source in self.each)
        kinds = (("folder", FolderSource), ("conn_log", ConnLogFollower))
        return {kind: dict(source.marks) for source in inner for kind, known in kinds if isinstance(source, known)}


class Foreign:
    """A Zeek source without netseq's own connections to Zeek: an alert about the alerts would go round for ever."""

    def __init__(self, source: ZeekSource | ConnLogFollower, own: Sequence[Endpoint]) -> None:
        self.source = source
        self._own = own
        self._left_out = 0
        self.frames = self.wire_bytes = 0  # the flows are finished

    def __iter__(self) -> Iterator[FlowBatch]:
        """Yield what others said."""
        for batch in self.source:
            others, own = foreign(batch, self._own)
            self._left_out += own
            yield others

    def stop(self) -> None:
        """End soon."""
        self.source.stop()

    def close(self) -> None:
        """Close the source."""
        self.source.close()

    def counters(self) -> dict[str, int]:
        """What the source counted, and what was left out."""
        return self.source.counters() | ({"rows_skipped.own": self._left_out} if self._left_out else {})


def open_sources(settings: Settings, tell: Tell, marks: Mapping[str, object]) -> Sources:
    """Open what the settings name; `marks` are those of the run before. Raises REFUSALS, or OSError of the folder."""
    capture = settings.capture
    if settings.zeek.road:
        return Sources([Foreign(_zeek(settings, tell, marks), own_ends(settings))], patient=settings.zeek.road == "files")
    if capture.folder:
        read: dict[str, FileMark] = {}
        with contextlib.suppress(msgspec.ValidationError):  # of a version that remembered something else
            read = msgspec.convert(marks.get("folder", {}), dict[str, FileMark])
        folder = FolderSource(Path(capture.folder), block_frames=settings.source.block_frames, tell=tell, read=read)
        return Sources([folder], patient=True)
    live = open_live(
        capture.interfaces,
        capture.workers,
        filter=filter_of(settings),
        promiscuous=capture.promiscuous,
        ring_mib=capture.ring_mib,
        block_frames=settings.source.block_frames,
        tell=tell,
    )
    return Sources(live, patient=False)


def _zeek(settings: Settings, tell: Tell, marks: Mapping[str, object]) -> ZeekSource | ConnLogFollower:
    """Zeek's connections by the road that is set."""
    zeek = settings.zeek
    if zeek.road == "files":
        if not zeek.path:
            raise ZeekRefused('zeek.road is "files": set zeek.path to the conn.log that Zeek writes')
        read: dict[str, tuple[int, int]] = {}
        with contextlib.suppress(msgspec.ValidationError):  # of a version that remembered something else
            read = msgspec.convert(marks.get("conn_log", {}), dict[str, tuple[int, int]])
        return ConnLogFollower(Path(zeek.path), tell=tell, marks=read)
    if zeek.road == "":
        raise ZeekRefused("zeek.road is not set")
    return ZeekSource(
        zeek.road,
        tell=tell,
        address=zeek.address,
        topic=zeek.topic,
        serialiser=zeek.serialiser,
        curve=read_curve(zeek.curve_server_key, zeek.curve_public_key, zeek.curve_secret_key),
        queue_bytes=zeek.queue_mib << 20,
    )


def own_ends(settings: Settings) -> tuple[Endpoint, ...]:
    """The ends of netseq's own connections with Zeek, which are never scored. Raises ZeekRefused."""
    zeek = settings.zeek
    named = [zeek.address or ADDRESSES[zeek.road]] if zeek.road and zeek.road != "files" else []
    try:
        return endpoints([*named, *([zeek.alerts_connect] if zeek.alerts else [])])
    except ValueError as error:
        raise ZeekRefused(f"[zeek]: {error}") from error


def filter_of(settings: Settings) -> str:
    """The capture's filter, without netseq's own traffic with Zeek."""
    own = capture_filter(own_ends(settings))
    asked = settings.capture.filter
    return f"({asked}) and {own}" if asked and own else asked or own


def listening(settings: Settings) -> str:
    """What the sensor listens to, in words."""
    if settings.zeek.road == "files":
        return settings.zeek.path
    if settings.zeek.road:
        return f"{settings.zeek.road} {settings.zeek.address or ADDRESSES[settings.zeek.road]}"
    return settings.capture.folder or ", ".join(settings.capture.interfaces)


def trial(settings: Settings) -> Iterator[str]:
    """Try whether the sources can be opened, and say what is well. Raises what `open_sources` does."""
    capture = settings.capture
    if settings.zeek.road:
        source = _zeek(settings, lambda _event, _line: None, {})
        source.stop()
        source.close()
    elif capture.folder:
        FolderSource(Path(capture.folder), block_frames=settings.source.block_frames, tell=lambda _event, _line: None)
    else:
        check_interfaces(capture.interfaces, filter_of(settings))
    kind = "Zeek, by" if settings.zeek.road else "folder" if capture.folder else "interfaces"
    only = filter_of(settings) if capture.interfaces else ""
    yield f"{kind} {listening(settings)}" + (f", filter {only}" if only else "")
