"""Configurations that nobody should write: each is one line that says what to do, at once, or a configuration."""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.loading import LONGEST_MESSAGE, ConfigError, load_config
from configs.schema import Config
from tasks.datasets.prepare import prepare_splits
from tasks.datasets.user_code import resolve
from tasks.errors import DataError

START = "name: m\n"
DATA = "data: {load: 'configs.digits:load'}\n"
MODEL = "model: {build: 'configs.digits:build'}\n"
MINIMAL = START + DATA + MODEL


def write(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "cfg.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def message(path: Path, *overrides: str) -> str:
    """Return why a configuration is refused, which must be one short line."""
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    line = str(caught.value)
    assert len(line) <= LONGEST_MESSAGE + 1
    assert line.isprintable(), line
    return line


def attached(settings: str, *others: str) -> str:
    """Return a section `serving` that uses a running server, as YAML."""
    return f"{{{', '.join(['backend: attached', f'attached: {{{settings}}}', *others])}}}"


def bomb(levels: int, step: str) -> str:
    """Return a text of a few lines in which each stands for nine times the one before."""
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {step.replace('?', ', '.join([f'*a{n - 1}'] * 9))}" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("seed: 2024-13-45", "'2024-13-45' is not a valid timestamp"),
        ("seed: 2024-01-01T25:00:00", "is not a valid timestamp"),
        ("seed: !!timestamp never", "'never' is not a valid timestamp"),
        ("seed: " + "9" * 5000, "a number may have at most 400 digits, got 5,000"),
        ("seed: 0x" + "f" * 5000, "a number may have at most 400 digits"),
        ("seed: '" + "9" * 5000 + "'", "'seed'"),
        ("seed: !!int many", "'many' is not a valid int"),
        ("seed: !!bool perhaps", "'perhaps' is not a valid bool"),
        ("training: {epochs: 1" + "0" * 380 + "}", "'training.epochs' must be at most 4,294,967,295"),
        ("gates: {atol: 1" + "0" * 380 + "}", "'gates.atol'"),
        ('work_dir: "a\\0b"', "'work_dir' must not contain the NUL character"),
        ('tracking: {experiment: "a\\0b"}', "'tracking.experiment' must not contain the NUL character"),
        ('work_dir: "\\ud800"', "'work_dir' must be valid UTF-8 text"),
        ('"\\ud800": 1', "must be valid UTF-8 text"),
        ('work_dir: "\\UFFFFFFFF"', "an escape that is not a character"),
        ("work_dir: loop", "'work_dir' must be a valid path, got 'loop'"),
        ("models_root: loop/models", "'models_root' must be a valid path"),
        ("gates: {contract: {file: loop}}", "'gates.contract.file' must be a valid path"),
        ("gates: {contract: {file: pipe}}", "'gates.contract.file' must name an existing file"),
        ("gates: {golden: {file: loop}}", "'gates.golden.file' must be a valid path"),
        ("tracking: {uri: 'sqlite:///loop/m.db'}", "'tracking.uri' must be a valid path"),
        ("work_dir: " + "a" * 300, "'work_dir' must be a valid path"),
        ("x: &a [*a]", "the alias '*a' refers to a value that contains it"),
        ("x: &a {<<: *a}", "the alias '*a' refers to a value that contains it"),
        ("x: " + "[" * 50_000, "may be at most 40 levels deep"),
        ("x: " + "{" * 50_000, "may be at most 40 levels deep"),
        (bomb(10, "[?]"), "at most 50,000 values with aliases expanded"),
        (bomb(10, "{<<: [?]}"), "at most 50,000 values with aliases expanded"),
        ("name: n", "the key 'name' is given twice"),
        ("training: {epochs: 1, epochs: 2}", "the key 'epochs' is given twice"),
        ("data2: {1: a, 0x1: b}", "the key '0x1' is given twice"),
        ("1: x", "'1' must be text, as every key must; put it in quotes"),
        ("training: {1: x}", "must be text, as every key must"),
        ("training: {epochs: 010}", "'training.epochs' must not begin with 0, because YAML reads it as"),
        ("training: {epochs: -0_17}", "octal number; write -15"),
        ("training: {epochs: 1:30}", "YAML reads '1:30' as a number in base 60"),
        ("serving: {startup_timeout_s: 1:30.5}", "as a number in base 60"),
        ("serving: {image: 10:20}", "as a number in base 60"),
        ("training: {epochs: yes}", "'training.epochs' must be a number, got true"),
        ("serving: {cpus: on}", "'serving.cpus' must be a number"),
        ("gates: {metrics: {accuracy: {min: true}}}", "'gates.metrics.accuracy.min' must be a number"),
        ("work_dir: ~/w", "'work_dir' must be a path without '~'"),
        ("models_root: ~ann", "'models_root' must be a path without '~'"),
        ("tracking: {uri: 'sqlite:///~/m.db'}", "'tracking.uri' must be a path without '~'"),
        ("tracking: {experiment: no}", "must be text; put it in quotes if YAML reads it as something else"),
        ("training: {<<: {epochs: 1}, <<: {epochs: 2}}", "the key '<<' is given twice"),
        ("models_root: .rehearsal/candidates", "models_root must not contain candidates"),
        ("models_root: .rehearsal/candidates/deeper", "models_root must not contain candidates"),
        ("work_dir: models/m", "models_root must not contain candidates"),
        ("work_dir: models/m/w", "models_root must not contain candidates"),
        ("work_dir: up/w\nmodels_root: up/w/../w/candidates", "models_root must not contain candidates"),
        ("? [a]\n: 1", "unhashable key"),
        ("x: !!python/object/apply:os.abort []", "could not determine a constructor"),
        ("---\nname: m", "another document"),
        ("gates: {metrics: {accuracy: {min: .nan}}}", "must be a finite number"),
        ("gates: {metrics: {accuracy: .nan}}", "must be a finite number"),
        ("gates: {metrics: {accuracy: {max: .inf}}}", "must be a finite number"),
        ("gates: {metrics: {accuracy: {min: 1, max: 0}}}", "min must not be above max"),
        ("gates: {latency: {max_p95_ms: .inf}}", "must be a finite number"),
        ("serving: {memory_mb: 10000000000}", "'serving.memory_mb' must be at most"),
        ("serving: {cpus: 1.0e+300}", "'serving.cpus'"),
        ("serving: {backend: attached}", "needs attached.url and attached.directory; set it"),
        (f"serving: {attached('url: http://h:1')}", "needs attached.directory; set it"),
        (f"serving: {attached('url: http://h:1, directory: d', 'protocol: both')}", "both needs attached.grpc"),
        (f"serving: {attached('url: http://h:1, directory: d', 'images: [a]')}", "images has no effect with backend"),
        (f"serving: {attached('url: http://h:1, directory: models')}", "must not be in models_root"),
        (f"serving: {attached('url: http://h:1, directory: models/m/sub')}", "must not be in models_root"),
        (f"serving: {attached('url: http://h:1, directory: loop')}", "attached.directory' must be a valid path"),
        (f"serving: {attached('url: http://h:1, directory: a*b')}", "must not contain *, ?, ["),
        (f"serving: {attached('url: http://h:1, directory: d, seen_as: /a*b')}", "must not contain *, ?, ["),
        (f"serving: {attached('url: http://h:1/v1, directory: d')}", "'serving.attached.url' must be http://HOST:PORT"),
        (f"serving: {attached('url: https://h:1, directory: d')}", "'serving.attached.url' must be http://HOST:PORT"),
        (f"serving: {attached('url: http://u:p@h:1, directory: d')}", "without a user name"),
        (
            f"serving: {attached('url: http://h:1, directory: d')}\npromote: {{live_url: http://h:1}}",
            "must not be production's address",
        ),
        (
            f"serving: {attached('url: http://h:1, directory: d')}\npromote: {{live_urls: ['http://H.:01']}}",
            "must not be production's address",
        ),
        (f"serving: {attached('url: http://h:1, directory: d, seen_as: d')}", "seen_as' must be an absolute path"),
        (f"serving: {attached('url: http://h:1, directory: d, grpc: h')}", "'serving.attached.grpc' must be HOST:PORT"),
        (f"serving: {attached('url: http://h:1, directory: d, grpc: http://h:1')}", "must be HOST:PORT"),
        (f"serving: {attached('url: http://h:1, directory: d, grpc: u:p@h:1')}", "must be HOST:PORT"),
        (f"serving: {attached('uri: http://h:1, directory: d')}", "unknown key 'serving.attached.uri'; did you mean"),
        ("promote: {live_url: 'http://ho st:8501'}", "without a path, spaces"),
        ('promote: {live_url: "http://host:8501\\n"}', "without a path, spaces and control characters"),
        ("promote: {live_url: 'http://host:99999'}", "Port out of range"),
        ("promote: {live_url: 'http://host:0'}", "must be http://HOST:PORT"),
        ("promote: {live_url: 'http://:8501'}", "must be http://HOST:PORT"),
        ("promote: {live_url: 'http://host/v1'}", "must be http://HOST:PORT"),
        ("promote: {live_url: 'http://[::1'}", "must be http://HOST:PORT"),
        ("promote: {live_url: 'http://" + "h" * 80 + "'}", "must be http://HOST:PORT"),
        ("tracking: {uri: 'http://host:port'}", "must be the address of an MLflow server"),
        ("tracking: {uri: 'http:///x'}", "must be the address of an MLflow server"),
        ("tracking: {uri: ''}", "'tracking.uri' must be http://HOST:PORT or https://HOST:PORT of an MLflow"),
        ("tracking: {uri: 'foo://x'}", "or databricks, got 'foo://x'"),
        ("tracking: {uri: 'localhost:5000'}", "or databricks, got 'localhost:5000'"),
        ("tracking: {uri: mlruns}", "are moved by `mlflow migrate-filestore`; got 'mlruns'"),
        ("tracking: {uri: 'file:///mlruns'}", "are moved by `mlflow migrate-filestore`; got 'file:///mlruns'"),
        ("tracking: {uri: 'sqlite://'}", "sqlite:///FILE"),
        ("tracking: {uri: 'sqlite:///?timeout=3'}", "sqlite:///FILE"),
        ("tracking: {uri: 'sqlite+pysqlite:///m.db'}", "sqlite:///FILE"),
        ("tracking: {uri: 'SQLITE:///m.db'}", "sqlite:///FILE"),
        ('tracking: {uri: "sqlite:///a\\nb"}', "without control characters"),
        ("? " + "k" * 5000 + "\n: 1", "characters)"),
        ("training: {monitor: [" + "x" * 5000 + "]}", "characters)"),
    ],
)
def test_value_that_cannot_be(tmp_path: Path, extra: str, words: str) -> None:
    """What no file, clock, server or number can be is refused by name, and long values are cut."""
    (tmp_path / "loop").symlink_to("pool")
    (tmp_path / "pool").symlink_to("loop")
    assert words in message(write(tmp_path, MINIMAL + extra))


@pytest.mark.parametrize("number", [".inf", "-.inf", ".nan", "1e308", "1e400", "'inf'"])
@pytest.mark.parametrize(
    "field",
    [
        "serving.startup_timeout_s", "serving.request_timeout_s", "promote.live_timeout_s", "promote.lock_timeout_s",
    ],
)  # fmt: skip
def test_time_limit_that_never_ends(tmp_path: Path, field: str, number: str) -> None:
    """A time limit is a number of seconds that a socket takes."""
    assert f"'{field}'" in message(write(tmp_path, MINIMAL), f"{field}={number}")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed=2024-13-45", "is not a valid timestamp"),
        ("seed=" + "9" * 5000, "5,000"),
        ("data.params=&a [*a]", "refers to a value that contains it"),
        ("data.params={a: 1, a: 2}", "is given twice"),
        ("data.params={zip: 01234}", "'data.params.zip' must not begin with 0"),
        ("data.params.at=12:30", "as a number in base 60"),
        ("data.params=[" + "[]," * 60_000 + "]", "at most 50,000 values"),
        ("data.params=" + "[" * 5000, "levels deep"),
        ("data.params" + ".a" * 5000 + "=1", "--set: a key may have at most 40 parts"),
        ("data.params={a: !!binary /w==}", "must hold JSON values only"),
        ('work_dir="\\ud800"', "'work_dir'"),
        ("x" * 5000, "characters)"),
        ("x" * 5000 + "=1", "characters)"),
    ],
)
def test_override_that_cannot_be(tmp_path: Path, override: str, words: str) -> None:
    """An override is read within the same bounds as the file."""
    assert words in message(write(tmp_path, MINIMAL), override)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (MINIMAL.encode("utf-16"), "must be UTF-8 text"),
        (b"\xff\xfe", "must be UTF-8 text"),
        (b"name: \x00", "must be valid YAML"),
        (b"data:\n\tload: x", "must be valid YAML"),
        (b"- a", "must be a mapping with the keys name, data and model, got a list"),
        (b"#" * 600_000, "must not be larger than 512 KB"),
    ],
)
def test_file_that_is_no_text(tmp_path: Path, content: bytes, words: str) -> None:
    """A file in another encoding, or far too large, is refused."""
    assert words in message(write(tmp_path, content))


def test_file_that_is_no_file(tmp_path: Path) -> None:
    """What is no plain file is neither waited for nor read without end."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path / "fifo", Path("/dev/zero"), tmp_path / "loop", tmp_path / ("n" * 300), tmp_path / "a\0b"):
        assert "--config must name a readable YAML file" in message(path)


def test_what_stays_valid(tmp_path: Path) -> None:
    """A byte order mark, merged keys, and dates, sets and large numbers in params are as valid as ever."""
    text = "\ufeff" + START + MODEL + "data:\n  <<: &d {load: 'configs.digits:load'}\n  params:\n"
    text += "    since: 2024-02-29\n    kinds: !!set {a, b}\n"
    text += "    zip: '01234'\n    at: '12:30'\n    hex: 0x1f\n    moment: 2024-02-29T12:30:00\n    flag: yes\n"
    text += "    id: 18446744073709551616\n    price: pa$$word ${1} $NAME\n"
    (tmp_path / "rows.py").write_text("def load(**params): return None\n")
    text = text.replace("configs.digits:load", "./rows.py:load")
    config = load_config(write(tmp_path, text), ["promote.live_url=http://[::1]:8501", "serving.startup_timeout_s=1e6"])
    assert config.data.params["id"] == 2**64
    assert [config.data.params[key] for key in ("zip", "at", "hex", "flag")] == ["01234", "12:30", 31, True]
    assert load_config(tmp_path / "cfg.yaml", ["models_root=.", "promote.file_mode=0640"]).promote.file_mode == "0640"
    assert load_config(tmp_path / "cfg.yaml", ["models_root=.rehearsal/models", "seed=0"]).seed == 0
    assert config.data.params["price"] == "pa$$word ${1} $NAME"
    assert config.serving.startup_timeout_s == 1e6


@pytest.mark.parametrize(
    ("name", "source", "words"),
    [
        ("ends", "import sys\nsys.exit(3)\ndef load(): ...", "SystemExit: 3"),
        ("asks", "answer = input('which? ')\ndef load(): ...", "EOFError"),
        ("raises", "raise KeyError('x')\ndef load(): ...", "KeyError"),
        ("holds", "load = 5", "no function 'load'"),
    ],
)
def test_reference_that_is_no_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, source: str, words: str
) -> None:
    """What only an import can tell is a line that names the reference; the import ends and stops no process."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / f"{name}_at_import.py").write_text(source)
    config = load_config(write(tmp_path, MINIMAL), [f"data.load={name}_at_import:load"])
    with pytest.raises(DataError, match=f"data.load '{name}_at_import:load'") as caught:
        resolve(config.data.load, "data.load", DataError)
    assert words in str(caught.value)


def test_function_that_ends_its_process(tmp_path: Path) -> None:
    """A function that calls sys.exit is a line that names it, too, as is one that is no loader."""
    for name, words in (("sys:exit", "it calls sys.exit"), ("numpy:array", "TypeError: array")):
        config = load_config(write(tmp_path, MINIMAL), [f"data.load={name}"])
        with pytest.raises(DataError, match=f"data.load '{name}' must return rows, got .*{words}"):
            prepare_splits(config.data, tmp_path)


def test_looking_for_a_function_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even the packages above a module are imported, and a module of deep branches is looked through at once."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "ending_package" / "inner").mkdir(parents=True)
    (tmp_path / "ending_package" / "__init__.py").write_text("raise SystemExit(7)")
    (tmp_path / "ending_package" / "inner" / "__init__.py").write_text("raise SystemExit(8)")
    deep = "".join(f"{' ' * n}if True:\n" for n in range(60)) + " " * 60 + "load = 1\n"
    (tmp_path / "ending_package" / "inner" / "mod.py").write_text(deep)
    path = write(tmp_path, MINIMAL)
    assert load_config(path, ["data.load=ending_package.inner.mod:load"]).data.load.endswith("mod:load")
    assert "has no 'lood'; did you mean 'load'?" in message(path, "data.load=ending_package.inner.mod:lood")
    assert load_config(path, ["data.load=numpy:array"]).data.load == "numpy:array"


# --- mutations -------------------------------------------------------------------------------------------------------

WHOLE = yaml.safe_load(Path("configs/digits.yaml").read_text()) | {
    "seed": 3,
    "work_dir": "w",
    "models_root": "m",
    "export": {"inputs": {"p": "pixels"}, "outputs": {}, "version_width": 3},
    "serving": {"backend": "auto", "images": ["a", "b"], "startup_timeout_s": 5.5, "memory_mb": 512},
    "gates": {"use": ["parity"], "metrics": {"accuracy": {"min": 0.5, "max": 1}, "rmse": {"max": 3}}, "atol": 1e-3,
              "latency": {"max_p95_ms": 5}, "golden": {"atol": 0.1}, "safety": {"allow_ops": ["ReadFile"]}},
    "tracking": {"uri": "postgresql://u:p@h/db", "experiment": "e"},
    "promote": {"live_url": "http://h:1", "keep": 3, "lock_timeout_s": 1},
}  # fmt: skip
ODD: list[Any] = [
    None, True, 0, -1, 10**30, 10**390, 1.5, -0.0, 1e308, math.inf, math.nan, "", " ", "a\0b", "\ud800", "\n",
    "\x1b[1m", "é" * 3000, "x" * 5000, "../..", "/", "~", "a:b", "os:path", "numpy:array", "${HOME_OF_NOBODY}", "$${X}",
    "***", "http://u:pw@h:99999", "sqlite:///", "sqlite:////", "9" * 5000, "2024-01-01", [], [[]], {}, {"": {}},
    [None] * 50, {"min": 2, "max": 1}, {"a": {"b": [1, {"c": "d"}]}}, {1: 2},
]  # fmt: skip
RAW = ["&a [*a]", "*b", "&c {<<: *c}", "2024-13-45", "!!binary /w==", "!!set {a}", "!!python/name:os.system", "'", '"',
       "{", "[", "- ", "? ", ": ", "|", ">", "%", "@", "`", "\t", "\ufeff", "\x85", "0o7_7", "1_0", "1:60", "0b2",
       "<<: 1", "9" * 4400, "---", "...", "#", "!!int x", "~: 1", '"\\x"', '"\\ud800"', "!", "!<x>",
       "&", "*"]  # fmt: skip


def mutations(seed: int, count: int) -> Iterator[str]:
    """Give texts of configurations, each of which was valid until something was changed."""
    chance = random.Random(seed)
    for _ in range(count):
        whole = json.loads(json.dumps(WHOLE))
        for _ in range(chance.randint(0, 2)):
            node, key = chance.choice(list(_places(whole)))
            node[key] = chance.choice(ODD)
            if isinstance(node, dict) and chance.random() < 0.3:
                node[chance.choice(["min", "load", "k" * 3000, "uri", "no\nkey", "password", ""])] = chance.choice(ODD)
        text = yaml.dump(whole, allow_unicode=chance.random() < 0.5, width=1000)
        for _ in range(chance.randint(0, 3)):
            at = chance.randrange(len(text))
            text = text[:at] + chance.choice([*RAW, "", text[at : at + 40]]) + text[at + chance.choice([0, 0, 1, 9]) :]
        yield text


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    for key in node if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], dict | list) and node[key]:
            yield from _places(node[key])


def finite(value: Any) -> bool:
    """Return whether every number outside of params is one that can be counted or measured."""
    if isinstance(value, dict):
        return all(finite(item) for key, item in value.items() if key != "params")
    if isinstance(value, list):
        return all(map(finite, value))
    return not isinstance(value, float) or math.isfinite(value)


@pytest.mark.parametrize("seed", range(8))
def test_mutated_configurations(tmp_path: Path, seed: int) -> None:
    """Whatever stands in the file, it is a configuration that can be logged and used, or one line."""
    taken = 0
    for text in mutations(seed, 60):
        path = write(tmp_path, text.encode("utf-8", "surrogatepass"))
        try:
            config = load_config(path)
        except ConfigError as exc:
            assert len(str(exc)) <= LONGEST_MESSAGE + 1, text
            assert str(exc).isprintable(), text
            continue
        taken += 1
        assert isinstance(config, Config)
        assert finite(json.loads(json.dumps(config.model_dump(mode="json")))), text
    assert 0 < taken < 60  # both ends are met
    assert [child.name for child in tmp_path.iterdir()] == ["cfg.yaml"]
