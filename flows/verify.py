"""Check a version with public keys alone: `python -m flows.verify --dir models/digits/7 --key signer.pem.pub`."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from configs.errors import ConfigError
from configs.redaction import redact
from flows.console import Parser, error, say
from flows.streams import our_streams
from tasks.errors import PipelineError, ProofMismatch
from tasks.outcomes import DONE, FAILED, GREEN, INTERRUPTED, REJECTION, USAGE
from tasks.program import command_name
from tasks.words import one_line

if TYPE_CHECKING:
    from tasks.proof.verify import Proof


def main(argv: Sequence[str] | None = None) -> int:
    """Verify a version and return the exit code."""
    args = build_parser().parse_args(argv)
    with our_streams():
        return _verify(args)


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    parser = Parser(
        prog=command_name("flows.verify"),
        description="Check that a version is what a promotion signed: every byte of its files, the statement, its "
        "signature, its evidence, the approval, and the history beside it. Only files and public keys are read; no "
        "server is asked.",
        epilog="Exit codes: 0 everything is as it was signed; 3 it is not, and the line names the file; 2 usage error, "
        "or a key cannot be used; 1 any other error.",
    )
    add = parser.add_argument
    add("--dir", type=Path, required=True, metavar="DIRECTORY", help="the version, such as models/digits/7")
    add(
        "--key", type=Path, action="append", default=[], metavar="FILE",
        help="a public key that is trusted to sign promotions; can be repeated",
    )  # fmt: skip
    add(
        "--statement", type=Path, metavar="FILE",
        help="the statement of a version that was copied elsewhere, with its evidence beside it (default: "
        ".proofs/DIGEST/statement.dsse.json beside the version)",
    )  # fmt: skip
    add(
        "--approver", type=Path, action="append", default=[], metavar="FILE",
        help="the public key of a reviewer, one of whom must have signed the approval; can be repeated",
    )  # fmt: skip
    add(
        "--head", default="", metavar="DIGEST",
        help="a digest of the history's head that was noted elsewhere, such as the tag history_head in MLflow; else a "
        "history whose end was cut off does not show",
    )  # fmt: skip
    add("--bytes-only", action="store_true", help="check the files, the statement and its signature, but no evidence")
    add("--allow-unsigned", action="store_true", help="accept a statement and a history that nobody signed")
    return parser


def _verify(args: argparse.Namespace) -> int:
    from tasks.proof.keys import load_public
    from tasks.store.history import HISTORY
    from tasks.store.proven import check_version

    try:
        if (args.dir / HISTORY).exists():
            raise ConfigError(f"--dir must be one version, got '{args.dir}', which has all of them; add its number")
        publics = [load_public(path) for path in args.key]
        if not publics and not args.allow_unsigned:
            raise ConfigError("--key must name a public key that you trust; get it from the owner of the signing key")
        if args.head and not re.fullmatch("[0-9a-f]{64}", args.head):
            raise ConfigError(f"--head must be the 64 hexadecimal digits of a SHA-256, got '{args.head}'")
        proof = check_version(
            args.dir, publics, statement=args.statement,
            allow_unsigned=args.allow_unsigned, bytes_only=args.bytes_only,
            approvers=[load_public(path) for path in args.approver], head=args.head,
        )  # fmt: skip
    except ConfigError as exc:
        return _ended(str(exc), USAGE)
    except ProofMismatch as exc:
        return _ended(str(exc), REJECTION)
    except KeyboardInterrupt:
        say("interrupted", stream=sys.stderr)
        return INTERRUPTED
    except Exception as exc:  # noqa: BLE001  the program ends with one line, whatever the error is
        words = str(exc) if isinstance(exc, PipelineError) else f"{type(exc).__name__}: {exc}"
        return _ended(one_line(words, 500), FAILED)
    _tell(proof, args)
    return DONE


def _tell(proof: Proof, args: argparse.Namespace) -> None:
    said = proof.statement
    evidence = (
        "not checked (--bytes-only)" if args.bytes_only else f"{len(said.evidence)} files, as the statement names them"
    )
    signer = f"key {proof.key_id}" if proof.key_id else "unsigned: anyone may have written the statement"
    approved = said.predicate.get("approval") or said.predicate.get("approvedBy") or "the gates alone"
    beside = "the history beside it is a chain" + (", and its head is signed" if proof.key_id else "")
    say(f"{args.dir}: {len(said.files)} files are as they were promoted", colour=GREEN)
    say(one_line(str(said.predicate.get("model", "")), 300), "  model      ")
    say(said.digest, "  digest     ")
    say(f"{proof.directory} (SHA-256 {proof.statement_digest})", "  statement  ")
    say(signer, "  signed by  ")
    say(evidence, "  evidence   ")
    say(one_line(str(approved), 300), "  approved   ")
    if args.head or not (args.statement or args.bytes_only):
        say(beside, "  history    ")


def _ended(words: str, code: int) -> int:
    error(redact(words))
    return code


if __name__ == "__main__":
    raise SystemExit(main())
