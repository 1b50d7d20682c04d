"""Package the exported directory as an MLflow model, with its bytes unchanged."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from tasks.datasets.rows import load_arrays
from tasks.datasets.strings import plain
from tasks.records import Candidate, Signature, TensorSpec
from tasks.savedmodel.files import link_tree
from tasks.savedmodel.manifest import verify_manifest

SAVED_MODEL = "saved_model"
EXAMPLE_ROWS = 3


def build_package(candidate: Candidate, directory: Path) -> None:
    """Fill a directory with MLmodel, input example, requirements and the SavedModel (hard links).

    MLflow's own TensorFlow flavour loads a SavedModel by directory, tags and signature name, so that
    `mlflow.pyfunc.load_model` needs nothing of this project.

    Raises:
        ManifestMismatch: the candidate's bytes changed since the export.

    Source: `_load_tf1_estimator_saved_model` in mlflow/tensorflow/__init__.py (3.17), which loads any SavedModel.
    """
    import mlflow.pyfunc
    from mlflow.models import Model

    link_tree(candidate.version_dir, directory / SAVED_MODEL)
    verify_manifest(directory / SAVED_MODEL, candidate.digest)  # what gets this digest's tag has its bytes
    requirements = directory / "requirements.txt"
    requirements.write_text("".join(f"{name}=={version(name)}\n" for name in ("mlflow", "tensorflow")))
    model = Model(artifact_path="model", signature=mlflow_signature(candidate.signature))
    model.saved_input_example_info = write_example(candidate, directory)
    model.add_flavor(
        "tensorflow",
        code=None,
        model_type="tf1-estimator",
        saved_model_dir=SAVED_MODEL,
        meta_graph_tags=["serve"],
        signature_def_key=candidate.signature.name,
    )
    mlflow.pyfunc.add_to_model(model, loader_module="mlflow.tensorflow")
    model.save(str(directory / "MLmodel"))


def mlflow_signature(signature: Signature) -> Any:
    """Return MLflow's form of a signature."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema

    return ModelSignature(Schema([_spec(s) for s in signature.inputs]), Schema([_spec(s) for s in signature.outputs]))


def _spec(spec: TensorSpec) -> Any:
    from mlflow.types import TensorSpec as MlflowTensorSpec

    # NumPy has no bfloat16; every one of them is a float32
    dtype = np.dtype({"string": "U", "bfloat16": "float32"}.get(spec.dtype, spec.dtype))
    shape = (-1,) if spec.shape is None else tuple(-1 if n is None else n for n in spec.shape)
    return MlflowTensorSpec(dtype, shape, spec.name)


def write_example(candidate: Candidate, directory: Path) -> dict[str, str]:
    """Write a few test rows as the input example, and return MLflow's description of it."""
    rows = {name: plain(array[:EXAMPLE_ROWS]) for name, array in load_arrays(candidate.requests).items()}
    (directory / "input_example.json").write_text(json.dumps(rows))
    (directory / "serving_input_example.json").write_text(json.dumps({"inputs": rows}))
    return {
        "artifact_path": "input_example.json",
        "serving_input_path": "serving_input_example.json",
        "type": "ndarray",  # read back as arrays by the signature, so that it can be predicted on as it is
    }
