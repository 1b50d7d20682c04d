"""Several versions of one model in one server, each pinned."""

from __future__ import annotations

from collections.abc import Sequence

CONFIG = "models.config"


def pinned_config(model_name: str, base_path: str, versions: Sequence[int]) -> str:
    """Return the text of a `--model_config_file` that serves exactly these versions of one model.

    The default policy would serve the highest alone.

    Source: tensorflow_serving/config/model_server_config.proto, file_system_storage_path_source.proto.
    """
    pins = " ".join(f"versions: {version}" for version in versions)
    return (
        f'model_config_list {{ config {{ name: "{model_name}" base_path: "{base_path}" '
        f'model_platform: "tensorflow" model_version_policy {{ specific {{ {pins} }} }} }} }}\n'
    )
