"""Which commit the code came from."""

from __future__ import annotations

import shutil
import subprocess


def git_commit() -> str:
    """Return the commit of the working directory, `-dirty` where files differ, or an empty string outside git."""
    git = shutil.which("git")
    if git is None:
        return ""
    described = subprocess.run(
        [git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip()
