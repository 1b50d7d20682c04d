"""Which rows a version knows: fingerprints of the rows that it was trained, validated and tested on.

They travel in the version directory, so that they are wherever the champion is, and are covered by its digest. A row is
what the server is asked: the requests of champion and candidate have the same names, dtypes and shapes, or the two are
not compared at all, whatever has become of the loader's table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from configs.schema import Config
from tasks.datasets.fingerprints import fingerprints
from tasks.datasets.rows import Array, load_arrays, load_rows, save_arrays
from tasks.datasets.splitting import SPLITS
from tasks.errors import DataError
from tasks.records import Candidate, Splits

RECORD = Path("assets.extra") / "seen_rows.npz"  # beside the manifest; TensorFlow Serving passes it over
GROUPS = "groups.npz"  # beside a candidate's requests: fingerprints of what data.key or data.group names of them
AsRequests = Callable[[Mapping[str, Array]], Mapping[str, Array]]


@dataclass(frozen=True)
class Record:
    """The different rows of each split, as rising fingerprints of uint64.

    Attributes:
        rows: of requests, by split. groups: of what `data.key` or `data.group` named, by split; empty without.
        columns: what those were.
    """

    rows: Mapping[str, Array]
    groups: Mapping[str, Array] = field(default_factory=dict)
    columns: tuple[str, ...] = ()


def request_fingerprints(requests: Mapping[str, Array], name: str) -> Array:
    """Return a fingerprint of each request row, uint64 (n,); the key is the model's name, whatever seed deals rows out.

    Args:
        requests: one array an input, by served name.
    """
    return fingerprints(requests, f"request of {name}")


def write_record(path: Path, record: Record) -> None:
    """Write what a version knows, each row once and in rising order."""
    members = {f"rows/{split}": np.unique(found) for split, found in record.rows.items()}
    members |= {f"groups/{split}": np.unique(found) for split, found in record.groups.items()}
    members["columns"] = np.array(record.columns or [""], np.str_)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_arrays(path, members)


def read_record(path: Path) -> Record:
    """Read what a version knows.

    Raises:
        DataError: it cannot be read.
    """
    members = load_arrays(path)
    try:
        rows = {split: members[f"rows/{split}"] for split in SPLITS}
        groups = {split: members[f"groups/{split}"] for split in SPLITS if f"groups/{split}" in members}
        return Record(rows, groups, tuple(str(name) for name in members["columns"] if name))
    except KeyError as exc:
        raise DataError(f"'{path}' must hold the rows of a version, and lacks {exc}") from exc


def save_record(config: Config, splits: Splits, as_requests: AsRequests, directory: Path, evidence: Path) -> None:
    """Write the record of an export, and beside its requests the groups of the test rows.

    Args:
        as_requests: turns features into what the server is asked. directory: of the export. evidence: of its requests.
    """
    files = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    rows = {
        split: request_fingerprints(as_requests(load_rows(path).features), config.name) for split, path in files.items()
    }
    groups = load_arrays(splits.groups) if splits.groups else {}
    groups = {split: fingerprints({"group": found}, f"group of {config.name}") for split, found in groups.items()}
    columns = tuple(sorted(set(config.data.identity))) if groups else ()
    write_record(directory / RECORD, Record(rows, groups, columns))
    if groups:
        save_arrays(evidence / GROUPS, {"test": groups["test"]})


def known_test_rows(candidate: Candidate, champion: Path | None) -> tuple[Array | None, str]:
    """Return which test rows a champion was trained or validated on, bool (n,), or None and why that cannot be told.

    Args:
        champion: where its record lies, or None.
    """
    if champion is None:
        return None, "which rows the champion was trained on is not known, for it was exported before that was kept"
    own, beside = candidate.version_dir / RECORD, candidate.requests.with_name(GROUPS)
    try:
        columns = read_record(own).columns if own.is_file() else ()
        groups = load_arrays(beside)["test"] if columns else None
        rows = request_fingerprints(load_arrays(candidate.requests), candidate.name)
        found = known_to(read_record(champion), rows, groups, columns)
    except DataError as exc:
        return None, f"which rows the champion was trained on is not known: {exc}"
    return found, "" if found is not None else f"the champion's rows are not known by {', '.join(columns)}"


def known_to(record: Record, rows: Array, groups: Array | None, columns: tuple[str, ...]) -> Array | None:
    """Return which rows a version was trained or validated on, bool (n,), or None where that cannot be told.

    Args:
        rows: fingerprints of the requests, (n,). groups: of what `columns` hold of them, or None without such columns.
    """
    known = np.isin(rows, np.concatenate([record.rows["train"], record.rows["validation"]]))
    if groups is None:
        return known
    if record.columns != columns:
        return None  # it may have been trained on other rows of the same customers
    return np.asarray(known | np.isin(groups, np.concatenate([record.groups["train"], record.groups["validation"]])))


def shared_rows(record: Path) -> int | None:
    """Return how many different rows, as the server is asked, are in more than one split; None without a record."""
    if not record.is_file():
        return None
    distinct = np.concatenate(list(read_record(record).rows.values()))
    return int((np.unique(distinct, return_counts=True)[1] > 1).sum())


def new_rows(candidate: Path, champion: Path | None) -> int | None:
    """Return how many different rows of all splits the champion's data did not have; None where nobody can tell.

    Args:
        candidate, champion: where their records lie.
    """
    if champion is None or not candidate.is_file():
        return None
    try:
        ours, theirs = (np.concatenate(list(read_record(path).rows.values())) for path in (candidate, champion))
    except DataError:  # the quality gate says so, and compares nothing
        return None
    return len(np.setdiff1d(ours, theirs))
