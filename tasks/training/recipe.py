"""Records what a model is trained with: configuration, packages, code, machine and weights."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.loading import shown
from configs.redaction import redact
from configs.schema import Config
from tasks.datasets.user_code import users_files
from tasks.proof.packages import installed_packages
from tasks.records import Recipe

READ_BY_LIBRARIES = ("TF_", "XLA_", "KERAS_", "OMP_", "CUDA_", "NVIDIA_")
DECIDES_NOTHING = {"TF_CPP_MIN_LOG_LEVEL", "KERAS_HOME"}


def recipe_of(config: Config, model: Any) -> Recipe:
    """Return what a model was trained with; runs in the TensorFlow process, at the end of the training.

    Args:
        model: a keras.Model with its final weights.
    """
    settings = settings_of(os.environ)
    return Recipe(shown(config), installed_packages(), users_files(), this_machine(), settings, weights_digest(model))


def settings_of(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables that may decide the bytes of a model, without secrets, sorted by name.

    No other one is recorded, or set for a rebuild, whose record may be MLflow's.
    """
    return {
        name: redact(value)
        for name, value in sorted(variables.items())
        if name.startswith(READ_BY_LIBRARIES) and name not in DECIDES_NOTHING
    }


def this_machine() -> dict[str, str]:
    """Return what of this machine can decide the last bit of a weight."""
    return {
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()} {' '.join(platform.libc_ver())}".strip(),
        "processor": _processor(),
        "processors": str(len(os.sched_getaffinity(0))),
    }


def _processor() -> str:
    """Return the name of the processor; its vector instructions choose between kernels."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def weights_digest(model: Any) -> str:
    """Return the SHA-256 of a model's weights in their order, in hexadecimal."""
    sha = hashlib.sha256()
    for array in model.get_weights():
        sha.update(f"|{array.dtype}|{array.shape}|".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()
