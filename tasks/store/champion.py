"""The version that is live, and the one that was before."""

from __future__ import annotations

from pathlib import Path

from configs.schema import Layout
from tasks.datasets.seen import RECORD
from tasks.errors import StoreError
from tasks.records import Champion
from tasks.savedmodel.manifest import hash_files
from tasks.savedmodel.safety import read_graph
from tasks.store.history import SERVED, read
from tasks.store.layout import versions
from tasks.store.serving_config import labels_of


def champion_version(model_dir: Path, layout: Layout) -> int | None:
    """Return the number that serves, or None: the highest under `latest`, the `stable` one under `labels`.

    Raises:
        VersionExists: two directories carry the same number.
    """
    live = versions(model_dir)
    if layout == "latest":
        return max(live, default=None)
    stable = labels_of(model_dir).get("stable")
    return stable if stable in live else None


def find_champion(model_dir: Path, layout: Layout = "latest") -> Champion | None:
    """Return the version that serves, or None without one.

    Its digest is that of the bytes on the disk now, whatever its manifest says.

    Raises:
        VersionExists: two directories carry the same number. StoreError: it is a file.
        ManifestMismatch, ExportError: it is no SavedModel.
    """
    version = champion_version(model_dir, layout)
    if version is None:
        return None
    version_dir = versions(model_dir)[version]
    if not version_dir.is_dir():
        raise StoreError(f"'{version_dir}' is a file, and a server takes it for the version that serves; remove it")
    seen = version_dir / RECORD
    digest = hash_files(version_dir).digest
    return Champion(version, version_dir, digest, read_graph(version_dir), seen if seen.is_file() else None)


def predecessor(model_dir: Path, champion: int | None) -> int | None:
    """Return the version that a rollback goes back to: the last champion that served well before this one.

    Of versions with the champion's bytes none is meant: going back to those would change nothing. Nor is a canary,
    which has never been the champion.
    """
    entries = read(model_dir)
    digests = {entry.version: entry.digest for entry in entries if entry.state in SERVED}
    bad = {entry.version for entry in entries if entry.state == "rolled back"}
    bad_digests = {digests[version] for version in bad if version in digests}
    served = [entry.version for entry in entries if entry.state == "live"]
    if champion in served:  # what came after it is no way back: it was withdrawn, or is served under another label
        served = served[: len(served) - 1 - served[::-1].index(champion)]
    own = digests.get(champion or -1)
    good = [v for v in served if v != champion and v not in bad and digests[v] != own and digests[v] not in bad_digests]
    return good[-1] if good else None
