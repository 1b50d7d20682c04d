"""The sections `model`, `training` and `export`: how a model is built, trained and written."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, FiniteFloat, StrictBool, StrictInt, StrictStr

from configs.sections.base import Reference, Section


class Model(Section):
    """How the model is built."""

    build: Reference = Field(
        "",
        description="the function that returns a compiled keras.Model, as `module:function` or `./FILE.py:function`; "
        "its first argument is the training features",
    )
    params: dict[str, Any] = Field({}, description="keyword arguments of the function")


class Training(Section):
    """How the model is trained."""

    epochs: int = Field(50, ge=1, description="maximum number of epochs")
    batch_size: int = Field(32, ge=1, description="rows in one training step")
    patience: int = Field(
        5, ge=0, description="epochs without improvement before training stops; 0 disables early stopping"
    )
    monitor: str = Field("val_loss", description="the metric that early stopping watches")
    mode: Literal["auto", "min", "max"] = Field("auto", description="whether a lower or a higher value is better")
    deterministic: bool = Field(True, description="use deterministic operations only; slower on a GPU")
    shuffle_rows: int = Field(
        65_536,
        ge=1,
        description="rows of a stream that are in memory to be shuffled; rows that are not a stream are all shuffled",
    )
    resume: bool = Field(
        True,
        description="back the training up between epochs, which takes at most 5 % of its time, and go on from the "
        "backup when the same run is repeated after it was killed",
    )


CAST = ("float32", "float64", "int32", "int64", "uint32", "uint64")


class Export(Section):
    """How the SavedModel is written."""

    inputs: dict[str, str] = Field(
        {}, description="maps the served name of an input to Keras' name; empty serves Keras' names"
    )
    outputs: dict[str, str] = Field(
        {}, description="maps the served name of an output to Keras' name; empty serves Keras' names"
    )
    cast: dict[str, Literal[CAST]] = Field(  # type: ignore[valid-type]
        {},
        description="maps the served name of an input or output to the dtype that clients see instead of the model's "
        "own. It must represent every value exactly. Use it for float16, bfloat16 and uint16, which REST cannot carry",
    )
    ragged: dict[str, StrictBool | StrictInt | FiniteFloat | StrictStr] = Field(
        {},
        description="maps the served name of an output that is padded to the longest row of its batch to the padding "
        "value; without it, only the part that both answers have is compared",
    )
    version_width: int = Field(
        0, ge=0, le=18, description="minimum digits of the version directory's name; 8 writes 00000123"
    )
    warmup_rows: int = Field(
        8,
        ge=0,
        le=1000,
        description="rows of the warm-up request that the server replays when it loads the model; 0 writes none",
    )
    warmup_from: Literal["rows", "requests"] = Field(
        "rows", description="what the server replays: test rows, or requests that are drawn from gates.replay.file"
    )
    warmup_requests: int = Field(
        100, ge=1, le=1000, description="number of requests to draw if warmup_from is `requests`"
    )
