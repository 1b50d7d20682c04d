"""The error of everything that reads a configuration."""

from __future__ import annotations


class ConfigError(Exception):
    """The configuration cannot be used; nothing has been run or created."""
