"""Whether the configured transport can carry a model's dtypes, which is a question of the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.loading import load_config
from flows.commands import ended
from tasks.errors import WrongTransport
from tasks.records import Signature, TensorSpec
from tasks.savedmodel.transport import check_transport

SIGNATURE = Signature((TensorSpec("x", "uint16", (None, 1)),), (TensorSpec("y", "float32", (None, 1)),))


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ([], 2),
        (["serving.protocol=grpc"], 2),  # latency and robustness use REST
        (["serving.protocol=grpc", "gates.use=[parity, latency]"], 2),
        (["serving.protocol=grpc", "gates.use=[parity, change]"], 0),
    ],
)
def test_dtypes_that_rest_cannot_carry(
    tmp_path: Path, settings: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that a configured transport or gate cannot carry ends a command with exit code 2 and what to write."""
    (tmp_path / "cfg.yaml").write_text("name: m\n")
    config = load_config(tmp_path / "cfg.yaml", settings)

    def action() -> int:
        check_transport(SIGNATURE, config)
        return 0

    assert ended(action) == code
    if code:
        said = " ".join(capsys.readouterr().err.split())
        assert "set serving.protocol: grpc and remove latency and robustness, which use REST, from gates.use" in said
        with pytest.raises(WrongTransport):
            action()
