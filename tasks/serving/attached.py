"""A TensorFlow Serving that is running already, used as a throwaway server through a directory that it watches.

    turn     wait until no other run uses the directory; remove what dead runs left
    put in   copy the version directories there under a name of its own, then list that name in models.config
    ask      as any other server
    take out list nothing, wait until the server has unloaded the model, remove the files; in every case

The server must read models.config every second or so, and must try each model once:
`--model_config_file=DIRECTORY/models.config --model_config_file_poll_wait_seconds=1 --max_num_load_retries=0`.
Its thread that reads models.config waits without a limit until a new model is loaded or refused. So nothing is ever
listed before its files are there, and no files are removed while the server may still look for them.
Source: tensorflow_serving/model_servers/server_core.cc, WaitUntilModelsAvailable.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from configs.sections.serving import Attached, Serving
from tasks.errors import PredictionError, ServingError, ServingTimeout, ServingUnavailable
from tasks.serving.client import ModelClient, RestClient
from tasks.serving.pinned import ONE_TRY, PINS
from tasks.serving.shared_directory import (
    bring_in,
    check_writable,
    leftovers,
    list_model,
    list_nothing,
    listed,
    new_name,
    remove,
)
from tasks.serving.turns import own_turn
from tasks.waiting import waiting_for

log = logging.getLogger(__name__)

KNOCK_S = 5.0  # time limit of a request for a state
UNLOAD_S = 60.0  # until the server has unloaded a model
# A model that the server does not know may be one that it is about to look for: it reads models.config and looks for
# the files in two steps, with as much time between them as --file_system_poll_wait_seconds says (1 by default).
QUIET_S = 5.0
POLL_S = 0.1
NOBODY = "keras-rehearsal"  # the name of a model that no server has
NO_SUCH_MODEL = "Could not find any versions of model"  # Source: model_servers/get_model_status_impl.cc
UNKNOWN = "Its exit status, its log and its memory are not known here; read its log where it was started."
NO_LOG = f"This run did not start this server. {UNKNOWN}\n"


class AttachedServer:
    """The model of one run in a server that was running already (a `ThrowawayServer`)."""

    backend = "attached"
    image = ""
    image_id = ""
    version = ""

    def __init__(
        self, attached: Attached, model_name: str, served_name: str, versions: Sequence[int], waited_s: float
    ) -> None:
        self.served_name = served_name
        self.waited_s = waited_s
        self._attached = attached
        self._model_name = model_name
        self._versions = versions

    @property
    def rest_url(self) -> str:
        """Return the URL of the REST API."""
        return self._attached.url

    @property
    def grpc_target(self) -> str:
        """Return the address of the gRPC API, or an empty string if none is configured."""
        return self._attached.grpc

    def exit_code(self) -> int | None:
        """Return None: it is not known whether and how the server ended."""
        return None

    def log(self) -> str:
        """Return where to find the log, which is not known here."""
        return NO_LOG

    def memory_mb(self) -> float:
        """Return 0: the memory is not known."""
        return 0.0

    def limited_mb(self) -> float:
        """Return 0: the memory is not known."""
        return 0.0

    def explain_exit(self) -> ServingError:
        """Return the error of a server that has stopped answering, for whatever reason."""
        return ServingError(
            f"The attached server at {self.rest_url} stopped answering while it served '{self._model_name}'. "
            f"{UNKNOWN} A model that ends its server would end production, too"
        )

    def ended(self) -> ServingError | None:
        """Return why the server does not serve the model any more, as far as its status says, or None if it does."""
        try:
            told = states_of(self._attached, self.served_name)
        except ServingError:
            return self.explain_exit()
        missing = [version for version in self._versions if told.get(version) != "AVAILABLE"]
        if not missing:
            return None
        return ServingError(
            f"The attached server at {self.rest_url} served '{self._model_name}' version {missing[0]} and now reports "
            f"{told.get(missing[0], 'that it does not know it')}: it was started again, or another program changed "
            f"'{self._attached.directory}'. {UNKNOWN[:-1]}"
        )


@contextlib.contextmanager
def run_attached(attached: Attached, model_name: str, *version_dirs: Path, run_id: str) -> Iterator[AttachedServer]:
    """Make the attached server load version directories, and take them out again when the block ends.

    Args:
        model_name: the user's name of the model; the server knows it by another one, which errors do not mention.
        version_dirs: `<anything>/<N>`; each is served.
        run_id: names this run for other runs that wait.

    Raises:
        ServingUnavailable: another run used the server for too long. ServingError: the directory cannot be used.
    """
    directory, name, begun = _directory(attached), new_name(model_name), time.monotonic()
    versions = [int(version_dir.name) for version_dir in version_dirs]
    with own_turn(directory, run_id, attached.lock_timeout_s):
        _clear(attached)
        server = AttachedServer(attached, model_name, name, versions, time.monotonic() - begun)
        try:
            bring_in(directory, name, version_dirs)
            list_model(directory, name, seen_as(attached), versions)
            yield server
        except ServingError as exc:
            _say_the_users_name(exc, name, model_name)
            raise
        finally:
            _leave(attached, name)


def how_to_start(attached: Attached) -> str:
    """Return the flags that the attached server must have been started with."""
    return (
        f"--model_config_file={seen_as(attached)}/{PINS} --model_config_file_poll_wait_seconds=1 "
        f"--file_system_poll_wait_seconds=1 {ONE_TRY}"
    )


def seen_as(attached: Attached) -> str:
    """Return the path of the shared directory as the server sees it."""
    return (attached.seen_as or str(attached.directory)).rstrip("/")


def check_attached(serving: Serving) -> None:
    """Check that the attached server answers, and that the shared directory can be used.

    Raises:
        ServingUnavailable: no server answers. ServingError: another server answers, or the directory cannot be used.
    """
    attached = serving.attached
    _knock(attached.url, RestClient(attached.url, NOBODY, KNOCK_S), attached)
    if serving.protocol != "rest":
        from tasks.serving.grpc_client import GrpcClient  # imports grpc

        _knock(attached.grpc, GrpcClient(attached.grpc, NOBODY, KNOCK_S), attached)
    directory = _directory(attached)
    check_writable(directory)
    if not (directory / PINS).is_file():
        raise ServingError(
            f"'{directory / PINS}' must exist, because an attached server is started on it, but the server at "
            f"{attached.url} watches another directory. Correct serving.attached.directory, or start a server with "
            f"{how_to_start(attached)}"
        )


def too_late(attached: Attached, late: str, state: str, words: str) -> ServingError:
    """Return the error of a server that did not load a model in time.

    Args:
        late: which model. words: of the server, if it does not know the model.
        state: its last one; `gone` if the server stopped answering, `not listening` if it never answered.
    """
    start = f"It must be started with {how_to_start(attached)}"
    if state == "gone":  # another try could end it again
        return ServingError(
            f"{late}, because the attached server at {attached.url} stopped answering while it loaded the model. "
            f"{UNKNOWN}"
        )
    if state == "not listening":
        return ServingUnavailable(f"{late}, because no server answers at {attached.url}. {start}")
    if words:
        start += (
            ", see that directory at that path (serving.attached.seen_as), and be started again if it was ever given "
            f"a path that it does not see. It said: {words}"
        )
    return ServingTimeout(
        f"{late} (last state: {state}; its memory is unknown). Raise serving.startup_timeout_s. {start}", NO_LOG
    )


def _knock(address: str, client: ModelClient, attached: Attached) -> None:
    """Raise an error unless a TensorFlow Serving answers."""
    try:
        with contextlib.closing(client):
            client.states()
    except (ServingUnavailable, ServingTimeout) as exc:
        raise ServingUnavailable(
            f"No model server answers at {address}: {exc}. Correct serving.attached, or start a TensorFlow Serving "
            f"with {how_to_start(attached)}"
        ) from exc
    except ServingError as exc:
        if NO_SUCH_MODEL not in str(exc):
            raise ServingError(f"A TensorFlow Serving must answer at {address}, but {exc}") from exc


def left_behind(attached: Attached, *, only_look: bool) -> list[str]:
    """Return what dead runs left in the shared directory, and take it out unless `only_look` is set.

    Raises:
        ServingError: the directory cannot be used.
    """
    directory = _directory(attached)
    try:
        with own_turn(directory, "doctor", 0):
            found = leftovers(directory)
            if not only_look:
                _clear(attached)
    except ServingUnavailable:  # a run uses it
        return []
    return [f"'{directory / name}', which a run left in the attached server at {attached.url}" for name in found]


def states_of(attached: Attached, name: str) -> dict[int, str]:
    """Return the state of each version of a model; nothing if the server does not know the model.

    Raises:
        ServingUnavailable: it does not listen. ServingError: it does not answer, or a proxy answers in its place.
    """
    with contextlib.closing(RestClient(attached.url, name, KNOCK_S)) as client:
        try:
            return {version: state for version, (state, _) in client.states().items()}
        except PredictionError as exc:
            if NO_SUCH_MODEL not in str(exc):
                raise
            return {}


def _clear(attached: Attached) -> None:
    """Take out what dead runs left."""
    directory = _directory(attached)
    names = leftovers(directory)
    for name in names:
        log.info("Removing '%s', which a run left in '%s'", name, directory)
    _take_out(attached, *names)


def _leave(attached: Attached, name: str) -> None:
    """Take out a model; never hide another error."""
    try:
        _take_out(attached, name)
    except ServingError as exc:
        log.warning("'%s' could not be taken out of the attached server; the next run will do it: %s", name, exc)


def _take_out(attached: Attached, *names: str) -> None:
    """Make the server unload models, and remove their files when it does not need them any more.

    Raises:
        ServingError: the server did not unload one, or the directory cannot be written.
    """
    directory = _directory(attached)
    before = listed(directory)
    if before:
        list_nothing(directory)
    for name in names:
        with waiting_for(f"the attached server at {attached.url} to unload '{name}'"):
            _await_gone(attached, name, QUIET_S if name in before else 0)
        remove(directory, name)


def _await_gone(attached: Attached, name: str, quiet_s: float) -> None:
    """Wait until the server has unloaded a model, or has not known it for `quiet_s` seconds."""
    deadline, quiet_since, state = time.monotonic() + UNLOAD_S, time.monotonic(), ""
    told: dict[int, str]
    while time.monotonic() < deadline:
        told, state = {}, ""
        try:
            told = states_of(attached, name)
            state = next((state for state in told.values() if state != "END"), "")
        except ServingUnavailable:  # a server that does not listen has no use for files
            pass
        except ServingError as exc:
            state = f"nothing ({exc})"
        if state:
            quiet_since = time.monotonic()
        elif told or time.monotonic() >= quiet_since + quiet_s:
            return
        time.sleep(POLL_S)
    raise ServingError(
        f"the server at {attached.url} must unload '{name}', but reports {state} after {UNLOAD_S:g} s; it must be "
        f"started with {how_to_start(attached)}"
    )


def _directory(attached: Attached) -> Path:
    assert attached.directory is not None  # the schema requires it
    return attached.directory


def _say_the_users_name(error: ServingError, served_name: str, model_name: str) -> None:
    error.args = tuple(str(argument).replace(served_name, model_name) for argument in error.args)
    error.detail = error.detail.replace(served_name, model_name)
