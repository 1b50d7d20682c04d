"""The managing thread: only it polls the base paths and the configuration file, and loads and unloads versions.

Source: TensorFlow Serving, model_servers/server.cc (what is polled, and when).
"""

import time
from collections.abc import Iterable
from pathlib import Path
from threading import Event
from typing import Final

from tasks.model_server.flags import Flags
from tasks.model_server.log import log
from tasks.model_server.model_config import ModelConfig, read_config_file
from tasks.model_server.servables import Servables, State, VersionState
from tasks.model_server.status import Code, StatusError, invalid_argument

_NEVER: Final = float("inf")
_LONGEST_NAP_S: Final = 1.0
"""The poll interval, in seconds: a retry of a load may be due between two polls of the disk."""


def model_configs(flags: Flags, *, is_first: bool = True) -> list[ModelConfig]:
    """Return the models that the command line names, directly or in a file.

    Args:
        is_first: whether nothing was configured before.

    Raises:
        StatusError: none at all, or a wrong configuration.
    """
    if flags.model_config_file:
        return read_config_file(Path(flags.model_config_file), is_first=is_first)
    if not flags.model_base_path:
        raise invalid_argument("Both server_options.model_base_path and server_options.model_config_file are empty!")
    return [ModelConfig(flags.model_name, Path(flags.model_base_path))]


class Start:
    """The start of a server, which ends when every version that was found is AVAILABLE or END."""

    def __init__(self) -> None:
        """Create a start without loaded versions."""
        self._over = Event()
        self._reached: list[tuple[str, VersionState]] | None = None

    def look(self, servables: Servables) -> None:
        """Record the first version of each model that is AVAILABLE or END, and whether all models have one."""
        if self._over.is_set():
            return
        self._reached = self._reached or servables.settled()
        if self._reached is not None and not servables.is_loading:
            servables.start()
            self._over.set()

    def wait(self) -> list[tuple[str, VersionState]]:
        """Wait until all models are loaded, and return the first version of each."""
        self._over.wait()
        return self._reached or []


def manage(servables: Servables, configs: list[ModelConfig], flags: Flags, start: Start) -> None:
    """Poll, load and unload until the process ends.

    Args:
        servables: the models.
        configs: what they have been configured with.
        flags: how often to poll the base paths and the configuration file.
        start: records what has been loaded.
    """
    poll_s, reload_s = flags.file_system_poll_wait_seconds, flags.model_config_file_poll_wait_seconds
    config_file = _ConfigFile(flags, configs)
    next_poll = time.monotonic() if poll_s >= 0 else _NEVER
    next_reload = time.monotonic() + reload_s if flags.model_config_file and reload_s > 0 else _NEVER
    while True:
        now = time.monotonic()
        if now >= next_reload:
            next_reload = now + reload_s
            if config_file.reload(servables) and poll_s > 0:
                next_poll = now
        if now >= next_poll:
            next_poll = now + poll_s if poll_s > 0 else _NEVER
            servables.poll()
        while servables.act():
            start.look(servables)
        start.look(servables)
        wake = min(next_poll, next_reload, now + _LONGEST_NAP_S)
        time.sleep(max(wake - time.monotonic(), 0.01))


class _ConfigFile:
    """The configuration file as it was last accepted."""

    def __init__(self, flags: Flags, accepted: list[ModelConfig]) -> None:
        self._flags = flags
        self._accepted = accepted
        self._complaint = ""

    def reload(self, servables: Servables) -> bool:
        """Apply a changed file; an invalid one changes nothing and is logged once.

        The file is not read again while a model that it added has no loaded version.
        """
        if servables.has_new_models:
            return False
        try:
            configs = model_configs(self._flags, is_first=False)
            if configs == self._accepted:
                return False
            servables.configure(configs)
        except StatusError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                log(f"Failed to reload config from {self._flags.model_config_file}: {error}")
            return False
        log(f"Adding/updating models: {', '.join(config.name for config in configs)}")
        self._accepted, self._complaint = configs, ""
        return True


def check_initial_loads(reached: Iterable[tuple[str, VersionState]]) -> None:
    """Refuse to start if the first version of a model is not available.

    Raises:
        StatusError: versions failed; the message has their names and errors.
    """
    failed = [
        f"{{{{name: {name} version: {state.version}}} due to error: {state.code.name}: {state.message}}}, "
        for name, state in reached
        if state.state is not State.AVAILABLE
    ]
    if failed:
        raise StatusError(Code.UNKNOWN, f"{len(failed)} servable(s) did not become available: {{{''.join(failed)}}}")
