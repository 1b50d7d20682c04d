"""Starting a throwaway server on one version directory, and knowing when it is ready."""

from __future__ import annotations

from typing import Protocol


class ThrowawayServer(Protocol):
    """A started server process: a container or a child process, not yet known to be ready.

    Attributes:
        backend: `docker` or `embedded`.
        rest_url: scheme, host and port of its REST interface, such as `http://127.0.0.1:49153`.
        image, image_id: image as asked for, and its content id; empty when embedded.
        version: what the server calls itself, where it says so.
    """

    backend: str
    rest_url: str
    image: str
    image_id: str
    version: str

    def exit_code(self) -> int | None:
        """Return the exit status, or None while it runs."""

    def log(self) -> str:
        """Return everything that it has printed so far."""

    def explain_exit(self) -> Exception:
        """Return the error that says why it ended: its class, its own words, the remedy."""
