"""Times in a configuration: a number, or ISO 8601 with or without a time zone."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated

from pydantic import BeforeValidator

RULE = "must be a number, or a time in ISO 8601 such as 2026-01-31 or 2026-01-31T12:00:00+00:00"


def _moment(value: object) -> object:
    """Accept a finite number or a text in ISO 8601; YAML reads an unquoted date as a date."""
    if isinstance(value, date):  # a datetime is a date, too
        value = value.isoformat()
    if isinstance(value, str):
        read_moment(value)
    elif value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value - value != 0):
        raise ValueError(RULE)
    return value


def read_moment(text: str) -> datetime:
    """Return the time of a text in ISO 8601.

    Raises:
        ValueError: the text is not in ISO 8601.
    """
    try:
        return datetime.fromisoformat(text.strip())
    except ValueError as exc:
        raise ValueError(RULE) from exc


def check_order(validation_from: float | str, test_from: float | str) -> None:
    """Refuse boundaries that cannot be compared, or that leave no time for the validation rows."""
    first, second = (read_moment(b) if isinstance(b, str) else b for b in (validation_from, test_from))
    try:
        follows: bool = first < second  # type: ignore[operator]  # the TypeError is handled below
    except TypeError as exc:
        rule = "validation_from and test_from must both be numbers, or times that both have a zone or both have none"
        raise ValueError(rule) from exc
    if not follows:
        raise ValueError("validation_from must be earlier than test_from")


Moment = Annotated[float | int | str | None, BeforeValidator(_moment)]
