"""Serving one candidate by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows import try_out
from tests.data.hand_written import Model


def test_an_unsafe_candidate_is_not_served(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A candidate that the safety gate refuses is one line with exit code 1, and no server loads it by hand either."""
    (tmp_path / "cfg.yaml").write_text(
        f"name: m\nwork_dir: {tmp_path}\n"
        "data: {load: 'configs.digits:load'}\nmodel: {build: 'configs.digits:build'}\n"
    )
    model = Model()
    model.node("ImmutableConst", "y", memory_region_name="/etc/passwd")
    model.read(tmp_path / "candidates" / "m" / "1")
    assert try_out.main(["--config", str(tmp_path / "cfg.yaml"), "--version", "1"]) == 1
    shown = capsys.readouterr()
    assert "error: a candidate is served only if it is safe: operations must not reach outside the graph" in shown.err
    assert "ImmutableConst 'y'" in shown.err
    assert not shown.out
