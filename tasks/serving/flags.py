"""Compares the flags of the configuration with those that an image knows."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

from configs.serving_flags import FLAG
from tasks.errors import UnknownFlag

# A line of `--help`: TensorFlow's `\t--port=8500   \tint32\t...`, or argparse's `  --port PORT`.
_LINE = re.compile(r"(?m)^\s*--([a-z][a-z0-9_]*)(?:=[^\t\n]*\t(\w+)\t)?")


def flags_in(usage: str) -> dict[str, str]:
    """Return the types of the flags in the output of `--help` by their names; a type that it does not tell is empty."""
    return dict(_LINE.findall(usage))


def check_flags(arguments: Sequence[str], image: str, known: Mapping[str, str]) -> None:
    """Refuse a flag that an image does not know: a server ends, or ignores it.

    TensorFlow Serving 2.20 ignores a flag without a value, too, unless its type is bool.

    Args:
        known: the types of the flags that its `--help` lists; none means that it printed no list, and nothing is
            refused.

    Raises:
        UnknownFlag: a flag is unknown, or has no value.
    """
    for argument in arguments:
        found = FLAG.fullmatch(argument)
        if not known or found is None:
            continue
        if found[1] not in known:
            near = difflib.get_close_matches(found[1], known, 1)
            advice = f"did you mean --{near[0]}?" if near else f"docker run --rm {image} --help lists its flags"
            raise UnknownFlag(f"serving.args: the server of the image {image} has no flag --{found[1]}; {advice}")
        kind = known[found[1]]
        if found[2] is None and kind not in ("", "bool"):
            raise UnknownFlag(f"serving.args: --{found[1]} must have a value ({kind}), as --{found[1]}=VALUE")
