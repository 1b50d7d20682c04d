"""Compares the flags of the configuration with those that an image knows."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from configs.serving_flags import FLAG
from tasks.errors import ServingError

# A line of `--help`: TensorFlow's `\t--port=8500   \tint32\t...`, or argparse's `  --port PORT`.
_LINE = re.compile(r"(?m)^\s*--([a-z][a-z0-9_]*)")


def flags_in(usage: str) -> frozenset[str]:
    """Return the names of the flags in the output of `--help`."""
    return frozenset(_LINE.findall(usage))


def check_flags(arguments: Sequence[str], image: str, known: frozenset[str]) -> None:
    """Refuse a flag that an image does not know: a server ends, or ignores it.

    Args:
        known: the names that its `--help` lists; none means that it printed no list, and nothing is refused.

    Raises:
        ServingError: a flag is unknown.
    """
    for argument in arguments:
        found = FLAG.fullmatch(argument)
        if known and found is not None and found[1] not in known:
            near = difflib.get_close_matches(found[1], known, 1)
            advice = f"did you mean --{near[0]}?" if near else f"docker run --rm {image} --help lists its flags"
            raise ServingError(f"serving.args: the server of the image {image} has no flag --{found[1]}; {advice}")
