"""The laboratory's mail: OpenSMTPD takes it (ports 25 and 587), Dovecot hands it out (IMAP at 143 and 993).

Mail to one of PEOPLE, whatever the domain, goes into the person's Maildir, which holds a few messages from the start; other
mail is refused. Port 25 asks for no password and offers STARTTLS; 587 wants both. Certificates are of the laboratory's
authority.
"""

from __future__ import annotations

import random
from pathlib import Path

from ..accounts import PEOPLE
from ..site import Host, Site
from .private import HOUSE, hashed, homes, privately
from .service import Launch, Service, names, needed, own_folder
from .tls import certificate

MESSAGES_EACH = 6
LARGEST_BYTES = 400_000


def start(host: Host, site: Site, run: Path, launch: Launch) -> None:
    """Write the mailboxes and both configurations, and launch both servers."""
    folder = own_folder(run, host, "mail")
    name = names(host, site)[0]
    chain, key = certificate(run, folder, names(host, site), rsa=True)  # OpenSMTPD 6.8 fails with others
    for person in PEOPLE:
        _write_mailbox(folder / "home" / person.name / "Maildir", person.name, site.domain)
    secrets = list(zip(PEOPLE, hashed(), strict=True))
    (folder / "people.dovecot").write_text("".join(f"{one.name}:{secret}\n" for one, secret in secrets), encoding="utf-8")
    (folder / "people.smtpd").write_text("".join(f"{one.name} {secret}\n" for one, secret in secrets), encoding="utf-8")
    (folder / "dovecot.conf").write_text(_dovecot(chain.name, key.name), encoding="utf-8")
    (folder / "smtpd.conf").write_text(_smtpd(name, chain.name, key.name), encoding="utf-8")
    launch(privately(folder, [needed("dovecot"), "-F", "-c", f"{HOUSE}/dovecot.conf"], homes()))
    spool = [
        ("mount", "-t", "tmpfs", "-o", "mode=755,size=64m", "tmpfs", "/var/spool"),
        ("install", "-d", "-m", "711", "/var/spool/smtpd"),
    ]
    launch(privately(folder, [needed("smtpd"), "-d", "-f", f"{HOUSE}/smtpd.conf"], [*spool, *homes()]))


def _smtpd(name: str, chain: str, key: str) -> str:
    return f"""pki lab cert "{HOUSE}/{chain}"
pki lab key "{HOUSE}/{key}"
table people file:{HOUSE}/people.smtpd
listen on 0.0.0.0 port 25 tls pki lab hostname "{name}"
listen on :: port 25 tls pki lab hostname "{name}"
listen on 0.0.0.0 port 587 tls-require pki lab auth <people> hostname "{name}"
listen on :: port 587 tls-require pki lab auth <people> hostname "{name}"
action "deliver" maildir "{HOUSE}/home/%{{user.username}}/Maildir"
match from any for any action "deliver"
"""


def _dovecot(chain: str, key: str) -> str:
    return f"""protocols = imap
listen = *, ::
base_dir = /run/dovecot
state_dir = /run/dovecot-state
log_path = /dev/stderr
ssl = yes
ssl_cert = <{HOUSE}/{chain}
ssl_key = <{HOUSE}/{key}
disable_plaintext_auth = no
auth_mechanisms = plain login
auth_failure_delay = 1 secs
auth_username_format = %n
mail_location = maildir:{HOUSE}/home/%n/Maildir
first_valid_uid = {min(person.uid for person in PEOPLE)}
mail_max_userip_connections = 50
passdb {{
  driver = passwd-file
  args = scheme=CRYPT username_format=%n {HOUSE}/people.dovecot
}}
userdb {{
  driver = passwd
}}
service imap-login {{
  service_count = 0
  process_min_avail = 1
}}
namespace inbox {{
  inbox = yes
}}
"""


def _write_mailbox(box: Path, person: str, domain: str) -> None:
    """Write a few messages of a lognormal size: median 9 kB, up to LARGEST_BYTES."""
    chance = random.Random(f"mail of {person}")
    for part in ("cur", "new", "tmp"):
        (box / part).mkdir(parents=True, exist_ok=True)
    for number in range(MESSAGES_EACH):
        size_bytes = int(min(LARGEST_BYTES, chance.lognormvariate(9.1, 1.3)))
        head = (
            f"From: news@{domain}\nTo: {person}@{domain}\nSubject: Message {number}\nMessage-ID: <{number}.{person}@{domain}>\n"
        )
        line = "An old message of the laboratory, as long as it is.\n"
        body = line * (1 + size_bytes // len(line))
        (box / "new" / f"{1_499_000_000 + number}.{number}.lab").write_text(f"{head}\n{body}", encoding="ascii")


_PROGRAMS = (("smtpd", "dovecot", "openssl"), ("opensmtpd", "dovecot-imapd", "openssl"))
_PORTS = (("tcp", 25), ("tcp", 587), ("tcp", 143), ("tcp", 993))

SERVICES = (Service("mail", *_PROGRAMS, _PORTS, start, "mail: OpenSMTPD and Dovecot"),)
