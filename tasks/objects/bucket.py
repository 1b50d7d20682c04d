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

from configs.object_stores import bucket_and_prefix
from configs.redaction import remember
from tasks.errors import ManifestMismatch, StoreConflict, StoreError, StoreRefused, StoreUnreachable
from tasks.objects.client import TRIES, file_system
from tasks.objects.failures import NO_STORE, OVERTAKEN, code_of, ours, status_of

T = TypeVar("T")
AT_ONCE = 4  # files
BLOCK = 1 << 20  # bytes
PART, MOST_PARTS = 8 << 20, 9_000  # bytes of a part of a large upload, of which S3 takes 10,000
LARGEST_TEXT = 64 << 20  # bytes of an object that is read as a whole
SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
NOT_MODIFIED = 304
NO_CONDITIONS = (
    "the store ignores the conditions of a write (If-Match, If-None-Match), so that two promotions at once could "
    "overwrite each other; use a store that keeps them, such as Amazon S3, MinIO or SeaweedFS"
)
NOT_THERE = (
    "the store must list and give back what was just written, but it does not; use one that is consistent, such as "
    "Amazon S3, MinIO or SeaweedFS"
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
        self._fs = file_system()
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
        """Prove, once in a process, that the store refuses a write whose condition does not hold, and may be listed.

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
            back = self.read(key)  # and else it is found after a training that something is not permitted
            if back is None or back.content != b"third" or [found.key for found in self.objects(key)] != [key]:
                raise StoreRefused(f"'{self.address}': {NOT_THERE}")
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
            if status_of(exc) == NOT_MODIFIED:
                return Found(etag, None)
            if code_of(exc) == "NoSuchKey":  # and not whatever else is not found somewhere
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
            if code_of(exc) == "NoSuchKey":
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
                            if not tries_left or not isinstance(ours(exc, file.key), StoreUnreachable):
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
            raise ours(exc, f"'{self.address}/{key}'") from exc
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
