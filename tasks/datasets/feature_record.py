"""Records in an export what its declared features mean, and compares that with the champion's record.

The record is in the version directory, so that it goes wherever the version goes and is covered by its digest.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from configs.redaction import redact
from configs.schema import Config
from configs.sections.features import Feature
from tasks.datasets.kinds import date_of, stand_in
from tasks.datasets.mapped import pieces
from tasks.datasets.rows import Rows
from tasks.datasets.strings import Array, is_text
from tasks.errors import WrongFile
from tasks.records import DataSchema, FeatureFacts
from tasks.words import few, one_line

log = logging.getLogger(__name__)
RECORD = Path("assets.extra") / "features.json"  # beside the manifest; TensorFlow Serving ignores it
LARGEST = 1 << 24  # bytes
MOST_VALUES = 1000  # of a feature with more values only their number is recorded
EXAMPLES = 5
SHORT, EXACT = 6, 17  # digits of a number


def unit_words(unit: str) -> str:
    """Return the unit of a date in words, as a contract has it."""
    return f"{unit} since 1970-01-01 UTC" if unit else ""


def write_schema(directory: Path, config: Config, rows: Rows, classes: Sequence[Any] = ()) -> None:
    """Record the declared features of an export, with their values in some rows.

    Nothing is written without declared features, if rows that were given have others, or if there is a record already,
    because a model that was trained elsewhere brings its own.

    Args:
        rows: the training rows; for a model whose training rows are unknown, the rows that it is judged on.
    """
    path, features = directory / RECORD, config.data.features
    if not features or path.exists() or features.keys() - rows.features.keys():
        return
    served = {keras_name: name for name, keras_name in config.export.inputs.items()}
    facts = {served.get(name, name): facts_of(feature, rows.features[name]) for name, feature in features.items()}
    found = DataSchema(facts, config.data.target.name, tuple(classes) or config.data.target.classes)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(asdict(found), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def facts_of(feature: Feature, array: Array) -> FeatureFacts:
    """Return what a feature means, and its values in some rows; a stand-in is not one of them."""
    missing = stand_in(feature)
    dtype = "string" if is_text(array) else str(array.dtype)
    unit = feature.unit if feature.kind == "date" else ""
    if feature.kind in ("number", "date"):
        known = _different_numbers(array, missing)
        low, high = (float(known[0]), float(known[-1])) if len(known) else (None, None)
        return FeatureFacts(feature.kind, dtype, unit, missing, len(known), (), low, high)
    different = {value for piece in pieces(array) for value in piece.tolist()} - {missing}
    values = sorted(map(str, different))
    listed = tuple(values) if feature.kind in ("category", "integer_id") and len(values) <= MOST_VALUES else ()
    return FeatureFacts(feature.kind, dtype, unit, missing, len(values), listed)


def _different_numbers(array: Array, missing: Any) -> Array:
    """Return the different values except the stand-in, in ascending order."""
    found = array[:0]
    for piece in pieces(array):
        known = piece if missing is None else piece[piece != np.asarray(missing, array.dtype)]
        found = np.unique(np.concatenate([found, np.unique(known)]))
    return found


def read_schema(version_dir: Path) -> DataSchema | None:
    """Return the record of a version, or None if there is none or it cannot be read."""
    path = version_dir / RECORD
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"it is larger than {LARGEST} bytes")
        return TypeAdapter(DataSchema).validate_python(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, ValidationError) as exc:
        log.warning("'%s' is ignored because it cannot be read: %s", path, one_line(str(exc), 200))
        return None


def units_of(schema: DataSchema | None) -> dict[str, str]:
    """Return the unit of each date in words, by the name of the input."""
    features = schema.features if schema else {}
    return {name: unit_words(facts.unit) for name, facts in features.items() if facts.unit}


def changed_meanings(ours: DataSchema | None, theirs: DataSchema | None) -> list[str]:
    """Return what means something else than for the champion's clients: kinds, units, stand-ins and classes.

    Inputs that only one of them has, or whose dtype changed, are found by the signatures.
    """
    if ours is None or theirs is None:
        return []
    found = []
    for name, now in ours.features.items():
        was = theirs.features.get(name)
        if was is None or was.dtype != now.dtype:
            continue
        if was.kind != now.kind:
            found.append(f"the kind of input '{name}' changed from {was.kind} to {now.kind}")
        elif was.unit != now.unit:
            found.append(f"the unit of input '{name}' changed from {was.unit} to {now.unit} since 1970-01-01 UTC")
        if was.missing is not None and was.missing != now.missing:
            found.append(
                f"the value that stands for a missing '{name}' changed from {was.missing!r} to "
                f"{'none' if now.missing is None else repr(now.missing)}"
            )
    if theirs.classes and ours.classes != theirs.classes:  # the name of the target is not served
        before, after = (
            few([f"'{name}'" for name in names], most=EXAMPLES) or "none" for names in (theirs.classes, ours.classes)
        )
        found.append(f"the classes of '{ours.target}' changed from {before} to {after}")
    return found


def drift(ours: DataSchema | None, theirs: DataSchema | None) -> tuple[str, ...]:
    """Return how declared features and their training values differ from the champion's, one sentence each."""
    if ours is None or theirs is None:
        return ()
    found = changed_meanings(ours, theirs)
    found += [f"feature '{name}' is new" for name in ours.features if name not in theirs.features]
    found += [f"feature '{name}' is gone" for name in theirs.features if name not in ours.features]
    for name, now in ours.features.items():
        was = theirs.features.get(name)
        if was is not None and (was.kind, was.unit) == (now.kind, now.unit):
            found += _changed_values(name, was, now)
    return tuple(found)


def _changed_values(name: str, was: FeatureFacts, now: FeatureFacts) -> list[str]:
    found = []
    if was.values and now.values:
        for word, values in (("new", set(now.values) - set(was.values)), ("lost", set(was.values) - set(now.values))):
            if values:
                examples = few([f"'{one_line(value, 40)}'" for value in sorted(values)], most=EXAMPLES)
                found.append(f"'{name}' has {len(values):,} {word} value{'s' if len(values) > 1 else ''}: {examples}")
    elif (was.values or now.values) and was.distinct != now.distinct:
        found.append(f"'{name}' has {now.distinct:,} different values, had {was.distinct:,}")
    ranges = [(facts.low, facts.high) for facts in (was, now)]
    if None not in (*ranges[0], *ranges[1]) and ranges[0] != ranges[1]:
        before, after = (_range(facts, SHORT) for facts in (was, now))
        if before == after:  # large numbers with small differences
            before, after = (_range(facts, EXACT) for facts in (was, now))
        found.append(f"'{name}' has the range {after}, had {before}")
    return found


def _range(facts: FeatureFacts, digits: int) -> str:
    assert facts.low is not None
    assert facts.high is not None
    if facts.kind == "date":
        return f"{date_of(int(facts.low), facts.unit)} to {date_of(int(facts.high), facts.unit)}"
    return f"{facts.low:.{digits}g} to {facts.high:.{digits}g}"


def tell_unknown_values(features: Mapping[str, Feature], column: Callable[[str, str], Array]) -> None:
    """Log, or refuse, values of the validation and test rows that the training rows do not have.

    Args:
        column: returns the values of a feature in a split, given the names of both.

    Raises:
        WrongFile: a feature has such values and declares `unknown: error`.
    """
    for name, feature in features.items():
        if feature.kind not in ("category", "integer_id"):
            continue
        known = {value for piece in pieces(column(name, "train")) for value in piece.tolist()}
        others = [column(name, split) for split in ("validation", "test")]
        unknown = Counter(
            value for array in others for piece in pieces(array) for value in piece.tolist() if value not in known
        )
        if not unknown:
            continue
        shown = few([f"'{_shown(value)}'" for value in sorted(unknown)], most=EXAMPLES)
        words = f"{unknown.total():,} of {sum(map(len, others)):,} validation and test rows: {shown}"
        if feature.unknown == "error":
            raise WrongFile(
                f"data.features.{name} declares unknown: error, but the training rows lack the values of {words}; use "
                "more rows, or set unknown: bucket"
            )
        log.info("'%s' has %s values that the training rows lack, in %s", name, f"{len(unknown):,}", words)


def check_trained_targets(trained: Array, classes: Sequence[Any]) -> None:
    """Refuse training rows that all have the same target, and log classes that they do not have.

    Args:
        trained: the targets of the training rows: numbers, or positions in the classes.

    Raises:
        WrongFile: a model could learn nothing but one answer, which test rows of one class would confirm.
    """
    found = np.unique(trained)
    if len(found) < 2:
        shown = classes[int(found[0])] if classes else found[0]
        raise WrongFile(
            f"data.target must have at least 2 different values in the training rows, got only '{_shown(shown)}'; use "
            "other rows, or split them in another way"
        )
    lost = [name for place, name in enumerate(classes) if place not in found]
    if lost:
        log.warning(
            "the model cannot learn %s of the %s classes, because no training row has them: %s",
            f"{len(lost):,}", f"{len(classes):,}", few([f"'{_shown(name)}'" for name in lost], most=EXAMPLES),
        )  # fmt: skip


def _shown(value: Any) -> str:
    return one_line(redact(str(value)), 40)
