"""What a rebuild says about the files that differ."""

from __future__ import annotations

from pathlib import Path

from configs.loading import load_config
from tasks.rebuild import changed_files
from tasks.savedmodel.manifest import Manifest

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
