"""The one small object that says what is live: `<models_root>/<name>/live.json`.

    <models_root>/<name>/
      live.json                                 replaced as a whole by a conditional write; names everything else
      versions/sha256-<digest>/<upload>/...     the files of a version, never changed; one directory for each upload
      history/<upload>.jsonl                    the history up to this change, never changed
      candidates/sha256-<digest>/<upload>/...   a candidate, and all that an approval of it needs, never changed
      proofs/sha256-<digest>/<upload>/...       the proof of a version: its statement and evidence, never changed
      numbers/<N>                               who claimed a number, so that no other machine uses it

An upload has a name of its own, so that no process removes or changes that of another one.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from configs.sections.promote import Layout
from tasks.errors import StoreError
from tasks.records import Change
from tasks.store.experiment import Experiment
from tasks.store.layout import version_number

LIVE = "live.json"
FORMAT = 1
_DIGEST = re.compile(r"[0-9a-f]{64}")
_UPLOAD = "[0-9a-f]{32}"
_HISTORY = re.compile(rf"history/{_UPLOAD}\.jsonl")
_OF_FILES = re.compile(rf"((?:versions|candidates|proofs)/sha256-{_DIGEST.pattern}/{_UPLOAD})/.+", re.DOTALL)


@dataclass(frozen=True)
class Stored:
    """A version in the store.

    Attributes:
        directory: its number as the name of a directory, such as `00007`. digest: of its files, in hexadecimal.
        path: of its files, below the model.
    """

    directory: str
    digest: str
    path: str


@dataclass(frozen=True)
class Archived:
    """A candidate in the store, with all that an approval of it needs on a machine that did not judge it.

    Attributes:
        version: its number. digest: of its files, as they were judged, in hexadecimal.
        archive: the digest of everything that was archived, its files included. path: of that, below the model.
    """

    version: int
    digest: str
    archive: str
    path: str

    @property
    def stored(self) -> Stored:
        """Return what lies in the store, as the files of a version lie there."""
        return Stored(str(self.version), self.archive, self.path)


@dataclass(frozen=True)
class Proved:
    """The proof of a version in the store.

    Attributes:
        statement: SHA-256 of the file of its statement. archive: the digest of all of its files.
        path: of that, below the model.
    """

    statement: str
    archive: str
    path: str

    @property
    def stored(self) -> Stored:
        """Return what lies in the store, as the files of a version lie there."""
        return Stored(self.statement, self.archive, self.path)


@dataclass(frozen=True)
class Kept:
    """The history in the store: its path below the model, its size in bytes and its SHA-256."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Live:
    """What is live.

    Attributes:
        name: of the model. generation: rises by one with each write.
        write: a name of this write, which no other has; thus no two generations have equal bytes.
        versions: by number. listed: versions that servers load, with the layout `labels`. labels: by label.
        change: the change of production that is under way, or None. writer: who wrote this, for people.
        candidates: those that a person may decide about on any machine, by number.
        experiment: the experiment on real users that runs, or None.
        head: the signed head of the history, or empty.
        proofs: of versions, by the digest of their files.
    """

    name: str
    generation: int
    write: str
    layout: Layout
    versions: Mapping[int, Stored]
    history: Kept | None = None
    listed: tuple[int, ...] = ()
    labels: Mapping[str, int] = field(default_factory=dict)
    change: Change | None = None
    writer: str = ""
    candidates: tuple[Archived, ...] = ()
    experiment: Experiment | None = None
    head: str = ""
    proofs: Mapping[str, Proved] = field(default_factory=dict)

    @property
    def champion(self) -> int | None:
        """Return the version that serves, or None."""
        return max(self.versions, default=None) if self.layout == "latest" else self.labels.get("stable")

    def says_the_same(self, other: Live | None) -> bool:
        """Return whether both name the same versions, labels, history and change."""
        return other is not None and replace(self, generation=0, write="", writer="") == replace(
            other, generation=0, write="", writer=""
        )

    def text(self) -> bytes:
        """Return the canonical form: JSON with sorted keys, without spaces, one line."""
        return (json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True, separators=(",", ":")) + "\n").encode()


def read_live(text: bytes, name: str, where: str) -> Live:
    """Return what an object says that is live.

    Args:
        where: its address, for the message.

    Raises:
        StoreError: it is not such an object of this model.
    """
    try:
        plain = json.loads(text)
        form = plain.pop("format")
        if form != FORMAT:
            raise ValueError(f"it has format {form}, and this release reads format {FORMAT}")
        live: Live = TypeAdapter(Live).validate_python(plain)
        if problem := _problem(live, name):
            raise ValueError(problem)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ValidationError) as exc:
        reason = "it is not what this project wrote" if isinstance(exc, ValidationError) else exc
        raise StoreError(f"'{where}' must say what is live of '{name}', but {reason}; what is served stays") from exc
    return live


def _problem(live: Live, name: str) -> str:
    if live.name != name:
        return f"it is of '{live.name}'"
    for number, stored in live.versions.items():
        path = rf"versions/sha256-{stored.digest}/{_UPLOAD}"
        if number < 1 or version_number(stored.directory) != number or not stored.directory.isdecimal():
            return f"version {number} has the directory {stored.directory!r}"
        if not _DIGEST.fullmatch(stored.digest) or not re.fullmatch(path, stored.path):
            return f"version {number} has an unknown path"
    if {*live.listed, *live.labels.values()} - live.versions.keys():
        return "a label names a version that it does not name"
    for kept in live.candidates:
        path = rf"candidates/sha256-{kept.archive}/{_UPLOAD}"
        if not (_DIGEST.fullmatch(kept.archive) and _DIGEST.fullmatch(kept.digest) and re.fullmatch(path, kept.path)):
            return f"candidate {kept.version} has an unknown path"
    for digest, proved in live.proofs.items():
        path = rf"proofs/sha256-{proved.archive}/{_UPLOAD}"
        if not all(_DIGEST.fullmatch(one) for one in (digest, proved.archive, proved.statement)) or not re.fullmatch(
            path, proved.path
        ):
            return f"the proof of digest {digest[:12]!r} has an unknown path"
    if live.history is not None and not _HISTORY.fullmatch(live.history.path):
        return "its history has an unknown path"
    return ""


def upload_of(path: str) -> str:
    """Return the path of the upload that a path below a model belongs to, or nothing if this project did not write it.

    Another model may lie below this one: its address may end with the name of this one.
    """
    if _HISTORY.fullmatch(path):
        return path
    found = _OF_FILES.fullmatch(path)
    return found[1] if found else ""


def new_name() -> str:
    """Return a name that no other process uses."""
    return uuid.uuid4().hex


def upload_path(digest: str, kind: Literal["versions", "candidates", "proofs"] = "versions") -> str:
    """Return a new path for the files with this digest."""
    return f"{kind}/sha256-{digest}/{new_name()}"
