"""Makes equal models equal files: what TensorFlow numbers, orders or draws by chance is settled here.

Source, in TensorFlow 2.21: names of functions and tables end with a count of what the process has made before
(`uid` in python/framework/ops.py); python/framework/func_graph.py collects the variables of a function in an identity
set, whose order is that of their addresses; fingerprint.pb has a random `uuid`.

In Keras 3.15: layers without a name are counted (src/utils/naming.py), and those in a layer of the user's are made and
named again whenever a file is read; so are generators of random numbers, which draw a seed (src/random/
seed_generator.py), and which a recurrent layer with dropout uses in inference, too.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

FINGERPRINT = "fingerprint.pb"
FIRST_COUNT = 1_000_000
"""More than any run makes before its export: a training of a hundred layers makes some ten thousand."""


def start_anew(seed: int) -> None:
    """Let counts and random numbers start as for the first export of any process; call it before a file is read.

    TensorFlow's count can only go up, so it goes on at a multiple of `FIRST_COUNT`, which takes about 0.2 s.
    `settle` gives a later export of a process the names that it would have as the first one.
    """
    import keras
    from keras.src.utils.naming import reset_uids

    _count_up()
    reset_uids()
    keras.utils.set_random_seed(seed)


def _count_up() -> None:
    import tensorflow as tf
    from tensorflow.python.framework import ops

    tf.compat.v1.get_default_graph()  # is made when it is first wanted, and counts
    count = 0
    while count == 0 or count % FIRST_COUNT:
        count = ops.uid()


def used_variables(*concrete_functions: Any) -> list[Any]:
    """Return the tf.Variables that concrete functions use, each once, in the order in which the traces met them."""
    found: dict[int, Any] = {}
    for concrete in concrete_functions:
        place = {id(handle): number for number, handle in enumerate(concrete.captured_inputs)}
        for variable in sorted(concrete.variables, key=lambda variable: place[id(variable.handle)]):
            found.setdefault(id(variable), variable)
    return [*found.values()]


def settle(directory: Path) -> None:
    """Make the files of a SavedModel that this process has just written those that any other process writes."""
    _settle_names(directory)
    _settle_fingerprint(directory)


def _settle_names(directory: Path) -> None:
    """Number functions and tables as in the first export of a process, and sort the functions by their names.

    A number is changed wherever a name has it, so that what refers to a name still does; contents of tensors, such as
    a vocabulary, have no names and stay. TensorFlow writes functions in the order of hashes of their names. Its
    fingerprint is taken again, of the new bytes.
    """
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
    from tensorflow.python.framework import ops
    from tensorflow.python.saved_model.fingerprinting_utils import write_fingerprint

    last = ops.uid()
    offset = last // FIRST_COUNT * FIRST_COUNT - FIRST_COUNT

    def settled(name: str) -> str:
        return re.sub(r"\d{7,}", lambda found: _less(found.group(), offset, last), name)

    file = directory / "saved_model.pb"
    model = SavedModel.FromString(file.read_bytes())
    if offset > 0:
        _rename(model, settled)
    for graph in model.meta_graphs:
        graph.graph_def.library.function.sort(key=lambda function: function.signature.name)
    file.write_bytes(model.SerializeToString(deterministic=True))
    write_fingerprint(str(directory))


def _less(number: str, offset: int, last: int) -> str:
    """Return a count of this export as that of a first one, and any other number as it is."""
    return str(int(number) - offset) if offset + FIRST_COUNT <= int(number) <= last else number


def _rename(message: Any, settled: Callable[[str], str]) -> None:
    """Change every text in a protocol buffer message, except for the contents of tensors."""
    for field, value in message.ListFields():
        inner = field.message_type
        if inner is not None and inner.full_name == "tensorflow.TensorProto":
            continue
        if isinstance(value, Mapping):
            _rename_map(value, settled)
        elif inner is not None:
            for one in value if isinstance(value, Sequence) else (value,):
                _rename(one, settled)
        elif isinstance(value, str | bytes):
            setattr(message, field.name, _renamed(value, settled))
        elif field.cpp_type == field.CPPTYPE_STRING:
            value[:] = [_renamed(text, settled) for text in value]


def _rename_map(values: Any, settled: Callable[[str], str]) -> None:
    for key in list(values):
        name, value = _renamed(key, settled), values[key]
        if not isinstance(value, Message):
            del values[key]
            values[name] = _renamed(value, settled)
            continue
        _rename(value, settled)
        if name != key:
            values[name].CopyFrom(value)
            del values[key]


def _renamed(text: Any, settled: Callable[[str], str]) -> Any:
    """Return a text, as str or UTF-8, with the names of a first export; other bytes and numbers stay."""
    if isinstance(text, bytes):
        return settled(text.decode("latin-1")).encode("latin-1")
    return settled(text) if isinstance(text, str) else text


def _settle_fingerprint(directory: Path) -> None:
    """Derive the `uuid` of a SavedModel's fingerprint from its other fields, which are hashes of the files."""
    from tensorflow.core.protobuf.fingerprint_pb2 import FingerprintDef

    file = directory / FINGERPRINT
    fingerprint = FingerprintDef.FromString(file.read_bytes())
    fingerprint.ClearField("uuid")
    digest = hashlib.sha256(fingerprint.SerializeToString(deterministic=True)).digest()
    fingerprint.uuid = str(int.from_bytes(digest[:16], "big"))  # as TensorFlow writes its random 128 bits
    file.write_bytes(fingerprint.SerializeToString(deterministic=True))
