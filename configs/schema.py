"""The configuration of a rehearsal: every field with its unit, its default and its bound.

Reading it imports neither TensorFlow nor Prefect nor MLflow, and creates nothing. Of the environment, loading.py reads
what a text value names as `${NAME}`, and nothing else.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from configs.object_stores import directory_name, is_address, store_address
from configs.sections.base import Section
from configs.sections.data import Data
from configs.sections.gates import Gates
from configs.sections.model import Export, Model, Training
from configs.sections.promote import Promote
from configs.sections.serving import Serving
from configs.sections.sweep import Sweep
from configs.sections.tracking import Tracking
from configs.serving_flags import MODELS

# A model name becomes a directory, a URL segment and a registry name: no slash, no leading dot, no "..".
MODEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def _model_name(value: object) -> object:
    """Refuse a name that could leave its directory or cut a URL in two."""
    if isinstance(value, str) and (not MODEL_NAME.fullmatch(value) or ".." in value or len(value) > 100):
        raise ValueError(
            "must consist of letters, digits, '_', '-' and '.', start with a letter, digit or '_', "
            "not contain '..', and have at most 100 characters"
        )
    return value


def _models_root(value: object) -> object:
    """Read an address of an object store as text, and everything else as a path."""
    return store_address(value) if isinstance(value, str) and is_address(value) else value


class Config(Section):
    """One rehearsal: data, model, export, server, gates, tracking, promotion."""

    name: Annotated[str, BeforeValidator(_model_name)] = Field(
        description="name of the model in URLs, directories and the registry"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="seed of the initial weights and of shuffling")
    work_dir: Path = Field(Path(".rehearsal"), description="directory of candidates, and of the files of runs")
    models_root: Annotated[Path | Annotated[str, Field(pattern="^s3://")], BeforeValidator(_models_root)] = Field(
        Path("models"),
        description="directory of live versions: production TensorFlow Serving watches <models_root>/<name>; or "
        "s3://BUCKET/PREFIX, which `sync` follows beside each server (docs/object-stores.md)",
    )
    data: Data = Data()
    model: Model = Model()
    training: Training = Training()
    export: Export = Export()
    serving: Serving = Serving()
    gates: Gates = Gates()
    tracking: Tracking = Tracking()
    promote: Promote = Promote()
    sweep: Sweep = Sweep()

    @model_validator(mode="after")
    def _file_is_not_in_the_place_of_the_model(self) -> Config:
        if f"{MODELS}/{self.name}" in self.serving.files:
            raise ValueError(f"serving.files must not contain '{MODELS}/{self.name}', where the candidate is")
        return self

    @model_validator(mode="after")
    def _has_requests_to_draw(self) -> Config:
        if self.export.warmup_from == "requests" and self.gates.replay.file is None:
            raise ValueError("export.warmup_from is requests, which are drawn from gates.replay.file; set that file")
        return self

    @property
    def candidates_dir(self) -> Path:
        """Return `<work_dir>/candidates/<name>`, which holds the numbered candidates."""
        return self.work_dir / "candidates" / self.name

    @property
    def object_store(self) -> str:
        """Return the address of the object store that has the live versions, or an empty string."""
        return self.models_root if isinstance(self.models_root, str) else ""

    @property
    def live_root(self) -> Path:
        """Return `models_root`, or for an object store `<work_dir>/stores/<its name>`, the mirror of what is live."""
        if isinstance(self.models_root, Path):
            return self.models_root
        return self.work_dir / "stores" / directory_name(self.models_root)

    @property
    def live_dir(self) -> Path:
        """Return `<live_root>/<name>`; production watches it, unless it is the mirror of an object store."""
        return self.live_root / self.name

    def needs_person(self, *, has_champion: bool) -> bool:
        """Return whether a person must approve a candidate that passed."""
        return self.promote.mode == "review" or (not has_champion and self.gates.first_run == "review")
