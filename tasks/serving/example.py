"""An example request that can be pasted into a shell or into Python."""

from __future__ import annotations

import json
import pprint
import shlex
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tasks.datasets.predict_body import predict_body
from tasks.datasets.strings import TEXT, Array
from tasks.records import Signature

LONGEST = 2000  # characters of a request to paste; a longer one is read from a file
WIDTH = 72  # of the lines of Python, which fit into a terminal of 80 columns


def row_of_zeros(signature: Signature) -> dict[str, Array]:
    """Return a row of zeros and empty texts for a signature, one array for each input; free dimensions are 1."""
    found = {}
    for spec in signature.inputs:
        shape = (1, *(extent or 1 for extent in (spec.shape or ())[1:]))
        found[spec.name] = np.zeros(shape, TEXT if spec.dtype == "string" else spec.dtype)
    return found


def request_lines(url: str, row: Mapping[str, Array], signature: Signature, file: Path) -> tuple[str, list[str]]:
    """Return a curl command and lines of Python that request the answer to a row.

    Args:
        url: URL of the model, without `:predict`.
        row: one array for each input, with one row, in dtypes that REST carries.
        file: the file for a request that is too long to paste.
    """
    body = predict_body(row, signature.name).decode()
    if len(body) > LONGEST:
        file.write_text(body, encoding="utf-8")
        data, read = f"@{shlex.quote(str(file))}", f"json.load(open({str(file)!r}))"
    else:
        data, read = shlex.quote(body), pprint.pformat(json.loads(body), width=WIDTH, compact=True, sort_dicts=False)
    return f"curl -d {data} {url}:predict", [
        "import json, urllib.request",
        f'url = "{url}:predict"',
        f"body = {read}",
        "with urllib.request.urlopen(url, json.dumps(body).encode()) as answer:",
        "    print(json.load(answer))",
    ]
