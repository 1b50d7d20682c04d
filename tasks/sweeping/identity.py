"""What a trained variant depends on, as hashes: only what is equal in all of it is taken for the same variant."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from configs.loading import DEFAULT_MODEL
from configs.schema import Config
from configs.sections.data import DECLARED
from configs.user_code import origin_of
from tasks.datasets.user_code import resolve, users_files
from tasks.errors import TrainingError
from tasks.records import Splits

LIBRARIES = ("tensorflow", "keras", "numpy")
SECTIONS = {"model", "training", "seed", "export"}
READ_BY_TRAINING = {"task", "scores", "metric_output"}  # of gates: how the answers are read is decided there


def sweep_identity(config: Config, splits: Splits, code: Mapping[str, str]) -> str:
    """Return what all variants of a sweep share, as 16 hex digits.

    This is the model's name, the rows and what is declared about them, code, libraries and threads. The declarations
    count because the preprocessing is built from them.

    Args:
        code: the SHA-256 of each file of the user's, from `code_files`.
    """
    libraries = {name: version(name) for name in LIBRARIES} | {"python": platform.python_version()}
    declared = config.data.model_dump(mode="json", include=set(DECLARED))
    rows = [splits.digest, splits.streamed, declared]  # a stream is shuffled in another way
    return _hash([config.name, *rows, dict(code), libraries, config.sweep.threads], 16)


def variant_key(config: Config) -> str:
    """Return what is a variant's own: the sections of its configuration that the training reads; 12 hex digits."""
    own = config.model_dump(include=SECTIONS)  # not as JSON, where a number that is not finite is null
    return _hash([own, config.gates.model_dump(include=READ_BY_TRAINING)], 12)


def code_files(config: Config) -> dict[str, str]:
    """Return the SHA-256 of each file of the user's that `model.build` needs; runs in the TensorFlow process.

    Without `model.build` it is the file of the default model. Modules that the function imports only when it is called
    are not among them.

    Raises:
        TrainingError: the module cannot be imported.
    """
    reference = config.model.build or DEFAULT_MODEL
    resolve(reference, "model.build", TrainingError)
    found, origin = users_files(), origin_of(reference)
    if origin is not None:  # also where it is installed as a package
        found["model.build"] = hashlib.sha256(origin.read_bytes()).hexdigest()
    return found


def _hash(value: Any, digits: int) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:digits]
