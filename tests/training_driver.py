"""A training in a process of its own, which is killed at a chosen point, as the kernel does when memory is short.

    python tests/training_driver.py CONFIG POINT EPOCH [CONFIG...]

POINT is `in-epoch` (a batch of the epoch has been learnt), `while-writing` (the backup of the epoch has no name yet) or
`never`. Each training that ends is printed as a JSON line: its history, its best epoch, where it was resumed, and the
SHA-256 of its weights.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from configs.loading import load_config
from tasks.datasets.prepare import prepare_splits
from tasks.training import backup, fit


def die_at(point: str, epoch: int) -> None:
    """Wrap the product's functions so that this process kills itself."""
    import keras

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if point == "in-epoch":

        class Killer(keras.callbacks.Callback):  # type: ignore[misc]
            epoch = 0

            def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
                self.epoch = epoch + 1

            def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
                if (self.epoch, batch) == (epoch, 1):
                    die()

        lines = fit.epoch_lines
        fit.epoch_lines = lambda epochs: keras.callbacks.CallbackList([lines(epochs), Killer()])  # type: ignore
    if point == "while-writing":
        rename = Path.rename

        def dying(path: Path, target: Path) -> Path:
            if target.name == f"epoch-{epoch:08d}":
                die()
            return rename(path, target)

        Path.rename = dying  # type: ignore


def main(config_file: str, point: str, epoch: str, *more: str) -> None:
    """Train with each configuration; the point concerns the first."""
    backup.AT_MOST = 0  # after each epoch, however short
    die_at(point, int(epoch))
    for file in (config_file, *more):
        config = load_config(Path(file), ())
        splits = prepare_splits(config.data, config.work_dir / "data")
        trained = fit.fit_model(config, splits, config.work_dir / "model.keras")
        import keras

        sha = hashlib.sha256()
        for array in keras.saving.load_model(trained.keras_file).get_weights():
            sha.update(array.tobytes())
        left = [path.name for path in (config.work_dir / backup.TRAININGS).glob("*/*")]
        found = {"history": trained.history, "best": trained.best_epoch, "resumed": trained.resumed, "left": left}
        sys.stdout.write(f"{json.dumps({**found, 'weights': sha.hexdigest()})}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
