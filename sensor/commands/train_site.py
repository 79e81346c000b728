"""`netseq-train site`: the record of a sensor in, a model of its site out, taken into use if it is good.

The shipped model is trained further on the first part of the record, and calibrated on the rest; with very few
conversation-hours, it is only calibrated on them. What alerted is left out of training. A model is taken
into use only if its held-back flows are no less expected than by the one in use, and if it may be expected to keep
the alert budget; the sensor that runs then changes over to it. netseq-train.timer runs this, and a sensor that has learned
enough.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sensor import __version__, config
from sensor.commands.misuse import Misuse, Parser, add_settings, check_inputs, fail
from sensor.commands.process import DAMAGED, DONE, MISUSE

if TYPE_CHECKING:  # what these import is slow, and is not needed to tell of a mistake
    from models.assemble import Rows
    from models.checkpoint import Bundle, Manifest
    from models.site import Budget, Expected
    from sensor.commands.record import Record
    from sensor.labels import Labels
    from sensor.service_site import Site

NAME = "netseq-train"
KEPT = 3
"""Exit status when the model in use stays."""
CONFIG = Path("/etc/netseq/sensor.toml")
"""The sensor's settings, where it is installed."""

LEAST_HOURS = 100
"""Conversation-hours below which nothing is calibrated: of fewer, max_p (0.01) could not be told from the highest of all."""
FINE_TUNE_HOURS = 2 * LEAST_HOURS
"""Conversation-hours from which on the model is trained further: one half of them to learn from, one to calibrate on. A model
that is only calibrated to a strange site keeps quiet there, and finds nothing: on strato-011 it alerted on none of 1,521
attacking flows, where the shipped one raised 654 alerts, and one trained further on 2,094 benign flows 807."""
HELD_BACK_LEAST, HELD_BACK_MOST = 0.2, 0.5
CALIBRATED, FURTHER = "calibrated", "trained further"
OVER_BUDGET, CHANCE = 3, 3
"""A new model may be expected to give so many times the budget, and so many alerts more in what was counted: of a budget's
20 a day, another day has 11 to 29 by chance alone, and half of a short record has a few."""
WORSE_NATS = 0.05
"""Nats a word by which held-back flows may be less expected than by the model in use: less is the noise of another seed."""

EPILOG = """\
Examples:
  netseq-train site --config /etc/netseq/sensor.toml      what netseq-train.timer does every night
  netseq-train site --state /var/lib/netseq --labels ordinary.csv
                                                          a label file (docs/labels.md) goes before what alerted

Exit status: 0 the new model is in use; 1 it could not be written, or another training is at work; 2 misuse; 3 the model in
use stays: no record yet, too little to learn from, or the new model is no better. See docs/learning.md.
"""


class Candidate(NamedTuple):
    """A new model, and what it was measured at."""

    bundle: Bundle
    how: str
    expected: Expected
    before: Expected
    """What the model in use would give in the same part of the record."""
    nats: float
    nats_before: float
    hours: int


class TooLittle(Exception):  # noqa: N818  # it names what happened
    """There is not enough to learn from; str() is the line."""


def add_parser(kinds: argparse._SubParsersAction[Parser]) -> None:
    """Add the command line of `netseq-train site`."""
    site = kinds.add_parser(
        "site",
        help="a model of the site's own, from what netseq-sensor recorded",
        description="Make a model of the flows that netseq-sensor recorded, and take it into use if it is good.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    site.add_argument("--state", metavar="DIR", type=Path, help="the sensor's state folder (default: service.state_dir)")
    site.add_argument("--labels", nargs="+", default=[], metavar="CSV", help="label files that go before what alerted")
    site.add_argument("--check", action="store_true", help="tell what would be done, and take nothing into use")
    site.add_argument("--calibrate", action="store_true", help="never train further, only calibrate")
    site.add_argument("--epochs", type=int, default=12, help="passes over the record at most (default: 12)")
    site.add_argument("--seed", type=int, default=1, help="same record, same seed, same model (default: 1)")
    site.add_argument("--quiet", action="store_true", help="no summary")
    add_settings(site.add_argument_group("settings of the sensor"))


def run(arguments: argparse.Namespace, command: str) -> int:
    """Run the command; returns its exit status. Raises Misuse."""
    from models.checkpoint import ModelDoesNotFit  # noqa: PLC0415  # slow to import, as all that follows
    from sensor.labels import LabelsError  # noqa: PLC0415
    from sensor.service_site import Busy, Site  # noqa: PLC0415
    from sensor.vocabulary import VocabularyDoesNotFit  # noqa: PLC0415

    try:
        settings = config.load(arguments.config or (CONFIG if CONFIG.is_file() else None), arguments.set)
    except config.ConfigError as error:
        raise Misuse(str(error)) from error
    if arguments.show_config:
        sys.stdout.write(config.to_toml(settings))
        return DONE
    check_inputs(NAME, arguments.labels)
    site = Site(arguments.state or Path(settings.service.state_dir))
    if not site.state.is_dir():
        raise Misuse(f"{site.state}: no such folder: --state names the service.state_dir of a netseq-sensor")
    try:
        if not site.record.is_dir():  # the timer comes before the first flow, too: no failure
            raise TooLittle(f"{site.record}: no record there yet: netseq-sensor writes one into its service.state_dir")
        with site.lock():
            return train(arguments, command, settings, site)
    except Busy as busy:
        return fail(NAME, str(busy), DAMAGED)
    except TooLittle as little:
        return fail(NAME, str(little), KEPT)
    except (LabelsError, ModelDoesNotFit, VocabularyDoesNotFit) as error:
        return fail(NAME, str(error), MISUSE)
    except OSError as error:  # a full disk, most likely
        return fail(NAME, f"{error.filename or site.models}: {error.strerror}: no model was written", DAMAGED)


def train(arguments: argparse.Namespace, command: str, settings: config.Settings, site: Site) -> int:
    """Make the candidates, the better kind first, and take the first one that is good. Raises what `run` tells."""
    import torch  # noqa: PLC0415

    from models.checkpoint import DEFAULT_MODEL, load, save  # noqa: PLC0415
    from models.site import Budget  # noqa: PLC0415
    from sensor.kernels import prepare_cache  # noqa: PLC0415

    prepare_cache()  # before anything imports a kernel
    from sensor.commands.record import read_record  # noqa: PLC0415
    from sensor.labels import Labels  # noqa: PLC0415
    from sensor.service_site import now  # noqa: PLC0415

    torch.set_num_threads(1)  # the sensor is at work beside it, and one thread repeats itself exactly
    labels: list[Labels] = [Labels.read(path) for path in arguments.labels]
    record = read_record(site.record, labels)
    if not len(record.flows):
        raise TooLittle(f"{site.record}: no flows are recorded yet: the model in use stays")
    shipped = load(settings.model.path or DEFAULT_MODEL)
    using = site.current()
    present = load(using) if using else shipped
    trained = using is not None and site.report_of(using).get("how") != CALIBRATED
    budget = Budget(settings.detect.budget_per_day, settings.detect.max_p)
    begun, status, tried = now(), KEPT, False
    for made in candidates(arguments, command, record, shipped, present, budget, trained=trained):
        named = dataclasses.replace(made.bundle, manifest=named_manifest(made, f"{begun:%Y%m%dT%H%M%SZ}"))
        tried, refused = True, why_not(made, budget)
        if not arguments.quiet or refused:
            print(
                summary(record, made, budget, refused, check=arguments.check),
                file=sys.stderr if refused else sys.stdout,
                flush=True,
            )
        if not refused:
            status = DONE
            if not arguments.check:
                folder = site.begin(begun)
                save(folder, named)
                load(folder)  # what cannot be read back is not taken into use
                site.swap(folder, report(record, made))
            break
    return status if tried else fail(NAME, "a model that was trained on the record cannot be calibrated on it: it stays", KEPT)


def candidates(
    arguments: argparse.Namespace,
    command: str,
    record: Record,
    shipped: Bundle,
    present: Bundle,
    budget: Budget,
    *,
    trained: bool,
) -> Iterator[Candidate]:
    """New models, the one that knows more of the site first. The one in use was `trained` on the site, or is no better.

    Raises TooLittle.
    """
    from models import site  # noqa: PLC0415

    kept = ~record.by_rule
    heard = rows_of(record, kept, shipped)
    if heard is None:
        raise TooLittle("nothing but what alerted by the fixed rules is recorded: the model in use stays")
    hours = site.hours_of(shipped, heard, 1.0)
    count = int((~hours.alerted).sum())
    enough = count >= FINE_TUNE_HOURS and not arguments.calibrate
    if count < LEAST_HOURS:
        raise TooLittle(
            f"only {count:,} conversation-hours without an alert are recorded, and {LEAST_HOURS} are needed to calibrate:"
            " the model in use stays"
        )
    try:
        if enough:
            yield further(arguments, command, record, shipped, present, budget, held_back(count))
        elif not trained:
            made = site.calibrated(shipped, hours, budget, record.share)
            expected = site.expected(hours, budget, record.share)
            before = site.expected(hours, budget, record.share, present.calibration)
            nats = site.nats_of(shipped, heard, HELD_BACK_MOST)
            made = dataclasses.replace(made, manifest=described(shipped, command, record))
            yield Candidate(made, CALIBRATED, expected, before, nats, nats, count)
        elif not arguments.calibrate:
            raise TooLittle(
                f"only {count:,} conversation-hours without an alert are recorded, and {FINE_TUNE_HOURS:,} are needed to train"
                " the site's model anew: the model in use stays"
            )
    except ValueError as error:  # a half of them is too little to calibrate on
        raise TooLittle(f"{error}: the model in use stays") from error


def held_back(hours: int) -> float:
    """The share of a record that is held back: the conversation-hours that a calibration wants, from a fifth to a half."""
    from models.site import LEAST_P_HOURS  # noqa: PLC0415

    return min(max(LEAST_P_HOURS / hours, HELD_BACK_LEAST), HELD_BACK_MOST)


def further(
    arguments: argparse.Namespace,
    command: str,
    record: Record,
    shipped: Bundle,
    present: Bundle,
    budget: Budget,
    held: float,
) -> Candidate:
    """Train the shipped model further on what did not alert, and measure it against the one in use. ValueError: too little."""
    import msgspec  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415

    from models import site  # noqa: PLC0415
    from models.assemble import Begin, assemble  # noqa: PLC0415
    from models.train import Settings  # noqa: PLC0415
    from sensor.words import Vocabulary  # noqa: PLC0415

    ordinary = ~(record.by_rule | record.by_model)
    flows = record.flows[ordinary]
    learned = flows[: len(flows) - int(len(flows) * held)]
    vocabulary, stood = Vocabulary.from_json(shipped.manifest.vocabulary).grown([learned])
    members = vocabulary.members(vocabulary.parts[0])
    manifest = msgspec.structs.replace(
        described(shipped, command, record),
        sizes=vocabulary.sizes(),
        vocabulary=vocabulary.to_json(),
        spread=tuple(np.round(np.log(members), 6).tolist()),
        unlearned=tuple(vocabulary.unlearned(vocabulary.parts[0]).tolist()),
        seed=arguments.seed,
    )
    grown = dataclasses.replace(shipped, manifest=manifest)
    known, before = rows_of(record, ordinary, grown), rows_of(record, ordinary, present)
    heard, heard_before = rows_of(record, ~record.by_rule, grown), rows_of(record, ~record.by_rule, present)
    assert known is not None
    assert before is not None
    assert heard is not None
    assert heard_before is not None
    fitted = assemble(
        [known],
        [],
        manifest,
        Settings(seed=arguments.seed, epochs=arguments.epochs),
        validation=held,
        begin=Begin(shipped, stood),
    )
    hours = site.hours_of(fitted, heard, held)
    as_now = site.hours_of(present, heard_before, held)
    return Candidate(
        site.calibrated(fitted, hours, budget, record.share),
        FURTHER,
        site.expected(hours, budget, record.share),
        site.expected(as_now, budget, record.share, present.calibration),
        site.nats_of(fitted, known, held),
        site.nats_of(present, before, held),
        len(hours.verdict),
    )


def rows_of(record: Record, chosen: object, bundle: Bundle) -> Rows | None:
    """The chosen flows of a record as rows in a model's vocabulary; None for none."""
    import numpy as np  # noqa: PLC0415

    from models.assemble import Rows  # noqa: PLC0415
    from sensor.commands.train import CONVERSATIONS  # noqa: PLC0415
    from sensor.conversations import Conversations  # noqa: PLC0415
    from sensor.words import Vocabulary  # noqa: PLC0415

    mask = np.asarray(chosen, np.bool_)
    flows, attack = record.flows[mask], record.by_model[mask]
    if not len(flows):
        return None
    turns = Conversations(conversations=min(CONVERSATIONS, len(flows))).turn(flows)
    words = Vocabulary.from_json(bundle.manifest.vocabulary).words(flows, turns)
    return Rows(words, turns.slots, turns.restart, turns.hour, attack, ~attack)


def described(shipped: Bundle, command: str, record: Record) -> Manifest:
    """The manifest of a model made from `shipped` and the record."""
    import hashlib  # noqa: PLC0415

    import msgspec  # noqa: PLC0415

    from models.checkpoint import Source  # noqa: PLC0415

    digest = hashlib.sha256(record.flows.data).hexdigest()  # of what was read: the sensor goes on writing
    before = shipped.manifest
    return msgspec.structs.replace(
        before,
        trained_from=f"{before.name} {before.version}",
        source_kind="conn.log",
        data=(Source(name=record.files[0].parent.name, sha256=digest, rows=int((~(record.by_rule | record.by_model)).sum())),),
        command=command,
    )


def named_manifest(made: Candidate, version: str) -> Manifest:
    """The manifest with the site's name, and the time of training for a version: alerts tell both."""
    import msgspec  # noqa: PLC0415

    return msgspec.structs.replace(made.bundle.manifest, name="site", version=version)


def why_not(made: Candidate, budget: Budget) -> str:
    """Why a model is not taken into use; "" if it is."""
    allowed = OVER_BUDGET * budget.per_day * made.expected.days * made.expected.share + CHANCE
    if made.nats > made.nats_before + WORSE_NATS:
        return (
            f"it expects held-back flows less: {made.nats:.3f} nats a word, where the model in use has {made.nats_before:.3f}"
        )
    if made.expected.alerts > allowed:
        return (
            f"{made.expected.per_day:,.0f} alerts a day are to be expected of it: more than {OVER_BUDGET} times the budget of"
            f" {budget.per_day:g}, and {CHANCE} in all"
        )
    return ""


def report(record: Record, made: Candidate) -> dict[str, object]:
    """What is remembered of how a model was found good."""
    return {
        "how": made.how,
        "flows": len(record.flows),
        "share_of_pairs": record.share,
        "left_out": int((record.by_rule | record.by_model).sum()),
        "conversation_hours": made.hours,
        "expected_alerts_a_day": round(made.expected.per_day, 2),
        "alerts_a_day_of_the_model_before": round(made.before.per_day, 2),
        "nats": round(made.nats, 4),
        "nats_of_the_model_before": round(made.nats_before, 4),
        "netseq": __version__,
    }


def summary(record: Record, made: Candidate, budget: Budget, refused: str, *, check: bool) -> str:
    """What was made, and whether it is taken into use, in one line for a log."""
    told = (
        f"{made.how} on {made.hours:,} conversation-hours ({len(record.flows):,} flows,"
        f" {int((record.by_rule | record.by_model).sum()):,} of them left out because they alerted):"
        f" {made.expected.per_day:,.1f} alerts a day expected, {made.before.per_day:,.1f} with the model before;"
        f" {made.nats:.3f} nats a word, {made.nats_before:.3f} before"
    )
    if refused:
        return f"{told}; not taken into use: {refused}"
    return f"{told}; {'would be' if check else 'is'} taken into use (budget {budget.per_day:g} a day)"
