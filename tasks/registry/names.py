"""Encode names of metrics and parameters for MLflow, so that any name fits and can be read back."""

from __future__ import annotations

import hashlib
import re

# MLflow takes letters, digits, `_`, `-`, `.`, `/`, `:` and blanks. `/` is left out: it makes a path, which MLflow
# checks further (`a//b` and `../a` are none). Source: mlflow/utils/validation.py of MLflow 3.17.
_PLAIN = re.compile(r"[A-Za-z0-9_\-.: ]")
_WRITTEN = re.compile(r"_x([0-9a-f]+)_")
LONGEST = 250  # characters; of a longer name the beginning is kept, with a digest of the whole


def tracked_name(name: str) -> str:
    """Return a name for MLflow: what it does not take is written as `_xHEX_`, as in `recall_x40_2` for `recall@2`.

    Two names never become one, and `read_back` returns the name; only one that is longer than MLflow takes is cut.
    A name of usual characters stays as it is.
    """
    # what could be taken for a path, or for a character that was written
    hidden = ("." if name == "." or name.startswith("..") else "") + ("_" if "_x" in name else "")
    written = "".join(c if _PLAIN.fullmatch(c) and c not in hidden else f"_x{ord(c):x}_" for c in name) or "_x_"
    if len(written) <= LONGEST:
        return written
    return f"{written[: LONGEST - 33]}_{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


def read_back(tracked: str) -> str:
    """Return the name that `tracked_name` made this of."""
    return "" if tracked == "_x_" else _WRITTEN.sub(lambda found: chr(int(found[1], 16)), tracked)
