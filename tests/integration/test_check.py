"""What `check` finds before a run: mistakes in the user's code, in the configuration and around it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.loading import ConfigError, load_config
from flows.check import main
from tasks.check import checks
from tasks.errors import PipelineError
from tasks.training.process import tensorflow_process
from tasks.validate import check_services

CODE = """
import numpy as np

def load(rows=120):
    x = np.linspace(0, 1, rows).astype('float32')
    return {'x': x}, (x > 0.5).astype('int64')

def build(features, hidden=4):
    import keras
    x = keras.Input((1,), name='x')
    model = keras.Model(x, keras.layers.Dense(2, activation='softmax', name='p')(keras.layers.Dense(hidden)(x)))
    model.compile('adam', 'sparse_categorical_crossentropy')
    return model
"""
RETURN = "    return {'x': x}, (x > 0.5).astype('int64')"


@pytest.fixture(scope="module")
def _tensorflow() -> Iterator[None]:
    """Have one TensorFlow process for all cases."""
    with tensorflow_process():
        yield


def written(directory: Path, code: str, *extra: str) -> Path:
    """Write a user's code under a name of its own, and a configuration."""
    name = f"code_{directory.name}"
    (directory / f"{name}.py").write_text(code)
    lines = ["name: m", f"data: {{load: '{name}:load'}}", f"model: {{build: '{name}:build'}}", *extra]
    (directory / "cfg.yaml").write_text("\n".join(lines))
    return directory / "cfg.yaml"


def found(config_file: Path, scratch: Path, *overrides: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return what the checks of a configuration found, and the errors, by the check's name."""
    good, bad = {}, {}
    for name, make in checks(load_config(config_file, overrides), scratch):
        try:
            good[name] = make()
        except PipelineError as exc:
            bad[name] = str(exc)
    return good, bad


@pytest.mark.usefixtures("_tensorflow")
def test_what_is_right(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, held_port: int) -> None:
    """A configuration that can run passes every check, which leave nothing in its directory."""
    config_file = written(tmp_path, CODE)
    before = sorted(tmp_path.iterdir())
    labels = ["promote.layout=labels", f"promote.live_url=http://127.0.0.1:{held_port}"]
    good, bad = found(config_file, tmp_path_factory.mktemp("scratch"), *labels)
    assert bad == {}
    assert set(good) == {"work_dir", "models_root", "serving", "tracking", "prefect", "data", "model"}
    assert "x: float32 ()" in good["data"]
    assert "18 parameters" in good["model"]
    assert "no server answers at promote.live_url" in good["models_root"]
    assert [path for path in sorted(tmp_path.iterdir()) if path.name != "__pycache__"] == before


@pytest.mark.usefixtures("_tensorflow")
def test_a_stream_without_an_end(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A look at a stream reads its first rows, says what it has not seen, and tries the model with these rows."""
    code = CODE.replace(RETURN, "    while True:\n    " + RETURN.replace("return", "yield"))
    scratch = tmp_path_factory.mktemp("scratch")
    good, bad = found(written(tmp_path, code), scratch)
    assert bad == {}
    assert good["data"].startswith("the first 20,040 rows of a stream that has more were looked at; only a run sees")
    assert "18 parameters" in good["model"]
    assert sum(file.stat().st_size for file in scratch.rglob("*") if file.is_file()) < 10**6


def test_a_run_only_looks_first(tmp_path: Path, held_port: int) -> None:
    """What a run looks at before training leaves nothing, no experiment, no database, no file for production."""
    config_file = written(tmp_path, CODE)
    before = sorted(tmp_path.rglob("*"))
    labels = ["promote.layout=labels", f"promote.live_url=http://127.0.0.1:{held_port}"]
    check_services.fn(load_config(config_file, labels))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("_tensorflow")
@pytest.mark.parametrize(
    ("old", "new", "check", "words"),
    [
        ("import numpy as np\n", "import numpy as np\nimport no_such_package\n", "data", "no_such_package"),
        ("    x = np", "    {}['when']\n    x = np", "data", "KeyError: 'when' ({file}:5 in load)"),
        ("    x = np", "    import sys; sys.exit(4)\n    x = np", "data", "it calls sys.exit(4) ({file}:5 in load)"),
        (RETURN, "    x[7] = np.nan\n" + RETURN, "data", "NaN or infinity in 1 of 120 rows, first in row 7"),
        (RETURN, RETURN.replace("(x >", "(x[1:] >"), "data", "must have the same number of rows in every array"),
        (RETURN, "    return x", "data", "(features, target)"),
        ("    model.compile('adam', 'sparse_categorical_crossentropy')\n", "", "model", "must return a compiled model"),
        ("    return model", "    return None", "model", "must return a keras.Model, got NoneType"),
        ("    import keras\n", "    import keras\n    features['y']\n", "model", "KeyError: 'y' ({file}:10 in build)"),
        ("'sparse_categ", "'spare_categ", "model", "interpret loss identifier: spare_categorical_crossentropy"),
        ("crossentropy')", "crossentropy', metrics=['acuracy'])", "model", "metric identifier: acuracy"),
        ("name='x')", "name='y')\n    features['x']", "", ""),
    ],
)
def test_mistakes_in_the_code(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, old: str, new: str, check: str, words: str
) -> None:
    """Each is found by its own check, in one line with the user's file and line where there is one."""
    assert old in CODE
    config_file = written(tmp_path, CODE.replace(old, new))
    _, bad = found(config_file, tmp_path_factory.mktemp("scratch"))
    assert list(bad) == ([check] if check else [])
    for line in bad.values():
        assert words.format(file=f"code_{tmp_path.name}.py") in line
        assert "\n" not in line


@pytest.mark.usefixtures("_tensorflow")
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "must be readable, got JSONDecodeError"),
        ('{"inputs": {"x": [0.5]}, "outputs": {"q": [[0.1, 0.9]]}}', "must be those of the model, p, got q"),
    ],
)
def test_golden_rows_that_do_not_fit(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, content: str, words: str
) -> None:
    """They are read before the training, because the names and shapes of the model are known by then."""
    (tmp_path / "golden.json").write_text(content)
    config_file = written(tmp_path, CODE, "gates: {golden: {file: golden.json}}")
    _, bad = found(config_file, tmp_path_factory.mktemp("scratch"))
    assert list(bad) == ["model"]
    assert f"gates.golden.file '{tmp_path}/golden.json'" in bad["model"]
    assert words in bad["model"]


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("model.params={hiden: 3}", "has no parameter 'hiden'; did you mean 'hidden'?"),
        ("data.load=./nothing.py:load", "must name a readable Python file"),
        ("data.load=configs.digits:laod", "did you mean 'load'?"),
        ("data.load=no_such_module:load", "there is no module 'no_such_module'"),
    ],
)
def test_mistakes_in_the_configuration(tmp_path: Path, extra: str, words: str) -> None:
    """What the configuration gets wrong is found before anything is imported."""
    with pytest.raises(ConfigError) as caught:
        load_config(written(tmp_path, CODE), [extra])
    assert words in str(caught.value)


def test_services_and_directories(
    tmp_path: Path, held_port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One look shows all that is amiss around the code, a line each; the exit code is 1."""
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{held_port}/api")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    config_file = written(tmp_path, CODE.replace("    return {'x'", "    raise OSError('no disk')\n    return {'x'"))
    places = ["work_dir=file/work", "models_root=file/models", f"tracking.uri=http://127.0.0.1:{held_port}"]
    code = main(["--config", str(config_file), *(word for place in places for word in ("--set", place))])
    output = capsys.readouterr()
    assert code == 1
    lines = output.err.splitlines()
    assert [line.split(" must ")[0].removeprefix("error: ") for line in lines] == [
        "work_dir", "models_root", "tracking.uri", f"Prefect's API at http://127.0.0.1:{held_port}/api",
        f"data.load 'code_{tmp_path.name}:load'",
    ], output.err  # fmt: skip
    assert "OSError: no disk" in lines[-1]
    assert "is ready" not in output.out
    left = {path.name for path in tmp_path.iterdir() if path.suffix not in (".py", ".yaml")}
    assert left - {"__pycache__"} == {"file"}  # Python's own, where it is not told otherwise


def test_a_home_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A temporary Prefect server keeps its database there, so that a run would not start."""
    (tmp_path / "file").touch()
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "file" / "home"))
    for name, make in checks(load_config(written(tmp_path, CODE)), tmp_path):
        if name == "prefect":
            with pytest.raises(PipelineError, match="PREFECT_HOME must be in a writable directory"):
                make()
            break
