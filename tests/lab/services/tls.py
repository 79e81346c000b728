"""The laboratory's certificate authority, made anew for each run: its key stays in the run's folder.

Servers take a certificate for their names here; clients are told the authority's file and so verify as real ones do.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from .service import needed

DAYS = 30
"""A run takes an hour; the certificates are of no use after it."""


def authority(run: Path) -> Path:
    """The authority's certificate, which clients verify against (`curl --cacert`); made when it is first asked for."""
    folder = run / "services" / "authority"
    certificate = folder / "ca.pem"
    if not certificate.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _new_key(folder / "ca.key")
        _openssl(
            "req",
            "-x509",
            "-new",
            "-key",
            folder / "ca.key",
            "-days",
            DAYS,
            "-subj",
            "/O=netseq laboratory/CN=Lab Root",
            "-out",
            certificate,
        )
    return certificate


def certificate(run: Path, folder: Path, names: Sequence[str]) -> tuple[Path, Path]:
    """Make a certificate for `names` in `folder`, and give the files of chain and key; the key is made once for a folder."""
    root = authority(run)
    key, chain = folder / "key.pem", folder / f"{names[0]}.pem"
    if not key.exists():
        _new_key(key)
    alternative = "subjectAltName=" + ",".join(f"DNS:{name}" for name in names)
    leaf = ("-addext", alternative, "-addext", "basicConstraints=critical,CA:FALSE", "-subj", "/O=netseq laboratory")
    signed = ("-CA", root, "-CAkey", root.with_suffix(".key"), "-days", DAYS)
    _openssl("req", "-x509", "-new", "-key", key, *signed, *leaf, "-out", chain)
    with chain.open("ab") as more:
        more.write(root.read_bytes())
    return chain, key


def _new_key(path: Path) -> None:
    _openssl("genpkey", "-quiet", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", path)
    path.chmod(0o600)


def _openssl(*arguments: object) -> None:
    subprocess.run([needed("openssl"), *map(str, arguments)], capture_output=True, check=True, timeout=60)
