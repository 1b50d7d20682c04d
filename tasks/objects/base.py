"""What a mirror was made from: a file beside its versions."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tasks.errors import StoreError
from tasks.objects.live import Live, read_live
from tasks.store.journal import write_atomically

STATE = ".store.json"


@dataclass(frozen=True)
class Base:
    """What the mirror was made from.

    Attributes:
        etag, live: of the object that was read or written last. own: it was written from this mirror.
        intent: the name of the write that was begun last; if the store has it, it is ours as well.
    """

    etag: str = ""
    live: Live | None = None
    own: bool = False
    intent: str = ""


def read_base(model_dir: Path) -> Base:
    """Return what the mirror in a directory was made from.

    Raises:
        StoreError: its file cannot be read. A crash cannot cause this, because the file is replaced as a whole.
    """
    path = model_dir / STATE
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        live = read_live(plain["live"].encode(), model_dir.name, str(path)) if plain["live"] else None
        return Base(plain["etag"], live, plain["own"], plain["intent"])
    except FileNotFoundError:
        return Base()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StoreError) as exc:
        raise StoreError(
            f"'{path}' must say what the mirror was made from, but it cannot be read ({exc}); remove it, and the "
            "mirror is made again"
        ) from exc


def note_base(model_dir: Path, base: Base) -> None:
    """Record what the mirror in a directory was made from, and flush it to the disk."""
    plain = {**asdict(replace(base, live=None)), "live": base.live.text().decode() if base.live else ""}
    write_atomically(model_dir / STATE, json.dumps(plain))
