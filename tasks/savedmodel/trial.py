"""The export of the untrained model: what cannot be served is known before an hour of training, not after it."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs.schema import Config
from tasks.datasets.rows import load_rows
from tasks.datasets.user_code import translated
from tasks.errors import ExportError
from tasks.records import Splits
from tasks.savedmodel.exporter import read_back, request_arrays, serving_function, write_savedmodel
from tasks.savedmodel.in_process import answer
from tasks.savedmodel.warmup import write_warmup

log = logging.getLogger(__name__)
TRIED = (3, 1)  # rows of the batches that are tried


def save_model(model: Any, file: Path) -> None:
    """Write Keras' own file of a model.

    Raises:
        ExportError: Keras cannot write it.
    """
    with translated("Keras must save the model", ExportError):
        file.parent.mkdir(parents=True, exist_ok=True)
        model.save(file)


def try_export(model: Any, config: Config, splits: Splits, directory: Path) -> None:
    """Save, read back, ask and export a model as after its training, and leave nothing of it behind.

    What is asked and traced is the copy that was read back: not even a counter in the model itself moves.

    Args:
        directory: where files of the model's size have room, twice, for a moment.

    Raises:
        ExportError: the model cannot be served; SignatureMismatch: the configuration can mend it.
        DataError: the test rows do not fit its inputs.
    """
    begun = time.monotonic()
    with translated("the export must be tried", ExportError), _scratch(directory) as scratch:
        file, version_dir = scratch / "model.keras", scratch / "1"
        save_model(model, file)
        copy = read_back(file)
        serve, signature = serving_function(copy, config)
        requests = request_arrays(copy, load_rows(splits.test).features, signature, config.export)
        for rows in TRIED:
            answer(copy, {name: array[:rows] for name, array in requests.items()}, signature, config.export)
        write_savedmodel(copy, serve, signature, version_dir)
        write_warmup(version_dir, config.name, signature, requests, config.export.warmup_rows)
    log.info("the untrained model exports, tried in %.1f s", time.monotonic() - begun)


@contextlib.contextmanager
def _scratch(directory: Path) -> Iterator[Path]:
    """Give a directory that is gone afterwards."""
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".untrained-", dir=directory) as scratch:
        yield Path(scratch)
