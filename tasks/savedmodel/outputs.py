"""The outputs of a signature, from the traced outputs of a model and from the configuration."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from configs.sections.model import Export
from tasks.errors import SignatureMismatch
from tasks.records import TensorSpec
from tasks.savedmodel.transport import check_cast


def served_specs(found: Mapping[str, Any], export: Export) -> tuple[TensorSpec, ...]:
    """Return the outputs that are served.

    Args:
        found: TensorFlow's TypeSpec of each output, by served name, traced with a free batch size.

    Raises:
        SignatureMismatch: an output is not dense, does not have one answer for each row, or contradicts the
            configuration.
    """
    specs = tuple(_served(name, spec, export) for name, spec in found.items())
    ragged = [spec.name for spec in specs if spec.is_ragged]
    _check_known(export.ragged, ragged, "export.ragged", "outputs whose rows differ in length from batch to batch")
    for spec in specs:
        _check_pad(spec)
    return specs


def check_cast_names(export: Export, inputs: Collection[str], outputs: Collection[str]) -> None:
    """Refuse a cast of an unknown name, or of a name that is ambiguous.

    Raises:
        SignatureMismatch: a name in `export.cast` is not a served name, or is the name of both an input and an output.
    """
    _check_known(export.cast, [*inputs, *outputs], "export.cast", "inputs or outputs")
    both = [name for name in export.cast if name in inputs and name in outputs]
    if both:
        raise SignatureMismatch(
            f"a name in export.cast must be unique, got '{both[0]}', which is an input and an output; rename one of "
            "them in export.inputs or export.outputs"
        )


def _check_known(names: Collection[str], known: Collection[str], field: str, what: str) -> None:
    for name in names:
        if name not in known:
            listed = ", ".join(known) or "none"
            raise SignatureMismatch(f"the keys of {field} must be {what}, got '{name}'; the model has {listed}")


def _served(name: str, found: Any, export: Export) -> TensorSpec:
    """Return the TensorSpec of one output as it is served."""
    kind = type(found).__name__
    if kind != "TensorSpec":
        raise SignatureMismatch(
            f"every output must be a dense tensor, got '{name}', a {kind.removesuffix('Spec')}; make it dense in the "
            "model, for example with to_tensor() or keras.ops.convert_to_tensor"
        )
    shape = None if found.shape.rank is None else tuple(found.shape.as_list())
    if shape is not None and shape[:1] != (None,):
        raise SignatureMismatch(
            f"every output must have one answer for each row, got '{name}' of shape {shape}, whose first axis is not "
            "the batch; remove it from the model's outputs, or compute it for each row"
        )
    own = found.dtype.name
    wanted = export.cast.get(name, own)
    if wanted != own:
        check_cast(name, own, wanted)
    return TensorSpec(name, wanted, shape, own if wanted != own else "", export.ragged.get(name))


def _check_pad(spec: TensorSpec) -> None:
    """Refuse a padding value that does not fit the dtype of its output."""
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
        raise SignatureMismatch(f"the value of '{spec.name}' in export.ragged must be a {spec.dtype}, got {spec.pad!r}")
