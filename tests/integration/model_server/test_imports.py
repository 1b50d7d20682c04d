"""The embedded server stands on TensorFlow's libraries alone."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
CODE = """
import sys
from pathlib import Path
from tasks.model_server import __main__ as server
from tasks.model_server import manager, ports, warmup
from tasks.model_server.tensor_protos import to_proto
from tasks.model_server.tensors import DT_STRING, Tensor
warmup.load_warm(Path(sys.argv[1]))
to_proto(Tensor(DT_STRING, (), [b"a"]))
heavy = {"prefect", "mlflow", "pydantic", "docker", "keras", "sklearn", "pandas", "scipy", "requests"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
assert not hasattr(sys.modules["tensorflow"], "__version__")
"""


def test_server_imports_no_heavy_package(recorded_models: Path) -> None:
    """A process that loads a model and serves it never imports tensorflow's own code or the pipeline's."""
    model = recorded_models / "half" / "1"
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(model)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_tensorflow_keeps_its_symbols_to_itself() -> None:
    """What links to OpenSSL still works when it is imported after TensorFlow's libraries were loaded."""
    code = "from tasks.model_server import tf_library; tf_library.library(); import hashlib, ssl; hashlib.sha256(b'')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
