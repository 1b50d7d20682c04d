"""What a version records about its declared features, and what that says beside a champion and a declared contract."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.sections.features import Feature
from tasks.datasets.declared import read_contract, write_contract
from tasks.datasets.feature_record import RECORD, changed_meanings, drift, facts_of, read_schema, units_of
from tasks.datasets.strings import TEXT
from tasks.gates.contract import Meanings, judge_contract
from tasks.records import DataSchema, FeatureFacts, Signature, Splits, TensorSpec, ValidationReport
from tasks.report.data import MOST_DRIFT, data_document, data_lines

DAY = FeatureFacts("date", "int64", "days", None, 3, (), 20_000, 20_100)
CITY = FeatureFacts("category", "string", "", "?", 2, ("Rome", "Wien"))
AGE = FeatureFacts("number", "float32", "", -1, 50, (), 18, 90)
SCHEMA = DataSchema({"day": DAY, "city": CITY, "age": AGE}, "paid", ("no", "yes"))
SIGNATURE = Signature((TensorSpec("day", "int64", (None,)),), (TensorSpec("p", "float32", (None, 1)),))


def with_(name: str, **changes: object) -> DataSchema:
    """Return the schema with another feature."""
    return replace(SCHEMA, features={**SCHEMA.features, name: replace(SCHEMA.features[name], **changes)})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ours", "sentences"),
    [
        (SCHEMA, []),
        (with_("day", unit="seconds"), ["the unit of input 'day' changed from days to seconds since 1970-01-01 UTC"]),
        (with_("city", kind="text"), ["the kind of input 'city' changed from category to text"]),
        (with_("age", missing=-9), ["the value that stands for a missing 'age' changed from -1 to -9"]),
        (with_("age", missing=None), ["the value that stands for a missing 'age' changed from -1 to none"]),
        (replace(SCHEMA, classes=("no", "maybe")), ["the classes of 'paid' changed from 'no', 'yes' to 'no', 'maybe'"]),
        (
            replace(SCHEMA, target="settled", classes=("yes", "no")),
            ["the classes of 'settled' changed from 'no', 'yes' to 'yes', 'no'"],
        ),
        (replace(SCHEMA, classes=()), ["the classes of 'paid' changed from 'no', 'yes' to none"]),
        (replace(SCHEMA, target="settled"), []),  # its name is not served
        (with_("age", dtype="int64", missing=-9), []),  # the signatures differ
    ],
)
def test_other_meanings(ours: DataSchema, sentences: list[str]) -> None:
    """What has the same dtype but means something else is named; it breaks the champion's clients."""
    assert changed_meanings(ours, SCHEMA) == sentences
    meanings = Meanings(units_of(ours), changed_meanings(ours, SCHEMA))
    result = judge_contract(SIGNATURE, SIGNATURE, SIGNATURE, meanings=meanings)
    assert result.passed == (not sentences)
    assert all(sentence in result.summary for sentence in sentences)


@pytest.mark.parametrize(
    ("ours", "sentence"),
    [
        (with_("city", values=("Bern", "Wien")), "'city' has 1 new value: 'Bern'"),
        (with_("city", values=("Bern", "Wien")), "'city' has 1 lost value: 'Rome'"),
        (with_("city", values=(), distinct=2000), "'city' has 2,000 different values, had 2"),
        (with_("age", high=110), "'age' has the range 18 to 110, had 18 to 90"),
        (with_("age", low=2**40, high=2**40 + 1), "'age' has the range 1.09951e+12 to 1.09951e+12, had 18 to 90"),
        (with_("day", high=20_200), "'day' has the range 2024-10-04 to 2025-04-22, had 2024-10-04 to 2025-01-12"),
        (replace(SCHEMA, features={"day": DAY, "city": CITY}), "feature 'age' is gone"),
        (replace(SCHEMA, features={**SCHEMA.features, "new": AGE}), "feature 'new' is new"),
    ],
)
def test_drift(ours: DataSchema, sentence: str) -> None:
    """New and lost features, values and ranges are one sentence each and break no client."""
    assert sentence in drift(ours, SCHEMA)
    assert changed_meanings(ours, SCHEMA) == []


def test_drift_of_large_numbers() -> None:
    """Ranges that six digits cannot tell apart are shown with all digits."""
    was, now = with_("age", low=2**40, high=2**40 + 1), with_("age", low=2**40, high=2**40 + 2)
    assert drift(now, was) == (
        "'age' has the range 1099511627776 to 1099511627778, had 1099511627776 to 1099511627777",
    )


def test_without_a_record(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A champion of data.load has no record; a damaged one is ignored with a warning."""
    assert drift(SCHEMA, None) == ()
    assert changed_meanings(None, SCHEMA) == []
    assert read_schema(tmp_path) is None
    (tmp_path / RECORD).parent.mkdir()
    for content in ("{", "[]", json.dumps({"features": {"a": {"kind": 3}}})):
        (tmp_path / RECORD).write_text(content)
        with caplog.at_level(logging.WARNING):
            assert read_schema(tmp_path) is None
    assert caplog.text.count("is ignored because it cannot be read") == 3
    (tmp_path / RECORD).write_text(json.dumps(asdict(SCHEMA)))
    assert read_schema(tmp_path) == SCHEMA


def test_facts_leave_the_stand_in_out() -> None:
    """Ranges and vocabularies are those of the known values; a stand-in is recorded as clients send it."""
    ages = facts_of(Feature(kind="number", missing=-1), np.array([-1, 20, 30], np.float32))
    assert (ages.low, ages.high, ages.distinct, ages.missing) == (20, 30, 2, -1)
    cities = facts_of(Feature(kind="category", missing="?"), np.array(["?", "b", "a", "b"], TEXT))
    assert cities.values == ("a", "b")
    days = facts_of(Feature(kind="date", missing="1970-01-02"), np.array([1, 1], np.int64))
    assert (days.low, days.missing) == (None, 1)


def test_units_in_a_contract(tmp_path: Path) -> None:
    """A date's unit is written to the contract, read again, and compared with that of the candidate."""
    file = tmp_path / "contract.json"
    write_contract(file, SIGNATURE, units_of(SCHEMA))
    assert '"unit": "days since 1970-01-01 UTC"' in file.read_text()
    declared = read_contract(file)
    for schema, passed in ((SCHEMA, True), (with_("day", unit="seconds"), False), (None, False)):
        result = judge_contract(SIGNATURE, SIGNATURE, declared=declared, meanings=Meanings(units_of(schema)))
        assert result.passed == passed, result.summary
    assert "the unit of input 'day' changed from days since 1970-01-01 UTC to none" in result.summary


def test_drift_in_the_report() -> None:
    """The report and splits.json name what has changed since the champion; a very long list ends with its length."""
    report: Any = ValidationReport(
        None, None, None, (), drift=("'city' has 1 new value: 'Bern'", "feature 'age' is gone")
    )  # type: ignore[arg-type]
    assert data_lines(report) == {
        "data compared with the champion's": "'city' has 1 new value: 'Bern'; feature 'age' is gone"
    }
    many = replace(report, drift=tuple(map(str, range(MOST_DRIFT + 7))))
    assert data_lines(many)["data compared with the champion's"].endswith("; 19; and 7 more")
    splits: Any = Splits(
        Path(), Path(), Path(), {"train": 1, "validation": 0, "test": 1}, "", "", (), classes=("no", "yes")
    )
    found = data_document(splits, many)
    assert (len(found["drift"]), found["classes"]) == (MOST_DRIFT + 7, ["no", "yes"])
