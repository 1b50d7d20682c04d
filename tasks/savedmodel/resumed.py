"""Records in a version that its training was resumed from a backup, so that its digest covers the fact."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tasks.savedmodel.files import open_plain

RECORD = Path("assets.extra") / "training.json"  # TensorFlow Serving ignores unknown files there
LARGEST = 1 << 16  # bytes


def write_resumed(directory: Path, epochs: Sequence[int]) -> None:
    """Write after how many epochs the training was resumed, once for each interruption; nothing if there was none."""
    if epochs:
        (directory / RECORD).parent.mkdir(parents=True, exist_ok=True)
        (directory / RECORD).write_text(json.dumps({"resumed_after_epochs": list(epochs)}) + "\n", encoding="utf-8")


def resumed_words(directory: Path) -> str:
    """Return in words that the training of a version was resumed, or an empty string."""
    try:
        with open_plain(directory / RECORD) as file:
            epochs = json.loads(file.read(LARGEST))["resumed_after_epochs"]
            return f"resumed after epoch {' and '.join(str(int(epoch)) for epoch in epochs)}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
