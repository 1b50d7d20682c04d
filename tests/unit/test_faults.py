"""What ends a sweep and what takes a variant out of it: a fault of the machine never chooses the winner."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from email.message import Message
from http.client import IncompleteRead, RemoteDisconnected
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen
from uuid import uuid4

import numpy as np
import pytest
import requests

from configs.loading import load_config
from configs.schema import Config
from configs.variants import Variant
from flows import runners
from flows.runners import train_all
from tasks import sweep as stages
from tasks.datasets.user_code import translated
from tasks.errors import (
    DataError,
    ExportError,
    PipelineError,
    SignatureMismatch,
    StoreError,
    SweepStopped,
    TrainingError,
    TrainingLost,
)
from tasks.faults import Fault, fault_of
from tasks.records import Candidate, Change, ComparedVariant, Signature, Splits, TrainedModel
from tasks.store.history import append
from tasks.store.journal import begin, commit
from tasks.store.sweeps import open_sweep, read_failed, read_trained
from tasks.sweep import Contestant, removed_when_judged
from tasks.sweeping import training
from tasks.sweeping.training import Job, train_variant

SPLITS = Splits(Path(), Path(), Path(), {"train": 3, "validation": 2, "test": 1}, "d1", "a:load", ())


def splits_in(directory: Path) -> Splits:
    """Return rows whose files are there."""
    rows = directory / "rows.npz"
    rows.touch()
    return replace(SPLITS, train=rows, validation=rows, test=rows)


def full_disk() -> None:
    Path("/dev/full").write_text("x")


def without_descriptors() -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        Path(os.devnull).read_text()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def files_without_content() -> Iterator[None]:
    """Allow this process to create files, but not to write to them, as a full disk does."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def raises(error: BaseException) -> Callable[[], None]:
    def raising() -> None:
        raise error

    return raising


def while_handling(first: Callable[[], object], error: Exception) -> Callable[[], None]:
    """Return a function that raises an error as Keras does at a failed download: not from the first, but behind it."""

    def raising() -> None:
        try:
            first()
        except Exception:  # noqa: BLE001
            raise error  # noqa: B904

    return raising


def of_requests(status: int) -> requests.HTTPError:
    """Return the error of an HTTP answer, which has no number and no error behind it."""
    answer = requests.Response()
    answer.status_code = status
    return requests.HTTPError("refused", response=answer)


@pytest.mark.parametrize(
    ("function", "fault"),
    [
        (full_disk, Fault.MACHINE),
        (without_descriptors, Fault.MACHINE),
        (raises(OSError(errno.EROFS, "Read-only file system")), Fault.MACHINE),
        (raises(ConnectionRefusedError(errno.ECONNREFUSED, "refused")), Fault.MACHINE),
        (raises(OSError(None, "file write failed: error message = 'No space left on device'")), Fault.MACHINE),
        (raises(RuntimeError("/w/variables; No space left on device [Op:SaveV2]")), Fault.MACHINE),
        (while_handling(full_disk, ValueError("cannot be saved")), Fault.MACHINE),
        (while_handling(full_disk, MemoryError()), Fault.MACHINE),
        (lambda: urlopen("http://127.0.0.1:1/weights.h5", timeout=60), Fault.MACHINE),
        (raises(TimeoutError("The read operation timed out")), Fault.MACHINE),
        (raises(ssl.SSLCertVerificationError(1, "certificate verify failed")), Fault.MACHINE),
        (raises(RemoteDisconnected("Remote end closed connection without response")), Fault.MACHINE),
        (raises(IncompleteRead(b"half")), Fault.MACHINE),
        (raises(HTTPError("http://127.0.0.1/w.h5", 503, "busy", Message(), None)), Fault.MACHINE),
        (raises(of_requests(429)), Fault.MACHINE),
        (raises(of_requests(401)), Fault.MACHINE),
        (
            raises(ExceptionGroup("two", [ValueError("x"), OSError(errno.ENOSPC, "No space left on device")])),
            Fault.MACHINE,
        ),
        (raises(HTTPError("http://127.0.0.1/w.h5", 404, "Not Found", Message(), None)), Fault.OWN),
        (raises(of_requests(404)), Fault.OWN),
        (lambda: np.zeros(10**15), Fault.MEMORY),
        (raises(RuntimeError("OOM when allocating tensor with shape[9] on GPU:0")), Fault.MEMORY),
        (raises(RuntimeError("Out of memory while trying to allocate 36.38TiB. [Op:__inference_g_7]")), Fault.MEMORY),
        (raises(RuntimeError("failed to allocate 2GB: CUDA_ERROR_OUT_OF_MEMORY: out of memory")), Fault.MEMORY),
        (raises(RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")), Fault.MEMORY),
        (raises(OSError(errno.ENOMEM, "Cannot allocate memory")), Fault.MEMORY),
        (lambda: Path("/nowhere/weights.h5").read_bytes(), Fault.OWN),
        (lambda: Path("/").read_bytes(), Fault.OWN),
        (raises(PermissionError(errno.EACCES, "denied")), Fault.OWN),
        (raises(OSError("the file's signature was not found")), Fault.OWN),
        (raises(ValueError("hidden must be positive")), Fault.OWN),
    ],
)
def test_whose_fault_an_error_is(function: Callable[[], object], fault: Fault) -> None:
    """A full disk or a lost connection is the machine's, however a library says it; a wrong path is the user's."""
    with pytest.raises(ExportError) as caught, translated("it must work", ExportError):
        function()
    assert fault_of(caught.value) is fault


def test_a_limit_of_files(tmp_path: Path) -> None:
    """A number of an error that nobody thought of is the machine's, such as that of a file that may not grow."""
    with files_without_content(), pytest.raises(OSError, match="File too large") as caught:
        (tmp_path / "large").write_text("x")
    assert fault_of(caught.value) is Fault.MACHINE


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    """Return two variants to train."""
    (tmp_path / "cfg.yaml").write_text("name: m\nsweep: {worker_timeout_s: 1, tries: 2}\n")
    config = load_config(tmp_path / "cfg.yaml")
    return [
        Job(f"variant {number}", config, splits_in(tmp_path), tmp_path / f"v{number}", uuid4().hex) for number in (1, 2)
    ]


class Child:
    """Stands for the TensorFlow process: it answers with an error, or writes a model."""

    def __init__(self, answer: Exception | Callable[[Path], None]) -> None:
        self._answer = answer

    def submit(self, _function: object, _config: object, _splits: object, file: Path) -> Path:
        return file

    def result(self, file: Path) -> TrainedModel:
        if isinstance(self._answer, Exception):
            raise self._answer
        self._answer(file)
        return TrainedModel(file, {}, 1, 1)


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Return a function that says what the TensorFlow process answers."""

    def set_answer(answer: Any) -> None:
        monkeypatch.setattr(training, "_process", lambda _job: contextlib.nullcontext(Child(answer)))

    return set_answer


def of_machine(error: PipelineError, fault: Fault) -> PipelineError:
    """Return an error as it comes from the TensorFlow process, without the errors that led to it."""
    error.fault = fault
    return error


@pytest.mark.parametrize("kind", [TrainingError, DataError, ExportError, SignatureMismatch])
def test_the_own_error_of_a_variant_is_recorded(
    jobs: list[Job], answering: Callable[[Any], None], kind: type[PipelineError]
) -> None:
    """An error of the model, of its rows or of its export takes the variant out of the sweep."""
    answering(kind("the loss must be finite"))
    with pytest.raises(kind, match="the loss must be finite"):
        train_variant(jobs[0])
    assert read_failed(jobs[0].directory, jobs[0].command) == "the loss must be finite"


@pytest.mark.parametrize(
    "error",
    [
        of_machine(ExportError("Keras must be able to save the model, got OSError"), Fault.MACHINE),
        of_machine(TrainingError("got OSError"), Fault.MACHINE),
        PipelineError("fit_model failed unexpectedly: KeyError: 'x'"),
        StoreError("work_dir must be writable"),
        OSError(errno.EMFILE, "Too many open files"),
        KeyError("x"),
    ],
)
def test_any_other_error_ends_the_sweep(jobs: list[Job], answering: Callable[[Any], None], error: Exception) -> None:
    """What is not known to be the variant's own is recorded nowhere, and says what to do."""
    answering(error)
    with pytest.raises(SweepStopped, match="variant 1 is not known to be its own: .*run the same command again"):
        train_variant(jobs[0])
    assert read_failed(jobs[0].directory, jobs[0].command) == ""


def test_a_directory_that_is_gone_ends_the_sweep(jobs: list[Job], answering: Callable[[Any], None]) -> None:
    """A model that cannot be saved because its directory was removed is no failure of the variant."""

    def removed(file: Path) -> None:
        file.parent.rename(file.parents[2] / "elsewhere")
        file.parents[1].rmdir()
        with translated("Keras must be able to save the model", ExportError):
            file.write_text("weights")

    answering(removed)
    with pytest.raises(SweepStopped, match="No such file or directory"):
        train_variant(jobs[0])
    assert read_failed(jobs[0].directory, jobs[0].command) == ""


def test_rows_that_are_gone_end_the_sweep(jobs: list[Job], answering: Callable[[Any], None]) -> None:
    """A variant that cannot read its rows, because somebody removed work_dir, is not blamed for that."""
    jobs[0].splits.train.unlink()
    answering(DataError("saved arrays must be readable, got 'rows.npz'"))
    with pytest.raises(SweepStopped, match="saved arrays must be readable"):
        train_variant(jobs[0])
    assert read_failed(jobs[0].directory, jobs[0].command) == ""


def test_a_full_disk_that_an_error_does_not_name(jobs: list[Job], answering: Callable[[Any], None]) -> None:
    """A variant whose error may come from a half-written file is not blamed while the disk takes no content."""
    answering(TrainingError("the file's signature was not found"))
    with files_without_content(), pytest.raises(SweepStopped, match="signature was not found"):
        train_variant(jobs[0])
    assert read_failed(jobs[0].directory, jobs[0].command) == ""


def test_too_little_memory_is_tried_again(jobs: list[Job], answering: Callable[[Any], None]) -> None:
    """A variant for which there was no memory is lost like one whose process was killed."""
    answering(of_machine(TrainingError("OOM when allocating tensor"), Fault.MEMORY))
    with pytest.raises(TrainingLost, match="there must be enough memory to train it: OOM when"):
        train_variant(jobs[0])
    assert read_failed(jobs[0].directory, jobs[0].command) == ""


class Future:
    """Stands for a future of a task runner that has ended, or never does."""

    def __init__(self, result: Any, *, ends: bool) -> None:
        self._result, self._ends = result, ends

    def add_done_callback(self, function: Callable[[Any], None]) -> None:
        if self._ends:
            function(self)

    def result(self, timeout: float, raise_on_failure: bool) -> Any:
        assert timeout > 0 and not raise_on_failure
        return self._result


class Runner:
    """Stands for a task runner: it trains at once, or has no workers."""

    def __init__(self, *, has_workers: bool) -> None:
        self.has_workers = has_workers

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, task: Callable[[Job], None], parameters: dict[str, Job]) -> Future:
        if not self.has_workers:
            return Future(None, ends=False)
        try:
            return Future(task(parameters["job"]), ends=True)
        except Exception as exc:  # noqa: BLE001  as Prefect does
            return Future(exc, ends=True)


def trained_by(runner: Runner, jobs: Sequence[Job]) -> Any:
    return train_all(lambda: runner, train_variant, jobs)  # type: ignore[arg-type,return-value]


def test_a_runner_without_workers(jobs: list[Job]) -> None:
    """Where no worker trains, the sweep ends after sweep.worker_timeout_s and names the field."""
    with pytest.raises(SweepStopped, match=r"for 1 s none trained any of the 2 .* raise sweep.worker_timeout_s"):
        trained_by(Runner(has_workers=False), jobs)


def test_a_stopped_process_has_waited_for_nothing(jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    """The hours between Ctrl-Z and `fg`, in which no thread could give a sign of life, end no sweep; silence does."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(runners, "time", SimpleNamespace(monotonic=lambda: clock.now))
    waiting = runners._Waiting(jobs)
    clock.now += 7200
    waiting.look(2)
    with pytest.raises(SweepStopped, match="for 1 s none trained"):
        for _ in range(5):
            clock.now += waiting.look_s
            waiting.look(2)


def test_a_sign_of_life_is_waited_for(jobs: list[Job], answering: Callable[[Any], None]) -> None:
    """A training that takes longer than sweep.worker_timeout_s touches its directory, and so is no lost worker."""
    seen: set[int] = set()

    def slowly(file: Path) -> None:
        while len(seen) < 3:
            seen.add(file.parent.stat().st_mtime_ns)
        file.write_text("weights")

    answering(slowly)
    train_variant(jobs[0])
    assert read_trained(jobs[0].directory) is not None


def test_a_fault_of_the_machine_ends_all(jobs: list[Job], answering: Callable[[Any], None]) -> None:
    """The first variant that meets a full disk ends the sweep; no other is recorded as better or worse."""
    answering(of_machine(ExportError("No space left on device"), Fault.MACHINE))
    with pytest.raises(SweepStopped, match="No space left on device"):
        trained_by(Runner(has_workers=True), jobs)


def test_what_needs_memory_is_trained_alone(jobs: list[Job], answering: Callable[[Any], None]) -> None:
    """A variant for which there was no memory is tried again after the others, and not beside them."""
    order: list[str] = []

    def needs_memory(file: Path) -> None:
        order.append(file.parents[1].name)
        if order == ["v1"]:
            raise of_machine(TrainingError("OOM when allocating tensor"), Fault.MEMORY)
        file.write_text("weights")

    answering(needs_memory)
    trained_by(Runner(has_workers=True), jobs)
    assert order == ["v1", "v2", "v1"]
    assert all(read_trained(job.directory) for job in jobs)


def test_a_failed_variant_ends_nothing(jobs: list[Job], answering: Callable[[Any], None]) -> None:
    """Variants that fail by their own errors are recorded, each of them, and the runner has done its work."""
    answering(TrainingError("no loss"))
    assert trained_by(Runner(has_workers=True), jobs) == {}
    assert [read_failed(job.directory, job.command) for job in jobs] == ["no loss", "no loss"]


@pytest.fixture
def exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Contestant]:
    """Return a function that exports a variant with errors at the first tries."""
    (tmp_path / "cfg.yaml").write_text("name: m\n")
    config = load_config(tmp_path / "cfg.yaml")
    one = Contestant(Variant(1, {}, (), config), ComparedVariant(1, {}, "seed 1"), tmp_path)

    def exporting(*errors: PipelineError) -> Contestant:
        left = [*errors]

        def export(contestant: Contestant, *_: object) -> Contestant:
            if left:
                raise left.pop(0)
            return contestant

        monkeypatch.setattr(stages, "_export", export)
        trained = replace(one, trained=TrainedModel(tmp_path / "cfg.yaml", {}, 1, 1))
        [found] = stages.export_variants.fn([trained], splits_in(tmp_path), tmp_path)
        assert not left
        return found

    return exporting


def test_an_export_whose_process_ended_is_tried_again(exports: Callable[..., Contestant]) -> None:
    """Like its training, an export is tried again if its process is killed or has too little memory."""
    lost, no_memory = TrainingLost("signal 9"), of_machine(ExportError("OOM"), Fault.MEMORY)
    assert exports(lost).takes_part and exports(no_memory).takes_part
    assert exports(no_memory, lost).compared.reason == "signal 9"


def test_an_export_that_fails(exports: Callable[..., Contestant]) -> None:
    """What the model cannot do takes it out at once; a full disk takes out nothing and ends the sweep."""
    assert exports(ExportError("a Lambda")).compared.reason == "a Lambda"
    with pytest.raises(ExportError, match="no space"):
        exports(of_machine(ExportError("no space"), Fault.MACHINE))


def test_an_export_whose_model_is_gone(exports: Callable[..., Contestant], tmp_path: Path) -> None:
    """A trained model that somebody removed takes its variant out of no sweep, but ends it."""
    (tmp_path / "cfg.yaml").unlink()  # it stands for the model
    with pytest.raises(ExportError, match="able to read"):
        exports(ExportError("Keras must be able to read the model"))


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[tuple[Config, Path, Candidate]]:
    """Yield a configuration, the directory of its sweep and the candidate of its winner."""
    (tmp_path / "cfg.yaml").write_text("name: m\n")
    config = load_config(tmp_path / "cfg.yaml")
    nothing = Signature((), ())
    candidate = Candidate("m", 4, tmp_path / "4", "d4", nothing, 0, Path(), Path(), Path())
    with open_sweep(config, "a" * 16) as directory:
        yield config, directory, candidate


@pytest.mark.parametrize("error", [KeyboardInterrupt(), StoreError("work_dir must be writable")])
@pytest.mark.parametrize("state", ["", "exported", "validated", "canary", "live", "rejected", "awaiting review"])
def test_what_an_interrupt_says(
    sweep: tuple[Config, Path, Candidate], caplog: pytest.LogCaptureFixture, state: Any, error: BaseException
) -> None:
    """After the winner has an outcome the sweep has ended, whatever interrupts it; before that it can go on."""
    config, directory, candidate = sweep
    config.live_dir.mkdir(parents=True)
    append(config.live_dir, 4, "exported", "d4")
    with pytest.raises(type(error)), removed_when_judged(directory, (), config, candidate):
        if state:
            append(config.live_dir, 4, state, "d4")
        raise error
    is_over = state not in ("", "exported", "validated")
    assert directory.exists() is not is_over
    assert (f"version 4, the best variant, is {state} already: the sweep has ended" in caplog.text) is is_over


def test_an_interrupt_in_the_middle_of_a_promotion(
    sweep: tuple[Config, Path, Candidate], caplog: pytest.LogCaptureFixture
) -> None:
    """A promotion that is not finished ends the sweep, because the doctor finishes it; a change of others does not."""
    config, directory, candidate = sweep
    config.live_dir.mkdir(parents=True)
    for digest, is_over in (("of another", False), ("d4", True)):
        begin(config.live_dir, Change("publish", 4, "4", digest))
        with pytest.raises(KeyboardInterrupt), removed_when_judged(directory, (), config, candidate):
            raise KeyboardInterrupt
        assert directory.exists() is not is_over
        commit(config.live_dir)
    assert "is being promoted already: the sweep has ended" in caplog.text


def test_without_an_interrupt_the_sweep_has_ended(sweep: tuple[Config, Path, Candidate]) -> None:
    """A judged winner needs no history for the directory to go."""
    config, directory, candidate = sweep
    with removed_when_judged(directory, (), config, candidate):
        pass
    assert not directory.exists()
