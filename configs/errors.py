"""The error that is raised for a configuration that cannot be used."""

from __future__ import annotations


class ConfigError(Exception):
    """The configuration cannot be used; nothing has been run or created."""
