"""Times in a configuration: a number, or ISO 8601 with or without a time zone."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated

from pydantic import BeforeValidator

RULE = "a time is a number, or ISO 8601 such as 2026-01-31 or 2026-01-31T12:00:00+00:00"


def _moment(value: object) -> object:
    """Take a finite number or an ISO 8601 text; YAML reads a bare date as a date."""
    if isinstance(value, date):  # a datetime is one, too
        value = value.isoformat()
    if isinstance(value, str):
        read_moment(value)
    elif value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value - value != 0):
        raise ValueError(RULE)
    return value


def read_moment(text: str) -> datetime:
    """Return the time that an ISO 8601 text says.

    Raises:
        ValueError: it is none.
    """
    try:
        return datetime.fromisoformat(text.strip())
    except ValueError as exc:
        raise ValueError(RULE) from exc


def check_order(validation_from: float | str, test_from: float | str) -> None:
    """Refuse boundaries that cannot be compared, or that leave the validation rows no time."""
    first, second = (read_moment(b) if isinstance(b, str) else b for b in (validation_from, test_from))
    try:
        follows: bool = first < second  # type: ignore[operator]  # a TypeError is what is looked for
    except TypeError as exc:
        raise ValueError("validation_from and test_from must both be numbers, or times with or without a zone") from exc
    if not follows:
        raise ValueError("validation_from must be earlier than test_from")


Moment = Annotated[float | int | str | None, BeforeValidator(_moment)]
