"""The section `data`: where the rows come from, and how they are split."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AliasChoices, BeforeValidator, Field, StringConstraints, model_validator

from configs.sections.base import Reference, Section
from configs.times import Moment, check_order


def _columns(value: object) -> object:
    """Read a bare name as a list of one."""
    return (value,) if isinstance(value, str) else value


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
    def identity(self) -> tuple[str, ...]:
        """Return the columns that decide a row's split; empty means all features."""
        return self.key or self.group
