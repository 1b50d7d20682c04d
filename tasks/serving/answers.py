"""Reads the JSON answers of a model server."""

from __future__ import annotations

from tasks.datasets.predict_body import parsed as parsed  # noqa: PLC0414  requests and answers are read alike
