"""The section of the settings about a running Zeek: where its connections come from and alerts go. A part of `config`."""

from __future__ import annotations

from typing import Annotated, Literal

from sensor.config_kinds import Mebibytes, Section


class Zeek(Section, frozen=True):
    """A running Zeek, whose connections are scored in place of packets, and that is told of alerts (docs/zeek.md)."""

    road: Annotated[
        Literal["", "zeromq", "zeromq-log", "zeromq-writer", "files"],
        'how connections come: "zeromq" from the bus of its cluster, "zeromq-log" as its logger, "zeromq-writer" from NCSA\'s '
        'plugin, "files" as conn.log on disk; "" is not at all',
    ] = ""
    address: Annotated[
        str,
        'where: the proxy\'s XPUB ("tcp://127.0.0.1:27760" under zeekctl), or what is bound on the other two roads; "" is '
        "tcp://127.0.0.1:5555, :15570 and :15571",
    ] = ""
    path: Annotated[str, 'the conn.log that Zeek writes, such as "/opt/zeek/logs/current/conn.log", for the road "files"'] = ""
    topic: Annotated[str, "what is subscribed to on the bus; the Zeek package publishes there"] = "netseq.conn."
    serialiser: Annotated[
        Literal["broker-bin-v1", "broker-json-v1"], "how events are written; Zeek's Cluster::event_serializer must be the same"
    ] = "broker-bin-v1"
    curve_server_key: Annotated[str, 'file with the public key of an encrypted bus (CURVE, Zeek 8.2); "" is none'] = ""
    curve_public_key: Annotated[str, "file with the public key that all who connect to it share"] = ""
    curve_secret_key: Annotated[str, "file with the secret key that belongs to it"] = ""
    queue_mib: Annotated[
        Mebibytes, "MiB of connections that may wait to be scored; what comes beyond it is lost, and counted"
    ] = 64
    alerts: Annotated[bool, "raise alerts as notices in Zeek, over its bus"] = False
    alerts_connect: Annotated[str, 'where: the proxy\'s XSUB ("tcp://127.0.0.1:27761" under zeekctl)'] = "tcp://127.0.0.1:5556"
    input_file: Annotated[str, 'table of alerts that Zeek\'s Input framework follows, in place of the bus; "" is none'] = ""
