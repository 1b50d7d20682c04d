"""Checks whether REST and gRPC can carry the dtypes of a signature."""

from __future__ import annotations

import numpy as np

from configs.schema import Config
from tasks.errors import SignatureMismatch, WrongTransport
from tasks.records import GRPC_DTYPES, Signature, TensorSpec

CASTS = {"float16": "float32", "bfloat16": "float32", "uint16": "int32"}
OVER_REST = ("latency", "robustness")
"""Gates that send their requests over REST only."""


def check_transport(signature: Signature, config: Config, *, given: bool = False) -> None:
    """Refuse dtypes that `serving.protocol` cannot carry, before a server refuses them.

    Args:
        given: the SavedModel is served unchanged, so that no cast can be added.

    Raises:
        WrongTransport: a dtype cannot be carried; the message lists the remedies.
    """
    beyond = signature.beyond_rest
    gates = [gate for gate in OVER_REST if gate in config.gates.judging]
    over_grpc = all(_over_grpc(spec, signature) for spec in beyond)
    if not beyond or (config.serving.protocol == "grpc" and over_grpc and not gates):
        return
    raise WrongTransport(
        f"the dtypes of inputs and outputs must be ones that TensorFlow Serving's REST interface can carry, got "
        f"{', '.join(map(str, beyond))}; {' or '.join(_ways_out(beyond, over_grpc, given))}"
    )


def _ways_out(beyond: tuple[TensorSpec, ...], over_grpc: bool, given: bool) -> list[str]:
    casts = ", ".join(f"{spec.name}: {CASTS[spec.dtype]}" for spec in beyond if spec.dtype in CASTS)
    ways = []
    if not given and all(spec.dtype in CASTS for spec in beyond):
        ways.append(f"convert them with export.cast, by this line below export: cast: {{{casts}}},")
    if over_grpc:
        ways.append("set serving.protocol: grpc and remove latency and robustness, which use REST, from gates.use")
    return ways or ["use another dtype in the model"]


def _over_grpc(spec: TensorSpec, signature: Signature) -> bool:
    """Return whether our client can send and read a dtype over gRPC; without NumPy's bfloat16, it cannot send it."""
    return spec.dtype in GRPC_DTYPES and not (spec.dtype == "bfloat16" and spec in signature.inputs)


def check_cast(name: str, own: str, wanted: str) -> None:
    """Refuse a cast that loses information.

    Args:
        own: dtype of the model's input or output. wanted: the dtype that clients see.

    Raises:
        SignatureMismatch: the wanted dtype cannot represent every value.
    """
    if own == "bfloat16":
        lossless = wanted in ("float32", "float64")
    else:
        a, b = (np.dtype(dtype) if dtype != "string" else np.dtype(object) for dtype in (own, wanted))
        same_kind = (a.kind == "f") == (b.kind == "f") and a.kind in "fiu"
        lossless = same_kind and np.can_cast(a, b, "safe")
    if not lossless:
        raise SignatureMismatch(
            f"a cast in export.cast must keep every value, but '{name}' is {own} in the model, and {wanted} cannot "
            "represent all of its values"
        )
