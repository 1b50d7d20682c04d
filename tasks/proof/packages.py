"""The packages that are installed, as a lock file would name them."""

from __future__ import annotations

from importlib.metadata import distributions


def installed_packages() -> tuple[str, ...]:
    """Return `name==version` of each installed package, sorted; the first one found counts, as in an import."""
    found: dict[str, str] = {}
    for one in distributions():
        name = one.metadata["Name"]
        if name:  # else its metadata is broken
            found.setdefault(name.lower().replace("_", "-").replace(".", "-"), one.version)
    return tuple(sorted(f"{name}=={version}" for name, version in found.items()))


def lock_text(packages: tuple[str, ...]) -> str:
    """Return the packages as a file, one a line; the SHA-256 of its bytes is the lock digest."""
    return "".join(f"{package}\n" for package in packages)
