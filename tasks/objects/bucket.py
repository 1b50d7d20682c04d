"""The objects below one s3:// address: reads, conditional writes, uploads that are read back, verified downloads.

s3fs does the requests, with the credentials, the region and the endpoint that it finds in the environment and in the
files of AWS (AWS_ACCESS_KEY_ID, AWS_PROFILE, AWS_ENDPOINT_URL and so on).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from configs.errors import ConfigError
from configs.object_stores import bucket_and_prefix
from configs.redaction import redact, remember
from tasks.errors import ManifestMismatch, PipelineError, StoreConflict, StoreError, StoreRefused, StoreUnreachable
from tasks.words import one_line

T = TypeVar("T")
EXTRA = "s3"
CONNECT_S, READ_S = 10, 60  # seconds until a connection is there, and between two parts of an answer
TRIES = 3  # of a request that got no answer
AT_ONCE = 4  # files
BLOCK = 1 << 20  # bytes
PART, MOST_PARTS = 8 << 20, 9_000  # bytes of a part of a large upload, of which S3 takes 10,000
LARGEST_TEXT = 64 << 20  # bytes of an object that is read as a whole
SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
NOT_MODIFIED, NOT_FOUND, FAILED, NOT_IMPLEMENTED = 304, 404, (409, 412), 501
AGAIN = (408, 425, 429)  # errors of a client, as HTTP has it, that a later try may not get
OVERTAKEN = "was changed by another process at the same time; run it again, and it begins with what is live now"
REFUSED = {
    "NoSuchBucket": "the bucket does not exist; create it, or correct the address",
    "AccessDenied": "the credentials do not permit it; they need to get, put, list and delete objects below it",
    "InvalidAccessKeyId": "the access key is unknown; correct AWS_ACCESS_KEY_ID or the profile",
    "SignatureDoesNotMatch": "the secret key is wrong; correct AWS_SECRET_ACCESS_KEY or the profile",
    "PermanentRedirect": "the bucket is in another region; set AWS_DEFAULT_REGION to it",
    "ExpiredToken": "the session token has expired; get a new one",
    "RequestTimeTooSkewed": "the clock of this machine is wrong; set it to the time of the store",
}
NO_STORE = "what answers is not an object store; correct AWS_ENDPOINT_URL, which may be the address of another service"
NO_CONDITIONS = (
    "the store ignores the conditions of a write (If-Match, If-None-Match), so that two promotions at once could "
    "overwrite each other; use a store that keeps them, such as Amazon S3, MinIO or SeaweedFS"
)


@dataclass(frozen=True)
class Found:
    """An object that was read; `content` is None if it is the one whose ETag was given."""

    etag: str
    content: bytes | None


@dataclass(frozen=True)
class FileObject:
    """An object that holds one file.

    Attributes:
        key: below the address. path: of the file. size: in bytes. sha256: in hexadecimal.
    """

    key: str
    path: Path
    size: int
    sha256: str


@dataclass(frozen=True)
class Listed:
    """An object of a listing, with its age in seconds by the store's own clock."""

    key: str
    age_s: float


class Bucket:
    """The objects below one address; a key is relative to it."""

    def __init__(self, address: str) -> None:
        """Prepare the requests; nothing is asked yet.

        Raises:
            ConfigError: s3fs is not installed, or what AWS' files say cannot be used.
        """
        self.address = address
        self._bucket, self._prefix = bucket_and_prefix(address)
        for name in SECRETS:
            remember(os.environ.get(name, ""))
        self._fs = _file_system()
        self._proved = False

    def read(self, key: str, etag: str = "") -> Found | None:
        """Return an object, or None if it does not exist.

        Args:
            etag: of what is known already; then the content of the same object is not sent again.
        """
        return self._run(key, lambda: self._read(key, etag))

    def write(self, key: str, content: bytes, etag: str) -> str:
        """Replace an object if it is still the one with this ETag, or create it if `etag` is empty; return its ETag.

        The content must be unlike any other of this object: if the answer was lost, it says whether it was written.

        Raises:
            StoreConflict: another process has changed it. StoreRefused: the store does not keep conditions.
        """
        self.prove()
        problem: StoreError | None = None
        for _ in range(TRIES):
            try:
                return self._run(key, lambda: self._put(key, content, etag))
            except StoreConflict as exc:
                problem = exc
            except StoreUnreachable as exc:
                problem = exc
            now = self.read(key)
            if now is not None and now.content == content:
                return now.etag
            if (now.etag if now else "") != etag:
                raise StoreConflict(f"'{self.address}/{key}' {OVERTAKEN}")
        assert problem is not None
        raise problem

    def prove(self) -> None:
        """Prove, once in a process, that the store refuses a write whose condition does not hold.

        Raises:
            StoreRefused: it does not, or it does not accept this client.
        """
        if self._proved:
            return
        key = f".probe-{uuid.uuid4().hex}"
        try:
            first = self._run(key, lambda: self._put(key, b"first", ""))
            for etag in ("", '"00000000000000000000000000000000"'):
                try:
                    self._run(key, partial(self._put, key, b"second", etag))
                except StoreConflict:
                    continue
                raise StoreRefused(f"'{self.address}': {NO_CONDITIONS}")
            self._run(key, lambda: self._put(key, b"third", first))
        finally:
            self.remove([key])
        self._proved = True

    def create(self, key: str, content: bytes) -> None:
        """Write an object under a key that no other process uses, and read it back.

        Raises:
            ManifestMismatch: the store gives other bytes than it was given.
        """
        self.prove()
        self._run(key, lambda: self._call("put_object", key, Body=content))
        back = self.read(key)
        if back is None or back.content != content:
            raise ManifestMismatch(f"'{self.address}/{key}' must hold what was written, but it holds something else")

    def upload(self, files: Sequence[FileObject]) -> None:
        """Write files under keys that no other process uses, then read all of them back.

        Raises:
            ManifestMismatch: an object is not what its file was.
        """
        self.prove()
        self._run_all(files, self._upload)
        self._run_all(files, self._check)

    def check(self, files: Sequence[FileObject]) -> None:
        """Read all objects, and compare size and SHA-256.

        Raises:
            ManifestMismatch: one is missing or different.
        """
        self._run_all(files, self._check)

    def download(self, files: Sequence[FileObject]) -> None:
        """Write objects to files, flush them to the disk, and compare size and SHA-256 of what was written.

        Raises:
            ManifestMismatch: an object is missing or different; its file is removed.
            StoreError: a file cannot be written.
        """
        self._run_all(files, self._download)

    def directories(self) -> list[str]:
        """Return the names of what looks like a directory directly below the address."""
        pages = self._run("", lambda: self._pages("", Delimiter="/"))
        found = (entry["Prefix"] for page in pages for entry in page.get("CommonPrefixes", ()))
        return sorted(name[len(self._prefix) :].rstrip("/") for name in found)

    def objects(self, prefix: str) -> list[Listed]:
        """Return all objects whose key begins with a prefix."""
        found: list[Listed] = []
        for page in self._run(prefix, lambda: self._pages(prefix)):
            now = parsedate_to_datetime(page["ResponseMetadata"]["HTTPHeaders"]["date"])
            for entry in page.get("Contents", ()):
                changed: datetime = entry["LastModified"]
                found.append(Listed(entry["Key"][len(self._prefix) :], (now - changed).total_seconds()))
        return found

    def remove(self, keys: Iterable[str]) -> None:
        """Remove objects; it is not an error if one does not exist."""
        for key in keys:
            self._run(key, partial(self._call, "delete_object", key))

    async def _call(self, method: str, key: str, **arguments: Any) -> Any:
        return await self._fs._call_s3(method, Bucket=self._bucket, Key=self._prefix + key, **arguments)

    async def _read(self, key: str, etag: str) -> Found | None:
        condition = {"IfNoneMatch": etag} if etag else {}
        try:
            answer = await self._call("get_object", key, **condition)
        except Exception as exc:  # of s3fs, or of botocore if the status is no error
            if _status(exc) == NOT_MODIFIED:
                return Found(etag, None)
            if _code(exc) == "NoSuchKey":  # and not whatever else is not found somewhere
                return None
            raise
        async with answer["Body"] as body:
            content = bytearray()
            while block := await body.read(BLOCK):
                content += block
                if len(content) > LARGEST_TEXT:
                    raise ManifestMismatch(f"'{self.address}/{key}' must have at most {LARGEST_TEXT >> 20} MB")
        return Found(self._etag(key, answer), bytes(content))

    async def _put(self, key: str, content: bytes, etag: str) -> str:
        condition = {"IfMatch": etag} if etag else {"IfNoneMatch": "*"}
        return self._etag(key, await self._call("put_object", key, Body=content, **condition))

    def _etag(self, key: str, answer: dict[str, Any]) -> str:
        if "ETag" not in answer:
            raise StoreRefused(f"'{self.address}/{key}' cannot be used: {NO_STORE}")
        return str(answer["ETag"])

    async def _upload(self, file: FileObject) -> None:
        part = max(PART, file.size // MOST_PARTS + 1)
        place = f"{self._bucket}/{self._prefix}{file.key}"
        await self._fs._put_file(str(file.path), place, chunksize=part, max_concurrency=AT_ONCE)

    async def _check(self, file: FileObject) -> None:
        await self._receive(file, lambda block: None)

    async def _download(self, file: FileObject) -> None:
        try:
            with _local_errors():
                stream = file.path.open("wb", buffering=0)  # else a full disk is only told when it is closed
            with stream:

                def write(block: bytes) -> None:
                    with _local_errors():
                        while block:
                            block = block[stream.write(block) :]

                await self._receive(file, write)
                with _local_errors():
                    os.fsync(stream.fileno())
        except ManifestMismatch:
            file.path.unlink(missing_ok=True)
            raise
        except _LocalError as exc:
            raise StoreError(f"'{file.path}' must be writable, got {exc}") from exc

    async def _receive(self, file: FileObject, write: Callable[[bytes], object]) -> None:
        """Read an object to its end, or until it is longer than it should be, and compare it."""
        try:
            answer = await self._call("get_object", file.key)
        except Exception as exc:
            if _code(exc) == "NoSuchKey":
                raise ManifestMismatch(f"'{self.address}/{file.key}' is missing") from exc
            raise
        sha, size = hashlib.sha256(), 0
        async with answer["Body"] as body:
            while block := await body.read(BLOCK):
                sha.update(block)
                size += len(block)
                if size > file.size:
                    break
                write(block)
        if (size, sha.hexdigest()) != (file.size, file.sha256):
            raise ManifestMismatch(
                f"'{self.address}/{file.key}' must have {file.size:,} bytes with SHA-256 {file.sha256[:12]}, got "
                f"{'more' if size > file.size else f'{size:,}'} with {sha.hexdigest()[:12]}"
            )

    async def _pages(self, prefix: str, **arguments: Any) -> list[Any]:
        pages: list[Any] = []
        after: dict[str, str] = {}
        while True:
            page = await self._fs._call_s3(
                "list_objects_v2", Bucket=self._bucket, Prefix=self._prefix + prefix, **arguments, **after
            )
            if "IsTruncated" not in page:
                raise StoreRefused(f"'{self.address}/{prefix}' cannot be used: {NO_STORE}")
            pages.append(page)
            if not page["IsTruncated"]:
                return pages
            after = {"ContinuationToken": page["NextContinuationToken"]}

    def _run_all(self, files: Sequence[FileObject], work: Callable[[FileObject], Awaitable[None]]) -> None:
        async def all_of_them() -> None:
            room = asyncio.Semaphore(AT_ONCE)

            async def one(file: FileObject) -> None:
                async with room:
                    for tries_left in reversed(range(TRIES)):
                        try:
                            await work(file)
                            return
                        except Exception as exc:
                            if not tries_left or not isinstance(_ours(exc, file.key), StoreUnreachable):
                                raise

            async with asyncio.TaskGroup() as group:  # which ends the others at the first error
                for file in files:
                    group.create_task(one(file))

        self._run(files[0].key if files else "", all_of_them)

    def _run(self, key: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do work on the thread of fsspec, and return its result with our errors."""
        future = asyncio.run_coroutine_threadsafe(work(), self._fs.loop)
        try:
            return future.result()
        except Exception as exc:
            raise _ours(exc, f"'{self.address}/{key}'") from exc
        finally:
            future.cancel()  # after an interrupt, else the request would go on without its caller


class _LocalError(Exception):
    """A file on this machine could not be written."""


@contextlib.contextmanager
def _local_errors() -> Iterator[None]:
    """Tell errors of files on this machine from those of s3fs, which may be an OSError as well."""
    try:
        yield
    except OSError as exc:
        raise _LocalError(exc.strerror or str(exc)) from exc


def _ours(exc: BaseException, what: str) -> BaseException:
    """Return our error for one of s3fs, botocore or aiohttp, which share no class."""
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    if isinstance(exc, PipelineError | ConfigError):
        return exc
    status, code = _status(exc), _code(exc)
    said = _response(exc).get("Error", {}).get("Message") or ""
    words = one_line(redact(f"{code}: {said or f'status {status}'}" if code else f"{type(exc).__name__}: {exc}"), 300)
    if status in FAILED:
        return StoreConflict(f"{what} {OVERTAKEN}")
    kinds = {kind.__name__ for kind in type(exc).__mro__}
    refused = REFUSED.get(code, "")
    if not refused and ((status == NOT_FOUND and code in ("", "404")) or "ResponseParserError" in kinds):
        refused = NO_STORE
    if not refused and (status == NOT_IMPLEMENTED or (400 <= status < 500 and status not in AGAIN)):
        refused = f"it got {words}"
    if kinds & {"NoCredentialsError", "PartialCredentialsError"}:
        refused = (
            "there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the "
            "machine a role"
        )
    if kinds & {"ProfileNotFound", "ConfigParseError", "ValueError"}:  # the latter is of an address or a region
        refused = f"the settings of AWS are wrong, such as AWS_ENDPOINT_URL or AWS_PROFILE: {words}"
    if refused:
        return StoreRefused(f"{what} cannot be used: {refused}")
    return StoreUnreachable(
        f"the object store must answer about {what}, got {words}; check AWS_ENDPOINT_URL and the connection"
    )


def _response(exc: BaseException) -> dict[str, Any]:
    for error in (exc, exc.__cause__):
        found = getattr(error, "response", None)
        if isinstance(found, dict):
            return found
    return {}


def _status(exc: BaseException) -> int:
    return int(_response(exc).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(exc: BaseException) -> str:
    return str(_response(exc).get("Error", {}).get("Code", ""))


def _file_system() -> Any:
    try:
        import s3fs
    except ImportError as exc:
        raise ConfigError(
            "an address of s3:// needs the extra 's3', which is not installed; run: pip install "
            f"'keras-rehearsal[{EXTRA}]'"
        ) from exc
    settings: dict[str, Any] = {"connect_timeout": CONNECT_S, "read_timeout": READ_S}
    if not {"AWS_MAX_ATTEMPTS", "AWS_RETRY_MODE"} & os.environ.keys():
        settings["retries"] = {"mode": "standard", "max_attempts": TRIES}
    try:
        found = s3fs.S3FileSystem(config_kwargs=settings, skip_instance_cache=True, use_listings_cache=False)
    except Exception as exc:
        raise ConfigError(f"the settings of AWS must be usable, got {one_line(redact(str(exc)), 300)}") from exc
    found.retries = 1  # botocore has tried again already
    return found
