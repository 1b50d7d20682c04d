r"""The loaded versions of all models, and how they are loaded and unloaded.

    START -> LOADING -> AVAILABLE -> UNLOADING -> END
                 \______________ load failed _____/

A new version is loaded before the old one is unloaded; a version that fails to load ends in END with its
error while the old one goes on serving, and one whose size on disk cannot be told stays at START. Readers only
ever look at whole values that the one managing thread has put in place, so requests take no lock.

Source: TensorFlow Serving, core/availability_preserving_policy.cc, core/servable_state_monitor.cc,
sources/storage_path/file_system_storage_path_source.cc.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path
from typing import Final, NamedTuple

from tasks.model_server.log import log
from tasks.model_server.model_config import ModelConfig, version_dirs, why_unmeasurable
from tasks.model_server.status import Code, StatusError, invalid_argument, not_found
from tasks.model_server.tf_runtime import SavedModel

_NEVER: Final = float("inf")


class State(IntEnum):
    """The state of a version. Source: apis/get_model_status.proto."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


class VersionState(NamedTuple):
    """The state of one version, and the error if it failed to load."""

    version: int
    state: State
    code: Code = Code.OK
    message: str = ""


class ModelSpec(NamedTuple):
    """The model and version that a request names; without version and label, it is the highest loaded version."""

    name: str
    version: int | None = None
    label: str | None = None


@dataclass(frozen=True)
class LoadRetries:
    """How often a failed load is retried, and the seconds between the tries."""

    count: int
    interval_s: float


@dataclass
class _Load:
    """A version that is still to be loaded, perhaps after failed attempts."""

    failures: int = 0
    not_before: float = 0.0


@dataclass
class _Stream:
    """One model: the versions on disk that shall be served, and what has become of each.

    It is new until, after it was configured, one of its versions is AVAILABLE or END.
    """

    config: ModelConfig
    is_configured: bool = True
    is_new: bool = True
    aspired: dict[int, Path] = field(default_factory=dict)
    models: dict[int, SavedModel] = field(default_factory=dict)
    states: dict[int, VersionState] = field(default_factory=dict)
    loads: dict[int, _Load] = field(default_factory=dict)
    complaint: str = ""


class Servables:
    """The models of one server."""

    def __init__(
        self, load: Callable[[Path], SavedModel], retries: LoadRetries, allow_unavailable_labels: bool
    ) -> None:
        """Create a server without models.

        Args:
            load: makes a servable of a version directory, or raises StatusError.
            retries: what to do when it raises.
            allow_unavailable_labels: let a new label name a version that is not loaded.
        """
        self._load = load
        self._retries = retries
        self._allow_unavailable_labels = allow_unavailable_labels
        self._streams: dict[str, _Stream] = {}
        self._started = False

    def start(self) -> None:
        """Load only one version at a time from now on."""
        self._started = True

    @property
    def is_loading(self) -> bool:
        """Return whether a version is still to be loaded, perhaps after failed tries."""
        return any(
            load.not_before != _NEVER and stream.states[version].state is not State.END
            for stream in self._streams.values()
            for version, load in stream.loads.items()
        )

    @property
    def has_new_models(self) -> bool:
        """Return whether a configured model has no AVAILABLE or END version since it was configured."""
        return any(stream.is_configured and stream.is_new for stream in self._streams.values())

    def find(self, spec: ModelSpec) -> tuple[int, SavedModel]:
        """Return the version that serves a request, and its model.

        Raises:
            StatusError: no loaded version matches the spec.
        """
        if not spec.name:
            raise invalid_argument("ModelSpec has no name specified")
        stream = self._streams.get(spec.name)
        version = spec.version
        if spec.label is not None:
            if stream is None or spec.label not in stream.config.labels:
                raise invalid_argument(f"Unrecognized servable version label: {spec.label}")
            version = stream.config.labels[spec.label]
        models = stream.models if stream else {}
        if version is None:
            if not models:
                raise not_found(f"Servable not found for request: Latest({spec.name})")
            version = max(models)
        model = models.get(version)
        if model is None:
            raise not_found(f"Servable not found for request: Specific({spec.name}, {version})")
        return version, model

    def states(self, spec: ModelSpec) -> list[VersionState]:
        """Return the states of a model's versions, the highest first. A label is not looked at.

        Raises:
            StatusError: there never was such a model or version.
        """
        stream = self._streams.get(spec.name)
        known = dict(stream.states) if stream else {}
        if spec.version is not None:
            if spec.version not in known:
                raise not_found(f"Could not find version {spec.version} of model {spec.name}")
            return [known[spec.version]]
        if not known:
            raise not_found(f"Could not find any versions of model {spec.name}")
        return [known[version] for version in sorted(known, reverse=True)]

    def configure(self, configs: Sequence[ModelConfig]) -> None:
        """Apply a new list of models; models that are no longer in it will be unloaded.

        Raises:
            StatusError: a label names a version that is not loaded; nothing is changed then.
        """
        for config in configs:
            self._check_labels(config)
        streams = dict(self._streams)
        for name in streams.keys() - {config.name for config in configs}:
            streams[name].is_configured = False
            streams[name].config = replace(streams[name].config, labels={})
            self._aspire(streams[name], {})
        for config in configs:
            if config.name in streams:
                stream = streams[config.name]
                stream.config = config
                stream.is_new = stream.is_new or not stream.is_configured
                stream.is_configured = True
            else:
                streams[config.name] = _Stream(config)
        self._streams = streams

    def _check_labels(self, config: ModelConfig) -> None:
        stream = self._streams.get(config.name)
        for label, version in config.labels.items():
            loaded = stream is not None and version in stream.models
            known = stream.config.labels.get(label) if stream else None
            if not loaded and not (self._allow_unavailable_labels and known in (None, version)):
                raise StatusError(
                    Code.FAILED_PRECONDITION,
                    f"Request to assign label to version {version} of model {config.name},"
                    " which is not currently available for inference",
                )

    def poll(self) -> None:
        """Read every base path once, and record the versions to serve.

        A path that cannot be read stops this for all models, and so does a load that is waiting for a retry.
        """
        if self._retrying():
            return
        looked: list[tuple[_Stream, dict[int, Path], str]] = []
        for name, stream in self._streams.items():
            if not stream.is_configured:
                continue
            base_path = stream.config.base_path
            try:
                looked.append((stream, *version_dirs(base_path)))
            except (OSError, ValueError) as error:
                self._complain(stream, f"Could not find base path {base_path} for servable {name}: {error}")
                return
        for stream, on_disk, complaint in looked:
            wanted = stream.config.policy.choose(on_disk)
            nothing = (
                f"No versions of servable {stream.config.name} found under base path {stream.config.base_path}."
                " Did you forget to name your leaf directory as a number (eg. '/1/')?"
            )
            self._complain(stream, complaint if wanted else nothing)
            self._aspire(stream, {version: on_disk[version] for version in wanted})

    def _retrying(self) -> dict[str, int]:
        """Return the version by its model whose load is to be tried again, once the server has started.

        Until then loads run side by side; afterwards one at a time, and nothing else happens between its tries.
        """
        if not self._started:
            return {}
        return {
            name: version
            for name, stream in self._streams.items()
            for version, load in stream.loads.items()
            if load.failures and stream.states[version].state is not State.END
        }

    def _aspire(self, stream: _Stream, aspired: dict[int, Path]) -> None:
        if aspired.keys() & (stream.models.keys() - stream.aspired.keys()):
            return  # a version that is loaded though it is not wanted must be gone before it can be wanted again
        stream.aspired = aspired
        for version in stream.loads.keys() - aspired.keys():  # no longer wanted: gives up its retries
            del stream.loads[version]
            if stream.states[version].state is not State.END:
                stream.states[version] = VersionState(version, State.END)
        for version in aspired.keys() - stream.models.keys() - stream.loads.keys():
            stream.loads[version] = _Load()
            stream.states[version] = VersionState(version, State.START)

    def act(self) -> bool:
        """Load or unload one version of each model, where the policy asks for it.

        Returns:
            Whether there was anything to do.
        """
        if retrying := self._retrying():
            acted = [self._load_due(name, self._streams[name], only) for name, only in retrying.items()]
        else:
            acted = [self._act(name, stream) for name, stream in self._streams.items()]
        return any(acted)  # of every model, not until one acts

    def _act(self, name: str, stream: _Stream) -> bool:
        unwanted = stream.models.keys() - stream.aspired.keys()
        serves_wanted = bool(stream.models.keys() & stream.aspired.keys())
        if unwanted and (not stream.aspired or serves_wanted or len(unwanted) > 1):
            self._unload_version(name, stream, min(unwanted))
            return True
        return self._load_due(name, stream)

    def _load_due(self, name: str, stream: _Stream, only: int | None = None) -> bool:
        now = time.monotonic()
        due = [
            version
            for version, load in stream.loads.items()
            if stream.states[version].state is not State.END and load.not_before <= now and only in (None, version)
        ]
        if due:
            self._load_version(name, stream, max(due))
        return bool(due)

    def _unload_version(self, name: str, stream: _Stream, version: int) -> None:
        stream.states[version] = VersionState(version, State.UNLOADING)
        stream.models = {number: model for number, model in stream.models.items() if number != version}
        stream.states[version] = VersionState(version, State.END)
        log(f"Unloaded servable version {{name: {name} version: {version}}}")

    def _load_version(self, name: str, stream: _Stream, version: int) -> None:
        servable = f"{{name: {name} version: {version}}}"
        load = stream.loads[version]
        if not load.failures and (reason := why_unmeasurable(stream.aspired[version])):
            log(f"Error while attempting to reserve resources to load servable {servable}: {reason}")
            load.not_before = _NEVER
            return
        stream.states[version] = VersionState(version, State.LOADING)
        try:
            model = self._load(stream.aspired[version])
        except StatusError as error:
            load.failures += 1
            log(f"Loading servable: {servable} failed: {error}")
            if load.failures > self._retries.count:
                stream.states[version] = VersionState(version, State.END, error.code, error.message)
                stream.is_new = False
            else:
                load.not_before = time.monotonic() + self._retries.interval_s
            return
        del stream.loads[version]
        stream.models = {**stream.models, version: model}
        stream.states[version] = VersionState(version, State.AVAILABLE)
        stream.is_new = False
        log(f"Successfully loaded servable version {servable}")

    def settled(self) -> list[tuple[str, VersionState]] | None:
        """Return for each model the highest version that is AVAILABLE or END; return None if a model has none."""
        reached = []
        for name, stream in self._streams.items():
            if not stream.is_configured:
                continue
            ended = [state for state in stream.states.values() if state.state in (State.AVAILABLE, State.END)]
            if not ended:
                return None
            reached.append((name, max(ended)))
        return reached

    def _complain(self, stream: _Stream, complaint: str) -> None:
        """Log what is wrong with a base path, once, not at every poll."""
        if complaint and complaint != stream.complaint:
            log(complaint)
        stream.complaint = complaint
