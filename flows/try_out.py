"""Serve one candidate by hand, to ask it what one likes: `python -m flows.try_out --config cfg.yaml --version N`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from configs.loading import ConfigError
from configs.schema import Config, Safety
from flows.commands import answer, config_parser
from tasks.errors import UnsafeModel
from tasks.gates.safety import judge_safety
from tasks.savedmodel.safety import read_graph
from tasks.serving.embedded import run_embedded
from tasks.store.layout import versions

POLL_S = 0.1


def main(argv: Sequence[str] | None = None) -> int:
    """Serve a candidate until Ctrl-C, and return an exit code."""
    return answer(build_parser(), argv, _try_out)


def build_parser() -> argparse.ArgumentParser:
    """Return the arguments."""
    parser = config_parser(
        "flows.try_out",
        "Serve one candidate, and no other version, until Ctrl-C; nothing live changes.",
        "Exit codes: 0 stopped by Ctrl-C; 2 usage or configuration; 1 it cannot be served.",
    )
    parser.add_argument("--version", type=int, required=True, metavar="N", help="the candidate's number")
    return parser


def _try_out(args: argparse.Namespace, config: Config) -> int:
    version_dir = _candidate(config.candidates_dir, args.version)
    _refuse_unsafe(version_dir, config.gates.safety)
    return _serve(config.name, version_dir, config.serving.memory_mb)


def _candidate(model_dir: Path, version: int) -> Path:
    """Return a candidate's directory."""
    found = versions(model_dir)
    if version not in found:
        raise ConfigError(f"--version must be a candidate in '{model_dir}', got {version}; there are {list(found)}")
    return found[version]


def _refuse_unsafe(version_dir: Path, safety: Safety) -> None:
    """Raise `UnsafeModel` for a candidate that the safety gate refuses, for a server would do what it was made for."""
    result = judge_safety(read_graph(version_dir, safety.max_graph_mb * 1e6), safety)
    if not result.passed:
        raise UnsafeModel(f"a candidate is served only if it is safe: {result.summary}")


def _serve(name: str, version_dir: Path, memory_mb: int) -> int:
    with run_embedded(name, version_dir, memory_mb=memory_mb) as server:
        try:
            while server.exit_code() is None and not server.rest_url:
                time.sleep(POLL_S)
            if server.exit_code() is None:
                url = f"{server.rest_url}/v1/models/{name}"
                print(
                    f"'{name}' version {version_dir.name} answers at {url}:predict, its signature is at {url}/metadata"
                )
                print("Ctrl-C ends it", flush=True)
            while server.exit_code() is None:
                time.sleep(POLL_S)
        except KeyboardInterrupt:
            return 0
        raise server.explain_exit()


if __name__ == "__main__":
    raise SystemExit(main())
