"""The example whose rows are a stream, by the command line. No run here starts a container."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.datasets.seen import RECORD, read_record

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
HELD = """
import numpy as np
from configs.streamed import load as stream

def load(**params):
    return tuple(map(np.concatenate, zip(*stream(**params)())))
"""


def test_a_stream_is_judged_beside_a_champion_that_was_trained_in_memory(workspace: Any, repository: Path) -> None:
    """A streamed run passes every gate beside a champion of the same rows in memory, and each has seen the same rows.

    Both have the same test rows, so that every one of them is compared.
    """
    module = workspace.directory / "held.py"
    module.write_text(HELD)
    config = repository / "configs" / "streamed.yaml"
    first = workspace.run("--set", f"data.load={module}:load", config=config)
    assert first.returncode == 0, first.stdout + first.stderr
    second = workspace.run(config=config)
    assert second.returncode == 0, second.stdout + second.stderr
    assert workspace.versions("streamed") == [1, 2]
    held, streamed = (read_record(workspace.models_root / "streamed" / n / RECORD) for n in "12")
    assert all(np.array_equal(held.rows[split], streamed.rows[split]) for split in held.rows)
    [report] = [
        json.loads(path.read_text())
        for path in (workspace.work_dir / "candidates" / "streamed" / ".rehearsals").glob("*.json")
        if json.loads(path.read_text())["report"]["candidate"]["version"] == 2
    ]
    [quality] = [gate for gate in report["report"]["gates"] if gate["name"] == "quality"]
    assert quality["passed"]
    assert quality["champion"]["accuracy"] == pytest.approx(quality["figures"]["accuracy"], abs=0.05)
