"""Which server production is: the command that starts it, and whether it is there."""

from __future__ import annotations

import logging
import os
import shlex
from urllib.parse import urlsplit

from configs.schema import Config
from tasks.errors import StoreError
from tasks.production.live_check import is_there
from tasks.store.serving_config import CONFIG, ensure_config

log = logging.getLogger(__name__)
ONE_TRY = "--max_num_load_retries=0"  # else a version that does not load holds up every other for five minutes


def production_command(config: Config) -> str:
    """Return the flags that a production server is started with, TensorFlow Serving or the embedded one."""
    port = urlsplit(config.promote.live_url).port or 8501
    if config.promote.layout == "labels":  # the last flag: at a restart no version is loaded when the labels are read
        path = shlex.quote(str(config.models_root / CONFIG))
        return (
            f"--rest_api_port={port} {ONE_TRY} --model_config_file={path} --model_config_file_poll_wait_seconds=1 "
            "--allow_version_labels_for_unavailable_models=true"
        )
    path = shlex.quote(str(config.live_dir))
    return f"--rest_api_port={port} {ONE_TRY} --model_name={config.name} --model_base_path={path}"


def look_at_production(config: Config) -> None:
    """Say it where production must verify a version and does not answer; make what it can be started on.

    Raises:
        StoreError: models_root is not a directory that can be written.
    """
    root = config.models_root
    there = next(path for path in (root, *root.parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise StoreError(f"models_root must lie in a writable directory, but '{there}' is not one")
    promote = config.promote
    if promote.layout == "labels":
        ensure_config(config.models_root)
    if promote.live_url and not is_there(promote.live_url, config.name):
        log.warning(
            "no server answers at promote.live_url %s: this is expected before the first version, else start one "
            "(%s); a version that it does not serve %g s (promote.live_timeout_s) after its promotion is rolled back",
            promote.live_url,
            production_command(config),
            promote.live_timeout_s,
        )
