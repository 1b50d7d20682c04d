"""A killed training goes on where it was, to the same numbers; what is not its backup is never taken for it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs.loading import load_config
from configs.schema import Config
from tasks.datasets.prepare import prepare_splits
from tasks.errors import TrainingError
from tasks.owner import hold
from tasks.records import TrainedModel
from tasks.training import backup

# TensorFlow's variables do not know NumPy 2's `copy`; Keras reads every weight through them.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
DRIVER = Path(__file__).parents[1] / "training_driver.py"
NOISY = """
name: m
data: {load: 'configs.digits:load'}
model: {build: 'tests.data.user_models:noisy'}
training: {epochs: 9, patience: 2}
"""


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(DRIVER.parents[1])}
    command = [sys.executable, str(DRIVER), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=1500)


def test_killed_trainings_end_with_the_numbers_of_an_uninterrupted_one(tmp_path: Path) -> None:
    """A training killed in an epoch, and again while it wrote a backup, has the weights and figures of a whole one."""
    files = []
    for name in ("killed", "whole"):
        files.append(tmp_path / name / "cfg.yaml")
        files[-1].parent.mkdir()
        files[-1].write_text(NOISY)
    killed, whole = files
    first = run(killed, "in-epoch", 4)
    assert first.returncode == -signal.SIGKILL, first.stderr
    [complete] = killed.parent.glob(".rehearsal/trainings/m/*/*")
    assert complete.name == "epoch-00000003"
    second = run(killed, "while-writing", 5)
    assert second.returncode == -signal.SIGKILL, second.stderr
    names = {path.name for path in killed.parent.glob(".rehearsal/trainings/m/*/*")}
    assert names == {".partial", "epoch-00000004"}  # the earlier one stays until the next is complete
    last = run(killed, "never", 0, whole)
    resumed, uninterrupted = map(json.loads, last.stdout.splitlines())
    assert (resumed.pop("resumed"), uninterrupted.pop("resumed")) == ([3, 4], [])
    assert resumed == uninterrupted
    assert resumed["left"] == []


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, BaseException], None]:
    """Return a function after which trainings are backed up after each epoch, and an epoch ends with an error."""
    monkeypatch.setattr(backup, "AT_MOST", 0)
    note = backup.Backup.note

    def interrupting(epochs: int, error: BaseException) -> None:
        def noting(self: backup.Backup, model: Any, stopper: Any, epoch: int, logs: Any) -> None:
            note(self, model, stopper, epoch, logs)
            if epoch + 1 == epochs:
                raise error

        monkeypatch.setattr(backup.Backup, "note", noting)

    return interrupting


def fit(config: Config) -> TrainedModel:
    from tasks.training.fit import fit_model

    splits = prepare_splits(config.data, config.work_dir / "data")
    return fit_model(config, splits, config.work_dir / "model.keras")


def stopped(config: Config) -> list[Path]:
    """Fit until the interrupt; return the backups that it left."""
    with pytest.raises(KeyboardInterrupt):
        fit(config)
    return sorted(config.work_dir.glob("trainings/*/*/epoch-*"))


def resumes(config: Config, interrupt: Callable[[int, BaseException], None]) -> tuple[int, ...]:
    interrupt(0, KeyboardInterrupt())
    return fit(config).resumed


@pytest.fixture
def config(user_config: Callable[..., Config]) -> Config:
    return user_config("line", "one_number", **{"training.epochs": 5, "training.patience": 3})


@pytest.mark.long
def test_a_training_that_had_ended_early_is_not_trained_on(
    user_config: Callable[..., Config], interrupt: Callable[[int, BaseException], None]
) -> None:
    """A training that was killed after early stopping, before the model was saved, keeps its best epoch."""
    settings = {"training.epochs": 60, "training.patience": 2, "model.params": "{rate: 0.7}"}
    whole = fit(user_config("line", "one_number", **settings))
    ran = len(whole.history["loss"])
    config = user_config("line", "one_number", **settings)
    interrupt(ran, KeyboardInterrupt())
    [left] = stopped(config)
    assert (left / backup.BEST).exists()
    interrupt(0, KeyboardInterrupt())
    resumed = fit(config)
    assert (resumed.history, resumed.best_epoch) == (whole.history, whole.best_epoch)
    assert resumed.resumed == (ran,)
    assert whole.best_epoch < ran < 60


def test_a_streamed_training_goes_on_as_well(
    make_config: Callable[..., Config], interrupt: Callable[[int, BaseException], None]
) -> None:
    """A resumed training on a stream reads the rows of each epoch in the order of an uninterrupted one."""
    names = ("tests.integration.test_stream:line", "tests.data.user_models:one_number")
    settings = {"training.epochs": 4, "training.shuffle_rows": 200}
    whole, config = fit(make_config(*names, **settings)), make_config(*names, **settings)
    interrupt(2, KeyboardInterrupt())
    stopped(config)
    interrupt(0, KeyboardInterrupt())
    resumed = fit(config)
    assert (resumed.history, resumed.resumed) == (whole.history, (2,))


def test_rows_in_memory_and_as_a_stream_are_two_trainings(
    interrupt: Callable[[int, BaseException], None], tmp_path: Path
) -> None:
    """A training whose file is read as a stream when the run is repeated begins anew, because its order is another."""
    rows = "".join(f"{n},{2 * n}\n" for n in range(60))
    (tmp_path / "rows.csv").write_text(f"a,y\n{rows}", encoding="utf-8")
    (tmp_path / "cfg.yaml").write_text(
        "name: m\ntraining: {epochs: 5}\n"
        "data: {file: rows.csv, features: {a: number}, target: {name: y, kind: number}}\n"
    )
    config = load_config(tmp_path / "cfg.yaml")
    interrupt(2, KeyboardInterrupt())
    stopped(config)
    streamed = config.data.model_copy(update={"stream_mb": 0})
    assert resumes(config.model_copy(update={"data": streamed}), interrupt) == ()
    assert resumes(config, interrupt) == (2,)


@pytest.mark.parametrize(
    ("file", "how"),
    [
        (backup.WEIGHTS, "flipped"),
        pytest.param(backup.STATE, "cut", marks=pytest.mark.long),
        pytest.param(backup.SEEDS, "removed", marks=pytest.mark.long),
    ],
)
def test_a_damaged_backup_is_not_used(
    config: Config,
    interrupt: Callable[[int, BaseException], None],
    file: str,
    how: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A backup in which a byte is wrong, missing, or a file is gone costs a warning, and the training begins anew."""
    interrupt(2, KeyboardInterrupt())
    [left] = stopped(config)
    data = bytearray((left / file).read_bytes())
    data[len(data) // 2] ^= 0xFF
    if how == "removed":
        (left / file).unlink()
    else:
        (left / file).write_bytes(data if how == "flipped" else data[: len(data) // 2])
    assert resumes(config, interrupt) == ()
    assert "is damaged and not used" in caplog.text


@pytest.mark.long
@pytest.mark.parametrize(
    ("section", "changes"),
    [
        ("training", {"batch_size": 16}),
        *(
            pytest.param(*changed, marks=pytest.mark.long)
            for changed in (("model", {"params": {"rate": 0.2}}), ("", {"seed": 3}), ("data", {"seed": 1}))
        ),
    ],
)
def test_another_configuration_begins_anew(
    config: Config, interrupt: Callable[[int, BaseException], None], section: str, changes: dict[str, Any]
) -> None:
    """A backup is used by the training that it was made of only: other settings or rows begin at the first epoch."""
    interrupt(2, KeyboardInterrupt())
    stopped(config)
    if section:
        changes = {section: getattr(config, section).model_copy(update=changes)}
    assert resumes(config.model_copy(update=changes), interrupt) == ()
    assert resumes(config, interrupt) == (2,)  # whose backup the other one has left alone


@pytest.mark.long
def test_other_code_begins_anew(
    make_config: Callable[..., Config], interrupt: Callable[[int, BaseException], None], tmp_path: Path
) -> None:
    """A training whose module was edited begins anew, even if its weights begin as before."""
    module = tmp_path / "edited_between_runs.py"
    source = "from tests.data.user_models import line, one_number\n"
    module.write_text(source)
    config = make_config(f"{module}:line", f"{module}:one_number", **{"training.epochs": 5})
    interrupt(2, KeyboardInterrupt())
    stopped(config)
    module.write_text(f"{source}# edited\n")
    assert resumes(config, interrupt) == ()
    module.write_text(source)
    assert resumes(config, interrupt) == (2,)


SETTING = """
import keras
from pathlib import Path
from tests.data.user_models import line

def build(features):
    x = keras.Input((1,), name="x")
    model = keras.Model(x, keras.layers.Dense(1, name="y")(x))
    model.compile(keras.optimizers.SGD(float((Path(__file__).parent / "rate.txt").read_text())), "mse")
    return model
"""


def test_other_settings_of_the_model_begin_anew(
    make_config: Callable[..., Config], interrupt: Callable[[int, BaseException], None], tmp_path: Path
) -> None:
    """A learning rate that the builder reads from a file is not in the configuration, and still begins anew.

    The same model is recognised, although Keras numbers its layers on within this process.
    """
    module = tmp_path / "reads_its_rate.py"
    module.write_text(SETTING)
    (tmp_path / "rate.txt").write_text("0.1")
    config = make_config(f"{module}:line", f"{module}:build", **{"training.epochs": 5})
    interrupt(2, KeyboardInterrupt())
    stopped(config)
    (tmp_path / "rate.txt").write_text("0.001")
    assert resumes(config, interrupt) == ()
    (tmp_path / "rate.txt").write_text("0.1")
    assert resumes(config, interrupt) == (2,)


def test_a_vocabulary_is_a_part_of_the_training(user_config: Callable[..., Config]) -> None:
    """Two models whose words have other places are two trainings, and names that Keras chooses make no difference."""
    import keras

    config = user_config("people", "table")
    splits = prepare_splits(config.data, config.work_dir / "data")

    def named(words: list[str]) -> str:
        keras.utils.set_random_seed(0)
        lookup = keras.layers.StringLookup(output_mode="one_hot")
        lookup.adapt(words)
        city = keras.Input((1,), name="city", dtype="string")
        model = keras.Model(city, keras.layers.Dense(1)(lookup(city)))
        model.compile("adam", "mse")
        return backup.identity(config, splits, model)

    assert named(["a", "b", "b"]) == named(["a", "b", "b"]) != named(["a", "a", "b"])


def test_a_second_run_of_the_same_training_leaves_the_backup_alone(
    config: Config, interrupt: Callable[[int, BaseException], None], caplog: pytest.LogCaptureFixture
) -> None:
    """While another process trains the same, a run neither reads, writes nor removes its backup, and says so."""
    interrupt(2, KeyboardInterrupt())
    [left] = stopped(config)
    descriptor = hold(left.parent)
    try:
        assert resumes(config, interrupt) == ()
    finally:
        os.close(descriptor)
    assert "another process trains the same model now" in caplog.text
    assert [path.name for path in left.parent.iterdir()] == [left.name]
    assert resumes(config, interrupt) == (2,)


def test_what_no_repetition_can_mend_leaves_no_backup(
    user_config: Callable[..., Config], interrupt: Callable[[int, BaseException], None]
) -> None:
    """A loss that is not a number ends the training for good, so its backup is removed; an interrupt keeps it."""
    config = user_config("line", "exploding", **{"training.epochs": 40, "training.patience": 0})
    interrupt(0, KeyboardInterrupt())
    with pytest.raises(TrainingError, match="the loss must be a finite number"):
        fit(config)
    assert not list(config.work_dir.glob("trainings/*/*"))


def test_a_backup_that_cannot_be_written_ends_no_training(
    config: Config, interrupt: Callable[[int, BaseException], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Where nothing can be written in place of the backup, the training goes on without one, with a warning."""
    interrupt(2, KeyboardInterrupt())
    [left] = stopped(config)
    shutil.rmtree(left)
    (left.parent / backup.PARTIAL).write_text("a file in the place of a directory")
    interrupt(0, KeyboardInterrupt())
    assert len(fit(config).history["loss"]) == 5
    assert "goes on without further backups" in caplog.text


def test_without_resume_nothing_is_backed_up(
    user_config: Callable[..., Config], interrupt: Callable[[int, BaseException], None]
) -> None:
    """`training.resume: false` writes nothing."""
    config = user_config("line", "one_number", **{"training.epochs": 3, "training.resume": False})
    interrupt(2, KeyboardInterrupt())
    assert stopped(config) == []
    assert not (config.work_dir / backup.TRAININGS).exists()


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        ("with_two_optimizers", "the model has more optimizers than the one of compile"),
        ("with_listed_optimizers", "the model has more optimizers than the one of compile"),
        ("with_own_fit", "the model has a fit method of its own"),
    ],
)
def test_a_model_that_could_not_be_restored_is_not_backed_up(
    user_config: Callable[..., Config],
    interrupt: Callable[[int, BaseException], None],
    caplog: pytest.LogCaptureFixture,
    build: str,
    reason: str,
) -> None:
    """A model whose training Keras could not take up again is trained without a backup, which is said."""
    interrupt(2, KeyboardInterrupt())
    with caplog.at_level("INFO"):
        assert stopped(user_config("line", build, **{"training.epochs": 3})) == []
    assert reason in caplog.text


def test_a_backup_costs_at_most_a_twentieth(tmp_path: Path) -> None:
    """A backup is written after the first epoch, and then after twenty times the seconds that the last one took.

    An epoch takes a second of the clock, and writing takes 0.1 seconds, as does each reading of the clock.
    """
    import keras

    now = [0.0]

    def clock() -> float:
        now[0] += 0.1
        return now[0]

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.stop_training = False
    kept, written = backup.Backup(tmp_path, clock), []
    for epoch in range(12):
        now[0] += 1
        kept.note(model, None, epoch, {"loss": 1.0})
        written += [path.name for path in tmp_path.iterdir() if path.name not in written]
    assert written == [f"epoch-{epochs:08d}" for epochs in (1, 3, 5, 7, 9, 11)]
