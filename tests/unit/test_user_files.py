"""The user's functions: beside the configuration, by the name of a file, and beside modules of the same name."""

from __future__ import annotations

import logging
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from configs.loading import ConfigError, load_config, shown
from configs.sections.data import Data
from configs.user_code import file_of, located
from flows.commands import show_calls
from tasks.datasets.prepare import call_loader
from tasks.datasets.user_code import resolve, users_files
from tasks.errors import DataError
from tasks.gates.scores import Scored
from tasks.records import Reading
from tasks.training.readings import _try_own_metrics
from tasks.training.worker import _with_calls

CODE = "from {helper} import value\ndef load():\n    return value\ndef build(features):\n    return None\n"


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Forget what a test imports."""
    modules, path = set(sys.modules), list(sys.path)
    yield
    for name in set(sys.modules) - modules:
        del sys.modules[name]
    sys.path[:] = path


def written(directory: Path, name: str, value: str) -> Path:
    """Write a module, a helper that it imports, and a configuration that names it."""
    helper = f"helper_{value}"
    (directory / name).parent.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(CODE.format(helper=helper))
    (directory / name).with_name(f"{helper}.py").write_text(f"value = {value!r}\n")
    config = directory / "cfg.yaml"
    config.write_text(f"name: m\ndata: {{load: './{name}:load'}}\nmodel: {{build: './{name}:build'}}\n")
    return config


NAMES = ["my_model.py", "tasks.py", "configs/loading.py", "json.py", "with space.py", "a/b.py"]


def is_told(config: Path, words: str) -> None:
    """Assert that a configuration is refused with words, or taken where there are none."""
    if not words:
        load_config(config)
        return
    with pytest.raises(ConfigError) as caught:
        load_config(config)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_by_its_name(tmp_path: Path, name: str) -> None:
    """A file is imported whatever it is called, with what lies beside it."""
    config = load_config(written(tmp_path, name, "here"))
    assert (config.data.load, file_of(config.data.load)) == (f"./{name}:load", tmp_path / name)
    assert resolve(config.data.load, "data.load", DataError)() == "here"
    import json

    import tasks.errors

    assert yaml.safe_load(yaml.safe_dump(shown(config)))["data"]["load"] == f"./{name}:load"
    assert json.dumps([tasks.errors.DataError.__name__]) == '["DataError"]'  # ours and Python's are what they were


def test_two_projects_in_one_process(tmp_path: Path) -> None:
    """Two files of one name, in two projects, are two modules."""
    for value in ("one", "two", "one"):
        config = load_config(written(tmp_path / value, "my_model.py", value))
        assert resolve(config.data.load, "data.load", DataError)() == value


def test_beside_the_configuration_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`module:function` is looked for beside the YAML file, then where the command runs."""
    beside, here = tmp_path / "beside", tmp_path / "here"
    config = written(beside, "my_model.py", "beside")
    written(here, "my_model.py", "here")
    written(here, "other.py", "other")
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(str(here))
    found = load_config(config, ["data.load=my_model:load", "model.build=other:build"])
    assert (file_of(found.data.load), file_of(found.model.build)) == (beside / "my_model.py", None)
    assert resolve(found.data.load, "data.load", DataError)() == "beside"


def test_a_module_within_packages(tmp_path: Path) -> None:
    """A package beside the YAML file is imported as one, so that its modules reach each other."""
    config = written(tmp_path, "shop/models/late.py", "x")
    for package in ("shop", "shop/models"):
        (tmp_path / package / "__init__.py").write_text("")
    (tmp_path / "shop" / "models" / "late.py").write_text(CODE.format(helper=".helper_x"))
    assert file_of(located("shop.models.late:load", tmp_path)) == tmp_path / "shop/models/late.py"
    found = load_config(config, ["data.load=shop.models.late:load", "model.build=shop.models.late:build"])
    assert resolve(found.data.load, "data.load", DataError)() == "x"


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("./none.py:load", "must name a readable Python file"),
        ("./my_model.py:laod", "module './my_model.py' has no 'laod'; did you mean 'load'?"),
        ("./my_model.py", "must be module:function or FILE.py:function"),
        ("./broken.py:load", "module './broken.py' does not compile: invalid syntax in broken.py:1"),
        (".:load", "must be module:function or FILE.py:function"),
    ],
)
def test_files_that_are_none(tmp_path: Path, reference: str, words: str) -> None:
    """A file that is not there, or has no such function, is one line before anything is imported."""
    config = written(tmp_path, "my_model.py", "x")
    (tmp_path / "broken.py").write_text("def load(:\n")
    with pytest.raises(ConfigError) as caught:
        load_config(config, [f"data.load={reference}"])
    assert words in str(caught.value)


def test_what_python_warns_of_is_left_to_the_import(tmp_path: Path) -> None:
    """Reading a module's names warns of nothing in it: Python does so at the import, with the file's name."""
    config = written(tmp_path, "my_model.py", "x")
    (tmp_path / "my_model.py").write_text("def load(): return '\\d'\ndef build(features): return 1 is 1\n")
    assert load_config(config).data.load == "./my_model.py:load"  # warnings are errors here


FUNCTIONS = """
import functools
def load(path, rows=10, /, *, seed=0): return None
def plain(rows=10): return None
def any_of_them(**params): return None
def build(features, hidden=32, *, rate): return None
def no_features(): return None
def all_of_them(*args, **params): return None
@functools.lru_cache
def decorated(): return None
if True:
    def twice(): return None
else:
    def twice(rows): return None
other = functools.partial(plain, rows=3)
"""


@pytest.mark.parametrize(
    ("load", "build", "words"),
    [
        ("plain", "build", ""),
        ("any_of_them", "all_of_them", ""),
        ("decorated", "build", ""),
        ("twice", "build", ""),
        ("other", "build", ""),
        ("plain {rwos: 2}", "build", "data.params: './f.py:plain' has no parameter 'rwos'; did you mean 'rows'?"),
        ("load {rows: 1}", "build", "has no parameter 'rows'; known names: seed"),
        ("load", "build", "data.params must set 'path', a parameter of './f.py:load' without a default"),
        ("plain", "build {hiden: 3, rate: 1}", "has no parameter 'hiden'; did you mean 'hidden'?"),
        ("plain", "build {features: 3, rate: 1}", "has no parameter 'features'"),
        ("plain", "build {hidden: 3}", "model.params must set 'rate', a parameter of './f.py:build'"),
        ("plain", "no_features", "must take the training features as its first argument"),
        ("plain", "no_features {a: 1}", "has no parameter 'a'; it has no parameters to set"),
    ],
)
def test_parameters_are_compared_with_the_definition(tmp_path: Path, load: str, build: str, words: str) -> None:
    """A misspelt or a missing parameter is found before anything is imported; what cannot be known is left alone."""
    (tmp_path / "f.py").write_text(FUNCTIONS)
    sections = []
    for field, text in (("data: {load", load), ("model: {build", build)):
        function, _, params = text.partition(" ")
        rate = "{rate: 1}" if function == "build" and not params else params or "{}"
        sections.append(f"{field}: './f.py:{function}', params: {rate}}}")
    (tmp_path / "cfg.yaml").write_text("\n".join(["name: m", *sections]))
    is_told(tmp_path / "cfg.yaml", words)


@pytest.mark.parametrize(
    ("definition", "words"),
    [
        ("def mine(target, served): return 1", ""),
        ("def mine(target, served, sharp=2): return 1", ""),
        ("def mine(*answers): return 1", ""),
        ("mine = max", ""),
        ("def mine(): return 1", "is called with (target, served), but it takes nothing"),
        ("def mine(target): return 1", "is called with (target, served), but it takes (target)"),
        ("def mine(a, b, sharp): return 1", "is called with (target, served), but it takes (a, b, sharp)"),
        ("def mine(a, b, *, sharp): return 1", "is called with (target, served), but it takes (a, b, sharp)"),
    ],
)
def test_a_metric_takes_two_arguments(tmp_path: Path, definition: str, words: str) -> None:
    """One that cannot be called with the target and the answers is refused before a training, not after it."""
    (tmp_path / "f.py").write_text(definition)
    (tmp_path / "cfg.yaml").write_text("name: m\ngates: {metrics: {'./f.py:mine': {max: 1}}}\n")
    is_told(tmp_path / "cfg.yaml", words)


def test_a_metric_that_fails_is_said_before_the_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is a warning: the trained model may give other answers, and a good metric says nothing."""
    (tmp_path / "own.py").write_text("def bad(target, served): return served['y']\ndef good(*answers): return 1\n")
    metrics = "{'./own.py:bad': {max: 1}, './own.py:good': {max: 1}}"
    (tmp_path / "cfg.yaml").write_text(f"name: m\ngates: {{metrics: {metrics}}}\n")
    few = Scored(np.zeros(3), np.zeros((3, 1)), Reading("regression", "values"), "y")
    caplog.set_level(logging.WARNING)
    _try_own_metrics(load_config(tmp_path / "cfg.yaml").gates, few)
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("with the answers of the untrained model, metric './own.py:bad' must fit targets of shape")
    assert "(own.py:1 in bad); after the training that is an error" in line


def test_the_users_calls_are_shown_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--debug` begins with the calls in the user's code, whichever process they were made in, and shows them all."""
    (tmp_path / "rows.py").write_text("def helper(row):\n    return row['x']\ndef load():\n    return helper({})\n")
    with pytest.raises(DataError) as caught:
        call_loader(Data().model_copy(update={"load": located("./rows.py:load", tmp_path)}))
    here = caught.value.with_traceback(None)
    for error in (here, pickle.loads(pickle.dumps(_with_calls(here, here)))):
        show_calls(error)
        own, everything = capsys.readouterr().err.split("\nIn all code:\n")
        assert own.splitlines()[:3] == [
            "In your code:", "Traceback (most recent call last):", f'  File "{tmp_path}/rows.py", line 4, in load',
        ]  # fmt: skip
        assert own.splitlines()[-1] == "KeyError: 'x'"
        assert "call_loader" in everything
    show_calls(DataError("the rows are ours"))
    assert capsys.readouterr().err == "tasks.errors.DataError: the rows are ours\n"


def test_whose_code_is_hashed(tmp_path: Path) -> None:
    """No module of this project counts as the user's, in subpackages neither; an example and a user's file do."""
    (tmp_path / "counted.py").write_text("def load(): pass\n")
    (tmp_path / "cfg.yaml").write_text("name: m\ndata: {load: 'counted:load'}\n")
    resolve(load_config(tmp_path / "cfg.yaml").data.load, "data.load", DataError)
    resolve("configs.digits:load", "data.load", DataError)
    found = set(users_files())
    ours = {name for name in found if name.partition(".")[0] in ("configs", "tasks", "flows")}
    assert "configs.digits" in ours <= {"configs.digits", "configs.penguins", "configs.streamed"}
    assert "counted" in found
