"""What the settings of a sensor must be together, and in which of them two differ.

`config` looks at one setting at a time, and a replay needs no more. A sensor has one kind of source, and a queue into which a
batch of flows must fit; what it cannot exchange while it runs, a reload leaves as it was. The command asks before a start,
`service_trial` for `--check` and for a reload, `service_parts` for what a reload exchanges.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from sensor.config import ConfigError, Settings


def check_together(settings: Settings) -> None:
    """Refuse settings of a sensor that contradict each other. Raises ConfigError."""
    kinds = {
        "capture.interfaces": settings.capture.interfaces,
        "capture.folder": settings.capture.folder,
        "zeek.road": settings.zeek.road,
    }
    named = [name for name, value in kinds.items() if value]
    if not named:
        raise ConfigError(
            "nothing to listen to: set capture.interfaces, capture.folder or zeek.road, or name an interface with -i"
        )
    if len(named) > 1:
        raise ConfigError(f"{named[0]} and {named[1]} are both set: a sensor has one kind of source, so empty one of them")
    queue_flows, batch_flows = settings.service.queue_flows, settings.model.batch_flows
    if queue_flows < batch_flows:
        raise ConfigError(
            f"service.queue_flows ({queue_flows:,}) is less than model.batch_flows ({batch_flows:,}): no whole batch would"
            " fit into the queue, and its flows would be shed: raise the one or lower the other"
        )


def differing(old: Settings, new: Settings, among: Sequence[str]) -> list[str]:
    """Names of the settings among some sections and keys in which two differ."""
    found = []
    for section in msgspec.structs.fields(Settings):
        before, after = getattr(old, section.name), getattr(new, section.name)
        for field in msgspec.structs.fields(section.type):
            name = f"{section.name}.{field.name}"
            if getattr(before, field.name) != getattr(after, field.name) and (section.name in among or name in among):
                found.append(name)
    return found


def kept(old: Settings, new: Settings, among: Sequence[str]) -> Settings:
    """The new settings, but those among some sections and keys as they were."""
    changed: dict[str, object] = {}
    for section in msgspec.structs.fields(Settings):
        before, after = getattr(old, section.name), getattr(new, section.name)
        keys = [field.name for field in msgspec.structs.fields(section.type)]
        stay = {key: getattr(before, key) for key in keys if section.name in among or f"{section.name}.{key}" in among}
        changed[section.name] = msgspec.structs.replace(after, **stay)
    log = msgspec.structs.replace(old.service, log=new.service.log)  # but for the level of the log, which can change
    return msgspec.structs.replace(new, **{**changed, "service": log})
