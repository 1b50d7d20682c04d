"""A ModelServerConfig file and its reload."""

import shutil
from pathlib import Path
from typing import Any

import pytest

LABELS_OK = "--allow_version_labels_for_unavailable_models=true"
POLL = "--model_config_file_poll_wait_seconds=1"


@pytest.fixture
def half(tmp_path: Path, recorded_models: Path) -> Path:
    """Return a base path with versions 1, 2 and 3 of y = 0.5x + 2, + 3, + 4."""
    base_path = tmp_path / "half"
    shutil.copytree(recorded_models / "half" / "1", base_path / "1")
    shutil.copytree(recorded_models / "half_v2" / "2", base_path / "2")
    shutil.copytree(recorded_models / "half_v2" / "3", base_path / "3")
    return base_path


def _entry(name: str, base_path: Path, policy: str = "", labels: dict[str, int] | None = None) -> str:
    marks = "".join(f'version_labels {{ key: "{key}" value: {value} }}' for key, value in (labels or {}).items())
    version_policy = f"model_version_policy {{ {policy} }}" if policy else ""
    return (
        f'config {{ name: "{name}" base_path: "{base_path}" model_platform: "tensorflow" {version_policy} {marks} }}\n'
    )


def _write(path: Path, *entries: str) -> str:
    staging = path.with_suffix(".new")
    staging.write_text(f"model_config_list {{ {''.join(entries)} }}")
    staging.replace(path)
    return f"--model_config_file={path}"


def _value(server: Any, path: str) -> Any:
    status, answer = server.predict(path, {"instances": [[2.0]]})
    return answer["predictions"][0][0] if status == 200 else status


def test_version_policies(starter: Any, tmp_path: Path, half: Path) -> None:
    """The latest policy takes the highest few, specific the ones named, all every version on disk."""
    server = starter.start(
        _write(
            tmp_path / "models.config",
            _entry("plain", half),
            _entry("two", half, "latest { num_versions: 2 }"),
            _entry("named", half, "specific { versions: 1 versions: 3 versions: 7 }"),
            _entry("every", half, "all {}"),
        )
    )
    ready = "AVAILABLE"
    server.wait_for(lambda: server.states("every") == {"1": ready, "2": ready, "3": ready})
    server.wait_for(lambda: server.states("two") == {"2": ready, "3": ready})
    server.wait_for(lambda: server.states("named") == {"1": ready, "3": ready})
    assert server.states("plain") == {"3": ready}
    assert _value(server, "named") == 5.0
    assert _value(server, "named/versions/1") == 3.0


def test_reload_adds_and_removes_models(starter: Any, tmp_path: Path, half: Path) -> None:
    """A model that the new file names is loaded; one that it no longer names is unloaded."""
    config = tmp_path / "models.config"
    server = starter.start(_write(config, _entry("first", half)), POLL)
    _write(config, _entry("second", half, "specific { versions: 1 }"))
    server.wait_for(lambda: _value(server, "second") == 3.0)
    server.wait_for(lambda: server.states("first") == {"3": "END"})
    assert _value(server, "first") == 404


def test_labels_move_with_the_file(starter: Any, tmp_path: Path, half: Path) -> None:
    """A label names a loaded version; moving it to another loaded one takes effect at the next read."""
    config = tmp_path / "models.config"
    flag = _write(config, _entry("half", half, "all {}", {"stable": 1, "canary": 2}))
    server = starter.start(flag, POLL, LABELS_OK)
    server.wait_for(lambda: _value(server, "half/labels/stable") == 3.0)
    assert _value(server, "half/labels/canary") == 4.0
    assert _value(server, "half/labels/none") == 400
    _write(config, _entry("half", half, "all {}", {"stable": 2, "canary": 3}))
    server.wait_for(lambda: _value(server, "half/labels/stable") == 4.0)
    assert _value(server, "half/labels/canary") == 5.0


def test_label_on_a_version_that_is_not_loaded_is_refused_whole(starter: Any, tmp_path: Path, half: Path) -> None:
    """A reload that moves a label to an unloaded version changes nothing, not even other models."""
    config = tmp_path / "models.config"
    flag = _write(config, _entry("half", half, "specific { versions: 1 }", {"stable": 1}))
    server = starter.start(flag, POLL, LABELS_OK)
    _write(
        config,
        _entry("half", half, "specific { versions: 1 versions: 2 }", {"stable": 2}),
        _entry("other", half),
    )
    message = "Request to assign label to version 2 of model half, which is not currently available"
    server.wait_for(lambda: message in server.log)
    assert _value(server, "half/labels/stable") == 3.0
    assert server.states("half") == {"1": "AVAILABLE"}
    assert _value(server, "other") == 404


def test_labels_at_the_start_need_the_flag(starter: Any, tmp_path: Path, half: Path) -> None:
    """Without --allow_version_labels_for_unavailable_models a label in the first file ends the start."""
    server = starter.spawn(_write(tmp_path / "models.config", _entry("half", half, "all {}", {"stable": 1})))
    assert server.process.wait(timeout=600) == 255
    server.wait_for(lambda: "FAILED_PRECONDITION: Request to assign label to version 1" in server.log)


def test_unreadable_reload_changes_nothing(starter: Any, tmp_path: Path, half: Path) -> None:
    """A file that no longer parses is logged, and the server goes on as it was."""
    config = tmp_path / "models.config"
    server = starter.start(_write(config, _entry("half", half)), POLL)
    config.write_text("model_config_list { nonsense }")
    server.wait_for(lambda: "Invalid protobuf file" in server.log)
    assert _value(server, "half") == 5.0


@pytest.mark.parametrize(("text", "words"), [("", "; Invalid argument"), ("# none\n", "Cannot transition")])
def test_reload_without_a_list_changes_nothing(starter: Any, tmp_path: Path, half: Path, text: str, words: str) -> None:
    """A file that was cut short to nothing, or names no list, is logged; an empty list unloads."""
    config = tmp_path / "models.config"
    server = starter.start(_write(config, _entry("half", half)), POLL)
    config.write_text(text)
    server.wait_for(lambda: words in server.log)
    assert _value(server, "half") == 5.0
    _write(config)
    server.wait_for(lambda: _value(server, "half") == 404)


def test_empty_file_at_the_start(starter: Any, tmp_path: Path) -> None:
    """A file of no bytes cannot be read; one that names an empty list, or none, starts a server without models."""
    config = tmp_path / "models.config"
    config.touch()
    server = starter.spawn(f"--model_config_file={config}")
    assert server.process.wait(timeout=600) == 255
    server.wait_for(lambda: "models.config; Invalid argument" in server.log)
    for text in ("model_config_list {}", "# none"):
        config.write_text(text)
        assert starter.start(f"--model_config_file={config}").request("GET", "/v1/models/half")[0] == 404


def test_model_that_does_not_come_holds_up_the_next_reload(starter: Any, tmp_path: Path, half: Path) -> None:
    """Until an added model has a version, nobody reads the file again; that of the others goes on."""
    config = tmp_path / "models.config"
    empty = tmp_path / "empty"
    empty.mkdir()
    server = starter.start(_write(config, _entry("half", half, "specific { versions: 1 }")), POLL)
    _write(config, _entry("half", half, "specific { versions: 1 }"), _entry("other", empty))
    server.wait_for(lambda: "No versions of servable other" in server.log)
    _write(config, _entry("half", half))
    server.wait_for(lambda: server.log.count("half version: 1") >= 1)
    shutil.copytree(half / "1", tmp_path / "staging")
    assert _value(server, "half") == 3.0
    (tmp_path / "staging").rename(empty / "1")
    server.wait_for(lambda: _value(server, "half") == 5.0)
    assert "Successfully loaded servable version {name: other version: 1}" in server.log


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ('config { name: "a" base_path: "/a" model_platform: "caffe" }', "unsupported platform caffe"),
        ('config { name: "a" base_path: "a" model_platform: "tensorflow" }', "to have an absolute path"),
        (
            'config { name: "a" base_path: "/a" model_platform: "tensorflow" }' * 2,
            "Illegal to list model a multiple times",
        ),
    ],
)
def test_wrong_file_at_the_start(starter: Any, tmp_path: Path, entries: str, message: str) -> None:
    """A file that asks for what cannot be served ends the start with 255 and the reason."""
    config = tmp_path / "models.config"
    config.write_text(f"model_config_list {{ {entries} }}")
    server = starter.spawn(f"--model_config_file={config}")
    assert server.process.wait(timeout=600) == 255
    server.wait_for(lambda: message in server.log)


def test_broken_second_model_ends_the_start(starter: Any, tmp_path: Path, half: Path) -> None:
    """One model of several that does not load ends the process and is named, with its error."""
    broken = tmp_path / "broken"
    shutil.copytree(half / "1", broken / "1")
    (broken / "1" / "variables" / "variables.index").write_bytes(b"x")
    flag = _write(tmp_path / "models.config", _entry("half", half), _entry("broken", broken))
    server = starter.spawn(flag, "--max_num_load_retries=0")
    assert server.process.wait(timeout=600) == 255
    server.wait_for(lambda: "{{{name: broken version: 1} due to error: DATA_LOSS" in server.log)
