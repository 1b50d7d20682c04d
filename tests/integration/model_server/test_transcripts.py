"""The embedded server answers as the real TensorFlow Serving that was recorded did."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

DATA = Path(__file__).parents[2] / "data" / "tfs_rest"
TRANSCRIPTS = [json.loads(line) for line in (DATA / "transcripts.jsonl").read_text().splitlines()]

EXCEPTIONS = {
    "*:classify": "not implemented: Keras exports no classification signature; answered with 501",
    "*:regress": "not implemented: Keras exports no regression signature; answered with 501",
}
"""Recorded requests that this server answers differently, with the reason."""


def _body(transcript: dict[str, Any], side: str) -> bytes:
    if f"{side}_body_b64" in transcript:
        return base64.b64decode(transcript[f"{side}_body_b64"])
    return (transcript[f"{side}_body"] or "").encode()


def _same(ours: Any, theirs: Any) -> bool:
    """Compare parsed JSON: numbers as float32 if they are decimals, everything else exactly."""
    if isinstance(theirs, float) and isinstance(ours, float):
        if ours == theirs or (np.isnan(ours) and np.isnan(theirs)):
            return bool(np.signbit(ours) == np.signbit(theirs))
        with np.errstate(over="ignore"):
            return np.float32(ours).tobytes() == np.float32(theirs).tobytes()
    if type(ours) is not type(theirs):
        return False
    if isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(_same(ours[key], theirs[key]) for key in theirs)
    if isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(_same, ours, theirs))
    return bool(ours == theirs)


def _parsed(body: bytes) -> Any:
    return json.loads(body.decode("utf-8", "surrogateescape"))


def _reason(transcript: dict[str, Any]) -> str | None:
    if transcript["method"] == "POST":
        for verb in ("classify", "regress"):
            if transcript["path"].endswith(f":{verb}"):
                return EXCEPTIONS[f"*:{verb}"]
    return EXCEPTIONS.get(transcript["name"])


@pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=[entry["name"] for entry in TRANSCRIPTS])
def test_recorded_answer(recorded_server: Any, transcript: dict[str, Any]) -> None:
    """A recorded request gets the recorded status and the recorded values."""
    for _ in range(2):  # the second time the server knows how long the prediction takes
        status, headers, body = recorded_server.request(
            transcript["method"],
            transcript["path"],
            _body(transcript, "request") if transcript["method"] in ("POST", "PUT") else None,
            transcript.get("request_headers"),
        )
        _check(transcript, status, headers, body)


def _check(transcript: dict[str, Any], status: int, headers: dict[str, str], body: bytes) -> None:
    if _reason(transcript):
        assert (status, list(_parsed(body))) == (501, ["error"])
        return
    assert status == transcript["status"], body[:500]
    assert headers.get("content-type") == transcript["headers"].get("content-type")
    expected = _body(transcript, "response")
    if headers.get("content-type") != "application/json" or not expected:
        assert body == expected
    elif status == 200:
        assert _same(_parsed(body), _parsed(expected)), body[:500]
    else:
        assert list(_parsed(body)) == ["error"]


def test_error_texts_are_nearly_all_the_same(recorded_server: Any) -> None:
    """At most one recorded error text in twenty is worded differently (node names vary with the release)."""
    errors = [entry for entry in TRANSCRIPTS if entry["status"] == 400 and not _reason(entry)]
    other = []
    for entry in errors:
        body = _body(entry, "request") if entry["method"] in ("POST", "PUT") else None
        ours = recorded_server.request(entry["method"], entry["path"], body, entry.get("request_headers"))[2]
        if ours and _parsed(ours) != _parsed(_body(entry, "response")):
            other.append((entry["name"], ours, _body(entry, "response")))
    assert len(other) <= len(errors) / 20, other
