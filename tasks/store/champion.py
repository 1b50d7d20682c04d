"""Finds the version that is live, and the one before it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from configs.sections.promote import Layout
from tasks.datasets.seen import RECORD
from tasks.errors import ExportError, ManifestMismatch, StoreError
from tasks.records import Champion, GraphFacts
from tasks.savedmodel.manifest import hash_files
from tasks.savedmodel.safety import read_graph
from tasks.store.history import SERVED, live_digest, read
from tasks.store.layout import versions
from tasks.store.serving_config import labels_of


def champion_version(model_dir: Path, layout: Layout) -> int | None:
    """Return the live version, or None: with `latest` the highest one, with `labels` the one with the label `stable`.

    Raises:
        VersionExists: two directories have the same number.
    """
    live = versions(model_dir)
    if layout == "latest":
        return max(live, default=None)
    stable = labels_of(model_dir).get("stable")
    return stable if stable in live else None


def find_champion(model_dir: Path, layout: Layout = "latest") -> Champion | None:
    """Return the live version, or None if there is none.

    Its digest is computed from the files on the disk, regardless of its manifest. A damaged version is a verdict of the
    gate way_back and not an error: the digest is empty if a file cannot be read, and the graph is `unclear` if there is
    no SavedModel.

    Raises:
        VersionExists: two directories have the same number. StoreError: the version is a file.
    """
    version = champion_version(model_dir, layout)
    if version is None:
        return None
    version_dir = versions(model_dir)[version]
    if not version_dir.is_dir():
        raise StoreError(f"a version must be a directory, but '{version_dir}' is a file, and it is live; remove it")
    seen, digest = version_dir / RECORD, ""
    with contextlib.suppress(ManifestMismatch):
        digest = hash_files(version_dir).digest
    try:
        graph = read_graph(version_dir)
    except ExportError as exc:
        graph = GraphFacts((), (), 0, 0, 0, 0, (str(exc),))
    return Champion(version, version_dir, digest, graph, seen if seen.is_file() else None)


def predecessor(model_dir: Path, champion: int | None, digest: str = "") -> int | None:
    """Return the version that a rollback goes back to: the last champion before this one that was not rolled back.

    What was rolled back counts again once its bytes were made live again, as by a person who approved them. Versions
    with the same bytes as the champion are skipped, because going back to them would change nothing. So are canaries,
    which were never the champion.

    Args:
        champion: None stands for a candidate that is to be the next champion; `digest` is that of its bytes.
    """
    entries = read(model_dir)
    digests = {entry.version: entry.digest for entry in entries if entry.state in SERVED}
    decisive = [e for e in entries if e.version in digests and e.state in ("live", "superseded", "rolled back")]
    last = {entry.digest: entry.state for entry in decisive}
    bad = {digest for digest, state in last.items() if state == "rolled back"} - {live_digest(entries)}
    served = [entry.version for entry in entries if entry.state == "live"]
    if champion in served:  # later versions were withdrawn, or have another label
        served = served[: len(served) - 1 - served[::-1].index(champion)]
    own = digest or digests.get(champion or -1)
    good = [v for v in served if v != champion and digests[v] != own and digests[v] not in bad]
    return good[-1] if good else None
