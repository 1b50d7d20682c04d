"""The error tree: exceptions say "could not tell"; a model that fails a gate is a value, not an error.

    PipelineError                 retryable = False
    |-- DataError                 the rows cannot be used
    |-- TrainingError             no model came out of training
    |-- ExportError               no candidate came out of the export
    |   |-- SignatureMismatch     declared and found inputs or outputs differ
    |   `-- UnsafeModel           the graph does what a server must not do
    |-- ServingError              the throwaway server gave no judgement
    |   |-- ServingUnavailable *  it could not be started or reached
    |   |-- ServingTimeout *      it did not answer within its deadline
    |   |-- ServerCrashed         it ended itself: a failed check, a wrong address
    |   |-- ModelLoadError        it refused the model
    |   `-- PredictionError       it refused a request, or ended itself over one
    |-- StoreError                the version directories are not as they must be
    |   |-- VersionExists         the number is taken
    |   |-- ManifestMismatch      the bytes are not the bytes that were judged
    |   `-- LockTimeout *         somebody else is promoting this model
    `-- TrackingError *           MLflow could not be reached
        `-- TrackingRefused       it refused a request
                                  (* retryable: trying again can mend it)

`ConfigError` (configs/loading.py) stands beside it: it is raised before anything runs.
"""

from __future__ import annotations

from typing import ClassVar


class PipelineError(Exception):
    """Say the rule, what was received and what to do, in one line.

    Attributes:
        retryable: whether the same call may succeed if it is made again.
        detail: longer evidence, such as a server's log; shown below the line, never in it.
    """

    retryable: ClassVar[bool] = False

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


class DataError(PipelineError):
    """The rows cannot be used: unreadable, wrong shape or dtype, NaN, an empty split."""


class TrainingError(PipelineError):
    """Training ended without a usable model."""


class ExportError(PipelineError):
    """The model could not be written as a servable."""


class SignatureMismatch(ExportError):
    """Declared and actual inputs or outputs differ."""


class UnsafeModel(ExportError):
    """The graph holds operations that a server must not run."""


class ServingError(PipelineError):
    """The throwaway server gave no judgement."""


class ServingUnavailable(ServingError):
    """No server could be started or reached."""

    retryable = True


class ServingTimeout(ServingError):
    """The server did not answer within its deadline."""

    retryable = True


class ServerCrashed(ServingError):
    """The server ended itself, by no limit of ours: a failed check in a kernel, a wrong address."""


class ModelLoadError(ServingError):
    """The server refused the model; trying again cannot help."""


class PredictionError(ServingError):
    """The server refused a request (a 4xx), or ended itself over one; trying again cannot help."""


class StoreError(PipelineError):
    """The version directories are not as they must be."""


class VersionExists(StoreError):
    """The version number is taken, perhaps with different padding."""


class ManifestMismatch(StoreError):
    """The bytes on disk are not the bytes that were judged."""


class LockTimeout(StoreError):
    """Another promotion of the same model holds the lock."""

    retryable = True


class TrackingError(PipelineError):
    """MLflow could not be reached, or failed at a request."""

    retryable = True


class TrackingRefused(TrackingError):
    """MLflow refused a request: a name that it does not take, a missing right, a deleted experiment."""

    retryable = False
