"""Checks of the flags and files that a throwaway TensorFlow Serving gets from the configuration."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Any

FLAG = re.compile(r"--([a-z][a-z0-9_]*)(?:=(.*))?", re.DOTALL)
OURS = {  # each with the reason why it cannot be set
    "port": "the engine chooses the ports",
    "rest_api_port": "the engine chooses the ports",
    "grpc_socket_path": "the server is asked over its ports",
    "model_name": "the candidate is served under its own name",
    "model_base_path": "the candidate is copied into the container",
    "model_config_file": "the candidate and the champion are the only models",
    "model_config_file_poll_wait_seconds": "the candidate and the champion are the only models",
    "max_num_load_retries": "a version that cannot be loaded must end the server at once",
    "file_system_poll_wait_seconds": "the files of the container do not change",
    "ssl_config_file": "the throwaway server is asked without TLS",
    "version": "the server would print its version and end",
    "help": "the server would print its flags and end",
}
WITHOUT_FILES = ("/", "/tmp", "/proc", "/sys", "/dev")  # noqa: S108  where nothing can be copied before the start
MODELS = "/models"  # where the versions are, with a directory for each model
BATCHING, PARAMETERS = "enable_batching", "batching_parameters_file"
LARGEST_FILE = 64 * 1024  # bytes of a file of parameters; a real one has a few lines
DEFAULT_BATCH = 1000
"""The max_batch_size of a server with --enable_batching and no other setting.

Source: tensorflow_serving/servables/tensorflow/session_bundle_config.proto, BatchingParameters.
"""


def check_flag(argument: str) -> str:
    """Accept `--name` or `--name=value` that a user may set."""
    found = FLAG.fullmatch(argument)
    if not found or not argument.isprintable():
        raise ValueError("must be flags of TensorFlow Serving, each as --name or --name=value, in printable characters")
    if reason := OURS.get(found[1]):
        raise ValueError(f"must not contain --{found[1]}: {reason}")
    return argument


def check_place(place: str) -> str:
    """Accept the path of a file in the container."""
    path = PurePosixPath(place)  # which keeps two slashes at the beginning
    if path.root != "/" or ".." in path.parts or str(path) != place or not place.isprintable():
        raise ValueError(f"must map absolute paths in the container to files, such as /etc/batching.txt, got '{place}'")
    directory = str(path.parent)
    if any(directory == barred or (barred != "/" and directory.startswith(f"{barred}/")) for barred in WITHOUT_FILES):
        raise ValueError(f"must not contain '{place}': no file can be put into {directory}")
    if place == f"{MODELS}/models.config" or directory.startswith(f"{MODELS}/"):
        raise ValueError(f"must not contain '{place}', which is the rehearsal's own; put it directly into {MODELS}")
    return place


def check_places(places: Collection[str]) -> None:
    """Refuse a file in the place of a directory of another file."""
    for place in places:
        above = next((str(parent) for parent in PurePosixPath(place).parents if str(parent) in places), None)
        if above:
            raise ValueError(f"files must not contain '{above}' and '{place}', because a file has no files below it")


def flag_value(arguments: tuple[str, ...], name: str) -> str | None:
    """Return the value of a flag, the last one if it is repeated; None if it is not set, and empty for `--name`."""
    values = [found[2] or "" for argument in arguments if (found := FLAG.fullmatch(argument)) and found[1] == name]
    return values[-1] if values else None


def batches(arguments: tuple[str, ...]) -> bool:
    """Return whether a server with these flags joins the requests of its clients into batches."""
    value = flag_value(arguments, BATCHING)
    return value is not None and value.lower() in ("", "true", "1")


def most_rows(arguments: tuple[str, ...], parameters: Path | None) -> int:
    """Return how many rows a request to a server with these flags may have; 0 means that there is no limit.

    Args:
        parameters: the file that `--batching_parameters_file` names, or None.

    Raises:
        ValueError: the file cannot be read, does not hold BatchingParameters as text, or allows no row.
    """
    if not batches(arguments):
        return 0
    if parameters is None:
        return DEFAULT_BATCH
    from google.protobuf import text_format

    message = _batching_parameters()
    try:
        text_format.Parse(_text(parameters), message, allow_unknown_field=True)
    except (OSError, UnicodeDecodeError, text_format.ParseError, RecursionError) as exc:
        example = "max_batch_size { value: 32 }"
        raise ValueError(f"must hold BatchingParameters as text, such as {example}, got: {exc}") from exc
    if not message.HasField("max_batch_size"):
        return DEFAULT_BATCH
    size = int(message.max_batch_size.value)
    if size < 1:  # a real server crashes at 0
        raise ValueError(f"must have a max_batch_size of at least 1, got {size}")
    return size


def _text(file: Path) -> str:
    with file.open("rb") as stream:
        content = stream.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise ValueError(f"must not be larger than {LARGEST_FILE // 1024} KB, and it is")
    return content.decode()


def _batching_parameters() -> Any:
    """Return an empty message with the one field of BatchingParameters that limits a request.

    TensorFlow Serving 2.20 refuses larger requests with enable_large_batch_splitting, too.

    Source: tensorflow_serving/servables/tensorflow/session_bundle_config.proto.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="batching.proto", package="rehearsal", syntax="proto3")
    field = descriptor_pb2.FieldDescriptorProto
    number, whole = file.message_type.add(name="Number"), file.message_type.add(name="BatchingParameters")
    number.field.add(name="value", number=1, type=field.TYPE_INT64, label=field.LABEL_OPTIONAL)
    kind = f".{file.package}.{number.name}"
    whole.field.add(
        name="max_batch_size", number=1, type=field.TYPE_MESSAGE, label=field.LABEL_OPTIONAL, type_name=kind
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.{whole.name}"))()
