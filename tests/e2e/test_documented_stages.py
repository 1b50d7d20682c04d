"""A flow of one's own that calls single stages, as the documentation shows it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from tests.e2e.conftest import ROOT
from tests.markdown import Page


@pytest.mark.long
def test_the_flow_of_single_stages(workspace: Any) -> None:
    """The documented flow, which calls the stages one by one, promotes the project that `init` writes."""
    subprocess.run(
        [sys.executable, "-m", "flows.init", workspace.directory], cwd=ROOT, env=workspace.env, check=True, timeout=600,
        capture_output=True,
    )  # fmt: skip
    config = workspace.directory / "cfg.yaml"
    config.write_text(config.read_text().replace("epochs: 40", "epochs: 3") + "serving: {backend: embedded}\n")
    blocks = Page(ROOT / "docs" / "your-project.md").blocks
    [code] = [block.text for block in blocks if "validate_serving(cfg" in block.text]
    (workspace.directory / "weekly.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "weekly.py"], cwd=workspace.directory, env=workspace.env, capture_output=True, text=True,
        timeout=1200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "promoted version 1 is live" in done.stdout
    assert workspace.versions("late_payment") == [1]
