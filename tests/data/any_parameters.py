"""Functions that take any parameters: what a configuration gives them is looked at, and they are never called."""

from __future__ import annotations

from typing import Any


def load(**_params: Any) -> tuple[Any, Any]:
    """Return nothing."""
    raise NotImplementedError


def build(_features: Any, **_params: Any) -> Any:
    """Return nothing."""
    raise NotImplementedError
