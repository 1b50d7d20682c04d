"""The history as a chain: each line carries the digest of what is before it, and a signed head carries the last line.

    {"actor":...,"before":SHA-256,"digest":...,"reason":...,"run":...,"state":...,"time":...,"version":...}

`before` is the SHA-256 of the exact bytes from the beginning of the last line that has a `before` itself up to this
line. That is the line before, or, for the first such line, everything that an earlier release wrote; in a new history
it is the digest of nothing. The form of a line is canonical, so that no byte of it is free.

The head (`.history.head.dsse.json`) is a DSSE envelope with the number of lines, the last line itself, and the lines
that nobody signed. It is written before its line. Therefore a crash in between loses nothing: the line is in the head,
and the next change or the doctor adds it. No line that was found in the file is ever signed afterwards as if the
holder of the key had written it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.errors import ProofMismatch
from tasks.proof.envelope import MOST, canonical, open_envelope, read_envelope, sign
from tasks.proof.keys import PrivateKey, PublicKey
from tasks.savedmodel.files import read_plain

HISTORY, HEAD = ".history.jsonl", ".history.head.dsse.json"
HEAD_TYPE = "application/vnd.keras-rehearsal.history-head.v1+json"
FIELDS = frozenset({"time", "version", "state", "digest", "run", "actor", "reason"})
LONGEST = 2**30  # bytes of a history, which has about 300 in each line
CHANGING_S = 2.0  # seconds that the line of a new head may take to appear
SERVED = ("canary", "live")  # states of versions that were verified in production


@dataclass(frozen=True)
class Line:
    """One line of a history.

    Attributes:
        number: from 1. begin, end: its place in the file, in bytes; the end includes the line break.
        fields: what it says with its `before`, or None if it is not a line of the chain.
    """

    number: int
    begin: int
    end: int
    fields: Mapping[str, Any] | None


@dataclass(frozen=True)
class Head:
    """What a head says.

    Attributes:
        model: its name. count: number of lines. last: SHA-256 of the last line, with its line break.
        line: the last line itself, without its line break.
        unsigned: the first and the last number of each row of lines that were written without the key.
    """

    model: str
    count: int
    last: str
    line: str
    unsigned: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Signer:
    """Who signs the head.

    Attributes:
        trusted: public keys whose heads are continued; the signer's own is always one of them.
    """

    key: PrivateKey
    trusted: tuple[PublicKey, ...] = ()

    @property
    def publics(self) -> tuple[PublicKey, ...]:
        """Return every key whose heads are continued."""
        return (self.key.public_key(), *self.trusted)


def texts_of(data: bytes) -> list[bytes]:
    """Return the lines of a history with their line breaks; the last one may lack it."""
    parts = data.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


def lines_of(data: bytes) -> list[Line]:
    """Return the lines of a history and what they say."""
    found, begin = [], 0
    for number, text in enumerate(texts_of(data), 1):
        found.append(Line(number, begin, begin + len(text), _fields(text)))
        begin += len(text)
    return found


def _fields(text: bytes) -> dict[str, Any] | None:
    try:
        fields = json.loads(text.decode("ascii"))
        is_whole = fields.keys() == FIELDS | {"before"} and canonical(fields) + b"\n" == text
    except (ValueError, AttributeError, RecursionError):
        return None
    return fields if is_whole else None


def encoded(fields: Mapping[str, Any], data: bytes) -> bytes:
    """Return the line that continues a history, with its line break.

    Args:
        fields: what it says, without `before`. data: the history up to then, of whole lines.
    """
    return canonical({**fields, "before": digest_before(data)}) + b"\n"


def digest_before(data: bytes) -> str:
    """Return what the next line must carry: the SHA-256 of everything since the last line of the chain began."""
    since: list[bytes] = []
    for text in reversed(texts_of(data)):
        since.append(text)
        if _fields(text) is not None:
            break
    return hashlib.sha256(b"".join(reversed(since))).hexdigest()


def line_digest(text: bytes) -> str:
    """Return the SHA-256 of a line, with its line break; that of the last line is the digest of the head."""
    return hashlib.sha256(text).hexdigest()


def last_digest(data: bytes) -> str:
    """Return the digest of the head of a history, or an empty string if it has no line."""
    found = texts_of(data)
    return line_digest(found[-1]) if found else ""


def signed_head(model: str, data: bytes, line: bytes, former: bytes, signer: Signer) -> bytes:
    """Return the head of a history that a new line continues.

    Args:
        data: the history up to then, of whole lines. line: the new one. former: the head until now, or nothing.
    """
    unsigned = unsigned_lines(model, data, former, signer.publics)
    text = line.decode("ascii").removesuffix("\n")
    head = Head(model, len(texts_of(data)) + 1, line_digest(line), text, unsigned)
    return sign(canonical(asdict(head)), HEAD_TYPE, signer.key)


def unsigned_lines(model: str, data: bytes, former: bytes, publics: Sequence[PublicKey]) -> tuple[tuple[int, int], ...]:
    """Return the lines that no trusted key has signed: the first and the last number of each row of them.

    Args:
        former: the head, or nothing.
    """
    texts, known = texts_of(data), None
    with contextlib.suppress(ProofMismatch):
        known = _opened(former, publics)
    if known is None or known.model != model or not _covers(known, texts):
        return ((1, len(texts)),) if texts else ()
    return known.unsigned + (((known.count + 1, len(texts)),) if len(texts) > known.count else ())


def lost_line(data: bytes, head: bytes) -> bytes:
    """Return the line that only the head has, because a crash came before it was added; empty if there is none."""
    try:
        known = _read(read_envelope(head, HEAD_TYPE).payload)
    except ProofMismatch:
        return b""
    line = known.line.encode("ascii") + b"\n"
    fields = _fields(line)
    is_next = known.count == len(texts_of(data)) + 1 and fields is not None
    return line if is_next and fields is not None and fields["before"] == digest_before(data) else b""


def chain_problems(  # noqa: PLR0913
    model_dir: Path,
    publics: Sequence[PublicKey],
    head: str = "",
    *,
    model: str = "",
    digest: str = "",
    to_the_end: bool = True,
) -> list[str]:
    """Return what is wrong with the history of a model, one line for each problem, which names the file and the line.

    Args:
        publics: keys that may have signed the head; without one, the head is not looked at.
        head: a digest that was noted elsewhere, of the last line at that time; it must still be the digest of a line.
        model: the model's name, which the head must have; empty takes any.
        digest: of bytes that went live by at least one signed line, if any line says that they did; empty for none.
        to_the_end: whether lines after the last one of the chain, or after the signed head, are a problem.
    """
    path = model_dir / HISTORY
    try:
        data, content = _settled(model_dir)
    except OSError as exc:
        return [f"'{path}' must be a readable history, got {exc.strerror or exc}"]
    lines = lines_of(data)
    problems = [f"'{path}', {problem}" for problem in _broken(lines, data, to_the_end)]
    if head and head not in map(line_digest, texts_of(data)):
        problems.append(
            f"'{path}' has no line with the digest {head}, which was noted: its end was cut off, or it was replaced"
        )
    if publics:
        problems += _of_head(model_dir, model, data, content, publics, digest, to_the_end)
    return problems


def _settled(model_dir: Path) -> tuple[bytes, bytes | OSError]:
    """Return history and head, or why the head cannot be read; wait a little for a line that is just being added."""
    last = time.monotonic() + CHANGING_S
    while True:
        head: bytes | OSError
        data = _content(model_dir / HISTORY)
        try:
            head = _content(model_dir / HEAD)
        except OSError as exc:
            return data, exc
        if not lost_line(data, head) or time.monotonic() > last:
            return data, head
        time.sleep(0.05)


def _content(path: Path) -> bytes:
    return read_plain(path, LONGEST if path.name == HISTORY else MOST)


def _broken(lines: Sequence[Line], data: bytes, to_the_end: bool) -> Iterator[str]:
    """Yield where the chain is broken."""
    begin = 0
    chained = [line for line in lines if line.fields is not None]
    for line in chained:
        assert line.fields is not None
        if line.fields["before"] != hashlib.sha256(data[begin : line.begin]).hexdigest():
            known = next((other for other in lines if other.begin == begin), None)
            first = known.number if known is not None else 1
            rest = f"lines {first} to {line.number - 1} are" if first < line.number - 1 else f"line {first} is"
            yield (
                f"line {line.number}: it does not continue what is before it; {rest} not as written, or lines were "
                "added, removed or moved"
                if line.number > 1
                else "line 1: it is not the first line that was written; the lines before it were removed"
            )
        begin = line.begin
    after = [line for line in lines if line.end > (chained[-1].end if chained else 0)]
    if after and not data.endswith(b"\n"):
        yield f"line {after[-1].number}: it is cut short; after a crash, the next change or the doctor repairs it"
    elif after and to_the_end:
        yield (
            f"line {after[0].number}: it and what follows carry no digest of what is before them, as in earlier "
            "releases; the next change continues the chain"
        )


def _of_head(  # noqa: PLR0913, PLR0917
    model_dir: Path, model: str, data: bytes, content: bytes | OSError, publics: Sequence[PublicKey], digest: str,
    to_the_end: bool,
) -> Iterator[str]:  # fmt: skip
    """Yield what is wrong with the signed head."""
    path, history = model_dir / HEAD, model_dir / HISTORY
    texts = texts_of(data)
    if isinstance(content, FileNotFoundError):
        yield f"'{path}' must be the signed head of the history, but it is gone"
        return
    if isinstance(content, OSError):
        yield f"'{path}' must be a readable file, got {content.strerror or content}"
        return
    try:
        known = _opened(content, publics)
    except ProofMismatch as exc:
        yield f"'{path}': {exc}"
        return
    if model not in ("", known.model):
        yield f"'{path}' is the head of '{known.model}', and not of '{model}'"
    if lost_line(data, content):
        yield (
            f"'{history}' lacks line {known.count}, which its signed head has: a crash came before it was written, or "
            "it was removed; the next change or the doctor adds it again from the head"
        )
        return
    if len(texts) < known.count:
        yield f"'{history}' has {len(texts)} lines, but its signed head has {known.count}: its end was cut off"
        return
    if not _covers(known, texts):
        yield f"'{history}', line {known.count}: it is not the line that the signed head has"
        return
    if len(texts) > known.count and to_the_end:
        yield f"'{history}', line {known.count + 1}: it and what follows were added without the key"
    its = [number for number, text in enumerate(texts, 1) if _is_about(text, digest)] if digest else []
    if its and all(any(first <= number <= last for first, last in known.unsigned) for number in its):
        yield (
            f"'{history}' does not say with a signature that the bytes {digest[:12]} went live: line {its[-1]} was "
            "written without the key"
        )


def _is_about(text: bytes, digest: str) -> bool:
    """Return whether a line, perhaps of an earlier release, says that some bytes went live."""
    try:
        fields = json.loads(text)
        return fields["digest"] == digest and fields["state"] in SERVED
    except (ValueError, KeyError, TypeError):
        return False


def _covers(head: Head, texts: Sequence[bytes]) -> bool:
    """Return whether a history has the last line of a head at its place."""
    return 0 < head.count <= len(texts) and line_digest(texts[head.count - 1]) == head.last


def _opened(data: bytes, publics: Sequence[PublicKey]) -> Head:
    """Return what a head says, if one of some keys signed it.

    Raises:
        ProofMismatch: none did, or it is not a head.
    """
    return _read(open_envelope(data, publics, HEAD_TYPE)[0])


def _read(payload: bytes) -> Head:
    try:
        fields = json.loads(payload)
        unsigned = tuple((int(first), int(last)) for first, last in fields["unsigned"])
        head = Head(**{**fields, "unsigned": unsigned})
        is_whole = canonical(asdict(head)) == payload and head.last == line_digest(head.line.encode("ascii") + b"\n")
    except (ValueError, TypeError, KeyError, AttributeError):
        is_whole = False
    if not is_whole:
        raise ProofMismatch("it is not the head of a history")
    return head
