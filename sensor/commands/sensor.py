"""`netseq-sensor`: the daemon. Live interfaces or a folder of captures in, alerts out, until it is told to end.

Arguments, settings and refusals are handled here; `sensor.service` does the work. Exit status: 0 ended by SIGTERM or SIGINT,
1 something failed while it ran, or there was no room for its state (the service manager starts it anew), 2 misuse: arguments,
settings, model, interface, filter, or a folder or port that cannot be used; starting it anew would not help.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sensor import __version__, config, config_sensor
from sensor.commands.misuse import Parser, add_settings, fail
from sensor.commands.process import DAMAGED, DONE, INTERRUPTED, MISUSE

if TYPE_CHECKING:
    from sensor.service_signals import Signals

NAME = "netseq-sensor"
CONFIG = Path("/etc/netseq/sensor.toml")
"""Read when --config names no other file, and it is there."""

EPILOG = """\
Examples:
  netseq-sensor --check                        validate settings, model and interfaces, and end
  netseq-sensor -i eth0 --set service.state_dir=state --set output.alerts=-
                                               try it at a terminal, alerts to standard output
  netseq-sensor --set capture.folder=/var/captures
                                               read finished captures as they come

Signals: TERM and INT drain and end; HUP reads settings, model and lists anew; USR1 reopens the files of alerts.

Exit status: 0 ended by a signal; 1 failed while running, or a full disk; 2 misuse: arguments, settings, model, interface,
filter, folder, port.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    arguments = parser().parse_args(argv)
    try:
        settings = read(arguments)
        if arguments.show_config:
            sys.stdout.write(config.to_toml(settings))
            return DONE
        config_sensor.check_together(settings)
    except config.ConfigError as error:
        return fail(NAME, str(error), MISUSE)
    return check(settings) if arguments.check else serve(arguments, settings)


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    build = Parser(
        prog=NAME,
        description="Listen on interfaces, to Zeek, or read captures as they come, and alert on what is unusual.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    build.add_argument(
        "-i", "--interface", metavar="NAME", action="append", default=[], help="listen on this interface; may be repeated"
    )
    build.add_argument("--check", action="store_true", help="validate settings, model, interfaces and folders, and end")
    build.add_argument("--relearn", action="store_true", help="put the site's record and model aside, and learn it anew")
    how = build.add_argument_group("settings")
    add_settings(how)
    build.add_argument("--version", action="version", version=f"netseq {__version__}")
    return build


def read(arguments: argparse.Namespace) -> config.Settings:
    """Read the settings as the arguments say. Raises ConfigError."""
    changes = list(arguments.set)
    if arguments.interface:
        changes.append(f"capture.interfaces={','.join(arguments.interface)}")
    file = arguments.config or (CONFIG if CONFIG.is_file() else None)
    return config.load(file, changes)


def check(settings: config.Settings) -> int:
    """Try everything that a start needs, without beginning; tells each thing that is well, or the first that is not."""
    from sensor.commands.reading import prepare_kernels  # noqa: PLC0415  # slow to import, as all that follows

    prepare_kernels(NAME, quiet=False)  # before anything imports a kernel
    from sensor.service_trial import Refused, trial  # noqa: PLC0415

    try:
        for finding in trial(settings):
            print(f"{finding.word}  {finding.line}", flush=True)
    except (Refused, config.ConfigError) as refused:
        return fail(NAME, str(refused), MISUSE)
    return DONE


def serve(arguments: argparse.Namespace, settings: config.Settings) -> int:
    """Be the sensor."""
    from sensor.service_signals import WAITING, Signals  # noqa: PLC0415  # not to hold up a check

    begun_s = time.monotonic()
    try:
        with Signals(WAITING) as signals:
            return run(arguments, settings, signals, begun_s)
    except KeyboardInterrupt:
        return fail(NAME, "interrupted before it was ready", INTERRUPTED)


def run(arguments: argparse.Namespace, settings: config.Settings, signals: Signals, begun_s: float) -> int:
    """Start, and work until a signal ends it; `begun_s` is the monotonic time now."""
    from sensor.kernels import prepare_cache, when_compiling  # noqa: PLC0415  # before anything imports a kernel

    cache = prepare_cache()
    from sensor.service_log import Repeats, open_log  # noqa: PLC0415  # slow to import, as all that follows
    from sensor.service_notify import Notifier  # noqa: PLC0415

    repeats = Repeats()
    log = open_log(settings.service.log, repeats=repeats)
    notifier = Notifier()
    if cache.refused:
        log.warning("kernels_not_kept", folder=str(cache.refused), todo="make it writable, or set NUMBA_CACHE_DIR")

    def compiling() -> None:
        notifier.status("compiling kernels, once")
        log.info("compiling", what="kernels, once per version", seconds=20)

    when_compiling(compiling)
    from sensor.service import Service  # noqa: PLC0415
    from sensor.service_parts import Parts  # noqa: PLC0415
    from sensor.service_trial import Refused  # noqa: PLC0415

    try:
        parts = Parts(settings, log, repeats, relearn=arguments.relearn)
        service = Service(parts, lambda: read(arguments), notifier, signals, begun_s=begun_s)
    except Refused as refused:
        log.error("refused", reason=str(refused))
        return DAMAGED if refused.passing else MISUSE
    status = service.run()
    repeats.finish()
    return status


if __name__ == "__main__":
    sys.exit(main())
