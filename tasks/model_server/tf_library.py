"""The part of TensorFlow's C API that a server needs, declared for ctypes.

The two shared libraries inside the tensorflow package export the stable C API; loading them costs a
quarter of a second where `import tensorflow` costs eight.

Source: tensorflow/c/c_api.h, tf_tensor.h, tf_tstring.h, tf_status.h, tf_buffer.h.
"""

import ctypes
import os
import platform
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_void_p
from functools import cache
from types import SimpleNamespace
from typing import Any

from tasks.model_server.status import Code, StatusError
from tasks.model_server.tf_protos import tensorflow_dir

TSTRING_SIZE = 24
"""sizeof(TF_TString)."""


class Output(ctypes.Structure):
    """TF_Output: one output of one operation of a graph."""

    _fields_ = (("oper", c_void_p), ("index", c_int))


class Buffer(ctypes.Structure):
    """TF_Buffer: bytes that TensorFlow or the caller owns."""

    _fields_ = (("data", c_void_p), ("length", c_size_t), ("data_deallocator", c_void_p))


_SIGNATURES: dict[str, tuple[object, tuple[object, ...]]] = {
    "TF_NewStatus": (c_void_p, ()),
    "TF_DeleteStatus": (None, (c_void_p,)),
    "TF_GetCode": (c_int, (c_void_p,)),
    "TF_Message": (c_char_p, (c_void_p,)),
    "TF_NewBuffer": (POINTER(Buffer), ()),
    "TF_DeleteBuffer": (None, (POINTER(Buffer),)),
    "TF_NewGraph": (c_void_p, ()),
    "TF_DeleteGraph": (None, (c_void_p,)),
    "TF_GraphOperationByName": (c_void_p, (c_void_p, c_char_p)),
    "TF_NewSessionOptions": (c_void_p, ()),
    "TF_DeleteSessionOptions": (None, (c_void_p,)),
    "TF_LoadSessionFromSavedModel": (
        c_void_p,
        (c_void_p, POINTER(Buffer), c_char_p, POINTER(c_char_p), c_int, c_void_p, POINTER(Buffer), c_void_p),
    ),
    "TF_DeleteSession": (None, (c_void_p, c_void_p)),
    "TF_SessionRun": (
        None,
        (
            c_void_p, POINTER(Buffer), POINTER(Output), POINTER(c_void_p), c_int, POINTER(Output),
            POINTER(c_void_p), c_int, c_void_p, c_int, c_void_p, c_void_p,
        ),
    ),
    "TF_AllocateTensor": (c_void_p, (c_int, POINTER(c_int64), c_int, c_size_t)),
    "TF_DeleteTensor": (None, (c_void_p,)),
    "TF_TensorType": (c_int, (c_void_p,)),
    "TF_NumDims": (c_int, (c_void_p,)),
    "TF_Dim": (c_int64, (c_void_p, c_int)),
    "TF_TensorByteSize": (c_size_t, (c_void_p,)),
    "TF_TensorData": (c_void_p, (c_void_p,)),
    "TF_StringInit": (None, (c_void_p,)),
    "TF_StringCopy": (None, (c_void_p, c_char_p, c_size_t)),
    "TF_StringDealloc": (None, (c_void_p,)),
    "TF_StringGetDataPointer": (c_void_p, (c_void_p,)),
    "TF_StringGetSize": (c_size_t, (c_void_p,)),
}  # fmt: skip

_LONG_CALLS = frozenset(("TF_LoadSessionFromSavedModel", "TF_SessionRun", "TF_DeleteSession"))
"""Calls that release Python's lock for other threads; for all other calls, releasing it costs more."""


@cache
def library() -> Any:
    """Load TensorFlow's libraries, once, and return the functions above.

    Raises:
        OSError: the libraries do not load on this machine.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # errors are returned as a status
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")  # a server for the CPU, like TensorFlow Serving's image
    directory = tensorflow_dir()
    # Not RTLD_GLOBAL: among what they would export to the whole process is a BoringSSL, with which a later
    # `import hashlib` crashes.
    ctypes.CDLL(str(directory / "libtensorflow_framework.so.2"))
    loaded = ctypes.CDLL(str(directory / "libtensorflow_cc.so.2"))
    # As TensorFlow Serving does unless --xla_cpu_compilation_enabled: a jit_compile model loads there and fails at
    # its first request, which is what a rehearsal is for. Source: tensorflow_serving/model_servers/main.cc.
    loaded._ZN10tensorflow21DisableXlaCompilationEv()
    keeps_lock = ctypes.PyDLL(loaded._name, handle=loaded._handle)
    functions = SimpleNamespace()
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(loaded if name in _LONG_CALLS else keeps_lock, name)
        function.restype = result
        function.argtypes = arguments
        setattr(functions, name, function)
    return functions


def flush_subnormals_in_this_thread() -> None:
    """Make this thread treat subnormal numbers as zero, as TensorFlow's own threads do.

    A graph that is run in the calling thread would otherwise give other bits than one run in the pool.
    Source: glibc bits/fenv.h (MXCSR is the last word on x86-64, FPCR the first on AArch64).
    """
    position, bits = {"x86_64": (7, 0x8040), "aarch64": (0, 1 << 24)}[platform.machine()]
    libm = ctypes.CDLL("libm.so.6")
    environment = (c_uint32 * 8)()
    libm.fegetenv(environment)
    environment[position] |= bits
    libm.fesetenv(environment)


class Status:
    """A TF_Status; `check` raises its error."""

    def __init__(self) -> None:
        self.handle = library().TF_NewStatus()

    def __del__(self) -> None:
        library().TF_DeleteStatus(self.handle)

    def check(self) -> None:
        """Raise the status as an error unless it is OK.

        Raises:
            StatusError: with TensorFlow's code and message.
        """
        code = library().TF_GetCode(self.handle)
        if code:
            message = library().TF_Message(self.handle).decode("utf-8", "surrogateescape")
            raise StatusError(Code(code) if code in set(Code) else Code.UNKNOWN, message)
