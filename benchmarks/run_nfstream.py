"""NFStream over one capture, with the options that come closest to netseq's work. Runs in NFStream's own environment.

`statistical_analysis` keeps the accumulators that netseq keeps too; `n_dissections=0` turns nDPI's payload inspection off,
which netseq does not do; one meter process is one core, and what it costs in all is what `measure` counts.
"""

import json
import sys

from nfstream import NFStreamer  # type: ignore[import-not-found]  # lives in an environment of its own
from nfstream import __version__ as version


def main() -> None:
    """Print how many flows and packets NFStream saw in the capture named on the command line."""
    flows = packets = 0
    for flow in NFStreamer(source=sys.argv[1], statistical_analysis=True, n_dissections=0, n_meters=1):
        flows += 1
        packets += flow.bidirectional_packets
    json.dump({"version": version, "flows": flows, "packets": packets}, sys.stdout)


if __name__ == "__main__":
    main()
