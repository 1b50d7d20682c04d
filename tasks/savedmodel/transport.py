"""Whether clients can be answered in the dtypes of a signature."""

from __future__ import annotations

import numpy as np

from configs.schema import Config
from tasks.errors import SignatureMismatch
from tasks.records import GRPC_DTYPES, Signature, TensorSpec

CASTS = {"float16": "float32", "bfloat16": "float32", "uint16": "int32"}
OVER_REST = ("latency", "robustness")
"""Gates whose requests go over REST alone."""


def check_transport(signature: Signature, config: Config, *, given: bool = False) -> None:
    """Refuse dtypes that `serving.protocol` cannot carry, before a server would.

    Args:
        given: the model's own bytes are served, and no cast can be put around it.

    Raises:
        SignatureMismatch: with the ways out of it.
    """
    beyond = signature.beyond_rest
    gates = [gate for gate in OVER_REST if gate in config.gates.judging]
    over_grpc = all(_over_grpc(spec, signature) for spec in beyond)
    if not beyond or (config.serving.protocol == "grpc" and over_grpc and not gates):
        return
    raise SignatureMismatch(
        f"TensorFlow Serving's REST interface must be able to carry inputs and outputs, got "
        f"{', '.join(map(str, beyond))}; {' or '.join(_ways_out(beyond, over_grpc, given))}"
    )


def _ways_out(beyond: tuple[TensorSpec, ...], over_grpc: bool, given: bool) -> list[str]:
    casts = ", ".join(f"{spec.name}: {CASTS[spec.dtype]}" for spec in beyond if spec.dtype in CASTS)
    ways = []
    if not given and all(spec.dtype in CASTS for spec in beyond):
        ways.append(f"let export.cast change them, paste below export: cast: {{{casts}}},")
    if over_grpc:
        ways.append(
            "set serving.protocol: grpc and leave latency and robustness, whose requests go over REST, out of gates.use"
        )
    return ways or ["give the model another dtype there"]


def _over_grpc(spec: TensorSpec, signature: Signature) -> bool:
    """Return whether our client asks and reads a dtype over gRPC; NumPy has no bfloat16 to be asked with."""
    return spec.dtype in GRPC_DTYPES and not (spec.dtype == "bfloat16" and spec in signature.inputs)


def check_cast(name: str, own: str, wanted: str) -> None:
    """Refuse a cast that loses something.

    Args:
        own: dtype of the model's input or output. wanted: what clients see.

    Raises:
        SignatureMismatch: not every value of the one is a value of the other.
    """
    if own == "bfloat16":
        lossless = wanted in ("float32", "float64")
    else:
        a, b = (np.dtype(dtype) if dtype != "string" else np.dtype(object) for dtype in (own, wanted))
        same_kind = (a.kind == "f") == (b.kind == "f") and a.kind in "fiu"
        lossless = same_kind and np.can_cast(a, b, "safe")
    if not lossless:
        raise SignatureMismatch(
            f"export.cast must keep every value: '{name}' is {own} in the model and cannot be {wanted} for clients"
        )
