"""The outputs of a signature, from what a model was found to answer and what the configuration declares."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from configs.schema import Export
from tasks.errors import SignatureMismatch
from tasks.records import TensorSpec
from tasks.savedmodel.transport import check_cast


def served_specs(found: Mapping[str, Any], export: Export) -> tuple[TensorSpec, ...]:
    """Return the outputs that are served.

    Args:
        found: TensorFlow's TypeSpec of what the model answers with, by served name, traced with a free batch.

    Raises:
        SignatureMismatch: an output has no answer for each row, is not dense, or is declared to be what it is not.
    """
    specs = tuple(_served(name, spec, export) for name, spec in found.items())
    ragged = [spec.name for spec in specs if spec.is_ragged]
    _check_known(export.ragged, ragged, "export.ragged", "outputs whose rows differ in length from batch to batch")
    for spec in specs:
        _check_pad(spec)
    return specs


def check_cast_names(export: Export, inputs: Collection[str], outputs: Collection[str]) -> None:
    """Refuse a cast of what is not there, or of two things at once.

    Raises:
        SignatureMismatch: a name of `export.cast` is no served name, or both an input's and an output's.
    """
    _check_known(export.cast, [*inputs, *outputs], "export.cast", "inputs or outputs")
    both = [name for name in export.cast if name in inputs and name in outputs]
    if both:
        raise SignatureMismatch(
            f"export.cast must name one thing, got '{both[0]}', an input and an output; rename one in export.inputs"
        )


def _check_known(names: Collection[str], known: Collection[str], field: str, what: str) -> None:
    for name in names:
        if name not in known:
            raise SignatureMismatch(f"{field} must name {what}, got '{name}'; they are {', '.join(known) or 'none'}")


def _served(name: str, found: Any, export: Export) -> TensorSpec:
    """Return one output as it is served."""
    kind = type(found).__name__
    if kind != "TensorSpec":
        raise SignatureMismatch(
            f"every output must be a dense tensor, got '{name}', a {kind.removesuffix('Spec')}; make it dense in the "
            "model, such as by to_tensor() or keras.ops.convert_to_tensor"
        )
    shape = None if found.shape.rank is None else tuple(found.shape.as_list())
    if shape is not None and shape[:1] != (None,):
        raise SignatureMismatch(
            f"every output must have an answer for each row, got '{name}' of shape {shape}, whose first axis is not "
            "the batch; leave it out of the model's outputs or compute it by row"
        )
    own = found.dtype.name
    wanted = export.cast.get(name, own)
    if wanted != own:
        check_cast(name, own, wanted)
    return TensorSpec(name, wanted, shape, own if wanted != own else "", export.ragged.get(name))


def _check_pad(spec: TensorSpec) -> None:
    """Refuse padding that is no value of its output."""
    if spec.pad is None:
        return
    if spec.dtype in ("string", "bool"):
        fits = isinstance(spec.pad, str if spec.dtype == "string" else bool)
    elif isinstance(spec.pad, str | bool):
        fits = False
    elif "int" in spec.dtype:
        limits = np.iinfo(spec.dtype)
        fits = spec.pad == int(spec.pad) and int(limits.min) <= spec.pad <= int(limits.max)
    else:
        fits = True
    if not fits:
        raise SignatureMismatch(f"export.ragged must fill '{spec.name}' with a {spec.dtype}, got {spec.pad!r}")
