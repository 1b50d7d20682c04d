"""What all sections of the configuration share: no unknown key, no endless number, and references to code."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationInfo, field_validator

REFERENCE = re.compile(r"([A-Za-z_][\w.]*|[^:]+\.py):[A-Za-z_]\w*")
Reference = Annotated[str, StringConstraints(pattern=f"^({REFERENCE.pattern})?$")]
LONGEST_S = 2_000_000  # seconds, 23 days: a socket's time limit is at most 2**31 milliseconds
MOST = 2**32 - 1  # the limit of every count
LARGEST = 1e38  # the limit of every measured quantity; float32 ends at 3.4e38


class Section(BaseModel):
    """A section of the configuration: unknown keys are errors, and the values are read-only."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)

    @field_validator("*")
    @classmethod
    def _has_an_end(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse a number that is larger than the libraries accept."""
        name = info.field_name or ""
        if isinstance(value, int | float) and not name.startswith("max"):  # a bound is only compared
            seconds = name.endswith("_s") and not name.endswith("_per_s")
            most = LONGEST_S if seconds else MOST if isinstance(value, int) else LARGEST
            if value > most and value != math.inf:  # each field allows infinity or not
                raise ValueError(f"must be at most {most:,.15g}{' seconds' if seconds else ''}")
        return value
