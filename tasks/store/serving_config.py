"""`<models_root>/models.config`: the versions that production serves and their labels, for the `labels` layout.

A production server is started with `--model_config_file` and `--model_config_file_poll_wait_seconds`. It accepts a new
file only as a whole, and refuses one in which a label names a version that is not loaded. So a version is listed first,
and gets its label when it is AVAILABLE. A server that starts with a file with labels has no loaded version yet, so it
also needs `--allow_version_labels_for_unavailable_models=true`; without this flag, it ends at once.

Source: tensorflow_serving/config/model_server_config.proto; model_servers/server_core.cc, UpdateModelVersionLabelMap.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tasks.errors import LockTimeout, StoreError
from tasks.model_server.tf_protos import message_module
from tasks.savedmodel.files import make_directories
from tasks.store.journal import write_atomically

MODELS_CONFIG = "models.config"
EMPTY = "model_config_list {}\n"
LOCK_S = 30
READABLE = 0o644  # mode of a new file, because production runs as another user; an existing file keeps its mode


def labels_of(model_dir: Path) -> dict[str, int]:
    """Return a mapping from label to version of one model; it is empty if the model is not in the file."""
    entry = _entry(_read(model_dir.parent / MODELS_CONFIG), model_dir.name)
    return dict(entry.version_labels) if entry is not None else {}


def listed_versions(model_dir: Path) -> list[int]:
    """Return the versions of one model that production must load."""
    entry = _entry(_read(model_dir.parent / MODELS_CONFIG), model_dir.name)
    return sorted(entry.model_version_policy.specific.versions) if entry is not None else []


def write_config(model_dir: Path, versions: Sequence[int], labels: Mapping[str, int]) -> None:
    """Replace the entry of one model, and keep the entries of other models.

    Raises:
        StoreError: the file is invalid, or cannot be written. LockTimeout: another process is writing it.
    """
    path = model_dir.parent / MODELS_CONFIG
    with _locked(path):
        config = _read(path)
        models = config.model_config_list.config
        entry = _entry(config, model_dir.name) or models.add()
        entry.name, entry.model_platform = model_dir.name, "tensorflow"
        entry.base_path = entry.base_path or str(model_dir.resolve())  # a container may have another path
        entry.model_version_policy.specific.versions[:] = sorted(versions)
        entry.version_labels.clear()
        entry.version_labels.update(labels)
        if not versions and entry.base_path == str(model_dir.resolve()):
            models.remove(entry)  # a server that starts on a model without versions waits forever
        mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else READABLE
        write_atomically(path, _text_format().MessageToString(config), mode)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        held = FileLock(path.with_name(f".{MODELS_CONFIG}.lock")).acquire(timeout=LOCK_S)
    except Timeout as exc:
        raise LockTimeout(
            f"only one process can change '{path}' at a time: '{exc.lock_file}' was held for {LOCK_S} s; run it again"
        ) from exc
    except OSError as exc:
        raise StoreError(f"'{path.parent}' must be writable, got '{exc.filename}': {exc.strerror}") from exc
    with held:
        yield


def ensure_config(models_root: Path) -> Path:
    """Return `models.config`, and create it with an empty list if it is missing, so that production can start on it.

    A list that another host has just written is never replaced, even if NFS does not show it here yet.

    Sources: model_servers/server_core.cc, ReloadConfig: a list may follow a list; tensorflow's posix_file_system.cc:
    a file of no bytes cannot be mapped, and a server that is started on one ends.
    """
    path = models_root / MODELS_CONFIG
    if not path.exists():
        try:
            make_directories(models_root)
            with _locked(path):
                _begin(path)
        except OSError as exc:
            raise StoreError(f"models_root must be writable, got '{exc.filename}': {exc.strerror}") from exc
    return path


def _begin(path: Path) -> None:
    """Write an empty list, unless the file system has one already."""
    first = path.with_name(f".{MODELS_CONFIG}.first")
    write_atomically(first, EMPTY, READABLE)
    try:
        os.link(first, path)
    except FileExistsError:
        pass
    except OSError:  # without hard links
        first.replace(path)
    finally:
        first.unlink(missing_ok=True)


def _read(path: Path) -> Any:
    config = _messages().ModelServerConfig()
    try:
        return _text_format().Parse(path.read_text(encoding="utf-8"), config)
    except FileNotFoundError:
        return config
    except (OSError, ValueError, _text_format().ParseError) as exc:
        reason = " ".join(str(exc).split())
        raise StoreError(f"'{path}' must be a ModelServerConfig in protobuf text, got {reason}; correct it") from exc


def _entry(config: Any, name: str) -> Any:
    return next((entry for entry in config.model_config_list.config if entry.name == name), None)


def _messages() -> Any:
    return message_module("tensorflow_serving.config.model_server_config_pb2")


def _text_format() -> Any:
    from google.protobuf import text_format

    return text_format
