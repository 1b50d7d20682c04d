"""Stores how the answers of an export are read in a file of the export."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from tasks.records import Reading

log = logging.getLogger(__name__)

LARGEST = 1 << 20  # bytes; a few hundred for each output are usual
READINGS = Path("assets.extra") / "readings.json"  # TensorFlow Serving ignores unknown files there


def write_readings(version_dir: Path, readings: Mapping[str, Reading]) -> None:
    """Write readings by served name of an output."""
    path = version_dir / READINGS
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({name: asdict(reading) for name, reading in readings.items()}, indent=1) + "\n")


def read_readings(version_dir: Path) -> dict[str, Reading]:
    """Return what `write_readings` wrote, or an empty mapping if the file is missing or cannot be read.

    The reading is then inferred from the answers themselves.
    """
    path = version_dir / READINGS
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"it is larger than {LARGEST} bytes")
        return TypeAdapter(dict[str, Reading]).validate_python(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError, ValidationError) as exc:
        log.warning("'%s' is ignored because it cannot be read: %s", path, " ".join(str(exc).split())[:200])
        return {}
