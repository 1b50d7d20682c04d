"""Run directories, `<work_dir>/runs/<ID>`: each says whose it is, and whether its run may still be going on.

owner.json   whose files these are, which process uses them, and which candidates it made of them. The process touches
             the file every minute, for hosts that cannot look the process up, and holds the directory, which
             containers of the same host see, even if it is paused.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from uuid import uuid4

from pydantic import TypeAdapter, ValidationError

from configs.schema import Config
from tasks.errors import StoreError
from tasks.owner import boot_id, has_ended, hold, host_id, is_held, process_start
from tasks.savedmodel.files import fsync_path, open_plain
from tasks.store.journal import write_atomically

log = logging.getLogger(__name__)

RUNS, OWNER = "runs", "owner.json"
NEW = ".new-"  # prefix of a directory that has no owner yet
ID = re.compile(r"\d{8}T\d{6}-[0-9a-f]{6}(?:-again-\d{8}T\d{6}(?:\d{6})?)?")  # earlier releases had no microseconds
BEAT_S = 60.0
HELD = 16  # run directories that a process holds, the newest; a notebook may rehearse a thousand models
SILENCE_S = 24 * 3600.0  # a run on another host that has touched nothing for so long has ended


@dataclass(frozen=True)
class Owner:
    """The owner of a run directory.

    Attributes:
        model: its name. models_root: relative to work_dir, so that both can be moved together; or an
            object store's address.
        host, boot, pid, started: the process of the run (tasks/owner.py).
        digests: of the candidates that it exported, or judged again.
        uses: real paths that it reads, such as a given model.
    """

    model: str
    models_root: str
    host: str
    boot: str
    pid: int
    started: str
    digests: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()

    def is_of(self, config: Config) -> bool:
        """Return whether this is a run of the model of a configuration."""
        return (self.model, self.models_root) == (config.name, _models_root(config))

    def may_live(self, run_dir: Path, now: float) -> bool:
        """Return whether the run may still be going on.

        On this host, until it was started again, that is certain. On another host or in another container, the file's
        time decides, unless a container of this host holds the directory.

        Args:
            run_dir: its directory. now: seconds since 1970, by the clock of the file system.
        """
        if (self.host, self.boot) == (host_id(), boot_id()) and self.pid > 0:
            return not has_ended(self.pid, self.started)
        return now - _touched(run_dir) < SILENCE_S or is_held(run_dir)


def create_run_dir(
    config: Config, name: str = "", *, digests: tuple[str, ...] = (), uses: tuple[str, ...] = ()
) -> Path:
    """Create a directory for the files of one run of this process, and return it.

    If it cannot be created, its path is returned nevertheless: the stage that writes there first says why it cannot.

    Args:
        name: the default begins with the time. digests: of a candidate that is judged again. uses: paths that it reads.
    """
    path = config.work_dir / RUNS / (name or f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid4().hex[:6]}")
    owner = _this_process(config, digests, uses)
    new = path.with_name(f"{NEW}{path.name}")
    try:
        new.mkdir(parents=True)
        _write(new, owner)
        _heart().hold(new)
        new.rename(path)
        fsync_path(path.parent)
    except (OSError, StoreError) as exc:
        log.debug("'%s' has no owner: %s", path, exc)
        shutil.rmtree(new, ignore_errors=True)
    else:
        _heart().beat(path / OWNER)
    return path


def own(config: Config, directory: Path) -> None:
    """Make this process the owner of a directory that another process may have created and left.

    Raises:
        StoreError: the directory cannot be written.
    """
    note_owner(config, directory)
    _heart().beat(directory / OWNER)


def note_owner(config: Config, directory: Path, digests: tuple[str, ...] = ()) -> None:
    """Record that this process uses a directory, for the candidates with these digests.

    Raises:
        StoreError: the directory cannot be written.
    """
    _write(directory, _this_process(config, digests))


def _this_process(config: Config, digests: tuple[str, ...] = (), uses: tuple[str, ...] = ()) -> Owner:
    pid, used = os.getpid(), tuple(map(os.path.realpath, uses))
    return Owner(config.name, _models_root(config), host_id(), boot_id(), pid, process_start(pid), digests, used)


def note_digest(run_dir: Path, digest: str) -> None:
    """Record that a run has exported a candidate, so that a killed run's candidate can be told from one in use.

    A full disk does not end the run: the stored rehearsal also names the run directory.
    """
    owner = owner_of(run_dir)
    if owner is None:
        return
    try:
        _write(run_dir, replace(owner, digests=(*owner.digests, digest)))
    except StoreError as exc:
        log.warning("it could not be recorded which candidate '%s' belongs to: %s", run_dir, exc)


def run_names(record: str) -> set[str]:
    """Return the names of run directories anywhere in a stored rehearsal, wherever work_dir was when it was written."""
    return set(ID.findall(record))


def owner_of(run_dir: Path) -> Owner | None:
    """Return the owner of a run directory, or None if an earlier release created it or the file is damaged."""
    try:
        with open_plain(run_dir / OWNER) as file:
            return TypeAdapter(Owner).validate_json(file.read())
    except (OSError, ValidationError):
        return None


@dataclass(frozen=True)
class RunDirectories:
    """The run directories of one model whose runs have ended, those without an owner, and who may be running.

    Attributes:
        living: owners of any model, because another production may have the same candidates, and another host another
            path to the same production.
    """

    ended: Mapping[Path, Owner]
    living: Sequence[Owner]
    unowned: Sequence[Path]

    @property
    def digests_in_use(self) -> set[str]:
        """Return the digests of the candidates of runs that may be going on."""
        return {digest for owner in self.living for digest in owner.digests}

    def are_reading(self, directory: Path) -> bool:
        """Return whether a run that may be going on reads a file below a directory, the directory, or one above it."""
        real, uses = Path(os.path.realpath(directory)), [Path(used) for owner in self.living for used in owner.uses]
        return any(used.is_relative_to(real) or real.is_relative_to(used) for used in uses)


def run_directories(config: Config) -> RunDirectories:
    """Return the run directories of a model; other files and directories beside them are ignored."""
    directory = config.work_dir / RUNS
    now = file_time(directory)
    ended: dict[Path, Owner] = {}
    living: list[Owner] = []
    unowned: list[Path] = []
    for path in sorted(directory.iterdir()) if directory.is_dir() else ():
        if not ID.fullmatch(path.name) or path.is_symlink() or not path.is_dir():
            continue
        owner = owner_of(path)
        if owner is None:
            unowned += [path] if _can_be_read(path) else []
        elif owner.may_live(path, now):
            living.append(owner)
        elif owner.is_of(config):
            ended[path] = owner
    return RunDirectories(ended, living, unowned)


def _can_be_read(run_dir: Path) -> bool:
    """Return whether this user can read who owns a directory, if anybody does; another user's runs are left alone."""
    owner = run_dir / OWNER
    return os.access(run_dir, os.R_OK | os.X_OK) and (not owner.exists() or os.access(owner, os.R_OK))


def _touched(run_dir: Path) -> float:
    try:
        return (run_dir / OWNER).stat().st_mtime
    except FileNotFoundError:  # it has just been removed
        return 0.0


def file_time(directory: Path) -> float:
    """Return the time by the clock of a directory's file system, which hosts share, in seconds since 1970.

    Where no file can be created, such as on a full disk, it is 0, by which nothing is old: this host's clock may be
    wrong.
    """
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return 0.0


def _write(run_dir: Path, owner: Owner) -> None:
    write_atomically(run_dir / OWNER, json.dumps(asdict(owner), indent=1))


def _models_root(config: Config) -> str:
    if isinstance(config.models_root, str):
        return config.models_root
    return os.path.relpath(os.path.realpath(config.models_root), os.path.realpath(config.work_dir))


class Heart:
    """Touches the files of this process's run directories, and holds them, so that others see that their runs live."""

    def __init__(self) -> None:
        self._files: list[Path] = []
        self._held: deque[int] = deque()
        self._pid = 0

    def hold(self, run_dir: Path) -> None:
        """Hold a directory, and let the oldest one go if there are many; without locks, its file's time must do."""
        with contextlib.suppress(OSError):
            self._held.append(hold(run_dir))
        while len(self._held) > HELD:
            os.close(self._held.popleft())

    def beat(self, file: Path) -> None:
        """Touch a file every minute from now on, until this process ends."""
        self._files.append(file)
        if self._pid != os.getpid():  # the first one, or a fork of this process, which has no threads
            self._pid = os.getpid()
            threading.Thread(target=self._keep_beating, name="run directories", daemon=True).start()

    def _keep_beating(self) -> None:
        while True:
            time.sleep(BEAT_S)
            for file in list(self._files):
                with contextlib.suppress(OSError):
                    os.utime(file)


@cache
def _heart() -> Heart:
    return Heart()
