"""Makes equal models equal files: what TensorFlow numbers, orders or draws by chance is settled here.

Source, in TensorFlow 2.21: names of functions and tables end with a count of what the process has made before
(`uid` in python/framework/ops.py); python/framework/func_graph.py collects the variables of a function in an identity
set, whose order is that of their addresses; fingerprint.pb has a random `uuid`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

FINGERPRINT = "fingerprint.pb"
FIRST_COUNT = 1_000_000
"""More than any run makes before its export: a training of a hundred layers makes some ten thousand."""


def count_anew() -> None:
    """Let TensorFlow's count go on at a multiple of `FIRST_COUNT`, whatever this process has made before.

    It can only be counted up, which takes about 0.2 s.
    """
    import tensorflow as tf
    from tensorflow.python.framework import ops

    tf.compat.v1.get_default_graph()  # is made when it is first wanted, and counts
    count = 0
    while count == 0 or count % FIRST_COUNT:
        count = ops.uid()


def used_variables(concrete: Any) -> list[Any]:
    """Return the tf.Variables of a concrete function in the order in which its trace met them."""
    place = {id(handle): number for number, handle in enumerate(concrete.captured_inputs)}
    return sorted(concrete.variables, key=lambda variable: place[id(variable.handle)])


def settle_fingerprint(directory: Path) -> None:
    """Derive the `uuid` of a SavedModel's fingerprint from its other fields, which are hashes of the files."""
    from tensorflow.core.protobuf.fingerprint_pb2 import FingerprintDef

    file = directory / FINGERPRINT
    fingerprint = FingerprintDef.FromString(file.read_bytes())
    fingerprint.ClearField("uuid")
    digest = hashlib.sha256(fingerprint.SerializeToString(deterministic=True)).digest()
    fingerprint.uuid = str(int.from_bytes(digest[:16], "big"))  # as TensorFlow writes its random 128 bits
    file.write_bytes(fingerprint.SerializeToString(deterministic=True))
