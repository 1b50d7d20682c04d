"""Exports the untrained model, so that a model that cannot be served is found before its training."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs.schema import Config
from tasks.datasets.golden import read_golden
from tasks.datasets.rows import load_rows
from tasks.datasets.user_code import translated
from tasks.errors import ExportError
from tasks.records import Splits
from tasks.replay.draw import check_requests
from tasks.replay.files import LOOKED_AT
from tasks.savedmodel.exporter import read_back, request_arrays, serving_function, write_savedmodel
from tasks.savedmodel.in_process import answer
from tasks.savedmodel.warmup import write_drawn, write_warmup

log = logging.getLogger(__name__)
TRIED = (3, 1)  # rows of the trial batches


def save_model(model: Any, file: Path) -> None:
    """Save a model as a `.keras` file.

    Raises:
        ExportError: Keras cannot save it.
    """
    with translated("Keras must be able to save the model", ExportError):
        file.parent.mkdir(parents=True, exist_ok=True)
        model.save(file)


def try_export(model: Any, config: Config, splits: Splits, directory: Path) -> None:
    """Save, load, call and export a model as after its training, in a temporary directory.

    The loaded copy is called and traced, so that nothing in the model itself changes, such as a counter.

    Args:
        directory: a directory with space for two copies of the model.

    Raises:
        ExportError: the model cannot be served. SignatureMismatch: the configuration can correct it.
        DataError: the test rows do not fit the inputs, or the golden file does not fit the model.
    """
    begun = time.monotonic()
    with translated("it must be possible to export the untrained model", ExportError), _scratch(directory) as scratch:
        file, version_dir = scratch / "model.keras", scratch / "1"
        save_model(model, file)
        copy = read_back(file)
        serve, signature = serving_function(copy, config)
        test = load_rows(splits.test)
        test = test.spread() if splits.streamed else test
        requests = request_arrays(copy, test.features, signature, config.export)
        for rows in TRIED:
            answer(copy, {name: array[:rows] for name, array in requests.items()}, signature, config.export)
        golden = config.gates.golden.file if "golden" in config.gates.judging else None
        if golden is not None:
            read_golden(golden, signature)
        check_requests(config, signature)
        write_savedmodel(copy, serve, signature, version_dir)
        if config.export.warmup_from == "requests":
            write_drawn(version_dir, config, signature, serve, LOOKED_AT)
        else:
            write_warmup(version_dir, config.name, signature, requests, config.export.warmup_rows)
    log.info("the untrained model can be exported (checked in %.1f s)", time.monotonic() - begun)


@contextlib.contextmanager
def _scratch(directory: Path) -> Iterator[Path]:
    """Yield a temporary directory below another one."""
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".untrained-", dir=directory) as scratch:
        yield Path(scratch)
