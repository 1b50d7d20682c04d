"""What a sweep keeps on the disk, whose result is taken again, what is removed, and how variants are ranked."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import ConfigError
from configs.loading import load_config
from configs.schema import Config
from configs.sections.data import Data
from configs.sections.gates import Bound, Gates
from configs.sections.sweep import Sweep
from flows.runners import check_runner, runner_of
from flows.summary import leaderboard
from tasks.datasets.rows import Rows, save_rows
from tasks.errors import DataError, LockTimeout
from tasks.gates.ranking import lowest_wins, ranked, score
from tasks.records import Candidate, ComparedVariant, Reading, Signature, Splits, SweepRun, TrainedModel
from tasks.report.plots import draw_leaderboard, leaderboard_figure
from tasks.report.tables import leaderboard_markdown
from tasks.store import sweeps
from tasks.store.leftovers import find_leftovers
from tasks.store.runs import OWNER
from tasks.store.sweeps import begin_try, open_sweep, read_failed, read_trained, save_failed, save_trained
from tasks.sweep import check_rows
from tasks.sweeping.identity import code_files, sweep_identity, variant_key
from tasks.training import default_model

SPLITS = Splits(Path(), Path(), Path(), {"train": 3, "validation": 2, "test": 1}, "d1", "a:load", ())
HOLDER = """
import sys, time
from pathlib import Path
from configs.loading import load_config
from tasks.store.sweeps import open_sweep
with open_sweep(load_config(Path(sys.argv[1])), sys.argv[2]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Return the configuration of a model of which nothing is there."""
    (tmp_path / "cfg.yaml").write_text("name: m\nmodel: {params: {hidden: 3}}\n")
    return load_config(tmp_path / "cfg.yaml")


def trained(directory: Path, command: str = "c1") -> TrainedModel:
    """Train a variant, which a file stands for."""
    own_try = begin_try(directory, command, 9)
    assert own_try is not None
    (own_try / "model.keras").write_bytes(b"weights")
    readings = {"y": Reading("binary", "logits", "because")}
    return TrainedModel(own_try / "model.keras", {"loss": (0.5, 0.25), "val_loss": (1.0, math.inf)}, 7, 2, readings)


def test_the_code_of_the_default_model(tmp_path: Path) -> None:
    """Without model.build the code is that of the default model; a sweep needs no function of the user's."""
    columns = "data: {file: rows.csv, target: t, features: {x: number}}"
    (tmp_path / "cfg.yaml").write_text(f"name: m\n{columns}\n")
    found = code_files(load_config(tmp_path / "cfg.yaml"))
    assert found["model.build"] == hashlib.sha256(Path(default_model.__file__).read_bytes()).hexdigest()


def test_a_trained_variant_is_read_back(tmp_path: Path) -> None:
    """What was saved is what is read, wherever the directory lies by then; without its model it is not trained."""
    (tmp_path / "a").mkdir()
    model = trained(tmp_path / "a" / "v")
    assert read_trained(tmp_path / "a" / "v") is None
    save_trained(tmp_path / "a" / "v", model, 2.5)
    assert read_trained(tmp_path / "a" / "v") == (model, 2.5)
    (tmp_path / "a").rename(tmp_path / "b")
    found = read_trained(tmp_path / "b" / "v")
    assert found is not None
    assert found[0].keras_file.read_bytes() == b"weights"
    found[0].keras_file.unlink()
    assert read_trained(tmp_path / "b" / "v") is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"trained": 3, "seconds": 1}', '{"trained": {}, "seconds": []}']
)
def test_a_record_that_somebody_edited_is_none(tmp_path: Path, text: str) -> None:
    """A variant whose record cannot be read is trained again, and nothing fails."""
    (tmp_path / "trained.json").write_text(text)
    (tmp_path / "failed.json").write_text(text)
    assert read_trained(tmp_path) is None
    assert read_failed(tmp_path, "c1") == ""


def test_a_failure_counts_for_its_command_alone(tmp_path: Path) -> None:
    """A variant that failed is not repeated by the same command, and is tried again by the next one."""
    save_failed(tmp_path / "v", "c1", "no loss")
    assert read_failed(tmp_path / "v", "c1") == "no loss"
    assert read_failed(tmp_path / "v", "c2") == ""


def test_tries_are_counted_for_each_command(tmp_path: Path) -> None:
    """A command begins as often as it may, and the tries of an interrupted one before it do not count."""
    assert [begin_try(tmp_path / "v", "c1", 2) is None for _ in range(3)] == [False, False, True]
    assert sweeps.tries_of(tmp_path / "v", "c1") == 2
    assert begin_try(tmp_path / "v", "c2", 2) is not None


def test_tries_without_a_model_are_removed(tmp_path: Path) -> None:
    """The try that a trained variant's model lies in stays, and all others go."""
    directory = tmp_path / "v"
    lost, model = begin_try(directory, "c0", 2), trained(directory)
    sweeps.remove_tries(tmp_path / "nothing")
    save_trained(directory, model, 1)
    sweeps.remove_tries(directory)
    assert lost is not None and not lost.exists()
    assert read_trained(directory) == (model, 1)


def test_two_commands_cannot_run_the_same_sweep(config: Config, tmp_path: Path) -> None:
    """The second one is refused while the first one lives, and goes on after it was killed."""
    arguments = [sys.executable, "-c", HOLDER, str(tmp_path / "cfg.yaml"), "a" * 16]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment) as first:
        assert first.stdout is not None and first.stdout.readline() == "held\n"
        with (
            pytest.raises(LockTimeout, match="only one process at a time can run sweeps of the same"),
            open_sweep(config, "a" * 16),
        ):
            pass
        with open_sweep(config, "b" * 16):
            pass
        first.kill()
    with open_sweep(config, "a" * 16) as directory:
        assert directory == tmp_path / ".rehearsal" / "sweeps" / ("a" * 16)


def old(config: Config, identity: str, age_s: int) -> Path:
    """Let a process that has ended leave a sweep with one variant."""
    with open_sweep(config, identity) as directory:
        save_failed(directory / "v", "c1", "whatever")
    owner = directory / OWNER
    owner.write_text(owner.read_text().replace('"started": "', '"started": "0'))
    os.utime(owner, (time.time() - age_s,) * 2)
    return directory


def test_an_interrupted_sweep_is_kept_for_a_week(config: Config) -> None:
    """After a week a sweep that nobody goes on with is removed; a living one and another model's stay."""
    week = 7 * 24 * 3600
    oldest, newest = old(config, "a" * 16, week + 60), old(config, "b" * 16, week - 3600)
    others = old(config.model_copy(update={"name": "other"}), "d" * 16, week + 60)
    half_removed = oldest.with_name(".pruned-x")
    half_removed.mkdir()
    with open_sweep(config, "e" * 16) as living:
        os.utime(living / OWNER, (time.time() - 2 * week,) * 2)
        assert [finding.text for finding in find_leftovers(config, only_look=True)] == [f"'{oldest}', an old sweep"]
        assert oldest.exists() and half_removed.exists()
        assert [finding.done for finding in find_leftovers(config)] == ["removed"]
        kept = [path.exists() for path in (oldest, newest, others, living, half_removed)]
        assert kept == [False, True, True, True, False]


def test_a_sweep_that_ended_is_gone(config: Config) -> None:
    """After its verdict nothing of a sweep is left, so that the same command trains anew."""
    with open_sweep(config, "a" * 16) as directory:
        sweeps.end_sweep(directory, set())
        sweeps.end_sweep(directory, set())  # somebody was faster
    assert list(directory.parent.iterdir()) == []


def test_a_sweep_leaves_what_another_one_has_trained(config: Config) -> None:
    """A sweep of the same rows that was interrupted can go on after another one has ended."""
    with open_sweep(config, "a" * 16) as directory:
        for key in ("mine", "of another"):
            save_trained(directory / key, trained(directory / key), 1)
        sweeps.end_sweep(directory, {"mine", "never begun"})
        assert not (directory / "mine").exists()
        assert read_trained(directory / "of another") is not None


def declared(missing: int) -> Data:
    """Return declared features with a stand-in that no row needs, so that the rows are the same."""
    feature = {"kind": "number", "missing": missing}
    return Data.model_validate({"file": "rows.csv", "target": "y", "features": {"a": feature}})


def test_the_default_model_has_code(config: Config) -> None:
    """A sweep of declared features without `model.build` depends on the file of the default model."""
    assert "model.build" in code_files(config.model_copy(update={"data": declared(-1)}))


def test_what_makes_another_sweep(config: Config) -> None:
    """Other rows, features, code, threads or another name are another sweep; another bound or path is none."""
    code = {"m": "1"}
    same = sweep_identity(config, SPLITS, code)
    other = [
        sweep_identity(config, replace(SPLITS, digest="d2"), code),
        sweep_identity(config, replace(SPLITS, streamed=True), code),
        sweep_identity(config, SPLITS, {"m": "2"}),
        sweep_identity(config.model_copy(update={"name": "n"}), SPLITS, code),
        sweep_identity(config.model_copy(update={"sweep": Sweep(threads=2)}), SPLITS, code),
        *(sweep_identity(config.model_copy(update={"data": declared(missing)}), SPLITS, code) for missing in (-1, -9)),
    ]
    assert len({same, *other}) == 8
    gates = Gates.model_validate({"metrics": {"accuracy": 0.9}})
    elsewhere = config.model_copy(update={"work_dir": Path("/w"), "gates": gates, "sweep": Sweep(draws=0, tries=5)})
    assert sweep_identity(elsewhere, SPLITS, dict(code)) == same


@pytest.mark.parametrize(
    "item", ["data.features.x.missing=-1", "data.features.x.vocabulary=3", "data.target.kind=category", "data.ignore=y"]
)
def test_what_declared_columns_make_another_sweep(tmp_path: Path, item: str) -> None:
    """How a column is declared belongs to the sweep, because the preprocessing is in the model; unused ones do not."""
    columns = "data: {file: rows.csv, target: {name: t}, features: {x: {kind: integer_id}}}"
    (tmp_path / "cfg.yaml").write_text(f"name: m\n{columns}\n")
    found = [sweep_identity(load_config(tmp_path / "cfg.yaml", items), SPLITS, {}) for items in ([], [item])]
    assert (found[0] == found[1]) is (item == "data.ignore=y")


@pytest.mark.parametrize(
    ("item", "is_same"),
    [
        ("model.params.hidden=4", False),
        ("model.params.hidden=3.0", False),
        ("training.epochs=3", False),
        ("seed=1", False),
        ("export.warmup_rows=0", False),
        ("gates.task=binary", False),
        ("gates.metrics.accuracy=0.5", True),
        ("promote.keep=3", True),
        ("sweep.variants=[{seed: 4}]", True),
    ],
)
def test_what_makes_another_variant(config: Config, tmp_path: Path, item: str, is_same: bool) -> None:
    """Whatever the training reads makes another variant, and nothing else."""
    assert (variant_key(load_config(tmp_path / "cfg.yaml", [item])) == variant_key(config)) is is_same


def variant(number: int, value: float | None, parameters: int = 5, reason: str = "") -> ComparedVariant:
    return ComparedVariant(number, {"seed": number}, f"seed {number}", number + 10, value, reason, parameters, 1.5)


@given(st.permutations([variant(1, 0.5), variant(2, 0.75), variant(3, 0.75, 4), variant(4, 0.75, 4), variant(5, None)]))
def test_the_order_of_variants(found: list[ComparedVariant]) -> None:
    """More is better, or less for an error; of equal scores fewer weights are, then the first; failed ones are last."""
    assert [one.number for one in ranked("accuracy", Gates(), 9, found).variants] == [3, 4, 2, 1, 5]
    assert [one.number for one in ranked("rmse", Gates(), 9, found).variants] == [1, 3, 4, 2, 5]
    own = Gates.model_construct(metrics={"mine:error": Bound(max=1)})
    assert ranked("mine:error", own, 9, found).variants[0].number == 1
    assert ranked("mine:gain", own, 9, found).variants[0].number == 3


def test_the_direction_of_a_metric_of_the_users() -> None:
    """Of a user's own metric the highest value wins, unless only a maximum bounds it in gates.metrics."""
    board = [variant(1, 3.0), variant(2, 1.0)]
    for bounds, first in (({}, 1), ({"m:f": {"max": 9}}, 2), ({"m:f": {"min": 0, "max": 9}}, 1)):
        gates = Gates.model_validate({"metrics": bounds})
        assert ranked("m:f", gates, 1, board).variants[0].number == first
        assert lowest_wins("m:f", gates) is (first == 2)


def test_rows_are_refused_before_the_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Slices that the rows do not have end a sweep before it trains; otherwise it says which variant will win."""
    rows = tmp_path / "rows.npz"
    save_rows(rows, Rows({"x": np.zeros(3)}, {"target": np.zeros(3)}))
    (tmp_path / "cfg.yaml").write_text("name: m\ngates: {metrics: {rmse: {max: 9}}}\n")
    splits = replace(SPLITS, validation=rows)
    with caplog.at_level("INFO"):
        check_rows(load_config(tmp_path / "cfg.yaml", ["gates.slices=[x]"]), (), splits)
    assert "the variant with the lowest rmse on the validation rows wins" in caplog.text
    with pytest.raises(DataError, match="gates.slices must name features, got 'y'; they are x"):
        check_rows(load_config(tmp_path / "cfg.yaml", ["gates.slices=[y]"]), (), splits)


def test_a_board_without_a_winner() -> None:
    """Where all failed there is no winner, and each is there with its reason."""
    board = ranked("accuracy", Gates(), 9, [variant(2, None, reason="b | c"), variant(1, None, reason="a")])
    assert board.winner is None
    assert [one.reason for one in board.failed] == ["a", "b | c"]
    assert "failed: b \\| c" in leaderboard_markdown(board)


def test_the_board_on_a_screen_and_as_a_picture(tmp_path: Path) -> None:
    """The screen names each variant with version and score, the winner and the reason of a failure; so may a picture.

    A name may hold what a picture's markup would read as a formula.
    """
    found = [variant(1, 0.5), variant(2, 0.75), replace(variant(3, None, reason="no loss"), words="cost $x$ 東京")]
    board = ranked("accuracy", Gates(), 1234, found)
    lines = [line.plain for line in leaderboard(board, SweepRun("r", "http://page"))]
    assert lines[1].split() == ["variant", "version", "accuracy", "parameters", "seconds"]
    assert lines[2].split() == ["2:", "seed", "2", "12", "0.75", "5", "1.5", "winner"]
    assert lines[4].endswith("failed: no loss")
    assert lines[-1] == "leaderboard http://page"
    draw_leaderboard(board, tmp_path / "board.png")
    draw_leaderboard(ranked("", Gates(), 0, [variant(1, None)]), tmp_path / "none.png")
    assert (tmp_path / "board.png").read_bytes()[:4] == (tmp_path / "none.png").read_bytes()[:4] == b"\x89PNG"


def test_a_picture_of_many_variants() -> None:
    """A picture that has no room for all variants says how many it shows."""
    (axes,) = leaderboard_figure(ranked("rmse", Gates(), 9, [variant(n, float(n)) for n in range(1, 62)])).axes
    assert axes.get_xlabel().endswith("the first 60 of 61 variants")
    assert len(axes.get_yticks()) == 60


def scored(tmp_path: Path, metric: str, gates: Gates, answers: Any) -> tuple[str, float]:
    """Score answers to three rows whose targets are 1, 2 and 3."""
    save_rows(tmp_path / "rows.npz", Rows({"x": np.zeros(3)}, {"target": np.array([1.0, 2.0, 3.0])}))
    candidate = Candidate("m", 1, tmp_path, "", Signature((), ()), 0, Path(), Path(), tmp_path / "rows.npz")
    return score(gates, metric, candidate, answers, {})


def test_the_metric_of_a_variant(tmp_path: Path) -> None:
    """Without a metric the first one that suits the task is taken, else the one that was named."""
    answers = {"y": np.array([1.0, 2.0, 7.5])}
    assert scored(tmp_path, "", Gates(), answers) == ("rmse", pytest.approx(math.sqrt(4.5**2 / 3)))
    assert scored(tmp_path, "mae", Gates(), answers) == ("mae", pytest.approx(1.5))


@pytest.mark.parametrize(
    ("metric", "answers", "words"),
    [
        ("accuracy", [1.0, 2.0, 7.5], "metric 'accuracy' must fit"),
        ("rmse", [1.0, math.nan, 3.0], "must answer with finite numbers: row 1 is nan"),
        ("mae", [1.0, math.inf, 3.0], "must answer with finite numbers"),
        ("tests.data.scored_models:not_a_number", [1.0, 2.0, 3.0], "no function 'not_a_number'"),
        ("math:isclose", [1.0, 2.0, 3.0], "math:isclose"),
    ],
)
def test_a_variant_that_has_no_score(tmp_path: Path, metric: str, answers: list[float], words: str) -> None:
    """A metric that does not fit, answers that are not finite and a function that fails are the variant's failure."""
    with pytest.raises(DataError) as caught:
        scored(tmp_path, metric, Gates(), {"y": np.array(answers)})
    assert words in str(caught.value)


def test_several_outputs_need_a_name(tmp_path: Path) -> None:
    """Of several outputs one must be named, and the error names them."""
    with pytest.raises(DataError, match="gates.metric_output must name the output that is compared, one of a, b"):
        scored(tmp_path, "", Gates(), {"a": np.zeros(3), "b": np.zeros(3)})


def test_a_runner_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package of Dask the error names the extra, and a class that is not there is named, too."""
    check_runner(Sweep(runner="dask"))
    monkeypatch.setitem(sys.modules, "prefect_dask", None)  # as Python has it where it is not installed
    with pytest.raises(ConfigError, match=r"needs the package prefect-dask: pip install 'keras-rehearsal\[dask\]'"):
        check_runner(Sweep(runner="dask"))
    with pytest.raises(ConfigError, match="sweep.runner 'nowhere:Runner': there is no module 'nowhere'"):
        check_runner(Sweep(runner="nowhere:Runner"))
    with pytest.raises(ConfigError, match="has no 'ThreadPoolTaskRunne'; did you mean 'ThreadPoolTaskRunner'"):
        check_runner(Sweep(runner="prefect.task_runners:ThreadPoolTaskRunne"))
    check_runner(Sweep(runner="processes"))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"runner_params": {"max_workers": 0}}, "may have max_workers, a whole number of at least 1, got"),
        ({"runner_params": {"max_workers": True}}, "may have max_workers"),
        ({"runner_params": {"n_workers": 2}}, "may have max_workers"),
        ({"runner": "dask", "runner_params": {"address": "tcp://h:1", "n_workers": 2}}, "cannot be given n_workers"),
        ({"runner": "prefect.task_runners:ProcessPoolTaskRunner", "runner_params": {"x": 1}}, "unexpected keyword"),
        ({"runner": "collections:Counter"}, "must be a task runner of Prefect, got 'collections:Counter', a Counter"),
    ],
)
def test_arguments_that_a_runner_does_not_take(fields: dict[str, Any], words: str) -> None:
    """Arguments that do not fit a task runner, and a class that is none, are refused before anything is trained."""
    with pytest.raises(ConfigError) as caught:
        runner_of(Sweep.model_validate(fields))
    assert words in str(caught.value)


def test_a_runner_in_a_file_of_the_users(tmp_path: Path) -> None:
    """A class beside the configuration is found by its module and by its file, and what is no task runner is refused.

    The error for a module that is not there recommends the file's form.
    """
    (tmp_path / "own.py").write_text("class Runner: pass\n")
    (tmp_path / "cfg.yaml").write_text("name: m\n")
    for name in ("own:Runner", "./own.py:Runner"):
        sweep = load_config(tmp_path / "cfg.yaml", [f"sweep.runner={name}"]).sweep
        check_runner(sweep)
        with pytest.raises(ConfigError, match=f"must be a task runner of Prefect, got '{name}', a Runner"):
            runner_of(sweep)
    with pytest.raises(ConfigError, match="module './own.py' has no 'Runne'"):
        check_runner(load_config(tmp_path / "cfg.yaml", ["sweep.runner=./own.py:Runne"]).sweep)
