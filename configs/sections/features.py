"""The sections `data.features` and `data.target`: what the columns of a file of rows are."""

from __future__ import annotations

import struct
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    FiniteFloat,
    SerializerFunctionWrapHandler,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from configs.sections.base import Section
from configs.times import read_moment

Kind = Literal["number", "category", "text", "boolean", "integer_id", "date"]
Unit = Literal["days", "seconds"]
Scalar = StrictBool | StrictInt | FiniteFloat | StrictStr
LARGEST_INTEGER = 2**63 - 1
ONLY_FOR = {
    "dtype": ("number",),
    "unit": ("date",),
    "unknown": ("category", "integer_id"),
    "vocabulary": ("category", "integer_id", "text"),
}
"""The kinds to which a field applies; all other fields apply to every kind."""
STAND_INS = {
    "number": "a number",
    "category": "text, in quotes if it looks like another value,",
    "text": "text, in quotes if it looks like another value,",
    "boolean": "true or false",
    "integer_id": "a whole number of at most 64 bits",
    "date": "a date in ISO 8601, or a whole number in its unit",
}


def _kind_alone(value: object) -> object:
    """Read a bare kind, `age: number`, as a feature without further settings."""
    return {"kind": value} if isinstance(value, str) else value


def _name_alone(value: object) -> object:
    """Read a bare name, `target: paid`, as a target whose kind follows from its values."""
    return {"name": value} if isinstance(value, str) else value


def _plain_date(value: object) -> object:
    """Return a date that YAML read as one as ISO 8601."""
    return value.isoformat() if isinstance(value, date) else value


class Feature(Section):
    """One column of the rows that the model takes as an input."""

    kind: Kind = Field(description="what the values are")
    column: str = Field("", description="the column of the file; empty means that it has the name of the feature")
    missing: Annotated[Scalar | None, BeforeValidator(_plain_date)] = Field(
        None,
        description="the value that stands for a missing one, in the file and in requests, because the JSON of "
        "TensorFlow Serving has no null; without it, a missing value in the file is an error",
    )
    unknown: Literal["bucket", "error"] = Field(
        "bucket",
        description="for category and integer_id: values that the training rows do not have share one position "
        "(`bucket`), or validation and test rows with such values are an error; a server always uses the position",
    )
    vocabulary: int = Field(
        10_000,
        ge=1,
        le=1_000_000,
        description="for category, integer_id and text: how many values or words are told apart, the most frequent",
    )
    dtype: Literal["float32", "float64", "int64"] = Field("float32", description="for number: the dtype of the input")
    unit: Unit = Field(
        "days",
        description="for date: the unit of the served number, which counts from 1970-01-01 UTC; its dtype is int64",
    )

    @field_validator("*")
    @classmethod
    def _has_an_end(cls, value: Any, _info: ValidationInfo) -> Any:
        """Let a value that stands for a missing one be as large as its kind allows; other numbers have a limit."""
        return value

    @model_serializer(mode="wrap")
    def _without_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what has its default, because most fields apply to other kinds."""
        fields = type(self).model_fields
        return {name: value for name, value in dump(self).items() if value != fields[name].default}

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Feature:
        for name, kinds in ONLY_FOR.items():
            if self.kind not in kinds and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} applies to {' and '.join(kinds)} only, not to {self.kind}; remove it")
        if self.missing is not None and not self._is_value(self.missing):
            raise ValueError(f"missing must be {STAND_INS[self.kind]} for the kind {self.kind}")
        if self.kind == "number" and self.dtype == "float32" and not _fits_float32(self.missing):
            raise ValueError(f"missing must be a number that float32 holds, got {self.missing}; set dtype: float64")
        return self

    def _is_value(self, value: Scalar) -> bool:
        if self.kind in ("category", "text"):
            return isinstance(value, str)
        if self.kind == "boolean" or isinstance(value, bool):
            return self.kind == "boolean" and isinstance(value, bool)
        if self.kind == "date" and isinstance(value, str):
            return _is_moment(value)
        whole = isinstance(value, int) and -LARGEST_INTEGER <= value <= LARGEST_INTEGER
        return whole or (self.kind == "number" and self.dtype != "int64" and isinstance(value, int | float))


def _fits_float32(value: object) -> bool:
    """Return whether float32 holds a number: whole ones exactly, as in the rows."""
    if isinstance(value, int | float):
        try:
            [held] = struct.unpack("<f", struct.pack("<f", value))
        except OverflowError:
            return False
        return isinstance(value, float) or held == value
    return True


def _is_moment(text: str) -> bool:
    try:
        read_moment(text)
    except ValueError:
        return False
    return True


Features = dict[str, Annotated[Feature, BeforeValidator(_kind_alone)]]


class Target(Section):
    """The column that the model predicts."""

    name: str = Field("", description="the column of the file")
    kind: Literal["", "number", "category", "boolean"] = Field(
        "",
        description="what the values are: `category` is a class, given as text or whole numbers; without it, text, "
        "booleans and at most 20 different whole numbers are classes, and other numbers are numbers",
    )
    classes: tuple[StrictInt | StrictStr, ...] = Field(
        (),
        description="for category: all classes, in the order of the model's answers; without it, they are the values "
        "of all rows, sorted",
    )

    @model_validator(mode="after")
    def _has_classes_of_its_kind(self) -> Target:
        if self.classes and self.kind != "category":
            raise ValueError("classes can be set for the kind category only; set kind: category, or remove classes")
        if self.classes and (len(self.classes) < 2 or len({str(name) for name in self.classes}) < len(self.classes)):
            raise ValueError("classes must name at least two classes, each once")
        if (self.kind or self.classes) and not self.name:
            raise ValueError("name must be set, the column of the file that the model predicts")
        return self


TargetField = Annotated[Target, BeforeValidator(_name_alone)]
