"""The laboratory's mail: Exim takes it (ports 25 and 587), Dovecot hands it out (IMAP at 143 and 993).

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
EXIM_USER = "Debian-exim"
"""Built into Debian's exim, as is the place of its configuration."""


def start(host: Host, site: Site, run: Path, launch: Launch) -> None:
    """Write the mailboxes and both configurations, and launch both servers."""
    folder = own_folder(run, host, "mail")
    name = names(host, site)[0]
    chain, key = certificate(run, folder, names(host, site))
    for person in PEOPLE:
        _write_mailbox(folder / "home" / person.name / "Maildir", person.name, site.domain)
    people = "".join(f"{one.name}:{secret}\n" for one, secret in zip(PEOPLE, hashed(), strict=True))
    (folder / "people").write_text(people, encoding="utf-8")
    (folder / "dovecot.conf").write_text(_dovecot(chain.name, key.name), encoding="utf-8")
    (folder / "exim4").mkdir(exist_ok=True)
    (folder / "exim4" / "exim4.conf").write_text(_exim(name, chain.name, key.name), encoding="utf-8")
    launch(privately(folder, [needed("dovecot"), "-F", "-c", f"{HOUSE}/dovecot.conf"], homes()))
    own = ("-o", EXIM_USER, "-g", EXIM_USER)
    before = [
        ("chmod", "644", "exim4/exim4.conf"),  # exim refuses what others than root could have written
        ("mount", "--bind", f"{HOUSE}/exim4", "/etc/exim4"),
        ("chgrp", EXIM_USER, key.name),
        ("chmod", "640", key.name),
        ("install", "-d", *own, "/run/exim"),
        *homes(),
    ]
    launch(privately(folder, [needed("exim4"), "-bdf", "-oP", "/run/exim/pid"], before))


def _exim(name: str, chain: str, key: str) -> str:
    password = f"${{lookup{{$auth2}}lsearch{{{HOUSE}/people}}{{$value}}{{*}}}}"
    return f"""primary_hostname = {name}
daemon_smtp_ports = 25 : 587
spool_directory = /run/exim
log_file_path = /run/exim/%slog
keep_environment =
host_lookup =
rfc1413_query_timeout = 0s
smtp_accept_max = 100
tls_advertise_hosts = *
tls_certificate = {HOUSE}/{chain}
tls_privatekey = {HOUSE}/{key}
auth_advertise_hosts = ${{if def:tls_in_cipher{{*}}{{}}}}
acl_smtp_rcpt = rcpt
acl_smtp_data = data
never_users = root
begin acl
rcpt:
  deny condition = ${{if eq{{$received_port}}{{587}}}}
       !authenticated = *
       message = log in first
  require verify = recipient
  accept
data:
  accept
begin routers
people:
  driver = accept
  local_parts = {" : ".join(person.name for person in PEOPLE)}
  check_local_user
  transport = maildir
begin transports
maildir:
  driver = appendfile
  directory = $home/Maildir
  maildir_format
begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${{if crypteq{{$auth3}}{{{password}}}}}
  server_set_id = $auth2
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
  args = scheme=CRYPT username_format=%n {HOUSE}/people
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


_PROGRAMS = (("exim4", "dovecot", "openssl"), ("exim4-daemon-light", "dovecot-imapd", "openssl"))
_PORTS = (("tcp", 25), ("tcp", 587), ("tcp", 143), ("tcp", 993))

SERVICES = (Service("mail", *_PROGRAMS, _PORTS, start, "mail: Exim and Dovecot"),)
