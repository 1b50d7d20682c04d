"""The configuration: what it refuses, in which words, and what it resolves."""

from __future__ import annotations

import ast
import gc
import os
import random
from pathlib import Path

import pytest
from pydantic import BaseModel

from configs.loading import ConfigError, _parsed, load_config
from configs.schema import METRICS, Config
from configs.yaml_text import MAX_BYTES
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
        ("training: {epochs: 0}\n", ["'training.epochs'", "greater than or equal to 1", "got 0"]),
        ("gates: {metrics: {acuracy: 0.9}}\n", ["one of accuracy", "acuracy"]),
        ("gates: {metrics: {accuracy: {mni: 0.9}}}\n", ["unknown key", "did you mean 'min'?"]),
        ("gates: {metrics: {accuracy: high}}\n", ["a bound is a number", "'high'"]),
        ("gates: {metrics: {rmse: 0.5}}\n", ["less rmse is better", "rmse: {max: 0.5}"]),
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
    with pytest.raises(ConfigError, match="a model name has letters"):
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
    with pytest.raises(ConfigError, match="must be module:function, got 'nowhere'"):
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
    for uri in ("sqlite:////abs/m.db", "http://localhost:5000"):
        assert load_config(write(tmp_path), [f"tracking.uri={uri}"]).tracking.uri == uri


def test_splits_must_leave_training_rows(tmp_path: Path) -> None:
    """Fractions that leave nothing to train on are refused together."""
    with pytest.raises(ConfigError, match="must leave rows to train on"):
        load_config(write(tmp_path), ["data.test_fraction=0.5", "data.validation_fraction=0.5"])


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
    assert isinstance(_parsed((tmp_path / "long.py").read_bytes()), ast.Module)
    assert parses


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("seed: 1\nseed: 2\n", "must name each key once, got 'seed' twice (line 5)"),
        ("training: {epochs: 1, epochs: 2}\n", "must name each key once, got 'epochs' twice"),
        ("data: {load: 'configs.digits:load'}\n", "must name each key once, got 'data' twice"),
        ("work_dir: 2024-13-45\n", "must hold values that can be read: month must be in 1..12"),
        ("data2: {x: 2024-02-30}\n", "must hold values that can be read"),
        (f"seed: {'9' * 5000}\n", "must hold values that can be read"),
        (f"seed: {'9' * 4000}\n", "'seed' must be a number of at most 64 bits, got a number of over 60 digits"),
        (f"seed: 0x{'f' * 9000}\n", "'seed' must be a number of at most 64 bits"),
        (f"training: {{epochs: {'9' * 30}}}\n", "'training.epochs' must be a number of at most 64 bits"),
        ('work_dir: "a\\0b"\n', "'work_dir' must hold no NUL character"),
        ('models_root: "a\\0b"\n', "'models_root' must hold no NUL character"),
        ('tracking: {uri: "sqlite:///a\\0b"}\n', "'tracking.uri' must hold no NUL character"),
        ('work_dir: "a\\ud800b"\n', "must be"),
        (f"work_dir: {'d' * 5000}\n", "'work_dir' must be a path that can be followed"),
        ("x: &x [*x]\n", "must not contain itself (line 4)"),
        ("x: &x {y: *x}\n", "must not contain itself"),
        ("x: &x\n  y:\n    z: [1, *x]\n", "must not contain itself"),
        (BOMB, "must hold at most 20,000 values, those that aliases repeat included"),
        (f"x: {'[' * 2000}\n", "must be"),
        (f"x: {'[' * 60}{']' * 60}\n", "must be nested at most 50 levels deep"),
        ("? [1, 2]\n: 3\n", "must have text for keys"),
        ("? {a: 1}\n: 3\n", "must have text for keys"),
        ("x: !!python/object/apply:os.getcwd []\n", "must be YAML"),
        ("---\nname: second\n", "must be YAML"),
        ("x: \t- 1\n\t- 2\n", "must be YAML"),
        ("1: 2\n", "keys should be strings; got 1"),
        ("gates: {metrics: {accuracy: .nan}}\n", "finite"),
        ("gates: {metrics: {accuracy: {min: .nan}}}\n", "finite"),
        ("gates: {metrics: {accuracy: {min: .inf}}}\n", "finite"),
        ("gates: {metrics: {accuracy: {min: 0.9, max: 0.1}}}\n", "min must not be above max, got min 0.9 and max 0.1"),
        ("gates: {latency: {max_p95_ms: .inf}}\n", "finite"),
        ("gates: {metrics: {accuracy: {min: 0.5, worse_by: .nan}}}\n", "worse_by"),
        ("serving: {startup_timeout_s: .inf}\n", "'serving.startup_timeout_s'"),
        ("serving: {startup_timeout_s: 1.0e+300}\n", "less than or equal to 1000000"),
        ("serving: {request_timeout_s: .nan}\n", "'serving.request_timeout_s'"),
        ("promote: {live_timeout_s: .inf}\n", "'promote.live_timeout_s'"),
        ("promote: {lock_timeout_s: 1.0e+12}\n", "'promote.lock_timeout_s'"),
        *(
            (f"promote: {{live_url: {url!r}}}\n", "an address is http://HOST:PORT")
            for url in (
                "http://a b:8501", "http://host:8501 ", " http://host", "http://host:99999", "http://host:0", "http://",
                "http://host:port", "http://:8501", "ftp://host", "host:8501", "http://host/", "http://host?x", "http://[::1",
            )
        ),
        ('promote: {live_url: "http://ho\\nst"}\n', "an address is http://HOST:PORT"),
        ('promote: {live_url: "http://host:8501\\n"}\n', "an address is http://HOST:PORT"),
        (f"name2: {'x' * 9000}\n", "unknown key 'name2'"),
        (f"{'k' * 900}: 1\n", "unknown key"),
        (f"serving: {{backend: {'x' * 90000}}}\n", "'serving.backend'"),
    ],
)  # fmt: skip
def test_a_hostile_file_is_one_short_line(tmp_path: Path, extra: str, words: str) -> None:
    """What no field can take, and what would never end, is refused in one line whose values are cut."""
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, MINIMAL + extra))
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    assert len(message) < 800


@pytest.mark.parametrize("url", ["", "http://host", "https://host:8501", "http://[::1]:8501", "http://a.b-c_d:1"])
def test_addresses_of_production(tmp_path: Path, url: str) -> None:
    """Every address that a server can have is taken as it stands."""
    assert load_config(write(tmp_path), [f"promote.live_url='{url}'"]).promote.live_url == url


def test_values_of_today_stay(tmp_path: Path) -> None:
    """Merge keys, anchors, a byte order mark, NUL in a parameter, and an unbounded tolerance are taken."""
    data = """data: {load: &f 'configs.digits:load', params: {mark: "a\\0b", big: 1000000000000000000000000000000}}"""
    text = "\ufeff" + MINIMAL.replace("data: {load: 'configs.digits:load'}", data)
    config = load_config(write(tmp_path, text + "gates: {metrics: {accuracy: {min: 0.5, worse_by: .inf}}}\n"))
    assert config.data.params == {"mark": "a\0b", "big": 10**30}
    assert config.gates.metrics["accuracy"].worse_by == float("inf")


@pytest.mark.parametrize("kind", ["pipe", "device", "loop", "large", "utf-16", "nul"])
def test_what_is_no_plain_file(tmp_path: Path, kind: str) -> None:
    """A pipe is not waited for, a device not read to its end, and a loop of links is a line."""
    path = tmp_path / "cfg.yaml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "large":
        path.write_text(MINIMAL + "#" * MAX_BYTES)
    elif kind == "utf-16":
        path.write_text(MINIMAL, encoding="utf-16")
    else:
        path = tmp_path / "a\0b"
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert "\n" not in str(caught.value)


def test_directories_that_are_links_to_themselves(tmp_path: Path) -> None:
    """A path through links that lead to each other is refused with the field's name."""
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for field in ("work_dir", "models_root"):
        with pytest.raises(ConfigError, match=f"'{field}' must be a path that can be followed"):
            load_config(write(tmp_path), [f"{field}=a/x"])


@pytest.mark.parametrize("reference", ["numpy:array", "tensorflow:constant", "json:loads", "os:getcwd"])
def test_functions_of_libraries_are_looked_up_soon(tmp_path: Path, reference: str) -> None:
    """A module of any size is looked through once; whether the function is a loader shows when it is called."""
    assert load_config(write(tmp_path), [f"data.load={reference}"]).data.load == reference


def test_a_package_that_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that calls sys.exit while it is imported is a line with its name, not the end of the command."""
    (tmp_path / "leaving").mkdir()
    (tmp_path / "leaving" / "__init__.py").write_text("import sys\nsys.exit('bye')\n")
    (tmp_path / "leaving" / "inner.py").write_text("def load(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"module 'leaving\.inner' does not import: SystemExit: bye"):
        load_config(write(tmp_path), ["data.load=leaving.inner:load"])


VALUES = [
    "null", "true", "-1", "0", "1", "1.5", ".nan", ".inf", "-.inf", "1e400", "9" * 40, "''", "'x'", "'a/b'", "[]",
    "[1, [2]]", "{}", "{a: 1}", "{min: 2, max: 1}", "2024-02-31", "2024-02-03", "12:30:45", "0o17", "0x1f",
    "'\ud83d'", '"\\0"', "!!set {a}", "!!binary aGk=", "&a [*a]", "*nowhere", "'configs.digits:load'",
    "'configs.digits:'", "~", "1_000", "'http://x'", "<<", "'*'",
]  # fmt: skip


def _fields(section: type[BaseModel], prefix: str = "") -> list[str]:
    found = []
    for name, field in section.model_fields.items():
        found.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += _fields(field.annotation, f"{prefix}{name}.")
    return found


@pytest.mark.parametrize("seed", range(8))
def test_any_value_anywhere_is_taken_or_is_one_line(tmp_path: Path, seed: int) -> None:
    """Whatever stands in whichever field: a configuration, or one line that is not long; never another error."""
    chosen = random.Random(seed)
    path, refused = write(tmp_path), 0
    for _ in range(150):
        overrides = [f"{chosen.choice(_fields(Config))}={chosen.choice(VALUES)}" for _ in range(chosen.randint(1, 2))]
        try:
            load_config(path, overrides)
        except ConfigError as exc:
            refused += 1
            assert "\n" not in str(exc)
            assert len(str(exc)) < 1000
    assert 50 < refused < 150
