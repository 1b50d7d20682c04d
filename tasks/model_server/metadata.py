"""The states and signatures of a server's models, as JSON.

Source: TensorFlow Serving, apis/get_model_status.proto, get_model_metadata.proto.
"""

from collections.abc import Iterable

import orjson

from tasks.model_server.servables import VersionState
from tasks.model_server.tf_runtime import SavedModel


def encode_states(states: Iterable[VersionState]) -> bytes:
    """Return the JSON of a GetModelStatusResponse; 64-bit numbers are strings, as in every proto JSON."""
    answer = {
        "model_version_status": [
            {
                "version": str(state.version),
                "state": state.state.name,
                "status": {"error_code": state.code.name, "error_message": _readable(state.message)},
            }
            for state in states
        ]
    }
    return orjson.dumps(answer, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def encode(name: str, version: int, model: SavedModel) -> bytes:
    """Return the JSON of a GetModelMetadataResponse with every signature of a model."""
    # imported here, because it takes 15 ms and only metadata needs it
    from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped, unused-ignore]

    signatures = {
        key: MessageToDict(definition, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        for key, definition in model.signature_defs.items()
    }
    answer = {
        "model_spec": {"name": name, "version": str(version), "signature_name": ""},
        "metadata": {"signature_def": {"signature_def": signatures}},
    }
    return orjson.dumps(answer, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _readable(message: str) -> str:
    """Return a message without surrogate escapes, which represent bytes that are not UTF-8."""
    return message.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
