"""Make the keys that sign promotions and approvals: `python -m flows.keys new --out signer.pem`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from configs.errors import ConfigError
from configs.redaction import redact
from flows.console import Parser, error, say
from flows.streams import our_streams
from tasks.outcomes import DONE, USAGE
from tasks.program import command_name


def main(argv: Sequence[str] | None = None) -> int:
    """Write a pair of keys and return the exit code."""
    with our_streams():
        return _new(build_parser().parse_args(argv).out)


def _new(path: Path) -> int:
    from tasks.proof.keys import key_id, new, public_path

    try:
        public = new(path)
    except ConfigError as exc:
        error(redact(str(exc)))
        return USAGE
    say(f"{path}", "private key  ")
    say(f"{public_path(path)}", "public key   ")
    say(key_id(public), "key id       ")
    say("Keep the private key where only its owner can read it. Give the public key to everyone who verifies.")
    return DONE


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    parser = Parser(
        prog=command_name("flows.keys"),
        description="Make a pair of keys (ECDSA on the curve P-256, PEM). The private key signs promotions "
        "(promote.signing_key) or approvals, the public key beside it verifies them. No file is overwritten.",
        epilog="Exit codes: 0 the keys were written; 2 usage error, a file exists, or the directory cannot be written.",
    )
    parser.add_argument("action", choices=["new"], help="new: make a pair of keys")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="the private key; the public one is FILE.pub"
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
