"""What a rebuild says about the files that differ, and what of a record it uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from configs.loading import ConfigError, load_config, shown
from tasks.rebuild import Made, changed_files, check_functions
from tasks.records import Recipe
from tasks.registry.recipes import Recorded
from tasks.savedmodel.manifest import Manifest
from tasks.training.recipe import settings_of

WARMUP = "assets.extra/tf_serving_warmup_requests"


def test_changed_requests_are_told_from_changed_rows(tmp_path: Path) -> None:
    """A warm-up of recorded requests names the file that they are drawn from, and one of rows does not."""
    path = tmp_path / "cfg.yaml"
    path.write_text("name: m\ndata: {load: 'configs.digits:load'}\nmodel: {build: 'configs.digits:build'}\n")
    then, now = ((WARMUP, 10, "a"), ("x", 1, "c")), Manifest(((WARMUP, 20, "b"), ("x", 1, "c")))
    [rows] = changed_files(then, now, load_config(path))
    assert (rows.kind, rows.text) == ("file", f"{WARMUP} has other bytes (10 bytes then, 20 now)")
    drawn = load_config(path, ["export.warmup_from=requests", "gates.replay.file=monday.jsonl"])
    [requests] = changed_files(then, now, drawn)
    assert requests.text == (
        f"{rows.text}; it is drawn from gates.replay.file, which is '{tmp_path / 'monday.jsonl'}' now"
    )


@pytest.mark.parametrize("field", ["data.load", "model.build"])
def test_functions_of_an_edited_record_are_not_called(tmp_path: Path, field: str) -> None:
    """A record that MLflow's users may have edited is refused if it names another function; one kept here is not."""
    path = tmp_path / "cfg.yaml"
    path.write_text("name: m\ndata: {load: 'configs.digits:load'}\nmodel: {build: 'configs.digits:build'}\n")
    config = load_config(path)
    section, key = field.split(".")
    others = shown(config)
    others[section][key] = "os:getcwd"

    def made(values: dict[str, Any], *, edited: bool) -> Made:
        recipe = Recipe(values, {}, {}, {}, {}, "")
        return Made(7, Recorded("d", (), recipe, "", {}), (), None, None, (), edited)

    check_functions(config, made(shown(config), edited=True))
    check_functions(config, made(others, edited=False))
    with pytest.raises(ConfigError, match=f'{field} must be "os:getcwd", as MLflow\'s record of version 7 says'):
        check_functions(config, made(others, edited=True))


def test_a_record_sets_only_variables_that_decide_bytes() -> None:
    """Of recorded variables only those that TensorFlow, Keras and OpenMP read are set, and none that loads code."""
    recorded = {"TF_ENABLE_ONEDNN_OPTS": "0", "OMP_NUM_THREADS": "2", "LD_PRELOAD": "x.so", "PYTHONPATH": "/x"}
    assert settings_of(recorded) == {"OMP_NUM_THREADS": "2", "TF_ENABLE_ONEDNN_OPTS": "0"}
