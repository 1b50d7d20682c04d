"""Rows as named arrays: checks what a user's loader returned, and saves and loads rows."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks.datasets.columns import named_columns
from tasks.datasets.mapped import MAPPED, let_go, mapped_arrays, padding, pieces
from tasks.datasets.strings import Array as Array  # noqa: PLC0414  most users of rows name it from here
from tasks.datasets.strings import is_string, is_text, of_any_length, packed_lengths, packed_pieces, unpacked
from tasks.errors import DataError

SPREAD_ROWS = 20_000  # of a stream, with which a model is built and tried


@dataclass(frozen=True)
class Rows:
    """Aligned arrays of one split; the first axis of every array is the row.

    Attributes:
        features: by feature name. A single array without a name is `features`.
        targets: by target name. A single array without a name is `target`.
    """

    features: Mapping[str, Array]
    targets: Mapping[str, Array]

    def __len__(self) -> int:
        return len(next(iter({**self.features, **self.targets}.values())))

    def spread(self, most: int = SPREAD_ROWS) -> Rows:
        """Return at most so many rows, at equal distances."""
        if len(self) <= most:
            return self
        found = self.take(np.linspace(0, len(self) - 1, most).astype(int))
        let_go([*self.features.values(), *self.targets.values()])
        return found

    def take(self, index: Array) -> Rows:
        """Return the rows at `index`, an int array of shape (k,)."""
        return Rows({k: v[index] for k, v in self.features.items()}, {k: v[index] for k, v in self.targets.items()})


def check_rows(
    loaded: object, source: str, time: str = "", *, needs_target: bool = True, needs_rows: bool = True
) -> Rows:
    """Convert the result of a loader to rows.

    Args:
        loaded: `(features, target)`; each an array, or a mapping (or DataFrame) of name to array.
        time: the name of a feature that may contain dates and times; they become ISO 8601 text.
        needs_target: False allows None as the target, for rows that are served but not scored.
        needs_rows: False allows arrays without rows, such as a batch of a stream.

    Raises:
        DataError: the result has another form, lengths differ, a value is missing, or an array cannot hold it exactly.
    """
    if not isinstance(loaded, tuple) or len(loaded) != 2:
        kind = type(loaded).__name__
        got = f"a {kind} of {len(loaded)}" if isinstance(loaded, list | tuple) else kind
        raise DataError(f"'{source}' must return a tuple (features, target) of arrays, got {got}")
    is_served_only = loaded[1] is None and not needs_target
    targets = {} if is_served_only else named_columns(loaded[1], "target", source)
    rows = Rows(named_columns(loaded[0], "features", source, time), targets)
    if not rows.features or not (rows.targets or is_served_only):
        raise DataError(f"'{source}' must have at least one feature and one target, got none")
    lengths = {f"'{name[2:]}'": len(array) for name, array in _members(rows).items()}
    if len(set(lengths.values())) != 1:
        shown = ", ".join(f"{count} of {name}" for name, count in lengths.items())
        raise DataError(f"'{source}' must have the same number of rows in every array, got {shown}")
    if needs_rows and not len(rows):
        raise DataError(f"'{source}' must have rows, got none")
    return rows


def save_rows(path: Path, rows: Rows) -> None:
    """Write rows as `.npz` with members `x/<feature>` and `y/<target>`."""
    save_arrays(path, _members(rows))


def _members(rows: Rows) -> dict[str, Array]:
    return {f"x/{k}": v for k, v in rows.features.items()} | {f"y/{k}": v for k, v in rows.targets.items()}


def load_rows(path: Path) -> Rows:
    """Read what `save_rows` wrote."""
    members = load_arrays(path)
    return Rows(
        {k[2:]: v for k, v in members.items() if k.startswith("x/")},
        {k[2:]: v for k, v in members.items() if k.startswith("y/")},
    )


def save_arrays(path: Path, arrays: Mapping[str, Array], *, mapped: bool = False) -> None:
    """Write named arrays as one `.npz`.

    Text and bytes are two members: `<name>.text` or `<name>.bytes`, which has all items one after the other as uint8,
    and `<name>.lengths`. So long items need no padding, and NUL characters are kept. Equal arrays make equal files. The
    file gets its name when it is complete, and another file with that name is not changed, because several runs may
    share it (store/shared_rows.py).

    Args:
        mapped: whether readers map the numbers of this file instead of loading them (datasets/mapped.py).

    Raises:
        DataError: the file cannot be written.
    """
    partial = path.with_name(f".partial-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write_members(partial, arrays, mapped=mapped)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as exc:
        raise DataError(f"work_dir must be writable, got '{path}': {exc.strerror}") from exc


def _write_members(path: Path, arrays: Mapping[str, Array], *, mapped: bool) -> None:
    # not np.savez, whose parameters could have the name of an array
    with zipfile.ZipFile(path, "w") as archive:
        archive.comment = MAPPED if mapped else b""
        for name, array in arrays.items():
            if array.dtype.name == "bfloat16":  # the format does not support it; float32 holds every value
                array = array.astype(np.float32)  # noqa: PLW2901
            if is_string(array) and not (mapped and array.dtype.kind in "US"):  # fixed width was chosen to be mapped
                lengths = packed_lengths(array)
                _write_text(archive, f"{name}.{'text' if is_text(array) else 'bytes'}", array, lengths)
                _write(archive, f"{name}.lengths", lengths)
            else:
                _write(archive, f"{name}.npy", array)


def _write(archive: zipfile.ZipFile, name: str, array: Array) -> None:
    info = zipfile.ZipInfo(name)  # without the time of day
    is_mapped = archive.comment == MAPPED
    info.extra = padding(archive, name) if is_mapped else b""
    with archive.open(info, "w", force_zip64=True) as member:
        if not is_mapped:
            np.lib.format.write_array(member, array, allow_pickle=False)
            return
        array = np.ascontiguousarray(array)
        np.lib.format.write_array_header_1_0(member, np.lib.format.header_data_from_array_1_0(array))
        for piece in pieces(array):
            member.write(piece.tobytes())


def _write_text(archive: zipfile.ZipFile, name: str, array: Array, lengths: Array) -> None:
    """Write the bytes of all items as one array of uint8."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (int(lengths.sum(dtype=np.int64)),)}
    with archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, header)
        for piece in packed_pieces(array):
            member.write(piece)


def load_arrays(path: Path) -> dict[str, Array]:
    """Read named arrays from a `.npz`, including text of fixed width from earlier releases.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.comment == MAPPED:
                return mapped_arrays(path, archive, _read)
            members = [name.rpartition(".") for name in archive.namelist()]
            return {name: _read(archive, name, form) for name, _, form in members if form != "lengths"}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as exc:
        raise DataError(f"saved arrays must be readable, got '{path}': {exc}") from exc


def _read(archive: zipfile.ZipFile, name: str, form: str) -> Array:
    def member(ending: str) -> Array:
        with archive.open(f"{name}.{ending}") as file:
            array: Array = np.lib.format.read_array(file, allow_pickle=False)
            return array

    return member("npy") if form == "npy" else unpacked(member(form), member("lengths"), text=form == "text")


def digest_rows(splits: Iterable[Rows]) -> str:
    """Return the SHA-256 of the names, dtypes, shapes and bytes of several splits, in hexadecimal."""
    sha = hashlib.sha256()
    for rows in splits:
        for name, array in sorted(_members(rows).items()):
            sha.update(f"{name}|{of_any_length(array[:0]).dtype.str}|{array.shape}|".encode())
            for block in pieces(array) if is_string(array) else ():
                for piece in packed_pieces(block):
                    sha.update(piece)
            for block in pieces(_lengths(array) if is_string(array) else array):
                sha.update(np.ascontiguousarray(block).data)
    return sha.hexdigest()


def _lengths(array: Array) -> Array:
    """Return what `packed_lengths` does, and let go what was read of a mapped array."""
    return np.concatenate([packed_lengths(piece) for piece in pieces(array)])
