"""Addresses of object stores, such as `s3://BUCKET/PREFIX`."""

from __future__ import annotations

import hashlib
import re

# Source: "General purpose buckets naming rules" of Amazon S3.
_ADDRESS = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?P<prefix>(?:/[A-Za-z0-9_.=+-]+)*)/*")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/")
LONGEST = 500  # characters; S3 allows keys of 1,024 bytes, and a version's files have long names


def is_address(text: str) -> bool:
    """Return whether a text is meant as the address of an object store and not as a path."""
    return bool(_SCHEME.match(text))


def store_address(text: str) -> str:
    """Return the address without slashes at its end.

    Raises:
        ValueError: it is not an address that can be used.
    """
    found = _ADDRESS.fullmatch(text)
    parts = found["prefix"].split("/") if found else ()
    if found is None or len(text) > LONGEST or {".", ".."} & {*parts}:
        raise ValueError(
            "must be a directory, or s3://BUCKET/PREFIX with letters, digits, '_', '.', '=', '+' and '-' in the "
            f"prefix, without '..', and of at most {LONGEST} characters; credentials and the endpoint belong in the "
            "environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL)"
        )
    return text.rstrip("/")


def bucket_and_prefix(address: str) -> tuple[str, str]:
    """Return the bucket of an address, and its prefix, which ends with a slash or is empty."""
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    return bucket, f"{prefix}/" if prefix else ""


def directory_name(address: str) -> str:
    """Return a name for a directory that no other address has."""
    short = re.sub(r"[^A-Za-z0-9]+", "-", address.removeprefix("s3://"))[:60]
    return f"{short}-{hashlib.sha256(address.encode()).hexdigest()[:12]}"
