"""Reads the columns of CSV and Parquet files as Arrow holds them: the text of each cell, or the values with their type.

An empty cell of a CSV file is a missing value, as in row_files.py, and no other cell is.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from configs.redaction import redact
from configs.sections.data import SUFFIXES
from configs.user_code import nearest
from tasks.errors import WrongFile
from tasks.words import one_line

BLOCK = 2**24  # bytes of a CSV file that are read at once; a row must fit
INDEX = "__index_level_"  # the beginning of the name of a column that pandas adds to Parquet files
SEPARATORS = ";\t|"
BATCH_ROWS = 8192
READ_AHEAD = 2**16  # bytes of each column of a Parquet file, whose row groups may be as large as the file
GZIP_RATIO = 5  # of a table in CSV, roughly


def files_of(patterns: Sequence[str]) -> list[Path]:
    """Return the files that names and patterns (`*`, `?`, `[...]`, `**`) stand for, each once; matches are sorted.

    Args:
        patterns: absolute paths.

    Raises:
        WrongFile: a pattern matches nothing, or a match is not a regular file.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        matches = _matches(Path(pattern))
        if not matches:
            raise WrongFile(f"data.file must name a file, but nothing matches '{pattern}'")
        found |= dict.fromkeys(matches)
    for file in found:
        if not file.is_file():  # a pipe could not be read again
            inside = f"; for the files in a directory write '{file.name}/*.parquet'" if file.is_dir() else ""
            raise WrongFile(f"data.file must name regular files, got '{file}'{inside}")
    return list(found)


def bytes_of(file: Path) -> int:
    """Return about how many bytes a file has without its compression.

    Raises:
        WrongFile: the file cannot be read.
    """
    with _readable(file):
        if not is_csv(file):
            with _parquet(file) as opened:
                groups = [opened.metadata.row_group(number) for number in range(opened.metadata.num_row_groups)]
                return sum(group.total_byte_size for group in groups)
        return file.stat().st_size * (GZIP_RATIO if file.suffix == ".gz" else 1)


def _matches(pattern: Path) -> list[Path]:
    """Return the files of one pattern; a file whose name looks like a pattern is meant itself."""
    if pattern.exists():
        return [pattern]
    root = next(parent for parent in pattern.parents if parent.is_dir())  # its own name may contain `[`
    return sorted(root.glob(str(pattern.relative_to(root))))


def column_names(file: Path) -> list[str]:
    """Return the names of the columns of a file, without the index that pandas adds; in CSV files it has no name.

    Raises:
        WrongFile: the file cannot be read, or two columns have the same name.
    """
    with _readable(file):
        names = _csv_header(file) if is_csv(file) else _parquet(file).schema_arrow.names
    names = [name for name in names if name and not name.startswith(INDEX)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise WrongFile(f"every column must have a name of its own, and '{file}' has two '{twice[0]}'; rename one")
    return names


def check_columns(file: Path, wanted: Sequence[str]) -> list[str]:
    """Return the names of the columns of a file that has all columns that are wanted.

    Raises:
        WrongFile: a column does not exist; the message names the most similar one.
    """
    names = column_names(file)
    lost = [name for name in wanted if name not in names]
    if lost:
        lost_words = ", ".join(f"'{name}'" for name in lost)
        if separated := other_separator(names):
            raise WrongFile(f"'{file}' must have the columns that data names, but {separated}; save it with commas")
        raise WrongFile(
            f"'{file}' must have the columns that data names, but it has no {lost_words}: {nearest(lost[0], names)} "
            "Rename the column in the file, set `column` of the feature, or remove the feature"
        )
    return names


def other_separator(names: Sequence[str]) -> str:
    """Return what is wrong if the cells of a header are not separated by commas, or an empty text."""
    found = [mark for mark in SEPARATORS if len(names) == 1 and mark in names[0]]
    return f"its cells must be separated by commas, not {found[0]!r}" if found else ""


def read_columns(file: Path, names: Sequence[str]) -> dict[str, Any]:
    """Return some columns of a file as pyarrow chunked arrays, by name; those of a CSV file are text.

    Raises:
        WrongFile: the file cannot be read.
    """
    with _readable(file):
        table = _read_csv(file, names) if is_csv(file) else _parquet(file).read(columns=list(names))
        return {name: table.column(name) for name in names}


def batches(file: Path, names: Sequence[str] = ()) -> Iterator[Any]:
    """Yield columns of a file in pyarrow record batches, so that a large file needs little memory.

    Args:
        names: of the columns, in their order; empty means all columns.

    Raises:
        WrongFile: the file cannot be read.
    """
    with _readable(file):
        if is_csv(file):
            from pyarrow import csv as arrow_csv

            options = _csv_options(names or _csv_header(file), only=bool(names))
            with arrow_csv.open_csv(file, **options) as opened:
                for batch in opened:
                    for start in range(0, len(batch), BATCH_ROWS):
                        yield batch.slice(start, BATCH_ROWS)
        else:
            with _parquet(file, pre_buffer=False, buffer_size=READ_AHEAD) as opened:
                for group in range(opened.num_row_groups):  # all groups at once would be held until the end
                    yield from opened.iter_batches(BATCH_ROWS, row_groups=[group], columns=list(names) or None)


def is_csv(file: Path) -> bool:
    """Return whether a file is a CSV file by its name; `.gz` is decompressed."""
    return file.name.endswith((".csv", ".csv.gz"))


def is_declared(file: Path) -> bool:
    """Return whether declared columns can be read from a file of this name."""
    return file.name.endswith(SUFFIXES)


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Raise `WrongFile` for the errors of the libraries that read a file; their words may quote a row."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, EOFError, ValueError, csv.Error) as exc:
        words = exc.strerror if isinstance(exc, OSError) and exc.strerror else one_line(redact(str(exc)), 300)
        raise WrongFile(f"data.file must name a readable file of rows, got '{file}': {words}") from exc


def _parquet(file: Path, **options: Any) -> Any:
    from pyarrow import parquet

    return parquet.ParquetFile(file, **options)


def _csv_header(file: Path) -> list[str]:
    opened: Any = gzip.open if file.suffix == ".gz" else open
    with opened(file, "rt", encoding="utf-8-sig", newline="") as stream:
        return next(csv.reader(stream), [])


def _read_csv(file: Path, names: Sequence[str]) -> Any:
    from pyarrow import csv as arrow_csv

    return arrow_csv.read_csv(file, **_csv_options(names, only=True))


def _csv_options(names: Sequence[str], *, only: bool = False) -> dict[str, Any]:
    """Return how CSV files are read: every cell is text, quoted cells may contain line breaks."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    convert = arrow_csv.ConvertOptions(
        column_types={name: pa.string() for name in names},
        include_columns=list(names) if only else None,
        strings_can_be_null=True,
        quoted_strings_can_be_null=True,
        null_values=[""],
    )
    return {
        "read_options": arrow_csv.ReadOptions(block_size=BLOCK),
        "parse_options": arrow_csv.ParseOptions(newlines_in_values=True),
        "convert_options": convert,
    }
