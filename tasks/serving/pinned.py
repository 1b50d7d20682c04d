"""The flags and the configuration of a throwaway server: it tries each version once, and all versions are pinned."""

from __future__ import annotations

import json
from collections.abc import Sequence

PINS = "models.config"
# A broken version must end the process at once; by default, the server tries it again 5 times, every 60 s.
# Source: tensorflow_serving/model_servers/main.cc.
ONE_TRY = "--max_num_load_retries=0"
AT_ONCE = (ONE_TRY, "--file_system_poll_wait_seconds=0")

# Of a server that watches models.config; the second flag is for restarts, at which no version is loaded yet.
WATCHES_LABELS = ("--model_config_file_poll_wait_seconds=1", "--allow_version_labels_for_unavailable_models=true")

# A server accepts an empty list at its start and after any other list. A file of no bytes it cannot read.
# Source: tensorflow_serving/model_servers/server_core.cc, ReloadConfig; tensorflow's posix_file_system.cc.
NO_MODELS = "model_config_list {}\n"


def pinned_config(model_name: str, base_path: str, versions: Sequence[int]) -> str:
    """Return the text of a `--model_config_file` that serves exactly these versions of one model.

    The default policy would serve only the highest version.

    Source: tensorflow_serving/config/model_server_config.proto, file_system_storage_path_source.proto.
    """
    pins = " ".join(f"versions: {version}" for version in versions)
    return (
        f'model_config_list {{ config {{ name: "{model_name}" base_path: {json.dumps(base_path, ensure_ascii=False)} '
        f'model_platform: "tensorflow" model_version_policy {{ specific {{ {pins} }} }} }} }}\n'
    )
