"""Which arm of an experiment a key belongs to; the client that is written and the report about outcomes agree with it.

The number of a key is the first 8 bytes of SHA-256 over `EXPERIMENT/KEY` in UTF-8, as a big-endian integer without a
sign. Its remainder modulo 10,000 is the bucket. The arms share the buckets in the order of their labels. The name of
the experiment is the salt, so that two experiments divide the same keys independently of each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from tasks.records import Arm

BUCKETS = 10_000
LABELS = "abcdefghij"  # at most ten arms
NUMBER_BYTES = 8


def numbering(experiment: str) -> Callable[[str], int]:
    """Return the function that gives the number of a key, in 0 to 2**64 - 1.

    Two keys have the same number with a probability of 2**-64, so that it also stands for the key.
    """
    salted = hashlib.sha256(f"{experiment}/".encode())

    def number(key: str) -> int:
        found = salted.copy()
        found.update(key.encode())
        return int.from_bytes(found.digest()[:NUMBER_BYTES], "big")

    return number


def bucket(experiment: str, key: str) -> int:
    """Return the bucket of a key, in 0 to 9,999."""
    return numbering(experiment)(key) % BUCKETS


def ends(shares: Sequence[int]) -> list[int]:
    """Return for each arm the first bucket after its own.

    Args:
        shares: in percent; their sum is 100.
    """
    return [sum(shares[: index + 1]) * BUCKETS // 100 for index in range(len(shares))]


def arm_of(experiment: str, arms: Sequence[Arm], key: str) -> Arm:
    """Return the arm that a key belongs to."""
    found, last = bucket(experiment, key), ends([arm.share for arm in arms])
    return next(arm for arm, end in zip(arms, last, strict=True) if found < end)
