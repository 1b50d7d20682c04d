"""The packages that are installed, as a lock file would name them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib.metadata import distributions

log = logging.getLogger(__name__)


def installed_packages() -> dict[str, str]:
    """Return the version of each installed package, by its name in lower case, with hyphens.

    Of two with one name, the first one that is found is imported. One whose metadata cannot be read, as after an
    installation that was broken off, is left out: it must not end a training.
    """
    found: dict[str, str] = {}
    for package in distributions():
        try:
            name, number = (str(package.metadata[key] or "") for key in ("Name", "Version"))
        except Exception as exc:  # noqa: BLE001  the finders of other packages may raise anything
            log.debug("an installed package is not recorded: %s", exc)
            continue
        if name and number:
            found.setdefault(name.lower().replace("_", "-").replace(".", "-"), number)
    return dict(sorted(found.items()))


def locked(packages: Mapping[str, str]) -> tuple[str, ...]:
    """Return `name==version` of each package, sorted."""
    return tuple(sorted(f"{name}=={version}" for name, version in packages.items()))


def lock_text(packages: tuple[str, ...]) -> str:
    """Return the packages as a file, one a line; the SHA-256 of its bytes is the lock digest."""
    return "".join(f"{package}\n" for package in packages)
