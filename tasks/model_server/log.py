"""The server's log: one line on stderr for each event."""

import os
import sys
import time
from contextlib import suppress


def log(message: str) -> None:
    """Write one line with time and process number, at once."""
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    with suppress(OSError):  # the reader of stderr has gone, which is no reason to stop serving
        sys.stderr.write(f"{stamp} [{os.getpid()}] {message}\n")  # stderr is not buffered beyond a line
