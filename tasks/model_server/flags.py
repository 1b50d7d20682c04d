"""The flags of tensorflow_model_server that this server knows.

Source: TensorFlow Serving, model_servers/main.cc (names, defaults, `--flag=value` and bare booleans).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

from tasks.model_server.integers import int64

_PORTS: Final = range(2**16)


class UnknownFlag(ValueError):
    """A flag that this server does not know, or a value that does not fit it."""


@dataclass(frozen=True)
class Flags:
    """Values of the flags, with the defaults of tensorflow_model_server.

    Attributes:
        port: gRPC port; 0 for a free one.
        rest_api_port: REST port; 0 for a free one (in TensorFlow Serving 0 means no REST interface).
        rest_api_timeout_in_ms: how long a REST prediction may take.
        model_name: name of the only model; not used with model_config_file.
        model_base_path: its base path; not used with model_config_file.
        model_config_file: a ModelServerConfig in protobuf text format.
        model_config_file_poll_wait_seconds: seconds between reads of that file; 0: read once.
        file_system_poll_wait_seconds: seconds between looks at base paths; 0: once, negative: never.
        max_num_load_retries: how often a failed load is tried again.
        load_retry_interval_micros: wait between these tries.
        allow_version_labels_for_unavailable_models: let a new label name a version that is not loaded.
    """

    port: int = 8500
    rest_api_port: int = 0
    rest_api_timeout_in_ms: int = 30_000
    model_name: str = "default"
    model_base_path: str = ""
    model_config_file: str = ""
    model_config_file_poll_wait_seconds: int = 0
    file_system_poll_wait_seconds: int = 1
    max_num_load_retries: int = 5
    load_retry_interval_micros: int = 60_000_000
    allow_version_labels_for_unavailable_models: bool = False


def parse_flags(arguments: Sequence[str]) -> Flags:
    """Read `--flag=value` and, for booleans, a bare `--flag`.

    Raises:
        UnknownFlag: no such flag, no value, or a value of a wrong type; the message names the flag.
    """
    types = {known.name: known.type for known in fields(Flags)}
    values: dict[str, object] = {}
    for argument in arguments:
        name, equals, text = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or name not in types:
            raise UnknownFlag(f"unknown argument: {argument}. Known flags: --{', --'.join(types)}.")
        if types[name] is bool and not equals:
            text = "true"
        elif not equals:
            raise UnknownFlag(f"No value for --{name}: --{name}=VALUE is one argument.")
        values[name] = _value(name, types[name], text)
    return Flags(**values)  # type: ignore[arg-type]  # _value has made each fit its field


def _value(name: str, kind: object, text: str) -> object:
    if kind is bool and text.lower() in ("true", "false", "1", "0"):
        return text.lower() in ("true", "1")
    if kind is str:
        return text
    if kind is int and (number := int64(text)) is not None and (number in _PORTS or not name.endswith("port")):
        return number
    raise UnknownFlag(f"Couldn't interpret value {text} for flag --{name}.")
