"""What can be set: every setting with its default, range, unit and meaning, and how a file and `--set` change it.

One table of structs is the only place where a setting is told. It is validated as a whole before anything starts, so that
a mistake costs one clear line (`ConfigError`) and never a run that means something else: an unknown key names the nearest
known one, a value of the wrong type or out of range names its key. `load` is called by commands; the engine gets the
frozen `Settings` and reads no file. `to_toml` prints what is in force, with each meaning as a comment.
"""

from __future__ import annotations

import contextlib
import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, get_args, get_origin, get_type_hints

import msgspec

from sensor.config_kinds import (
    Budget,
    Close,
    Count,
    Days,
    Device,
    Facility,
    Mebibytes,
    Patience,
    Ports,
    Probability,
    Quiet,
    Rows,
    Seconds,
    Section,
    Slots,
    Threads,
    Tunnel,
)
from sensor.config_zeek import Zeek

# A TOML table: what is inside is any TOML value until msgspec has checked it against the structs.
Table: TypeAlias = dict[str, Any]


class ConfigError(ValueError):
    """The settings cannot be used; `str(error)` is the one line for the user."""


class Source(Section, frozen=True):
    """Where frames come from."""

    block_frames: Annotated[Rows, "frames handed to the decoder at a time; no result depends on it"] = 4096


class Capture(Section, frozen=True):
    """Live capture by netseq-sensor."""

    interfaces: Annotated[
        tuple[str, ...], 'interfaces to listen on, such as ["eth0"]; a tap\'s two halves are named together'
    ] = ()
    folder: Annotated[str, 'folder whose finished captures are read as they come, in place of interfaces; "" is none'] = ""
    filter: Annotated[str, 'what to capture, as an expression of tcpdump; "" is everything'] = ""
    promiscuous: Annotated[bool, "take frames that are not for this machine, too"] = True
    workers: Annotated[
        Threads,
        "threads that capture and make flows; the kernel gives each its share of the flows, with a ring and a table each",
    ] = 1
    ring_mib: Annotated[Mebibytes, "MiB of memory of each ring, where packets wait until they are read"] = 64


class Decode(Section, frozen=True):
    """From frame bytes to packets."""

    tunnels: Annotated[
        tuple[Tunnel, ...], "layers looked through to the packet inside; what is in any other counts as its outer hosts' packet"
    ] = get_args(Tunnel)
    fragments: Annotated[Slots, "first fragments remembered, so that later ones find their ports"] = 4096
    payload: Annotated[Literal["ip", "captured"], "payload bytes by the IP header's length, or as many as were captured"] = "ip"


class Flows(Section, frozen=True):
    """When a flow ends, in packet time, and how many may live."""

    table: Annotated[Slots, "flows alive at most; the idlest ends first when it is full"] = 262_144
    idle_s: Annotated[Seconds, "seconds without a packet after which a flow ends"] = 120.0
    closed_s: Annotated[Seconds, "seconds after FINs both ways or a RST until the flow ends; stragglers join it"] = 5.0
    attempt_s: Annotated[Seconds, "seconds after an unanswered SYN until the flow ends; Zeek waits as long"] = 5.0
    active_s: Annotated[Seconds, "seconds after which a living flow is cut and continued"] = 120.0
    close: Annotated[Close, 'what ends a TCP flow: FINs both ways or a RST, or "first-fin", as for CICIDS2017'] = "both"


class Statistics(Section, frozen=True):
    """The columns of CICFlowMeter."""

    rules: Annotated[
        Literal["netseq", "cicflowmeter"],
        '"netseq" is what the columns\' names promise; "cicflowmeter" follows that tool to the letter, payload as captured too',
    ] = "netseq"


class Conversations(Section, frozen=True):
    """The flows between two hosts, as one sequence."""

    table: Annotated[Slots, "conversations remembered; the longest silent makes room when it is full"] = 65_536
    restart_s: Annotated[Seconds, "seconds without a flow after which a conversation begins anew"] = 3600.0


class Model(Section, frozen=True):
    """Which model scores the words, and where it runs."""

    path: Annotated[str, 'folder of a model made by netseq-train; "" is the one that comes with netseq'] = ""
    multiflow: Annotated[
        str,
        'folder of a multi-flow model that judges the last flows too; "default" comes along, for packets or logs, "lab" for '
        'packets; "" is none',
    ] = ""
    device: Annotated[Device, '"auto" is CUDA where there is one; or "cpu", "cuda", "cuda:1"'] = "auto"
    threads: Annotated[Threads, "threads of the models on the CPU; batches are small, and another core makes the flows"] = 1
    batch_flows: Annotated[Rows, "flows scored at a time; speed depends on it, and of the results the last digits"] = 2048
    rounds: Annotated[Rows, "flows of one conversation stepped in a batch; more are sampled, the rest counted as shed"] = 64


class Detect(Section, frozen=True):
    """When a verdict becomes an alert."""

    budget_per_day: Annotated[Budget, "false alarms a day that are accepted, at the rate of conversations seen"] = 20.0
    max_p: Annotated[Probability, "p-value above which nothing alerts, however large the budget"] = 0.01
    quiet_s: Annotated[Quiet, "seconds of packet time in which a conversation alerts once and counts the rest"] = 3600.0
    ignore: Annotated[str, 'label file (docs/labels.md) of what never alerts, such as your own scanners; "" is none'] = ""


class Rules(Section, frozen=True):
    """What alerts whatever a model says, while a sensor still learns, too: fixed rules over a minute of packet time."""

    flood_attempts: Annotated[Count, "attempts to one host that came to nothing in a minute; more are a flood"] = 6_000
    sweep_targets: Annotated[Ports, "hosts, or ports of one, that a host tried in a minute for nothing; more are a sweep"] = 90


class Learn(Section, frozen=True):
    """How netseq-sensor gets to know its site, before it alerts and after."""

    days: Annotated[Days, "days that a new sensor records before it alerts on what is unusual; 0 alerts at once"] = 1.0
    keep_days: Annotated[Days, "days of flows that are kept on disk to train on; never less than learn.days"] = 7.0
    disk_mib: Annotated[Mebibytes, "MiB that the record may take on disk; the oldest hours go first"] = 2048


class Output(Section, frozen=True):
    """How alerts are written, and by netseq-sensor where to."""

    alerts: Annotated[str, 'netseq-sensor: file of alerts as JSON lines; "-" is standard output, "" is none'] = (
        "/var/log/netseq/alerts.jsonl"
    )
    notice: Annotated[str, 'netseq-sensor: file of alerts as Zeek\'s notice.log; "" is none'] = ""
    waiting: Annotated[
        Rows, "netseq-sensor: alerts kept in memory while a file cannot be written; the rest is counted as lost"
    ] = 10_000

    format: Annotated[
        Literal["netseq", "ecs", "eve"],
        "names in the JSON lines, and in syslog: netseq's (and Splunk's), Elastic's common schema, or Suricata's EVE",
    ] = "netseq"
    notice_form: Annotated[Literal["tsv", "json"], "form of Zeek's notice.log"] = "tsv"
    dvc: Annotated[str, 'name of this sensor in its alerts (dvc, peer_descr); "" is the name of the host'] = ""


class Hec(Section, frozen=True):
    """Splunk's HTTP Event Collector, as a receiver of netseq-sensor's alerts (docs/splunk.md)."""

    url: Annotated[str, 'where it listens, such as "https://splunk.example:8088"; "" is nowhere'] = ""
    token_file: Annotated[str, "file with the token; a name without a folder is a credential of systemd"] = "hec-token"  # noqa: S105  # the name of a file
    ca_file: Annotated[str, 'certificates (PEM) that its own is checked against; "" is what the system trusts'] = ""
    index: Annotated[str, 'index that it shall write to; "" is the one that belongs to the token'] = ""
    timeout_s: Annotated[Patience, "seconds without an answer after which a batch is sent again"] = 10.0
    spool_mib: Annotated[Mebibytes, "MiB on disk for alerts that it has not taken yet"] = 64


class Syslog(Section, frozen=True):
    """A receiver of syslog (RFC 5424), to which netseq-sensor sends its alerts."""

    address: Annotated[str, 'host and port, such as "192.0.2.1:514" or "[2001:db8::1]:514"; "" is none'] = ""
    transport: Annotated[
        Literal["tcp", "udp"], "tcp sends again what was not acknowledged; over udp nobody knows what arrives"
    ] = "tcp"
    facility: Annotated[Facility, "what kind of program the receiver takes the sensor for"] = "local0"


class Service(Section, frozen=True):
    """netseq-sensor as a service."""

    state_dir: Annotated[str, "folder of what outlives a restart: conversations, counters, the site's record and model"] = (
        "/var/lib/netseq"
    )
    save_s: Annotated[Seconds, "seconds between two savings of the state; a crash forgets at most so much"] = 60.0
    queue_flows: Annotated[Count, "ended flows that may wait to be scored; beyond it they are shed by rule, and counted"] = (
        65_536
    )
    metrics: Annotated[str, 'address and port of metrics, health and status over HTTP; "" is none'] = "127.0.0.1:9477"
    log: Annotated[Literal["debug", "info", "warning", "error"], "the least level of what is logged"] = "info"


class Settings(Section, frozen=True):
    """Everything that can be set, one section per part of the path."""

    source: Source = Source()
    capture: Capture = Capture()
    zeek: Zeek = Zeek()
    decode: Decode = Decode()
    flows: Flows = Flows()
    statistics: Statistics = Statistics()
    conversations: Conversations = Conversations()
    model: Model = Model()
    detect: Detect = Detect()
    rules: Rules = Rules()
    learn: Learn = Learn()
    output: Output = Output()
    hec: Hec = Hec()
    syslog: Syslog = Syslog()
    service: Service = Service()

    def applied(self) -> Settings:
        """These settings with what statistics.rules = "cicflowmeter" asks of the decoder: that tool's payload and layers."""
        if self.statistics.rules == "netseq":
            return self
        decode = msgspec.structs.replace(self.decode, payload="captured", tunnels=("vlan", "ipip"))
        return msgspec.structs.replace(self, decode=decode)


class Setting(NamedTuple):
    """One setting as `settings` tells it."""

    section: str
    key: str
    kind: Any  # a type as it is written in the struct: no narrower word for "any annotation"
    default: object
    meaning: str


def load(path: str | Path | None = None, changes: Sequence[str] = ()) -> Settings:
    """Read the settings: the defaults, changed by the TOML file `path`, changed by `section.key=value` strings in order.

    Raises ConfigError with one line that names the file or option, the key, and what was expected.
    """
    table: Table = {}
    if path is not None:
        table = _read(Path(path))
        _check_keys(table, str(path))
        _convert(table, str(path))
    for change in changes:
        where = f"--set {change if change.isprintable() else ascii(change)}"
        section, key, value = _parse_change(change, where)
        _check_keys({section: {key: value}}, where)
        _convert({section: {key: value}}, where)
        table.setdefault(section, {})[key] = value
    return _convert(table, "settings")


def settings() -> Iterator[Setting]:
    """Yield every setting in order."""
    for section in msgspec.structs.fields(Settings):
        hints = get_type_hints(type(section.default), include_extras=True)
        for field in msgspec.structs.fields(section.type):
            kind, *_, meaning = get_args(hints[field.name])
            yield Setting(section.name, field.name, kind, field.default, meaning)


def to_toml(values: Settings) -> str:
    """Write `values` as a TOML file that `load` reads back to the same, each key under its meaning."""
    lines: list[str] = []
    heading = ""
    for section, key, _, default, meaning in settings():
        if section != heading:
            about = str(type(getattr(values, section)).__doc__)
            lines += [*([""] if heading else []), f"# {about}", f"[{section}]"]
            heading = section
        value = getattr(getattr(values, section), key)
        changed = "" if value == default else f" (default {_toml_value(default)})"
        lines += [f"# {meaning}{changed}", f"{key} = {_toml_value(value)}"]
    return "\n".join(lines) + "\n"


def _toml_value(value: object) -> str:
    # JSON's strings, numbers and arrays of strings are TOML's too.
    return msgspec.json.encode(value).decode()


def _read(path: Path) -> Table:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text at byte {error.start}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error


def _check_keys(table: Mapping[str, object], where: str) -> None:
    """Refuse a section or key that does not exist, naming the nearest one that does."""
    known: dict[str, list[str]] = {}
    for setting in settings():
        known.setdefault(setting.section, []).append(setting.key)
    for section, keys in table.items():
        names = list(keys) if isinstance(keys, Mapping) else []
        if section not in known:
            hint = _nearest(section, list(known)) or _elsewhere(names[0] if names else section, known) or _all(list(known))
            raise ConfigError(f"{where}: unknown section {section!r}, {hint}")
        for key in names:
            if key not in known[section]:
                hint = _nearest(key, known[section], f"{section}.") or _elsewhere(key, known) or _all(known[section])
                raise ConfigError(f"{where}: unknown key {section}.{key}, {hint}")


def _all(names: list[str]) -> str:
    return f"known are: {', '.join(names)}"


def _nearest(name: str, names: list[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean {prefix}{close[0]}?" if close else ""


def _elsewhere(name: str, known: Mapping[str, list[str]]) -> str:
    """Find the key in any section: who wrote flows.quiet_s meant detect.quiet_s."""
    for section, keys in known.items():
        if near := _nearest(name, keys, f"{section}."):
            return near
    return ""


def _parse_change(change: str, where: str) -> tuple[str, str, object]:
    """Split `section.key=value`; the value is TOML, or bare text where the setting is text or a list of words."""
    dotted, equals, text = change.partition("=")
    section, _, key = dotted.strip().partition(".")
    if not (equals and section.isidentifier() and key.isidentifier()):
        raise ConfigError(f"{where}: expected section.key=value, such as detect.budget_per_day=5")
    text = text.strip()
    for setting in settings():
        if (setting.section, setting.key) == (section, key):
            return section, key, _parse_value(setting, text)
    return section, key, text


def _parse_value(setting: Setting, text: str) -> object:
    value: object = text
    with contextlib.suppress(tomllib.TOMLDecodeError):
        table = tomllib.loads(f"value = {text}")
        value = table["value"] if len(table) == 1 else text
    if get_origin(setting.kind) is tuple and not isinstance(value, list):
        return [word.strip() for word in text.split(",") if word.strip()]
    if isinstance(setting.default, str) and not isinstance(value, str):
        return text
    return value


def _convert(table: Table, where: str) -> Settings:
    try:
        return msgspec.convert(table, Settings)
    except msgspec.ValidationError as error:
        what, _, place = str(error).partition(" - at ")
        key = re.sub(r"\[.*?\]$", "", place.strip("`").removeprefix("$").removeprefix("."))
        raise ConfigError(f"{where}: {key}: {_in_words(what, key)}") from error


def _in_words(what: str, key: str) -> str:
    """Put msgspec's finding into the words of a TOML file."""
    for setting in settings():
        if f"{setting.section}.{setting.key}" == key:
            choices = [str(word) for word in get_args(setting.kind) if isinstance(word, str)]
            choices += [str(word) for inner in get_args(setting.kind) for word in get_args(inner)]
            if choices and "enum" in what:
                return f"{what[0].lower()}{what[1:]}".replace("enum value", "value") + f", {_all(choices)}"
            if "regex" in what:
                return f"not a known value; {setting.meaning}"
    words = what.replace("`object`", "a [section]").replace("`array`", "a list").replace("`float`", "a number")
    words = words.replace("`int`", "a whole number").replace("`str`", "text").replace("`bool`", "true or false")
    return f"{words[0].lower()}{words[1:]}"
