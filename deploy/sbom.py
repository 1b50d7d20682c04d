"""Print a software bill of materials (CycloneDX 1.6, JSON) of the Python environment that runs this.

    python deploy/sbom.py requirements.lock >sbom.cdx.json

Both images are built with it. The environment must hold nothing that the lock does not name: another version, or a
package that is not in the lock, ends the build. Only the standard library is used, because this runs in the image.

Source: the schema of CycloneDX 1.6, https://cyclonedx.org/docs/1.6/json/
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from importlib.metadata import distributions
from pathlib import Path
from urllib.parse import quote

TOOLS = {"pip", "setuptools"}  # of the virtual environment, where they are left in


def main(lock: Path) -> int:
    """Print the document; return 1 if the environment differs from the lock."""
    locked, found = read_lock(lock), installed()
    foreign = sorted(f"{name} {version}" for name, version in found.items() if version not in locked.get(name, ()))
    if foreign:
        print(f"error: the environment must hold what {lock} names, got {', '.join(foreign)}", file=sys.stderr)
        return 1
    print(json.dumps(document(found, hashlib.sha256(lock.read_bytes()).hexdigest()), indent=1))
    return 0


def read_lock(lock: Path) -> dict[str, set[str]]:
    """Return the versions that a lock file pins for each package, by normalised name; it has some for each Python."""
    lines = lock.read_text(encoding="utf-8").splitlines()
    pins = [found for line in lines if (found := re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;\\]+)", line))]
    versions: dict[str, set[str]] = {}
    for pin in pins:
        versions.setdefault(normalised(pin[1]), set()).add(pin[2])
    return versions


def installed() -> dict[str, str]:
    """Return the version of each installed package, by normalised name, without the environment's own tools."""
    found = {normalised(package.name or "(without a name)"): package.version for package in distributions()}
    return {name: version for name, version in sorted(found.items()) if name not in TOOLS}


def normalised(name: str) -> str:
    """Return a name as package indexes compare it. Source: PyPA's specification of names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def purl(name: str, version: str) -> str:
    """Return the package's address. Source: the specification of package URLs, which encodes the + of `1.0+cpu`."""
    return f"pkg:pypi/{name}@{quote(version, safe='')}"


def document(packages: dict[str, str], lock_digest: str) -> dict[str, object]:
    """Return the bill of materials; the same environment gives the same document."""
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"properties": [{"name": "keras-rehearsal:lock:sha256", "value": lock_digest}]},
        "components": [
            {
                "type": "library",
                "bom-ref": purl(name, version),
                "name": name,
                "version": version,
                "purl": purl(name, version),
            }
            for name, version in packages.items()
        ],
    }


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
