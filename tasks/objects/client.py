"""The client of an object store: s3fs, which finds credentials, region and endpoint where AWS' own tools do."""

from __future__ import annotations

import os
from typing import Any

from configs.errors import ConfigError
from configs.redaction import redact
from tasks.words import one_line

EXTRA = "s3"
CONNECT_S, READ_S = 10, 60  # seconds until a connection is there, and between two parts of an answer
TRIES = 3  # of a request that got no answer


def file_system() -> Any:
    """Return s3fs' client, whose paths are BUCKET/KEY, whatever characters the key has.

    Raises:
        ConfigError: s3fs is not installed, or what AWS' files say cannot be used.
    """
    try:
        import s3fs
    except ImportError as exc:
        raise ConfigError(
            "an address of s3:// needs the extra 's3', which is not installed; run: pip install "
            f"'keras-rehearsal[{EXTRA}]'"
        ) from exc

    class Plain(s3fs.S3FileSystem):  # type: ignore[misc]
        """Takes no part of a key for a version, as `x?versionId=1` would be."""

        def split_path(self, path: str) -> tuple[str, str, None]:
            bucket, _, key = path.partition("/")
            return bucket, key, None

    settings: dict[str, Any] = {"connect_timeout": CONNECT_S, "read_timeout": READ_S}
    if not {"AWS_MAX_ATTEMPTS", "AWS_RETRY_MODE"} & os.environ.keys():
        settings["retries"] = {"mode": "standard", "max_attempts": TRIES}
    try:
        found = Plain(config_kwargs=settings, skip_instance_cache=True, use_listings_cache=False)
    except Exception as exc:
        raise ConfigError(f"the settings of AWS must be usable, got {one_line(redact(str(exc)), 300)}") from exc
    found.retries = 1  # botocore has tried again already
    return found
