"""Equal models give equal bytes: what TensorFlow numbers, orders or draws by chance is settled."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

MODELS = ("deep ", "endpoints ", "parcels ", "tables ", "unnamed ")


def driven(what: str, directory: Path, hash_seed: int = 0) -> list[str]:
    """Run the driver in a process of its own, and return its lines."""
    command = [sys.executable, "-m", "tests.export_driver", what, str(directory)]
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
    done = subprocess.run(
        command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return sorted(line for line in done.stdout.splitlines() if line.startswith(MODELS))


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    """The digests of five models are those of a process that trained before, and exports them in another order.

    Three have tables, one has two endpoints, and one has layers that are made and named whenever its file is read.
    """
    driven("write", tmp_path)
    first, later = driven("export", tmp_path, hash_seed=1), driven("export-later", tmp_path, hash_seed=2)
    assert len(first) == len(MODELS)
    assert first == later


@pytest.mark.long
def test_twenty_processes_write_the_same_bytes(tmp_path: Path) -> None:
    """Twenty more processes, every second of which had trained something, give the same digests."""
    driven("write", tmp_path)
    seen = set()
    for number in range(20):
        place = tmp_path / str(number)
        place.mkdir()
        for file in tmp_path.glob("*.keras"):
            (place / file.name).hardlink_to(file)
        seen.add(tuple(driven(("export", "export-later")[number % 2], place, number)))
    [digests] = seen
    assert len(digests) == len(MODELS)
