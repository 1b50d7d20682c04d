"""The configuration: what it refuses, in which words, and what it resolves."""

from __future__ import annotations

import ast
import errno
import gc
import os
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from configs import addresses
from configs.loading import ConfigError, file_and_config, load_config, written
from configs.sections.gates import METRICS
from configs.user_code import parsed
from tasks.gates import metrics

MINIMAL = "name: m\ndata: {load: 'configs.digits:load'}\nmodel: {build: 'configs.digits:build'}\n"


def write(tmp_path: Path, text: str = MINIMAL) -> Path:
    path = tmp_path / "cfg.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("nmae: x\n", ["unknown key 'nmae'", "did you mean 'name'?"]),
        ("serving: {bakend: docker}\n", ["unknown key 'serving.bakend'", "did you mean 'backend'?"]),
        ("serving: {backend: dokcer}\n", ["'serving.backend'", "'dokcer'"]),
        ("training: {epochs: many}\n", ["'training.epochs'", "'many'"]),
        ("training: {epochs: 0}\n", ["'training.epochs'", "must be at least 1", "got 0"]),
        ("gates: {metrics: {acuracy: 0.9}}\n", ["one of accuracy", "acuracy"]),
        ("gates: {metrics: {accuracy: {mni: 0.9}}}\n", ["unknown key", "did you mean 'min'?"]),
        ("gates: {metrics: {accuracy: high}}\n", ["must be a number, which is the minimum", "'high'"]),
        ("gates: {metrics: {rmse: 0.5}}\n", ["rmse needs a maximum, because lower is better", "rmse: {max: 0.5}"]),
        ("gates: {metrics: {accuracy: {}}}\n", ["accuracy needs a bound"]),
        ("gates: {metrics: {'configs.digits:f1': 0.5}}\n", ["'configs.digits' has no 'f1'"]),
        ("gates: {atol: .inf}\n", ["'gates.atol'", "finite"]),
        ("promote: 5\n", ["'promote'"]),
    ],
)
def test_bad_value_is_one_line(tmp_path: Path, extra: str, words: list[str]) -> None:
    """An unknown key or a wrong value is one line with the field, what was received and the nearest known key."""
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, MINIMAL + extra))
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a/b", "..", "a..b", ".hidden", "", "-x", "a b", "x" * 101, "a\nb"])
def test_model_name_stays_in_its_directory(tmp_path: Path, name: str) -> None:
    """A model name that could leave its directory, hide, or cut a URL is refused."""
    with pytest.raises(ConfigError, match="must consist of letters"):
        load_config(write(tmp_path), [f"name={name!r}"] if "\n" not in name else ['name="a\\nb"'])


@pytest.mark.parametrize("text", ["[1, 2]", "just text", "a: [1", "\x00", ""])
def test_file_that_is_no_mapping(tmp_path: Path, text: str) -> None:
    """A file that is not a YAML mapping is refused by its name."""
    with pytest.raises(ConfigError, match=r"cfg\.yaml must"):
        load_config(write(tmp_path, text))


def test_missing_file_and_directory(tmp_path: Path) -> None:
    """A missing file and a directory are one line, never a traceback."""
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ConfigError, match="--config must name a readable YAML file"):
            load_config(path)


def test_missing_module_is_found_without_importing(tmp_path: Path) -> None:
    """A `module:function` whose module does not exist is an error before anything runs."""
    with pytest.raises(ConfigError, match=r"there is no module 'nowhere'"):
        load_config(write(tmp_path), ["data.load=nowhere:load"])
    with pytest.raises(ConfigError, match="'configs.digits' has no 'laod'; did you mean 'load'"):
        load_config(write(tmp_path), ["data.load=configs.digits:laod"])
    with pytest.raises(ConfigError, match="must be module:function or FILE.py:function, got 'nowhere'"):
        load_config(write(tmp_path), ["data.load=nowhere"])


@pytest.mark.parametrize("item", ["epochs", "=3", "training..epochs=3", "training.epochs.deep=3", "training.epochs=[1"])
def test_bad_override(tmp_path: Path, item: str) -> None:
    """An override that is no section.key=value says so."""
    with pytest.raises(ConfigError, match="--set"):
        load_config(write(tmp_path, MINIMAL + "training: {epochs: 5}\n"), [item])


def test_override_is_yaml_and_reaches_deep(tmp_path: Path) -> None:
    """An override replaces a value, creates a missing section, and is read as YAML."""
    config = load_config(write(tmp_path), ["training.epochs=3", "gates.metrics={accuracy: 0.5}", "export.outputs.p=q"])
    assert config.training.epochs == 3
    assert config.gates.metrics["accuracy"].min == 0.5
    assert config.export.outputs == {"p": "q"}


def test_paths_resolve_beside_the_file(tmp_path: Path) -> None:
    """Relative paths, the sqlite file's too, lie beside the YAML file; absolute ones and servers stay."""
    config = load_config(write(tmp_path), ["work_dir=../w"])
    assert config.work_dir == tmp_path.parent / "w"
    assert config.models_root == tmp_path / "models"
    assert config.tracking.uri == f"sqlite:///{tmp_path}/mlflow.db"
    with pytest.raises(ConfigError, match="golden.json"):
        load_config(write(tmp_path), ["gates.golden.file=golden.json"])
    (tmp_path / "golden.json").touch()
    golden = load_config(write(tmp_path), ["gates.golden.file=golden.json"]).gates.golden.file
    assert golden == tmp_path.resolve() / "golden.json"
    with pytest.raises(ConfigError, match=r"'gates\.contract\.file' must name .*, got '.*/contract\.json'"):
        load_config(write(tmp_path), ["gates.contract.file=contract.json"])
    for uri in ("sqlite:////abs/m.db", "http://localhost:5000", "mysql+pymysql://db/m", "databricks", "databricks://p"):
        assert load_config(write(tmp_path), [f"tracking.uri={uri}"]).tracking.uri == uri


def test_kinds_of_tracking_that_others_add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin's kind of tracking URI is accepted, and a directory where MLflow was told to write to it."""
    plugin = EntryPoint("arango", "plugin:Store", "mlflow.tracking_store")
    monkeypatch.setattr(addresses, "entry_points", lambda group: [plugin] if group == plugin.group else [])
    assert load_config(write(tmp_path), ["tracking.uri=arango://db"]).tracking.uri == "arango://db"
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    assert load_config(write(tmp_path), ["tracking.uri=file:///runs"]).tracking.uri == "file:///runs"


def test_splits_must_leave_training_rows(tmp_path: Path) -> None:
    """Fractions that leave nothing to train on are refused together."""
    rule = r"validation_fraction \(0.5\) and test_fraction \(0.5\) must be below 1, so that training rows are left"
    with pytest.raises(ConfigError, match=rule):
        load_config(write(tmp_path), ["data.test_fraction=0.5", "data.validation_fraction=0.5"])


@pytest.mark.parametrize("value", ["true", "false"])
def test_stratify_is_gone(tmp_path: Path, value: str) -> None:
    """A configuration of before is refused with one line that says why and what to do."""
    with pytest.raises(ConfigError, match="stratify was removed, because .* Remove the key") as caught:
        load_config(write(tmp_path), [f"data.stratify={value}"])
    assert "\n" not in str(caught.value)


DATES = ("data.validation_from=2026-01-01", "data.test_from=2026-02-01")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["data.key=id", "data.group=[who]"], "can be set, not key and group"),
        (["data.split=part", "data.time=day", *DATES], "can be set, not time and split"),
        (["data.time=day"], "time, validation_from and test_from must be set together"),
        (["data.time=day", DATES[0]], "time, validation_from and test_from must be set together"),
        ([*DATES], "time, validation_from and test_from must be set together"),
        (["data.time=day", DATES[0], "data.test_from=5"], "must both be numbers, or times that both have a zone"),
        (["data.time=day", DATES[0], "data.test_from=2026-02-01T00:00:00Z"], "must both be numbers, or times"),
        (["data.time=day", DATES[0], "data.test_from=2026-01-01"], "validation_from must be earlier than test_from"),
        (["data.time=day", DATES[0], "data.test_from='2026-02-30'"], "must be a number, or a time in ISO 8601"),
        (["data.time=day", "data.validation_from=.nan", "data.test_from=5"], "must be a number, or a time in ISO 8601"),
        (["data.time=day", "data.validation_from=true", "data.test_from=5"], "must be a number, or a time in ISO 8601"),
        (["data.time=day", *DATES, "data.test_fraction=0.3"], "test_fraction has no effect when time is set"),
        (["data.split=part", "data.validation_fraction=0.3"], "validation_fraction has no effect when split is set"),
        (["data.key=['']"], "'data.key[0]'"),
        (["data.group=5"], "'data.group'"),
        (["gates.min_unseen_rows=1"], "gates.min_unseen_rows"),
    ],
)
def test_ways_to_split_that_contradict(tmp_path: Path, settings: list[str], words: str) -> None:
    """Rows are split in one way, whose fields are all there and can be compared; anything else is refused."""
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path), settings)
    assert words in str(caught.value)


def test_what_a_configuration_shows_can_be_read_again(tmp_path: Path) -> None:
    """Every way to split, with every default beside it, is a valid configuration, too."""
    for settings in (["data.key=id"], ["data.group=[a, b]"], ["data.split=part"], ["data.time=day", *DATES]):
        shown = load_config(write(tmp_path), settings).data
        assert type(shown).model_validate(shown.model_dump(mode="json")) == shown
    assert shown.validation_from == "2026-01-01"


def test_metric_names_are_those_that_exist() -> None:
    """The schema's metric names are exactly the metrics that the quality gate can compute."""
    assert set(METRICS) == {*metrics.MEAN_METRICS, "auc"}


@pytest.mark.parametrize("example", ["digits", "penguins"])
def test_examples_load(example: str) -> None:
    """The shipped examples are valid."""
    assert load_config(Path("configs") / f"{example}.yaml").name == example


def test_another_parse_in_the_middle_of_ours(tmp_path: Path) -> None:
    """What another thread parses while a module is looked at does not fail the run (CPython issue 106905).

    A collection of garbage in the middle of the parse stands for the switch of threads.
    """
    (tmp_path / "long.py").write_text("def load(): ...\n" + "x = [1, (2, {3: 4})]\n" * 5000)

    def parse_once(_phase: str, _info: dict[str, int]) -> None:
        if parse_once in gc.callbacks:
            gc.callbacks.remove(parse_once)
            parses.append(ast.parse("x"))  # at another depth than ours

    parses: list[ast.Module] = []
    gc.callbacks.append(parse_once)
    assert isinstance(parsed((tmp_path / "long.py").read_bytes()), ast.Module)
    assert parses


def test_a_mapping_becomes_a_file_that_the_next_command_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal mappings are one file, readable by its owner alone; its relative paths resolve beside it."""
    monkeypatch.chdir(tmp_path)
    values = {
        "name": "m", "data": {"params": {"rate": 1e-05, "text": "1e3", "when": "2026-11-26"}},
        "work_dir": Path("runs"), "models_root": tmp_path / "live",
    }  # fmt: skip
    file = written(values)
    assert written(dict(values)) == file
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    assert file.stat().st_mode & 0o777 == 0o600
    assert written({**values, "seed": 1}) != file
    config = load_config(file)
    assert config.data.params == values["data"]["params"]  # type: ignore[index]
    assert (config.work_dir, config.models_root) == (tmp_path / "runs", tmp_path / "live")


def test_a_mapping_that_cannot_be_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An array, a mapping within itself and a directory that takes no file give one line."""
    monkeypatch.chdir(tmp_path)
    endless: dict[str, Any] = {"name": "m"}
    endless["data"] = endless
    for values in ({"name": object()}, endless):
        with pytest.raises(ConfigError, match="must contain only values that YAML can represent"):
            written(values)
    assert list(tmp_path.iterdir()) == []
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ConfigError, match="pass the path of a YAML file"):
        written({"name": "m"})


def test_a_mapping_that_finds_no_room_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full gives one line, and no part of the file, which may hold a secret, is left behind."""
    monkeypatch.chdir(tmp_path)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        written({"name": "m"})
    assert list(tmp_path.iterdir()) == []


def test_a_configuration_that_is_given_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that can be used leaves a file for later commands; one that cannot leaves no new one."""
    monkeypatch.chdir(tmp_path)
    file, config = file_and_config({"name": "m", "work_dir": "work"})
    assert (file.parent, config.work_dir) == (tmp_path, tmp_path / "work")
    assert file_and_config(str(file)) == (file, config)
    no_kind: Any = {"name": "m", "tracking": {"uri": "foo://"}}
    for bad, words in ((no_kind, "tracking.uri"), ({"nam": "m"}, "nam"), (None, "got NoneType")):
        with pytest.raises(ConfigError, match=words):
            file_and_config(bad)
    assert list(tmp_path.iterdir()) == [file]
    needs = {"name": "m", "gates": {"golden": {"file": "golden.json"}}}
    (tmp_path / "golden.json").touch()
    kept = file_and_config(needs)[0]
    (tmp_path / "golden.json").unlink()
    with pytest.raises(ConfigError, match="golden"):
        file_and_config(needs)
    assert kept.exists()


def test_a_file_of_recorded_requests_need_not_exist(tmp_path: Path) -> None:
    """It is relative to the configuration, and only a run looks for it: a rollback must not need yesterday's log."""
    file = load_config(write(tmp_path), ["gates.replay.file=old.jsonl"]).gates.replay.file
    assert file == tmp_path.resolve() / "old.jsonl"
    with pytest.raises(ConfigError, match="must be a path without '~'"):
        load_config(write(tmp_path), ["gates.replay.file=~/old.jsonl"])
