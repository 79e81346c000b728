"""The ordinary behaviour of the laboratory's hosts: every activity that a description may name, with the parameters it takes.

Times in parameters (think_s, every_s, minutes) are those of the working day: they are divided by the site's compression. Names
left empty are chosen at random, the first of a kind more often than the last, as people have favourites. Estimates of flows
were measured with one host doing ten to a hundred of each; to the connections come look-ups of names that are not remembered.
"""

from __future__ import annotations

from .activity import Activity

_ALL = (
    Activity(
        "web",
        "web.browse",
        {
            "name": "",
            "pages": 4,
            "tls": True,
            "ipv6": False,
            "parallel": 4,
            "keep_alive": True,
            "client": "own",
            "think_s": 30.0,
            "abort": 0.02,
        },
        flows=5.0,
        text="pages of a web site and their objects over up to six connections, or one for each object (client: own or curl)",
    ),
    Activity(
        "resolve",
        "names.resolve",
        {"names": 3, "ipv6": True, "missing": 0.1, "tcp": False},
        flows=4.5,
        grows_with="names",
        services=("dns",),
        text="names asked for, some of which do not exist",
    ),
    Activity(
        "mail_send",
        "mail.send",
        {"recipients": 1, "kilobytes": 30.0},
        flows=2.0,
        services=("mail",),
        text="a message over SMTP, its size drawn around kilobytes",
    ),
    Activity(
        "mail_read",
        "mail.read",
        {"messages": 5, "idle_s": 0.0},
        flows=2.0,
        services=("mail",),
        text="a mailbox looked at over IMAP, messages fetched, then waited for idle_s",
    ),
    Activity(
        "ftp",
        "files.ftp",
        {"files": 2, "kilobytes": 200.0, "upload": False, "passive": True, "client": "own"},
        flows=5.0,
        grows_with="files",
        services=("ftp",),
        text="files over FTP, a data connection each (client: own or lftp)",
    ),
    Activity(
        "sftp",
        "shells.sftp",
        {"server": "", "files": 2, "kilobytes": 500.0, "upload": False},
        flows=2.0,
        services=("ssh",),
        text="files over SSH",
    ),
    Activity(
        "ssh",
        "shells.ssh",
        {"server": "", "commands": 10, "think_s": 20.0},
        flows=2.0,
        services=("ssh",),
        text="a session at another host: commands typed, short answers",
    ),
    Activity(
        "smb",
        "files.smb",
        {"files": 2, "kilobytes": 300.0, "upload": False},
        flows=1.5,
        services=("smb",),
        text="files of a share (smbclient)",
    ),
    Activity(
        "sql",
        "databases.sql",
        {"queries": 20, "rows": 50, "client": "own", "think_s": 5.0},
        flows=2.0,
        services=("sql",),
        text="queries of a database over one connection (client: own or psql)",
    ),
    Activity("ntp", "clocks.ntp", {"samples": 1}, flows=1.5, services=("ntp",), text="the time asked for; no clock is set"),
    Activity(
        "update",
        "web.update",
        {"packages": 5, "client": "own"},
        flows=2.0,
        services=("repo",),
        text="a package list and packages from the mirror (client: own or curl)",
    ),
    Activity(
        "chat",
        "talks.chat",
        {"minutes": 60.0, "every_s": 120.0},
        flows=2.0,
        services=("chat",),
        text="one long connection with short messages both ways",
    ),
    Activity(
        "backup",
        "shells.backup",
        {"megabytes": 20.0, "server": "", "way": "sftp"},
        flows=3.0,
        text="one large upload (way: sftp or ftp)",
    ),
    Activity(
        "monitor",
        "watch.monitor",
        {"rounds": 1, "every_s": 1800.0, "hosts": [], "ping": True, "ports": True},
        flows=20.0,
        grows_with="rounds",
        text="all hosts of the inside (or those named) asked whether they are well, round after round",
    ),
    Activity(
        "stream",
        "talks.stream",
        {"minutes": 30.0, "packets_s": 30.0, "packet_bytes": 900},
        flows=2.0,
        services=("stream",),
        text="a UDP stream",
    ),
    Activity(
        "noise",
        "broadcasts.noise",
        {"rounds": 1, "kinds": ["mdns", "ssdp", "llmnr", "netbios"]},
        flows=5.0,
        grows_with="kinds",
        text="what machines call into the network by themselves",
    ),
    Activity(
        "dead",
        "watch.dead",
        {"host": "", "port": 80, "tries": 3},
        flows=4.0,
        grows_with="tries",
        text="connections to a host that is down",
    ),
    Activity(
        "api",
        "web.api",
        {"name": "", "calls": 20, "every_s": 60.0, "tls": True, "ipv6": False},
        flows=2.0,
        text="small requests over one kept connection",
    ),
    Activity("ping", "watch.ping", {"host": "", "count": 4, "ipv6": False}, flows=1.0, text="echo requests to a host"),
)

ACTIVITIES: dict[str, Activity] = {activity.name: activity for activity in _ALL}
