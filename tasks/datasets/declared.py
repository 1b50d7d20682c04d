"""The declared contract: a JSON file beside the configuration that says what the clients of a service send and read.

    {"signature": "serving_default",
     "inputs": {"age": {"dtype": "float32", "shape": [null]}},
     "outputs": {"score": {"dtype": "float32", "shape": [null]}}}

In a shape, `null` is a free extent; instead of a shape, it means any rank. An input that is a date also has its
`unit`, such as `days since 1970-01-01 UTC`, which the contract gate compares with the declared features.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from configs.errors import ConfigError
from configs.sections.gates import Gates
from tasks.records import GRPC_DTYPES, Signature, TensorSpec
from tasks.words import one_line

LARGEST = 2**20  # bytes
RULE = "gates.contract.file must be a contract in the form that 'rehearse --write-contract FILE' writes"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Tensor(_Strict):
    dtype: Literal[tuple(sorted(GRPC_DTYPES))]  # type: ignore[valid-type]
    shape: list[Annotated[int, Field(ge=0)] | None] | None
    unit: str = Field("", max_length=100)


class _Contract(_Strict):
    signature: str = Field(min_length=1)
    inputs: dict[str, _Tensor] = Field(min_length=1)
    outputs: dict[str, _Tensor] = Field(min_length=1)


def check_contract(gates: Gates) -> None:
    """Read the declared contract, if there is one, so that an invalid file is an error before the training.

    Raises:
        ConfigError: the file cannot be read, or is not a contract.
    """
    if gates.contract.file is not None:
        read_contract(gates.contract.file)


def read_contract(file: Path) -> Signature:
    """Return the contents of a contract.

    Raises:
        ConfigError: the file cannot be read, or is not a contract.
    """
    try:
        if not file.is_file() or file.stat().st_size > LARGEST:
            raise ValueError(f"it must be a regular file of at most {LARGEST // 2**10} KB")
        content = json.loads(file.read_text(encoding="utf-8-sig"), object_pairs_hook=_each_once)
        declared = _Contract.model_validate(content)
    except (OSError, ValueError, RecursionError) as exc:
        raise ConfigError(f"{RULE}, got '{file}': {_words(exc)}") from exc
    inputs, outputs = (
        tuple(
            TensorSpec(name, tensor.dtype, None if tensor.shape is None else tuple(tensor.shape), unit=tensor.unit)
            for name, tensor in sorted(side.items())
        )
        for side in (declared.inputs, declared.outputs)
    )
    return Signature(inputs, outputs, declared.signature)


def write_contract(file: Path, signature: Signature, units: Mapping[str, str] | None = None) -> None:
    """Write the contract of a signature, one line for each tensor.

    Args:
        units: what an input that is a date counts, in words, by its name.

    Raises:
        OSError: the file cannot be written.
    """
    sides = {"inputs": signature.inputs, "outputs": signature.outputs}
    lines = {
        side: ",\n".join(
            f"    {json.dumps(spec.name)}: {json.dumps(_line(spec, (units or {}) if side == 'inputs' else {}))}"
            for spec in specs
        )
        for side, specs in sides.items()
    }
    parts = [f'  "signature": {json.dumps(signature.name)}']
    parts += [f'  "{side}": {{\n{text}\n  }}' for side, text in lines.items()]
    file.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def _line(spec: TensorSpec, units: Mapping[str, str]) -> dict[str, Any]:
    unit = {"unit": units[spec.name]} if spec.name in units else {}
    return {"dtype": spec.dtype, "shape": spec.shape, **unit}


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    twice = [name for name in found if [key for key, _ in pairs].count(name) > 1] if len(found) < len(pairs) else []
    if twice:
        raise ValueError(f"the key '{twice[0]}' is given twice")
    return found


def _words(exc: BaseException) -> str:
    """Return the first error and its place."""
    if not isinstance(exc, ValidationError):
        return one_line(f"{exc.strerror if isinstance(exc, OSError) else exc}", 300)
    first = exc.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return one_line(f"{place or 'the file'}: {first['msg']}", 300)
