"""Judge what is live on another server before production is upgraded: `rehearse --live`, without Prefect and MLflow."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from configs.loading import ConfigError, load_config
from configs.redaction import redact
from configs.schema import Config
from flows.commands import session
from flows.console import Line, say, write
from tasks.datasets.declared import check_contract
from tasks.errors import UnknownFlag
from tasks.outcomes import DONE, GREEN, RED, REJECTION

if TYPE_CHECKING:
    from tasks.upgrade import Verdict

OTHERS = ("model", "rows", "target", "trained_on", "signature", "write_contract", "no_promote")
"""The options that a model from elsewhere needs, and a live version does not take."""


def with_image(args: argparse.Namespace, config: Config) -> Config:
    """Return the configuration with the image of `--image` in place of its server.

    Raises:
        ConfigError: the options contradict each other.
    """
    if given := [f"--{name.replace('_', '-')}" for name in OTHERS if getattr(args, name)]:
        raise ConfigError(
            f"--live judges the live version by its recorded requests and promotes nothing, got {given[0]} as well; "
            "remove one of the two"
        )
    if args.image:
        server = ["serving.backend=docker", f"serving.image={args.image}", "serving.images=[]"]
        config = load_config(args.config, [*args.set, *server])
    check_contract(config.gates)
    return config


def rehearse_live(args: argparse.Namespace, config: Config) -> int:
    """Judge what is live and its way back on the configured servers, print the verdicts, return the exit code."""
    config = with_image(args, config)
    with session(), tempfile.TemporaryDirectory(prefix="rehearsal-") as scratch:
        from tasks.serving.launch import check_engine, choose_backends
        from tasks.upgrade import in_production, judge_on

        found = in_production(config)
        check_engine(config.serving)
        try:
            backends = choose_backends(config.serving)
        except UnknownFlag as exc:  # production's flags would end the server
            say(f"{config.name} must not be served by this server: {exc}", colour=RED)
            return REJECTION
        verdicts = []
        for number, (backend, one) in enumerate((backend, one) for backend in backends for one in found):
            say(f"version {one.version}, {one.role}, is judged by {backend}")
            verdicts.append(judge_on(config, one, backend, Path(scratch) / str(number)))
    write(_lines(config.name, verdicts), sys.stdout)
    return DONE if all(verdict.passed for verdict in verdicts) else REJECTION


def _lines(name: str, verdicts: Sequence[Verdict]) -> list[Line]:
    from flows.summary import judgement

    lines = []
    for verdict in verdicts:
        width = max(len(gate.name) for gate in verdict.gates)
        lines += [Line(), Line(f"version {verdict.version}, {verdict.role}, on {verdict.server}")]
        lines += [judgement(gate, width) for gate in verdict.gates]
    failed = [verdict for verdict in verdicts if not verdict.passed]
    servers = ", ".join(dict.fromkeys(verdict.server for verdict in failed or verdicts))
    numbers = " and ".join(dict.fromkeys(f"version {verdict.version}" for verdict in verdicts))
    if failed:
        whose = "; ".join(f"version {verdict.version}, {verdict.role}: {verdict.why}" for verdict in failed)
        sentence = f"{name} must not be served by {servers}: {whose}"
    else:
        excused = "; ".join(f"version {verdict.version}: {verdict.why}" for verdict in verdicts if verdict.why)
        sentence = f"{name} can be served by {servers}: {numbers} passed" + (f". {excused}" if excused else "")
    lines += [Line(), Line(sentence, colour=RED if failed else GREEN), Line("production is unchanged")]
    return [Line(redact(line.text), line.label, colour=line.colour) for line in lines]
