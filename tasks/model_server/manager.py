"""The managing thread: it alone looks at base paths and at the configuration file, loads and unloads.

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
"""A load that is to be tried again may fall due between two looks at the disk."""


def model_configs(flags: Flags, *, is_first: bool = True) -> list[ModelConfig]:
    """Return the models that the command line names, by itself or in a file.

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
    """The start of a server: over once every version that was found has come to AVAILABLE or END."""

    def __init__(self) -> None:
        """Begin with nothing loaded."""
        self._over = Event()
        self._reached: list[tuple[str, VersionState]] | None = None

    def look(self, servables: Servables) -> None:
        """Note the version that each model came to first, and whether all is loaded."""
        if self._over.is_set():
            return
        self._reached = self._reached or servables.settled()
        if self._reached is not None and not servables.is_loading:
            servables.start()
            self._over.set()

    def wait(self) -> list[tuple[str, VersionState]]:
        """Return the version that each model came to first, once all is loaded."""
        self._over.wait()
        return self._reached or []


def manage(servables: Servables, configs: list[ModelConfig], flags: Flags, start: Start) -> None:
    """Poll, load and unload until the process ends.

    Args:
        servables: the models.
        configs: what they have been configured with.
        flags: how often to look at the base paths and at the configuration file.
        start: is told what has been loaded.
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
    """The configuration file as last accepted."""

    def __init__(self, flags: Flags, accepted: list[ModelConfig]) -> None:
        self._flags = flags
        self._accepted = accepted
        self._complaint = ""

    def reload(self, servables: Servables) -> bool:
        """Take a changed file over; a wrong one changes nothing and is logged once.

        While a model that it added has not come to a version, nobody looks at it again.
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
    """Refuse to start where the first version that a model came to is not available.

    Raises:
        StatusError: with the names and errors of the versions that failed.
    """
    failed = [
        f"{{{{name: {name} version: {state.version}}} due to error: {state.code.name}: {state.message}}}, "
        for name, state in reached
        if state.state is not State.AVAILABLE
    ]
    if failed:
        raise StatusError(Code.UNKNOWN, f"{len(failed)} servable(s) did not become available: {{{''.join(failed)}}}")
