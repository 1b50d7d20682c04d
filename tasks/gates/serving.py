"""Serving: a running server that refuses the candidate is a verdict, not an error."""

from __future__ import annotations

from tasks.records import GateResult


def judge_refusal(server: str, words: str, log: str) -> GateResult:
    """Return the verdict of a server that refused to load the candidate, or to answer its test rows.

    Args:
        server: which one, such as `embedded` or `docker tensorflow/serving:2.19.1`.
        words: the refusal, one line. log: the end of what the server printed.
    """
    return GateResult("serving", False, words, evidence={"server": server, "log": log})
