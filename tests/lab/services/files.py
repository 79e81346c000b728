"""Where files are fetched and left: FTP (vsftpd), SSH with SFTP (sshd), and SMB (smbd), all for the laboratory's people.

Everybody has a home with a few files of the sizes that pages.packages() says of the host's name, sparse as those of the web.
sshd also knows the laboratory's key, which clients find with `client_key(run)`. Called through the registry.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from ..accounts import PEOPLE
from ..site import Host, Site
from .pages import LARGEST_BYTES, packages
from .private import HOUSE, LOGINS, homes, privately
from .service import Launch, Service, needed, own_folder

FILES_EACH = 6
PASSIVE_PORTS = (40_000, 40_999)
"""Of FTP's data connections."""


def file_sizes(host: str, person: str) -> dict[str, int]:
    """Which files somebody has on a host, and how big they are: for clients, which fetch them."""
    sizes = packages(f"{person} at {host}")[2 : 2 + FILES_EACH]
    return {f"file{number}.dat": min(LARGEST_BYTES, item.size_bytes) for number, item in enumerate(sizes)}


def client_key(run: Path) -> Path:
    """The laboratory's key, which opens every sshd of the run; made when it is first asked for, its public half beside it."""
    return _key(run / "services" / "keys" / "id_ed25519")


def start_ftp(host: Host, site: Site, run: Path, launch: Launch) -> None:
    """Run vsftpd for PEOPLE and for anonymous readers at port 21."""
    folder = own_folder(run, host, "ftp")
    _write_homes(folder, host)
    (folder / "public").mkdir(exist_ok=True)
    lines = [
        "listen=NO",
        "listen_ipv6=YES",  # both families
        "background=NO",
        "anonymous_enable=YES",
        f"anon_root={HOUSE}/public",
        "local_enable=YES",
        "write_enable=YES",
        "chroot_local_user=YES",
        "allow_writeable_chroot=YES",
        "pam_service_name=vsftpd",
        "secure_chroot_dir=/run/empty",
        "seccomp_sandbox=NO",  # the kernel of a small machine may lack it, and it guards nothing here
        f"pasv_min_port={PASSIVE_PORTS[0]}",
        f"pasv_max_port={PASSIVE_PORTS[1]}",
        "max_clients=200",
        "max_per_ip=100",
    ]
    (folder / "vsftpd.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")
    before = [("mkdir", "-p", "/run/empty"), *homes()]
    launch(privately(folder, [needed("vsftpd"), f"{HOUSE}/vsftpd.conf"], before))


def start_ssh(host: Host, site: Site, run: Path, launch: Launch) -> None:
    """Run sshd for PEOPLE, by password and by the laboratory's key, at port 22."""
    folder = own_folder(run, host, "ssh")
    _write_homes(folder, host)
    _key(folder / "host_key")
    public = client_key(run).with_suffix(".pub")
    (folder / "authorized_keys").write_text(public.read_text(encoding="ascii"), encoding="ascii")
    lines = [
        "Port 22",
        f"HostKey {HOUSE}/host_key",
        f"AuthorizedKeysFile {HOUSE}/authorized_keys",
        "StrictModes no",  # the folder may be anybody's
        "UsePAM no",
        "PasswordAuthentication yes",
        "KbdInteractiveAuthentication no",
        "PermitRootLogin no",
        "UseDNS no",
        "PidFile none",
        "PrintMotd no",
        "MaxStartups 100",  # a run's time is compressed, and so are its logins
        "MaxSessions 20",
        "Subsystem sftp internal-sftp",
        "LogLevel ERROR",
    ]
    (folder / "sshd_config").write_text("\n".join(lines) + "\n", encoding="utf-8")
    before = [
        ("mkdir", "-p", "/run/sshd"),
        ("touch", f"{LOGINS}/lastlog"),  # each session is greeted with the last login of the run
        ("chmod", "600", f"{HOUSE}/host_key"),
        *homes(),
    ]
    launch(privately(folder, [needed("sshd"), "-D", "-e", "-f", f"{HOUSE}/sshd_config"], before))


def start_smb(host: Host, site: Site, run: Path, launch: Launch) -> None:
    """Run smbd for PEOPLE, with their homes and a share `public` for all of them, at port 445."""
    folder = own_folder(run, host, "smb")
    _write_homes(folder, host)
    for name in ("public", "private", "state"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "public").chmod(0o777)
    places = {"lock directory": "lock", "state directory": "state", "cache directory": "cache", "pid directory": "pid"}
    places["ncalrpc dir"] = "ncalrpc"
    lines = [
        "[global]",
        "workgroup = LAB",
        "server role = standalone server",
        "smb ports = 445",
        "disable netbios = yes",
        "disable spoolss = yes",
        "load printers = no",
        "printing = bsd",
        "printcap name = /dev/null",
        "map to guest = never",
        "log level = 0",
        f"passdb backend = tdbsam:{HOUSE}/private/passdb.tdb",
        f"private dir = {HOUSE}/private",
        *(f"{what} = /run/samba/{place}" for what, place in places.items()),
        "[homes]",
        "browseable = no",
        "read only = no",
        "[public]",
        f"path = {HOUSE}/public",
        "read only = no",
    ]
    (folder / "smb.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")
    told = f'printf \'%s\\n%s\\n\' "$2" "$2" | {needed("smbpasswd")} -c {HOUSE}/smb.conf -L -s -a "$1"'
    enter = [("sh", "-c", told, "sh", person.name, person.password) for person in PEOPLE]
    before = [("mkdir", "-p", *(f"/run/samba/{place}" for place in places.values())), *homes(), *enter]
    launch(privately(folder, [needed("smbd"), "-F", "--no-process-group", "--debug-stdout", "-s", f"{HOUSE}/smb.conf"], before))


def _write_homes(folder: Path, host: Host) -> None:
    for person in PEOPLE:
        home = folder / "home" / person.name
        home.mkdir(parents=True, exist_ok=True)
        for name, size_bytes in file_sizes(host.name, person.name).items():
            (home / name).touch()
            os.truncate(home / name, size_bytes)


def _key(path: Path) -> Path:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        asked = [needed("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", "laboratory", "-f", str(path)]
        subprocess.run(asked, capture_output=True, check=True, timeout=60)
    return path


SERVICES = (
    Service("ftp", ("vsftpd",), ("vsftpd",), (("tcp", 21),), start_ftp, "files over FTP: vsftpd"),
    Service(
        "ssh", ("sshd", "ssh-keygen"), ("openssh-server", "openssh-client"), (("tcp", 22),), start_ssh, "SSH and SFTP: OpenSSH"
    ),
    Service("smb", ("smbd", "smbpasswd"), ("samba", "samba-common-bin"), (("tcp", 445),), start_smb, "shares over SMB: Samba"),
)
