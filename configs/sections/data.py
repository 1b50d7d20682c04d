"""The section `data`: where the rows come from, and how they are split."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AliasChoices, BeforeValidator, Field, StringConstraints, model_validator

from configs.sections.base import Reference, Section
from configs.sections.features import Features, Target, TargetField
from configs.times import Moment, check_order


def _columns(value: object) -> object:
    """Read a bare name as a list of one."""
    return (value,) if isinstance(value, str) else value


SUFFIXES = (".parquet", ".csv", ".csv.gz")
DECLARED = ("features", "target")
"""The fields that a model is built from, as well as from its rows."""
Columns = Annotated[tuple[Annotated[str, StringConstraints(min_length=1)], ...], BeforeValidator(_columns)]


class Data(Section):
    """Where the rows come from, and how they are split."""

    load: Reference = Field(
        "",
        description="the function that returns (features, target): `module:function`, for a module beside the YAML "
        "file or one that can be imported where the command runs, or `./FILE.py:function`",
    )
    params: dict[str, Any] = Field(
        {}, description="keyword arguments of the function; relative paths in them are passed on unchanged"
    )
    file: Columns = Field(
        (),
        description="instead of load: a .parquet, .csv or .csv.gz file of rows, a pattern such as `rows/*.parquet`, or "
        "a list of these; needs features and target",
    )
    features: Features = Field(
        {}, description="for file: maps the name of each input of the model to what it is; `NAME: KIND` is enough"
    )
    target: TargetField = Target()
    ignore: Columns = Field(
        (), description="for file: columns that are known and not used; other unused columns are named in a warning"
    )
    stream_mb: float = Field(
        256,
        ge=0,
        description="for file: files of together at least so many MB are read as a stream, whose rows stay on the "
        "disk; 0 always does that. A compressed file counts with its size before the compression, roughly",
    )
    validation_fraction: float = Field(0.2, gt=0, lt=1, description="share of all rows that early stopping watches")
    test_fraction: float = Field(0.2, gt=0, lt=1, description="share of all rows that the gates judge")
    seed: int = Field(
        0,
        ge=0,
        lt=2**32,
        description="seed of the hash that assigns rows to the splits; another seed gives other splits",
    )
    key: Columns = Field(
        (),
        description="columns that identify a row: the split is computed from their values instead of from all "
        "features. The columns of key, group, time and split are removed from the features",
    )
    group: Columns = Field(
        (), description="columns that group rows, such as a customer: rows with equal values are in the same split"
    )
    time: str = Field("", description="column of times (ISO 8601 or numbers): the splits follow each other in time")
    validation_from: Moment = Field(
        None, description="first time of the validation rows; earlier rows are training rows"
    )
    test_from: Moment = Field(None, description="first time of the test rows")
    split: str = Field(
        "",
        validation_alias=AliasChoices("split", "split_column"),
        description="column that contains train, validation or test for each row; split_column is another name of this "
        "field. `rehearse` judges the test rows only",
    )

    @model_validator(mode="before")
    @classmethod
    def _names_the_split_once(cls, value: object) -> object:
        if isinstance(value, dict) and {"split", "split_column"} <= value.keys():
            raise ValueError("split and split_column are two names of the same field; remove one of them")
        return value

    @model_validator(mode="after")
    def _has_one_source(self) -> Data:
        if self.load and self.file:
            raise ValueError("load and file are two sources of rows; remove one of them")
        if not self.file and self.stream_mb != type(self).model_fields["stream_mb"].default:
            raise ValueError("stream_mb has no effect without file; remove it, or let load return a stream")
        if not self.file:
            set_ones = {"features": self.features, "target": self.target.name, "ignore": self.ignore}
            given = [name for name, value in set_ones.items() if value]
            if given:
                raise ValueError(f"{given[0]} describes the columns of data.file; set file, or remove {given[0]}")
            return self
        if self.params:
            raise ValueError("params are the arguments of load; remove them, or set load instead of file")
        if not self.features or not self.target.name:
            raise ValueError("file needs features and target; the command infer-schema writes both")
        odd = [name for name in self.file if not name.endswith(SUFFIXES)]
        if odd:
            raise ValueError(f"file must name files of {', '.join(SUFFIXES)}, got '{odd[0]}'")
        return self

    @model_validator(mode="after")
    def _uses_each_column_once(self) -> Data:
        columns = {name: feature.column or name for name, feature in self.features.items()}
        leaking = [name for name, column in columns.items() if column == self.target.name]
        if leaking:
            raise ValueError(f"the feature '{leaking[0]}' must not be the target, which no client knows; remove it")
        slashed = [name for name in columns if "/" in name]
        if slashed:
            raise ValueError(
                f"the name of a feature must not contain '/', which no input of a Keras model may, got '{slashed[0]}'; "
                f"give it another name and set column: {columns[slashed[0]]}"
            )
        both = [name for name in columns if name in self.split_columns]
        if both:
            raise ValueError(
                f"'{both[0]}' decides the splits and cannot also be the name of a feature; to use the column for both, "
                f"give the feature another name and set column: {columns[both[0]]}"
            )
        used = {*columns.values(), *self.split_columns, self.target.name} & set(self.ignore)
        if used:
            raise ValueError(f"ignore must not contain '{min(used)}', which is used; remove it from one of the two")
        return self

    @model_validator(mode="after")
    def _leaves_rows_to_train_on(self) -> Data:
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"the sum of validation_fraction ({self.validation_fraction:g}) and test_fraction "
                f"({self.test_fraction:g}) must be below 1, so that training rows are left"
            )
        return self

    @model_validator(mode="after")
    def _splits_in_one_way(self) -> Data:
        ways = [name for name in ("key", "group", "time", "split") if getattr(self, name)]
        if len(ways) > 1:
            raise ValueError(f"only one of key, group, time and split can be set, not {' and '.join(ways)}; keep one")
        shares = ("validation_fraction", "test_fraction")
        given = [name for name in shares if getattr(self, name) != type(self).model_fields[name].default]
        if given and (self.time or self.split):
            raise ValueError(f"{given[0]} has no effect when {ways[0]} is set; remove one of them")
        together = {bool(self.time), self.validation_from is not None, self.test_from is not None}
        if len(together) > 1:
            raise ValueError("time, validation_from and test_from must be set together: set all three, or none")
        if self.validation_from is not None and self.test_from is not None:
            check_order(self.validation_from, self.test_from)
        return self

    @property
    def source(self) -> str:
        """Return the function or the files that the rows come from, as the configuration names them."""
        return self.load or ", ".join(self.file)

    @property
    def split_columns(self) -> tuple[str, ...]:
        """Return the columns that decide the splits."""
        return tuple(filter(None, (*self.key, *self.group, self.time, self.split)))

    @property
    def identity(self) -> tuple[str, ...]:
        """Return the columns that decide a row's split; empty means all features."""
        return self.key or self.group
