"""Explains why a model server ended: turns its exit status and its log into one of our errors."""

from __future__ import annotations

import platform
import re

from tasks.errors import MemoryExceeded, ModelLoadError, PredictionError, ServerCrashed, ServingError

LOG_TAIL_LINES = 60
CRASH_REMEDY = (
    "In production, one such request ends the server for all its models and clients: make the model refuse inputs that "
    "its kernels cannot handle, with tf.ensure_shape or an assertion such as tf.debugging.assert_less"
)
MAX_WORDS = 400  # characters of the server's own words in a message

# TensorFlow Serving's line when no version became available; it then exits with 255.
# Source: tensorflow_serving/model_servers/main.cc and server.cc.
_REFUSAL = re.compile(r"Failed to start server\. Error: (.*)")
# A log line's severity, time, thread and place: `2026-11-22 11:23:45.678901: E a/b.cc:12] ` and
# `E0000 00:00:1795346658.257957       1 cuda_platform.cc:52] `.
_PREFIX = re.compile(r"^(?:[\d-]+ [\d:.]+: [IWEF] |[IWEF]\d{4} [\d:.]+\s+\d+ )\S+\] ")
# What a process prints before it aborts: a line of severity F, a failed check, an uncaught exception.
_FATAL = re.compile(r"^(?:[\d-]+ [\d:.]+: F |F\d{4} )|Check failed|^\s*what\(\): ")
# What a shell prints if a signal ended its child: `entrypoint.sh: line 3:     8 Aborted   (core dumped) ...`.
_SHELL = re.compile(r"^\S+: line \d+:\s+\d+ |^(?:Aborted|Segmentation fault|Killed)\b")
_NO_THREAD = re.compile(r"pthread_create|Resource temporarily unavailable|can't start new thread")
_NO_ROOM = re.compile(r"bad_alloc|Cannot allocate memory|[Oo]ut of memory|No space left on device|Too many open files")
_FULL = ("No space left on device", "Too many open files")
KILLED = 137  # SIGKILL, which comes from outside the process
_CRASHED = {134, 136, 139}  # signals that a process causes itself: SIGABRT, SIGFPE, SIGSEGV
_XLA = re.compile(r"XLA", re.IGNORECASE)


def explain_exit(code: int, log: str, model_name: str, *, oom_limit_mb: int = 0) -> ServingError:
    """Return the error that says why the server ended; its `detail` is the end of the log.

    Args:
        code: exit status; 128 + n for signal n.
        log: everything that it printed.
        model_name: for the message.
        oom_limit_mb: the memory limit in MiB if the server was killed for exceeding it, else 0.
    """
    tail, words = "\n".join(log.splitlines()[-LOG_TAIL_LINES:]), server_words(log)
    if oom_limit_mb:
        return MemoryExceeded(
            f"The server of {model_name!r} ran out of memory and was killed at its limit of {oom_limit_mb} MiB. "
            "Raise serving.memory_mb.",
            tail,
        )
    if limited := _limited(code, log, words, model_name):
        return ServingError(limited, tail)
    if code == 255 or _REFUSAL.search(log):
        return ModelLoadError(
            f"A candidate must load in the server, but the server refused {model_name!r} (exit status {code}): "
            f"{words}. {remedy(words) or 'Export it again'}, or read the server log below.",
            tail,
        )
    if code == KILLED:  # the log has no reason: a process that gets SIGKILL cannot write one
        return ServingError(
            f"The server of {model_name!r} was killed by SIGKILL (exit status {code}) before the rehearsal ended. The "
            "kernel does that if memory runs out: raise serving.memory_mb, free memory on the server's machine, or "
            "find out who stopped the server.",
            tail,
        )
    kind = ServerCrashed if code in _CRASHED and not _NO_ROOM.search(words) else ServingError
    return kind(
        f"The server of {model_name!r} ended with exit status {code} before the rehearsal ended: "
        f"{words}. Read the server log below.",
        tail,
    )


def _limited(code: int, log: str, words: str, model_name: str) -> str:
    """Return which other limit of the configuration or the machine ended a server, and what to do, or nothing."""
    if code == 132 or "exec format error" in log.lower():
        return (
            f"The image of the server does not run on this processor ({platform.machine()}, exit status {code}). "
            "Build one here (docker build --target serving) and set serving.image to it, or set serving.backend: "
            "embedded."
        )
    if _NO_THREAD.search(words):
        return (
            f"The server of {model_name!r} could not start another thread and ended with exit status {code}: {words}. "
            "Raise serving.pids_limit."
        )
    return ""


def ended_by_requests(error: ServingError) -> ServingError:
    """Return the error of a server that ended after it had started; if it crashed, a request was the cause."""
    if not isinstance(error, ServerCrashed):
        return error
    return PredictionError(f"{error} It had loaded the model. {CRASH_REMEDY}.", error.detail)


def has_no_room(words: str) -> bool:
    """Return whether a server says that the machine has no space on a disk or no file descriptors."""
    return any(full in words for full in _FULL)


def remedy(words: str) -> str:
    """Return what to do about a model that a server refused with this message, or an empty text if it is unknown."""
    if _XLA.search(words):
        return "TensorFlow Serving does not compile with XLA: build the model with jit_compile=False"
    return ""


def server_words(log: str) -> str:
    """Return the reason that the server printed, without log prefixes.

    This is the refusal if there is one, else the last fatal line, else the last line that a shell did not print.
    """
    refusals: list[str] = _REFUSAL.findall(log)
    lines = [line for line in log.splitlines() if line.strip()]
    fatal = [line for line in lines if _FATAL.search(line)]
    own = [line for line in lines if not _SHELL.search(line)]
    words = refusals[-1] if refusals else _PREFIX.sub("", [*lines, *own, *fatal][-1]) if lines else "it printed nothing"
    words = " ".join(words.split()).rstrip(".")
    return words if len(words) <= MAX_WORDS else words[: MAX_WORDS - 3] + "..."
