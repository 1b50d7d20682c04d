"""Records which rows a version has seen: fingerprints of the rows that it was trained, validated and tested on.

The record is in the version directory, so that it is always with the champion and is covered by its digest. A row is
identified by its request: champion and candidate are only compared if their requests have the same names, dtypes and
shapes, regardless of changes in the loader's table.
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

RECORD = Path("assets.extra") / "seen_rows.npz"  # beside the manifest; TensorFlow Serving ignores it
GROUPS = "groups.npz"  # beside a candidate's requests: fingerprints of the columns in data.key or data.group
AsRequests = Callable[[Mapping[str, Array]], Mapping[str, Array]]


@dataclass(frozen=True)
class Record:
    """The distinct rows of each split, as sorted fingerprints of uint64.

    Attributes:
        rows: fingerprints of requests, by split. groups: fingerprints of the columns in `data.key` or `data.group`, by
            split; empty without these fields.
        columns: the columns in `data.key` or `data.group`.
    """

    rows: Mapping[str, Array]
    groups: Mapping[str, Array] = field(default_factory=dict)
    columns: tuple[str, ...] = ()


def request_fingerprints(requests: Mapping[str, Array], name: str) -> Array:
    """Return a fingerprint of each request row, uint64 (n,); its key is the model's name, independent of any seed.

    Args:
        requests: one array for each input, by served name.
    """
    return fingerprints(requests, f"request of {name}")


def write_record(path: Path, record: Record) -> None:
    """Write the record of a version, with sorted and distinct rows."""
    members = {f"rows/{split}": np.unique(found) for split, found in record.rows.items()}
    members |= {f"groups/{split}": np.unique(found) for split, found in record.groups.items()}
    members["columns"] = np.array(record.columns or [""], np.str_)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_arrays(path, members)


def read_record(path: Path) -> Record:
    """Read the record of a version.

    Raises:
        DataError: the record cannot be read.
    """
    members = load_arrays(path)
    try:
        rows = {split: members[f"rows/{split}"] for split in SPLITS}
        groups = {split: members[f"groups/{split}"] for split in SPLITS if f"groups/{split}" in members}
        return Record(rows, groups, tuple(str(name) for name in members["columns"] if name))
    except KeyError as exc:
        raise DataError(f"'{path}' must contain the rows of a version, but {exc} is missing") from exc


def save_record(config: Config, splits: Splits, as_requests: AsRequests, directory: Path, evidence: Path) -> None:
    """Write the record of an export and, beside its requests, the groups of the test rows.

    Args:
        as_requests: converts features to requests. directory: of the export. evidence: of its requests.
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
    """Return which test rows a champion was trained or validated on, bool (n,), or None and why that is unknown.

    Args:
        champion: the directory of its record, or None.
    """
    if champion is None:
        return None, "it is unknown which rows the champion was trained on, because it was exported by an older release"
    own, beside = candidate.version_dir / RECORD, candidate.requests.with_name(GROUPS)
    try:
        columns = read_record(own).columns if own.is_file() else ()
        groups = load_arrays(beside)["test"] if columns else None
        rows = request_fingerprints(load_arrays(candidate.requests), candidate.name)
        found = known_to(read_record(champion), rows, groups, columns)
    except DataError as exc:
        return None, f"it is unknown which rows the champion was trained on: {exc}"
    return found, "" if found is not None else f"the champion has no record of {', '.join(columns)}"


def known_to(record: Record, rows: Array, groups: Array | None, columns: tuple[str, ...]) -> Array | None:
    """Return which rows a version was trained or validated on, bool (n,), or None if that is unknown.

    Args:
        rows: fingerprints of the requests, (n,). groups: fingerprints of `columns`, or None without such columns.
    """
    known = np.isin(rows, np.concatenate([record.rows["train"], record.rows["validation"]]))
    if groups is None:
        return known
    if record.columns != columns:
        return None  # it may have been trained on other rows of the same groups
    return np.asarray(known | np.isin(groups, np.concatenate([record.groups["train"], record.groups["validation"]])))


def shared_rows(record: Path) -> int | None:
    """Return how many distinct requests are in more than one split, or None without a record."""
    if not record.is_file():
        return None
    distinct = np.concatenate(list(read_record(record).rows.values()))
    return int((np.unique(distinct, return_counts=True)[1] > 1).sum())


def new_rows(candidate: Path, champion: Path | None) -> int | None:
    """Return how many distinct rows the candidate has in its splits and the champion had not, or None if unknown.

    Args:
        candidate, champion: the directories of their records.
    """
    if champion is None or not candidate.is_file():
        return None
    try:
        ours, theirs = (np.concatenate(list(read_record(path).rows.values())) for path in (candidate, champion))
    except DataError:  # the quality gate reports it and does not compare
        return None
    return len(np.setdiff1d(ours, theirs))
