"""The error tree: exceptions mean that there is no verdict; a model that fails a gate is a value, not an error.

    PipelineError                 retryable = False
    |-- DataError                 the rows cannot be used
    |   `-- WrongFile             they are in a file that the user named: exit code 2, as for a wrong option
    |-- TrainingError             the training produced no model
    |   |-- TrainingLost            its process was killed, or ended otherwise before it answered
    |   `-- SweepStopped            a fault that is not that of the variant at which it was seen
    |-- ExportError               the export produced no candidate
    |   |-- SignatureMismatch     declared and actual inputs or outputs differ
    |   |   `-- WrongTransport      serving.protocol or a gate cannot carry them: exit code 2
    |   `-- UnsafeModel           the graph contains operations that a server must not run
    |-- ServingError              the throwaway server gave no usable answers
    |   |-- UnknownFlag           it does not know a flag of the configuration
    |   |-- ServingUnavailable *  it could not be started or reached
    |   |-- ServingTimeout *      it did not answer in time
    |   |-- AccessDenied          it lets this client do nothing: TLS, 401, 403
    |   |-- ServerCrashed         it crashed: a failed check, an invalid address
    |   |-- MemoryExceeded        it was killed at its memory limit
    |   |-- ModelLoadError        it refused the model
    |   `-- PredictionError       it refused a request, or crashed at one
    |-- StoreError                the version directories are in an invalid state
    |   |-- VersionExists         the version number is in use
    |   |-- ManifestMismatch      the files are not those that were judged
    |   |-- ProofMismatch         a signed file, or what it vouches for, is not as it was signed
    |   |-- LiveChanged *         another process has changed what a candidate was compared with
    |   `-- LockTimeout *         another process is changing this model
    `-- TrackingError *           MLflow could not be reached
        `-- TrackingRefused       it refused a request
                                  (* retryable: a retry may succeed)

`ConfigError` (configs/errors.py) is separate: it is raised before anything runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from tasks.faults import Fault


class PipelineError(Exception):
    """An error whose message says in one line the rule, what was received, and what to do.

    Attributes:
        retryable: whether a retry of the same call may succeed.
        detail: longer evidence, such as a server's log, which is shown below the message.
        users_traceback: calls of the user's code in another process, which `--debug` shows.
        fault: whose fault it is, if the TensorFlow process knows more than that it is the model's.
    """

    retryable: ClassVar[bool] = False
    users_traceback: str = ""
    fault: Fault = Fault.OWN

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


class DataError(PipelineError):
    """The rows cannot be used: unreadable, wrong shape or dtype, NaN, an empty split."""


class WrongFile(DataError):
    """A file that an option names does not hold usable rows; nothing was judged."""


class TrainingError(PipelineError):
    """The training ended without a usable model."""


class TrainingLost(TrainingError):
    """The process of the training ended before it answered; of a variant, another try may succeed."""


class SweepStopped(TrainingError):
    """A sweep cannot go on: the machine or the configuration must be repaired, and no variant can be blamed."""


class ExportError(PipelineError):
    """The model could not be exported."""


class SignatureMismatch(ExportError):
    """Declared and actual inputs or outputs differ."""


class WrongTransport(SignatureMismatch):
    """`serving.protocol`, or a gate that is to judge, cannot carry the dtypes of a signature."""


class UnsafeModel(ExportError):
    """The graph holds operations that a server must not run."""


class ServingError(PipelineError):
    """The throwaway server gave no usable answers."""


class UnknownFlag(ServingError):
    """The server does not know a flag of `serving.args`."""


class ServingUnavailable(ServingError):
    """No server could be started or reached."""

    retryable = True


class ServingTimeout(ServingError):
    """The server did not answer in time."""

    retryable = True


class AccessDenied(ServingError):
    """A server refused every request of this client: TLS failed, or the credentials are missing or wrong."""


class ServerCrashed(ServingError):
    """The server crashed, not because of a limit: a failed check in a kernel, an invalid address."""


class MemoryExceeded(ServingError):
    """The server was killed at its memory limit, `serving.memory_mb`."""


class ModelLoadError(ServingError):
    """The server refused the model; a retry cannot succeed.

    Attributes:
        versions: those that it refused, if it was to load several and named them.
    """

    versions: tuple[int, ...] = ()


class PredictionError(ServingError):
    """The server refused a request (a 4xx), or crashed at one; a retry cannot succeed."""


class StoreError(PipelineError):
    """The version directories are in an invalid state."""


class VersionExists(StoreError):
    """The version number is in use, perhaps with different zero padding."""


class ManifestMismatch(StoreError):
    """The files on the disk are not those that were judged."""


class ProofMismatch(StoreError):
    """A signed file, or what it vouches for, is not as it was signed, or not signed by a trusted key."""


class StoreRefused(StoreError):
    """The object store refuses this client: no credentials, no permission, no bucket, or no conditional writes."""


class StoreUnreachable(StoreError):
    """The object store gave no answer, or a broken one."""

    retryable = True


class StoreConflict(StoreError):
    """Another process has changed what is live in the object store since it was read."""


class LiveChanged(StoreError):
    """Another process has changed what is live while a candidate was judged beside it; a retry judges it again."""

    retryable = True


class LockTimeout(StoreError):
    """Another process holds the lock of the same model."""

    retryable = True


class TrackingError(PipelineError):
    """MLflow could not be reached, or failed at a request."""

    retryable = True


class TrackingRefused(TrackingError):
    """MLflow refused a request: an invalid name, a missing permission, a deleted experiment."""

    retryable = False


@contextlib.contextmanager
def named_as(copy: Path, original: Path) -> Iterator[None]:
    """Name the user's own file, instead of our copy of it, in an error of the block."""
    try:
        yield
    except PipelineError as exc:
        exc.args = (str(exc).replace(str(copy), str(original)),)
        raise
