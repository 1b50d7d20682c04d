"""The configuration of an earlier run: its values that decide bytes, in the places of the file of today."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from configs.loading import ConfigError, deciding, load_config, load_recorded, shown
from tasks.rebuild import changed_settings

TEXT = """name: m
data: {load: "configs.digits:load"}
model: {build: "tests.data.any_parameters:build", params: {hidden: 8}}
training: {epochs: 3}
"""


def write(tmp_path: Path, text: str = TEXT) -> Path:
    path = tmp_path / "cfg.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", sorted(Path("configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_what_was_recorded_is_read_back(path: Path) -> None:
    """Each example, recorded as JSON, gives a configuration with the same values, and none of them is a difference."""
    recorded = json.loads(json.dumps(shown(load_config(path))))
    assert deciding(shown(load_recorded(path, (), recorded))) == deciding(recorded)
    assert changed_settings(recorded, load_config(path)) == []


def test_the_recorded_values_count_and_each_changed_one_is_named(tmp_path: Path) -> None:
    """Values that decide bytes are those of the record; places and gates are those of the file, and no difference."""
    recorded = shown(load_config(write(tmp_path)))
    now = write(tmp_path, TEXT.replace("hidden: 8", "hidden: 9, extra: 1") + "seed: 5\nwork_dir: elsewhere\n")
    used = load_recorded(now, ["gates.metrics={accuracy: 0.5}", "training.epochs=7"], recorded)
    assert (used.seed, used.model.params, used.training.epochs) == (0, {"hidden": 8}, 3)
    assert (used.work_dir.name, [*used.gates.metrics]) == ("elsewhere", ["accuracy"])
    [seed, hidden, extra] = [change.text for change in changed_settings(recorded, load_config(now))]
    assert seed == "seed was 0 and is 5"
    assert hidden == "model.params.hidden was 8 and is 9"
    assert extra == "model.params.extra was not set and is 1"


def test_a_secret_is_taken_from_the_file(tmp_path: Path) -> None:
    """What the record hides is taken from the configuration, which must have it."""
    recorded = json.loads(json.dumps(shown(load_config(write(tmp_path)))))
    recorded["model"]["params"]["api_key"] = "***"
    with pytest.raises(ConfigError, match=r"--config must set 'model.params.api_key', because a secret is not record"):
        load_recorded(write(tmp_path), (), recorded)
    path = write(tmp_path, TEXT.replace("hidden: 8", "hidden: 9, api_key: a-real-key-of-today"))
    assert load_recorded(path, (), recorded).model.params == {"hidden": 8, "api_key": "a-real-key-of-today"}


def test_a_record_that_cannot_be_used_any_more(tmp_path: Path) -> None:
    """A field that this release does not know ends in one line that says whose it is."""
    recorded = shown(load_config(write(tmp_path)))
    recorded["training"]["gone"] = 1
    with pytest.raises(ConfigError, match=r"the recorded configuration must still be usable, but .*training\.gone"):
        load_recorded(write(tmp_path), (), recorded)
