"""The directory that an attached server watches: its models.config, and the models that rehearsals put there.

models.config            what the server serves; rehearsals replace it by a rename
<name>-rehearsal-<hex>   a directory with the numbered versions of one model, whose name is never used again
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tasks.errors import ServingError
from tasks.model_server.tf_protos import message_module
from tasks.serving.pinned import NO_MODELS, PINS, pinned_config

OURS = re.compile(r".+-rehearsal-[0-9a-f]{12}")
PARTIAL = ".partial-"  # prefix of what is not complete yet
DIRECTORY_MODE, FILE_MODE = 0o755, 0o644  # the server runs as another user


def new_name(model_name: str) -> str:
    """Return a name that no server has known before, so that no earlier model can answer for this one."""
    return f"{model_name}-rehearsal-{uuid.uuid4().hex[:12]}"


def bring_in(directory: Path, name: str, version_dirs: Sequence[Path]) -> None:
    """Copy version directories to `<directory>/<name>/<N>`; the name appears when all of them are complete.

    Raises:
        ServingError: they cannot be read, or the directory cannot be written.
    """
    partial = directory / f"{PARTIAL}{name}"
    try:
        _directory(partial)
        for version_dir in version_dirs:
            _copy(version_dir, partial / version_dir.name)
        partial.rename(directory / name)
    except OSError as exc:
        raise ServingError(
            f"the version must be copied to serving.attached.directory '{directory}', got "
            f"'{exc.filename2 or exc.filename}': {exc.strerror}"
        ) from exc


def _copy(source: Path, target: Path) -> None:
    for root, _, files in os.walk(source, onerror=_raise):
        inside = target / Path(root).relative_to(source)
        _directory(inside)
        for file in files:
            shutil.copyfile(Path(root, file), inside / file)
            (inside / file).chmod(FILE_MODE)


def _directory(path: Path) -> None:
    path.mkdir()
    path.chmod(DIRECTORY_MODE)


def _raise(error: OSError) -> None:
    raise error


def list_model(directory: Path, name: str, seen_as: str, versions: Sequence[int]) -> None:
    """Make the server serve these versions of one model, and nothing else.

    Args:
        seen_as: the directory as the server sees it.

    Raises:
        ServingError: the directory cannot be written.
    """
    _write(directory, pinned_config(name, f"{seen_as.rstrip('/')}/{name}", versions))


def list_nothing(directory: Path) -> None:
    """Make the server serve nothing, even if there is no room for another file.

    Raises:
        ServingError: the directory cannot be written.
    """
    try:
        _write(directory, NO_MODELS)
    except ServingError:
        with _errors(directory), (directory / PINS).open("r+") as file:  # a shorter text needs no room
            file.write(NO_MODELS)
            file.truncate()


def leftovers(directory: Path) -> list[str]:
    """Return the names of all models of rehearsals, listed or not; while no run uses the directory, all are leftovers.

    Raises:
        ServingError: models.config also lists models that are not ours, or cannot be read.
    """
    with _errors(directory):
        found = [path.name.removeprefix(PARTIAL) for path in directory.iterdir() if path.is_dir()]
    return sorted({*listed(directory), *filter(OURS.fullmatch, found)})


def listed(directory: Path) -> list[str]:
    """Return the names in models.config, all of which must be those of rehearsals; nothing if there is no such file.

    Raises:
        ServingError: it also lists models that are not ours, or cannot be read.
    """
    from google.protobuf import text_format

    path = directory / PINS
    config: Any = message_module("tensorflow_serving.config.model_server_config_pb2").ModelServerConfig()
    with _errors(directory), contextlib.suppress(FileNotFoundError):
        try:
            text_format.Parse(path.read_text(encoding="utf-8"), config)
        except (ValueError, text_format.ParseError) as exc:
            reason = " ".join(str(exc).split())
            raise ServingError(f"'{path}' must be a ModelServerConfig in protobuf text, got {reason}") from exc
    custom = ["a custom model"] if config.WhichOneof("config") == "custom_model_config" else []
    names = [*custom, *(entry.name for entry in config.model_config_list.config)]
    if others := [name for name in names if not OURS.fullmatch(name)]:
        raise ServingError(
            f"'{path}' must be for rehearsals only, because they replace it, but it lists {', '.join(others)}; set "
            "serving.attached.directory to a directory of its own, and start a server for rehearsals on it"
        )
    return names


def remove(directory: Path, name: str) -> None:
    """Remove a model that the server no longer serves.

    Raises:
        ServingError: it cannot be removed.
    """
    with _errors(directory):
        for path in (directory / name, directory / f"{PARTIAL}{name}"):
            if path.exists():
                shutil.rmtree(path)


def check_writable(directory: Path) -> None:
    """Raise `ServingError` if this process cannot create, rename and remove files there, or others use it, too."""
    listed(directory)
    probe = directory / f"{PARTIAL}{uuid.uuid4().hex}"
    with _errors(directory):
        probe.write_text("")
        probe.replace(probe.with_suffix(".renamed")).unlink()


def _write(directory: Path, text: str) -> None:
    partial = directory / f"{PARTIAL}{PINS}"
    with _errors(directory):
        partial.write_text(text, encoding="utf-8")
        partial.chmod(FILE_MODE)
        partial.replace(directory / PINS)


@contextlib.contextmanager
def _errors(directory: Path) -> Iterator[None]:
    """Translate the operating system's errors."""
    try:
        yield
    except OSError as exc:
        raise ServingError(
            f"serving.attached.directory must be a directory with room that this process can write, got "
            f"'{exc.filename or directory}': {exc.strerror or exc}"
        ) from exc
