"""The version that serves now."""

from __future__ import annotations

from pathlib import Path

from tasks.records import Champion
from tasks.savedmodel.manifest import hash_files
from tasks.savedmodel.safety import read_graph
from tasks.store.layout import versions


def find_champion(model_dir: Path) -> Champion | None:
    """Return the live version that the server's default policy serves, the highest number, or None without one.

    Its digest is that of the bytes on the disk now, whatever its manifest says.

    Raises:
        VersionExists: two directories carry the same number. ManifestMismatch, ExportError: it is no SavedModel.
    """
    live = versions(model_dir)
    if not live:
        return None
    version = max(live)
    return Champion(version, live[version], hash_files(live[version]).digest, read_graph(live[version]))
