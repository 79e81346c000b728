"""NFStream on an interface, with the options that come closest to netseq's work. Runs in NFStream's own environment.

The options are those of `run_nfstream`. Each second it prints what its meter has counted, as one JSON object a line; SIGINT
ends it. `live_runs` starts it and reads what it prints.
"""

import sys

from nfstream import NFStreamer  # type: ignore[import-not-found]  # lives in an environment of its own

REPORT_S = 1


def main() -> None:
    """Take flows off the interface named on the command line until the end."""
    streamer = NFStreamer(
        source=sys.argv[1], statistical_analysis=True, n_dissections=0, n_meters=1, performance_report=REPORT_S
    )
    for _ in streamer:
        pass


if __name__ == "__main__":
    main()
