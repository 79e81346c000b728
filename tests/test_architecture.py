"""The house's rules, read from the source: which part may know which, and what no part below the commands may do.

`schema <- decode <- flows <- statistics, words <- conversations <- engine <- commands`; sources and sinks know the schema
alone; `sensor -> models`, never back. Each rule is a function from parsed source to complaints, so that the tests below
can also feed it a wrong file and see it complain: a rule that cannot fail guards nothing.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LAYERS: tuple[dict[str, set[str]], ...] = (
    {"schema": {"schema", "kernels", "addresses", "spellings", "address_text", "number_text", "row_text"}},
    {"decode": {"decode"}, "labels": {"labels"}},
    {"flows": {"flows", "flow"}},
    {"statistics": {"statistics"}, "words": {"words", "vocabulary"}},
    {"conversations": {"conversations"}},
    {"detect": {"detect", "message"}, "config": {"config"}, "metrics": {"metrics"}},
    {"engine": {"engine", "assembly"}},
    {"service": {"service"}},
    {"commands": {"commands"}},
)
"""The rooms of each layer, lowest first, and the modules of each room, where "flow" stands for flow_kernel and others of that
beginning too. A room knows itself and the layers below."""

RIM = {"sources", "sinks"}
"""Where traffic comes in and alerts go out: these know the schema's room and themselves."""

KNOWS_MODELS = {"detect", "engine", "service", "commands"}
"""The rooms that may call a model."""

CLOCKS = {
    "time": {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time", "sleep"}
    | {"localtime", "gmtime", "ctime", "strftime"},
    "datetime": {"now", "utcnow", "today"},
}
UNPICKLED = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}

FILE_LINES, FUNCTION_LINES = 400, 60

Rule = Callable[[str, ast.Module], Iterator[str]]


def room_of(module: str) -> str:
    """Name the room of a dotted module: "sensor.flow_kernel" is in "flows"."""
    first, *rest = module.split(".")
    if first == "models":
        return "models"
    if not rest:
        return "package"
    for layer in LAYERS:
        for room, members in layer.items():
            if rest[0] in members or rest[0].split("_")[0] in members:
                return room
    return rest[0] if rest[0] in RIM else f"unknown:{rest[0]}"


def layer_of(room: str) -> int:
    return next(level for level, layer in enumerate(LAYERS) if room in layer)


def imports(tree: ast.Module) -> Iterator[str]:
    """Yield every module that the source imports, function bodies and TYPE_CHECKING blocks included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield "." * node.level + (node.module or "")
            elif node.module in {"sensor", "sensor.sources", "sensor.sinks", "sensor.commands", "models"}:
                yield from (f"{node.module}.{name.name}" for name in node.names if name.name != "__version__")
            elif node.module:
                yield node.module


def arrows(module: str, tree: ast.Module) -> Iterator[str]:
    """Complain of every import against the direction of the house."""
    room = room_of(module)
    if room.startswith("unknown:"):
        yield f"{module}: has no room yet, give it one in LAYERS"
        return
    for target in imports(tree):
        if target.startswith("."):
            yield f"{module}: imports {target}: write it out from the root"
        elif target.split(".")[0] in {"sensor", "models"} and not allowed(room, room_of(target)):
            yield f"{module}: imports {target}"


def allowed(room: str, target: str) -> bool:
    if target in (room, "package"):
        return room != "models" or target == "models"
    if room in {"models", "package"}:
        return False
    if target == "models":
        return room in KNOWS_MODELS
    if room in RIM:
        return target == "schema"
    if target in RIM:
        return room in {"service", "commands"}
    return not target.startswith("unknown:") and layer_of(target) < layer_of(room)


def clocks(module: str, tree: ast.Module) -> Iterator[str]:
    """Complain of every reading of a clock below the service and the commands: time is the packet's time."""
    if room_of(module) in {"service", "commands"}:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            yield from (f"{module}: imports time.{name.name}" for name in node.names if name.name in CLOCKS["time"])
        if isinstance(node, ast.Attribute):
            base = ast.unparse(node.value)
            if base == "time" and node.attr in CLOCKS["time"]:
                yield f"{module}: reads time.{node.attr}"
            if base.split(".")[-1] in {"datetime", "date"} and node.attr in CLOCKS["datetime"]:
                yield f"{module}: reads {base}.{node.attr}"
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("datetime64") and not node.args[1:]:
            yield from (f"{module}: reads {ast.unparse(node)}" for arg in node.args if ast.unparse(arg) in {"'now'", "'today'"})


def terminals(module: str, tree: ast.Module) -> Iterator[str]:
    """Complain of every part but the commands that draws on a terminal."""
    if room_of(module) != "commands":
        yield from (f"{module}: imports {target}" for target in imports(tree) if target.split(".")[0] == "rich")


def pickles(module: str, tree: ast.Module) -> Iterator[str]:
    """Complain of every way to read a file that can run code."""
    yield from (f"{module}: imports {target}" for target in imports(tree) if target.split(".")[0] in UNPICKLED)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in {"torch.load", "torch.save"} or any(word.arg == "allow_pickle" for word in node.keywords):
                yield f"{module}: calls {called}"


def files(module: str, tree: ast.Module) -> Iterator[str]:
    """Complain of every file opened in the middle: I/O is at the rim, in commands and in the models' own folder."""
    room = room_of(module)
    if room in RIM | {"models", "config", "labels", "commands", "service"} or module == "sensor.kernels":
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in {"open", "os.open", "io.open"} or called.endswith((".read_text", ".write_text", ".read_bytes")):
                yield f"{module}: calls {called}"


def sizes(module: str, tree: ast.Module) -> Iterator[str]:
    """Complain of a file or function that wants rooms of its own; a docstring costs nothing."""
    lines = max((node.end_lineno or 0 for node in tree.body), default=0)
    if lines > FILE_LINES:
        yield f"{module}: has {lines} lines"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
            if (node.end_lineno or 0) - first.lineno + 1 > FUNCTION_LINES:
                yield f"{module}: {node.name} is too long"


def sources() -> Iterator[tuple[str, ast.Module]]:
    for package in ("sensor", "models"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            yield module, ast.parse(path.read_text(encoding="utf-8"), str(path))


RULES = [arrows, clocks, terminals, pickles, files, sizes]


@pytest.mark.parametrize("rule", RULES)
def test_no_file_breaks(rule: Rule) -> None:
    complaints = [line for module, tree in sources() for line in rule(module, tree)]
    assert not complaints, "\n".join(complaints)


@pytest.mark.parametrize(
    ("rule", "module", "text"),
    [
        (arrows, "sensor.decode", "from sensor.flows import FlowTable"),
        (arrows, "sensor.flows", "from sensor import words"),
        (arrows, "sensor.words", "import sensor.statistics"),
        (arrows, "sensor.words", "from sensor.conversations import Turns"),
        (arrows, "sensor.engine", "from sensor.commands.replay import main"),
        (arrows, "sensor.engine", "from sensor.sources.pcap import CaptureSource"),
        (arrows, "sensor.sources.pcap", "from sensor.decode import Decoder"),
        (arrows, "sensor.sinks.jsonl", "from sensor.sources import pcap"),
        (arrows, "sensor.decode", "def late():\n    from sensor.engine import Engine"),
        (arrows, "sensor.decode", "from models.words import WordLSTM"),
        (arrows, "models.words", "from sensor.schema import FLOW"),
        (arrows, "models.words", "from sensor import __version__\nfrom sensor import kernels"),
        (arrows, "sensor", "from sensor.schema import FLOW"),
        (arrows, "sensor.flows", "from .decode import Decoder"),
        (arrows, "sensor.novelty", "import os"),
        (clocks, "sensor.flows", "import time\nnow = time.monotonic()"),
        (clocks, "sensor.sources.pcap", "from time import perf_counter"),
        (clocks, "models.train", "import datetime\ndatetime.datetime.now()"),
        (clocks, "sensor.detect", "from datetime import date\ndate.today()"),
        (clocks, "sensor.detect", "np.datetime64('now')"),
        (terminals, "sensor.engine", "from rich.table import Table"),
        (pickles, "models.checkpoint", "import pickle"),
        (pickles, "models.checkpoint", "torch.load(path)"),
        (pickles, "models.checkpoint", "np.load(path, allow_pickle=True)"),
        (files, "sensor.engine", "open('alerts')"),
        (files, "sensor.detect", "Path('x').read_text()"),
        (sizes, "sensor.detect", "x = 1\n" * 401),
        (sizes, "sensor.detect", "def f():\n" + "    x = 1\n" * 61),
    ],
)
def test_a_file_that_breaks_the_rule_is_told(rule: Rule, module: str, text: str) -> None:
    assert list(rule(module, ast.parse(text)))


@pytest.mark.parametrize(
    ("rule", "module", "text"),
    [
        (arrows, "sensor.conversations", "from sensor.words import Vocabulary"),
        (arrows, "sensor.flows", "from sensor.decode import Decoder\nfrom sensor import flow_kernel, schema"),
        (arrows, "sensor.kernels", "from sensor import __version__"),
        (arrows, "sensor.engine", "from models.resident import Scorer\nfrom sensor.config import Settings"),
        (arrows, "sensor.sources.pcap", "from sensor.schema import FRAME\nfrom sensor.sources.pcapng import Sections"),
        (arrows, "sensor.commands.replay", "from sensor.sources.pcap import CaptureSource\nfrom sensor.engine import Engine"),
        (clocks, "sensor.commands.replay", "import time\ntime.monotonic()"),
        (clocks, "sensor.sinks.notice", "from datetime import datetime, timezone\ndatetime.fromtimestamp(0, timezone.utc)"),
        (terminals, "sensor.commands.terminal", "from rich.table import Table"),
        (files, "sensor.sources.pcap", "open('capture')"),
        (sizes, "sensor.flow_kernel", "x = 1\n" * 400),
        (sizes, "sensor.detect", "def f():\n    'Say.'\n" + "    x = 1\n" * 60),
    ],
)
def test_what_the_house_allows_is_not_told(rule: Rule, module: str, text: str) -> None:
    assert not list(rule(module, ast.parse(text)))


def test_the_rules_read_every_file_of_both_packages() -> None:
    modules = {module for module, _ in sources()}
    assert {"sensor", "sensor.schema", "sensor.commands.replay", "sensor.sources.pcap", "models", "models.words"} <= modules


NAMED = re.compile(r"(?<![\w./-])(?:docs|benchmarks|sensor|models|tests)/[\w/]+\.(?:md|py)\b")
"""A file of the repository as sources and documents name it."""


def missing(text: str) -> set[str]:
    return {name for name in NAMED.findall(text) if not (ROOT / name).is_file()}


def test_every_file_that_sources_and_documents_name_exists() -> None:
    paths = [path for package in ("sensor", "models", "benchmarks") for path in (ROOT / package).rglob("*.py")]
    paths += [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]
    told = {str(path.relative_to(ROOT)): missing(path.read_text(encoding="utf-8")) for path in paths}
    assert not {path: names for path, names in told.items() if names}


def test_a_name_of_no_file_is_noticed() -> None:
    assert missing("see docs/nothing.md, `sensor/decode.py` and https://x/docs/a.md") == {"docs/nothing.md"}
