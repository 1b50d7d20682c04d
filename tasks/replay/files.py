"""Reads recorded requests one by one: JSON lines of predict bodies, or TFRecords of PredictionLog, plain or gzip.

Source: tensorflow_serving/apis/prediction_log.proto; a TFRecord is its length, the length's checksum, the bytes and
their checksum (tensorflow/core/lib/io/record_reader.cc).
"""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from configs.errors import ConfigError
from configs.schema import Config
from tasks.datasets.predict_body import parsed
from tasks.errors import DataError
from tasks.model_server.tf_protos import message_module
from tasks.model_server.tf_records import masked_crc
from tasks.waiting import waiting_for
from tasks.words import counted, one_line

FIELD = "gates.replay.file"
FORMS = 'JSON lines of predict bodies, such as {"instances": [...]}, or TFRecords of PredictionLog, plain or gzip'
GZIP = b"\x1f\x8b"
HEADER = 12  # bytes of a record's length and of its checksum
LONGEST = 2**28  # bytes of one request that is held
TOO_LONG = f"it is longer than {LONGEST:,} bytes"
UNFINISHED = "it is cut short"
PIECE = 2**20
LOOKED_AT = 1000  # lines whose form is checked before a training


@dataclass(frozen=True)
class Request:
    """One recorded request.

    Attributes:
        number: of its line or its record in the file, from 1.
        body: the JSON text as it was recorded; empty for a PredictionLog.
        message: a PredictRequest, or None for JSON.
        signature_name: as it was sent; empty stands for `serving_default`.
        skipped: why it is not sent, such as `it is not JSON`, or empty.
    """

    number: int
    body: bytes = b""
    message: Any = None
    signature_name: str = ""
    skipped: str = ""


@dataclass(frozen=True)
class Look:
    """What a look at a whole file found.

    Attributes:
        kind: `JSON lines` or `TFRecords`. requests: number of lines that are not empty, or of records.
    """

    kind: str
    requests: int


def check_file(config: Config) -> str:
    """Return what `gates.replay.file` holds, such as `10,000 requests as JSON lines`; empty if nothing uses it.

    Raises:
        ConfigError: it cannot be used.
    """
    file = config.gates.replay.file
    if file is None or ("replay" not in config.gates.judging and config.export.warmup_from != "requests"):
        return ""
    with waiting_for(f"'{file}' to be read"):
        found = look_at(file, config.name)
    every = config.gates.replay.every
    if every > found.requests and "replay" in config.gates.judging:
        raise ConfigError(
            f"gates.replay.every must be at most the number of requests, got {every:,}, but '{file}' has "
            f"{counted(found.requests, 'request')}, so that none would be sent"
        )
    return f"{counted(found.requests, 'request')} as {found.kind}"


def look_at(path: Path, model: str) -> Look:
    """Read a file to its end, and check what can be known of it without a model: its form, and that it is whole.

    Of JSON lines the first 1,000 are parsed, of TFRecords the lengths are followed.

    Raises:
        ConfigError: it cannot be read, has another form, is cut short, or has no request for this model.
    """
    rule = f"{FIELD} must hold {FORMS}, got '{path}'"
    try:
        with _opened(path) as (file, start):
            kind = _kind(start)
            if not kind:
                raise ConfigError(f"{rule}, which {_what(start)}")
            count = _whole_records(file) if kind == "TFRecords" else _lines(file)
        usable = 0
        reasons: list[str] = []
        for request in requests_in(path, model, most=LOOKED_AT):
            usable += not request.skipped
            if request.skipped and len(reasons) < 1:
                reasons.append(f"request {request.number}: {request.skipped}")
            if usable:
                break
    except DataError as exc:
        raise ConfigError(str(exc)) from exc
    if not usable:
        raise ConfigError(f"{rule}, in which none of the first {LOOKED_AT:,} can be used ({'; '.join(reasons)})")
    return Look(kind, count)


def requests_in(path: Path, model: str, most: int = 0) -> Iterator[Request]:
    """Yield the requests of a file in constant memory; one that cannot be sent says why.

    Args:
        model: the name of the model; a PredictionLog for another one is skipped.
        most: how many are read; 0 means all.

    Raises:
        DataError: the file cannot be read, or not any further.
    """
    with _opened(path) as (file, start):
        found = _of_records(file, model) if _kind(start) == "TFRecords" else _of_lines(file)
        for number, request in enumerate(found, start=1):
            yield request
            if number == most:
                return


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], bytes]]:
    """Open a file, which may be compressed; yield it with its first bytes."""
    rule = f"{FIELD} must name a readable file, got '{path}'"
    try:
        if not path.is_file():
            raise DataError(f"{rule}, which does not exist" if not path.exists() else f"{rule}, which is not a file")
        with path.open("rb") as raw:
            packed = raw.read(2) == GZIP
        with cast(IO[bytes], gzip.open(path)) if packed else path.open("rb") as file:
            start = file.read(4096)
            file.seek(0)
            yield file, start
    except (EOFError, zlib.error, gzip.BadGzipFile) as exc:
        why = "it is cut short" if isinstance(exc, EOFError) else one_line(str(exc))
        raise DataError(f"{rule}, whose gzip compression is damaged: {why}; record or copy it again") from exc
    except OSError as exc:
        raise DataError(f"{rule}: {exc.strerror or one_line(str(exc))}") from exc


def _kind(start: bytes) -> str:
    """Return the form of a file by its first bytes, or an empty string."""
    if len(start) >= HEADER and start[8:HEADER] == masked_crc(start[:8]):
        return "TFRecords"
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    # A log that was rotated or cut may begin within a line.
    lines = [text] if text.startswith(b"[") else text.splitlines()
    return "JSON lines" if any(line.lstrip().startswith(b"{") for line in lines) else ""


def _what(start: bytes) -> str:
    """Return what a file is that is neither."""
    if not start.strip():
        return "is empty"
    if start[:1] == b"\x78" and int.from_bytes(start[:2], "big") % 31 == 0:  # RFC 1950, 2.2
        return "seems to be compressed with zlib: write it with gzip or without compression"
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "is UTF-16: write UTF-8"
    if start.lstrip().startswith(b"["):
        return "begins with a list: write one body on each line"
    return f"begins with {start[:20]!r}"


def _lines(file: IO[bytes]) -> int:
    """Return how many lines are not empty; a compressed file is read to its checksum."""
    count = 0
    while line := file.readline(PIECE):
        count += bool(line.strip()) and (line.endswith(b"\n") or len(line) < PIECE)
    return count


def _whole_records(file: IO[bytes]) -> int:
    """Return how many records there are; the checksums of their bytes are compared when they are sent."""
    count = 0
    while header := file.read(HEADER):
        count += 1
        _pass_over(file, _length(header, count) + 4, count)
    return count


def _pass_over(file: IO[bytes], left: int, number: int) -> None:
    """Read the next bytes, which are of a record, in pieces."""
    while left:
        piece = file.read(min(left, PIECE))
        if not piece:
            raise DataError(_cut(number))
        left -= len(piece)


def _length(header: bytes, number: int) -> int:
    if len(header) < HEADER:
        raise DataError(_cut(number))
    if header[8:] != masked_crc(header[:8]):
        raise DataError(
            f"{FIELD} must hold whole TFRecords, but the length of record {number:,} does not fit its checksum, so "
            "that nothing after it can be read; record or copy the file again"
        )
    return int.from_bytes(header[:8], "little")


def _cut(number: int) -> str:
    return f"{FIELD} must hold whole TFRecords, but record {number:,} is cut short; record or copy the file again"


def _of_lines(file: IO[bytes]) -> Iterator[Request]:
    """Yield what each line holds that is not empty."""
    number = 0
    while line := file.readline(LONGEST):
        number += 1
        if len(line) == LONGEST and not line.endswith(b"\n"):
            while (rest := file.readline(PIECE)) and not rest.endswith(b"\n"):
                pass
            yield Request(number, skipped=TOO_LONG)
            continue
        body = line.removeprefix(b"\xef\xbb\xbf").strip()
        if body:
            yield _of_line(number, body)


def _of_line(number: int, body: bytes) -> Request:
    try:
        content = parsed(body)
    except ValueError:
        return Request(number, skipped="it is not JSON")
    if not isinstance(content, dict):
        return Request(number, skipped="it is not a JSON object")
    if ("instances" in content) == ("inputs" in content):
        return Request(number, skipped="it must have either 'instances' or 'inputs', as the body of a predict request")
    name = content.get("signature_name", "")
    return Request(number, body, signature_name=name if isinstance(name, str) else "")


def _of_records(file: IO[bytes], model: str) -> Iterator[Request]:
    """Yield what each record holds; one that is cut short at the end is being written, because the file was whole."""
    number = 0
    while header := file.read(HEADER):
        number += 1
        if len(header) < HEADER:
            yield Request(number, skipped=UNFINISHED)
            return
        length = _length(header, number)
        if length > LONGEST:
            _pass_over(file, length + 4, number)
            yield Request(number, skipped=TOO_LONG)
            continue
        data, checksum = file.read(length), file.read(4)
        if len(checksum) < 4:
            yield Request(number, skipped=UNFINISHED)
            return
        yield (
            _of_record(number, data, model)
            if checksum == masked_crc(data)
            else Request(number, skipped="its bytes do not fit their checksum")
        )


def _of_record(number: int, data: bytes, model: str) -> Request:
    from google.protobuf.message import DecodeError

    try:
        entry = message_module("tensorflow_serving.apis.prediction_log_pb2").PredictionLog.FromString(data)
    except DecodeError:
        return Request(number, skipped="it is not a PredictionLog")
    kind = entry.WhichOneof("log_type")
    if kind != "predict_log":
        return Request(number, skipped=f"it is a {kind}, and only predict requests are sent" if kind else "it is empty")
    request = entry.predict_log.request
    if not request.inputs:
        return Request(number, skipped="it has no inputs")
    asked = request.model_spec
    if asked.name and asked.name != model:
        return Request(number, skipped=f"it asks for the model '{one_line(asked.name, 60)}'")
    return Request(number, message=request, signature_name=asked.signature_name)
