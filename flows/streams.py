"""Wraps standard output and error: they hide secrets, and a closed pipe does not stop a command."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from configs.redaction import redact


@contextlib.contextmanager
def our_streams() -> Iterator[None]:
    """Hide secrets in everything that is written to standard output or error.

    A reader that goes away (`| head`), a full disk or a closed descriptor ends the output only. It changes neither
    what a command does to production nor its exit code.
    """
    with contextlib.ExitStack() as stack:
        for name in ("stdout", "stderr"):
            below = getattr(sys, name)
            if below is None:  # Python sets None if the descriptor was closed at the start
                below = stack.enter_context(Path(os.devnull).open("w"))
            stream = _Stream(below, name)
            redirect = contextlib.redirect_stdout if name == "stdout" else contextlib.redirect_stderr
            stack.enter_context(redirect(stream))
            stack.callback(stream.flush)  # before Python's own flush at exit, which would print an error
        yield


class _Stream(io.TextIOBase):
    """A stream that hides secrets, and drops output that cannot be written."""

    def __init__(self, stream: TextIO, name: str) -> None:
        super().__init__()
        self._stream = stream
        self._name = name

    def write(self, text: str) -> int:
        """Write a text without its secrets, and in escapes what the stream's encoding does not have."""
        shown = redact(text)
        try:
            return self._stream.write(shown)
        except UnicodeEncodeError:
            encoding = self._stream.encoding
            return self._stream.write(shown.encode(encoding, "backslashreplace").decode(encoding))
        except OSError as exc:
            self._give_up(exc)
            return len(text)

    def flush(self) -> None:
        """Write the buffered text; a stream below that was closed in the meantime has none."""
        if self._stream.closed:  # Python flushes a stream that it removes, which may be long after the command
            return
        try:
            self._stream.flush()
        except OSError as exc:
            self._give_up(exc)

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Return the descriptor of the wrapped stream."""
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Return the encoding of the wrapped stream."""
        return self._stream.encoding

    def __getattr__(self, name: str) -> Any:
        """Return any other attribute of the wrapped stream."""
        return getattr(self._stream, name)

    def _give_up(self, exc: OSError) -> None:
        """Discard all further output, including the buffered text."""
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())
        if self._name == "stdout" and not isinstance(exc, BrokenPipeError):
            print(f"warning: standard output cannot be written: {exc.strerror or exc}", file=sys.stderr, flush=True)
