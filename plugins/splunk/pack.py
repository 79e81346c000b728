"""Packs the Splunk add-on as Splunk wants it: `python plugins/splunk/pack.py` writes dist/TA-netseq-VERSION.tar.gz.

The same files give the same archive, byte for byte, whoever packs them and when: names are sorted, owners and times are
fixed, and modes are those that Splunk asks for (nothing executable, nothing that others may write). `make splunk` calls this
with any Python.
"""

from __future__ import annotations

import configparser
import gzip
import io
import os
import sys
import tarfile
from pathlib import Path

HERE = Path(__file__).parent
APP = HERE / "TA-netseq"
LICENSE = HERE.parents[1] / "LICENSE"
TIME_S = int(os.environ.get("SOURCE_DATE_EPOCH", "315532800"))
"""1980-01-01, the least time that every archive format holds, unless a distribution asks for its own."""
LEFT_OUT = {"local", "__pycache__"}
"""Folders that an installed add-on may have, and a packed one must not."""


def version() -> str:
    """The version that the add-on says it has."""
    conf = configparser.ConfigParser()
    conf.read(APP / "default" / "app.conf", encoding="utf-8")
    return conf["launcher"]["version"]


def members() -> dict[str, Path]:
    """Every file of the archive under the name that it has there."""
    files = {
        f"{APP.name}/{path.relative_to(APP).as_posix()}": path
        for path in APP.rglob("*")
        if path.is_file() and not LEFT_OUT & set(path.relative_to(APP).parts) and not path.name.startswith(".")
    }
    return dict(sorted((files | {f"{APP.name}/LICENSE": LICENSE}).items()))


def packed() -> bytes:
    """The archive."""
    out = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=out, mtime=TIME_S) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        files = members()
        folders = {str(parent) for name in files for parent in Path(name).parents if str(parent) != "."}
        for name in sorted(folders | set(files)):
            info = tarfile.TarInfo(name)
            info.mtime, info.uname, info.gname = TIME_S, "root", "root"
            if name in files:
                data = files[name].read_bytes()
                info.size, info.mode = len(data), 0o644
                tar.addfile(info, io.BytesIO(data))
            else:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(info)
    return out.getvalue()


def main(folder: str = "dist") -> None:
    """Write the archive into a folder."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    file = Path(folder) / f"{APP.name}-{version()}.tar.gz"
    file.write_bytes(packed())
    sys.stdout.write(f"{file}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
