"""The laboratory's database: PostgreSQL, made anew for each run, with tables whose answers are as long as a client likes.

`items` has ROWS rows of some 200 bytes, numbered from 1: `SELECT * FROM items WHERE number <= N` gives an answer of any size;
`notes` takes what clients insert. PostgreSQL refuses to be root, so it is its own user of the private passwd file.
"""

from __future__ import annotations

from pathlib import Path

from ..accounts import PEOPLE
from ..site import Host, Site
from .private import HOUSE, privately
from .service import Launch, Service, needed, own_folder

DATABASE = "lab"
ROWS = 20_000


def start(host: Host, site: Site, run: Path, launch: Launch) -> None:
    """Make the database `lab`, which PEOPLE may use with their passwords, and answer at port 5432."""
    folder = own_folder(run, host, "sql")
    people = [f"CREATE ROLE \"{person.name}\" LOGIN PASSWORD '{person.password}';" for person in PEOPLE]
    (folder / "people.sql").write_text("\n".join((*people, f"CREATE DATABASE {DATABASE};")) + "\n", encoding="utf-8")
    (folder / "tables.sql").write_text("\n".join(_TABLES) + "\n", encoding="utf-8")
    settings = [
        "listen_addresses = '*'",
        "unix_socket_directories = ''",
        "max_connections = 60",
        "shared_buffers = 16MB",
        "fsync = off",  # nothing here outlives the run
        "autovacuum = off",
        "logging_collector = off",
        "jit = off",
    ]
    (folder / "settings.conf").write_text("\n".join(settings) + "\n", encoding="utf-8")
    (folder / "allowed.conf").write_text("host all all all scram-sha-256\n", encoding="utf-8")
    data = f"{HOUSE}/data"
    user = (needed("setpriv"), "--reuid=postgres", "--regid=postgres", "--clear-groups", "--")
    postgres = needed("postgres")
    single = '"$@" < "$0" > /dev/null'
    before = [
        ("install", "-d", "-o", "postgres", "-g", "postgres", "-m", "700", data),
        (*user, needed("initdb"), "-D", data, "--no-sync", "--no-locale", "-E", "UTF8", "-A", "scram-sha-256", "-U", "postgres",
         "--pwfile", f"{HOUSE}/owner"),
        ("cp", f"{HOUSE}/allowed.conf", f"{data}/pg_hba.conf"),
        ("sh", "-c", f"cat {HOUSE}/settings.conf >> {data}/postgresql.conf"),
        ("sh", "-c", single, f"{HOUSE}/people.sql", *user, postgres, "--single", "-D", data, "postgres"),
        ("sh", "-c", single, f"{HOUSE}/tables.sql", *user, postgres, "--single", "-D", data, DATABASE),
    ]  # fmt: skip
    (folder / "owner").write_text("of-nobody's-use\n", encoding="utf-8")
    launch(privately(folder, [*user, postgres, "-D", data], before))


_TABLES = (
    "CREATE TABLE items (number integer PRIMARY KEY, name text, stock integer, text text);",
    f"INSERT INTO items SELECT n, 'item ' || n, n % 97, repeat(md5(n::text), 1 + n % 11) FROM generate_series(1, {ROWS}) n;",
    "CREATE TABLE notes (at timestamptz DEFAULT now(), author text, text text);",
    "GRANT SELECT ON items TO PUBLIC;",
    "GRANT SELECT, INSERT ON notes TO PUBLIC;",
)

_PROGRAMS = (("postgres", "initdb", "setpriv"), ("postgresql-15", "postgresql-15", "util-linux"))

SERVICES = (Service("sql", *_PROGRAMS, (("tcp", 5432),), start, "a database: PostgreSQL"),)
