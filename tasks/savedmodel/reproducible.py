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
COUNT = re.compile(r"\d{7,}")
COUNT_AT_THE_END = re.compile(r"\d{7,}$")
COUNT_OF_AN_INITIALIZER = re.compile(r"(?<=^key_value_init)\d{7,}|(?<=^\^key_value_init)\d{7,}")  # ^: a control input
COUNTED_ATTRIBUTES = {  # of nodes
    "shared_name": COUNT_AT_THE_END,
    "_gradient_op_type": COUNT_AT_THE_END,
    "_user_specified_name": re.compile(r"^\d{7,}$"),
}


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

    Only names that TensorFlow has made are changed, wherever they stand, so that what refers to one still does: names
    of functions, of tables and of their initializers. TensorFlow writes functions in the order of hashes of their
    names. Its fingerprint is taken again, of the new bytes.
    """
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
    from tensorflow.python.framework import ops
    from tensorflow.python.saved_model.fingerprinting_utils import write_fingerprint

    last = ops.uid()
    offset = last // FIRST_COUNT * FIRST_COUNT - FIRST_COUNT

    def first(found: re.Match[str]) -> str:
        """Return a count of this export as that of a first one, and any other number as it is."""
        count = int(found.group())
        return str(count - offset) if offset + FIRST_COUNT <= count <= last else found.group()

    file = directory / "saved_model.pb"
    model = SavedModel.FromString(file.read_bytes())
    if offset > 0:
        functions = [one.signature.name for graph in model.meta_graphs for one in graph.graph_def.library.function]
        by_count = {found.group(): name for name in functions if (found := COUNT_AT_THE_END.search(name))}

        def renamed(text: str) -> str:
            def of_a_function(found: re.Match[str]) -> str:
                name = by_count.get(found.group())
                return first(found) if name is not None and text.endswith(name, 0, found.end()) else found.group()

            return COUNT_OF_AN_INITIALIZER.sub(first, COUNT.sub(of_a_function, text))

        _rename(model, renamed, first)
    for graph in model.meta_graphs:
        graph.graph_def.library.function.sort(key=lambda function: function.signature.name)
    file.write_bytes(model.SerializeToString(deterministic=True))
    write_fingerprint(str(directory))


def _rename(message: Any, renamed: Callable[[str], str], first: Callable[[re.Match[str]], str]) -> None:
    """Change the names that TensorFlow has made in a protocol buffer message.

    Args:
        renamed: gives a text with the new names. first: gives the new count for a matched one.
    """
    for field, value in message.ListFields():
        if isinstance(value, Mapping):
            _rename_map(value, renamed, first)
        elif field.message_type is not None:
            for one in value if isinstance(value, Sequence) else (value,):
                _rename(one, renamed, first)
        elif isinstance(value, str):
            setattr(message, field.name, renamed(value))
        elif field.type == field.TYPE_STRING:
            value[:] = [renamed(text) for text in value]


def _rename_map(values: Any, renamed: Callable[[str], str], first: Callable[[re.Match[str]], str]) -> None:
    for key, value in list(values.items()):
        name = renamed(key) if isinstance(key, str) else key
        if not isinstance(value, Message):
            del values[key]
            values[name] = renamed(value) if isinstance(value, str) else value
            continue
        _rename(value, renamed, first)
        if counted := COUNTED_ATTRIBUTES.get(key):
            value.s = counted.sub(first, value.s.decode("latin-1")).encode("latin-1")
        if name != key:
            values[name].CopyFrom(value)
            del values[key]


def _settle_fingerprint(directory: Path) -> None:
    """Derive the `uuid` of a SavedModel's fingerprint from its other fields, which are hashes of the files."""
    from tensorflow.core.protobuf.fingerprint_pb2 import FingerprintDef

    file = directory / FINGERPRINT
    fingerprint = FingerprintDef.FromString(file.read_bytes())
    fingerprint.ClearField("uuid")
    digest = hashlib.sha256(fingerprint.SerializeToString(deterministic=True)).digest()
    fingerprint.uuid = str(int.from_bytes(digest[:16], "big"))  # as TensorFlow writes its random 128 bits
    file.write_bytes(fingerprint.SerializeToString(deterministic=True))
