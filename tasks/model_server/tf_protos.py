"""TensorFlow's protocol buffers without TensorFlow.

`import tensorflow` costs about 8 s. The generated message modules inside the package need none of it,
so in a process that never wants the real package an empty stand-in with only its `__path__` lets
`tensorflow.core.*_pb2` and `tensorflow_serving.*` import in about a tenth of a second.
"""

import importlib
import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any


def tensorflow_dir() -> Path:
    """Return the directory of the installed tensorflow package, without importing it.

    Raises:
        ModuleNotFoundError: tensorflow is not installed.
    """
    loaded = sys.modules.get("tensorflow")
    if loaded is not None:
        return Path(next(iter(loaded.__path__)))
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("tensorflow is not installed: the model server needs its libraries")
    return Path(next(iter(spec.submodule_search_locations)))


def proto(module: str) -> Any:
    """Import a generated module of tensorflow or tensorflow_serving, such as `tensorflow.core...._pb2`.

    Unless the real package is loaded already, an empty one takes its place in this process for good.
    """
    if "tensorflow" not in sys.modules:
        stand_in = ModuleType("tensorflow")
        stand_in.__path__ = [str(tensorflow_dir())]
        sys.modules["tensorflow"] = stand_in
    return importlib.import_module(module)


@cache
def message_module(module: str) -> Any:
    """Import a generated module, and leave no stand-in behind: this process may want the real TensorFlow later."""
    borrowed = "tensorflow" not in sys.modules
    try:
        return proto(module)
    finally:
        if borrowed:
            sys.modules.pop("tensorflow", None)
