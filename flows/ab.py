"""Compare versions on real users: `python -m flows.ab --config cfg.yaml --versions 4,5 --shares 50,50`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from configs.errors import ConfigError
from configs.loading import arguments
from configs.redaction import redact
from configs.schema import Config
from flows.commands import (
    can_be_written,
    config_parser,
    exit_code,
    person,
    run_command,
    session,
    tell_others,
    version_number,
)
from flows.console import say, warning
from tasks.experiment.client import FIRST_WORDS, client_code
from tasks.outcomes import DONE, Promotion, PromotionState
from tasks.program import command_here, command_name, short_path

if TYPE_CHECKING:
    from tasks.production.experiments import Plan
    from tasks.records import Arm

OF_PLAN, OF_REPORT = ("versions", "shares", "name"), ("effect", "less_is_better")


def main(argv: Sequence[str] | None = None) -> int:
    """Do what is asked with the experiment of a model and return the exit code."""
    return run_command(build_parser(), argv, _run)


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    parser = config_parser(
        "flows.ab",
        "Compare versions on real users (promote.layout: labels). --versions with --shares puts several versions live "
        "under the labels a, b, ... and writes the client that divides users between them. Without any of these "
        "options, the state is shown.",
        "Exit codes: 0 done, or a report was printed; 1 a version does not answer in production as it was validated, "
        "or another error; 2 usage or configuration error, or the file of --decide cannot be used.",
    )
    parser.add_argument(
        "--versions", type=_versions, metavar="N,N[,N]", help="start an experiment with these versions, the first as a"
    )
    parser.add_argument(
        "--shares", type=_shares, metavar="P,P[,P]", help="the share of the users of each version, in percent"
    )
    parser.add_argument("--name", default="", help="the name of the experiment, which is the salt of its hash")
    parser.add_argument("--client", type=Path, metavar="FILE", help="where the client in Python is written")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--decide", type=Path, metavar="FILE", help="report what a CSV file of outcomes says")
    action.add_argument("--to", type=str.lower, metavar="LABEL", help="make the version of this label stable, and end")
    action.add_argument("--stop", action="store_true", help="end the experiment without a winner")
    parser.add_argument(
        "--effect", type=_effect, metavar="DIFFERENCE", help="with --decide: the smallest difference that matters"
    )
    parser.add_argument("--less-is-better", action="store_true", help="with --decide: a smaller outcome is better")
    parser.add_argument("--by", type=person, default="", metavar="NAME", help="your name, for the history")
    return parser


def _run(args: argparse.Namespace, config: Config) -> int:
    _check_combination(args)
    with session():
        if args.decide:
            return _decide(args, config)
        if args.stop or args.to:
            return _end(args, config)
        if args.versions:
            return _start(args, config)
        return _show(args, config)


def _check_combination(args: argparse.Namespace) -> None:
    """Refuse options that have no meaning together.

    Raises:
        ConfigError: they have none.
    """
    given = {name for name, value in vars(args).items() if value not in (None, "", False)}
    chosen = next((name for name in ("decide", "to", "stop") if name in given), "")
    if ("versions" in given) != ("shares" in given):
        raise ConfigError("--versions and --shares belong together: give both, or none")
    if "name" in given and "versions" not in given:
        raise ConfigError("--name needs --versions and --shares")
    if chosen in ("to", "stop") and (unused := sorted(given & {*OF_PLAN, *OF_REPORT, "client"})):
        raise ConfigError(f"--{chosen} takes only --by besides, got {', '.join(map(_option, unused))}")
    if chosen != "decide" and (unused := sorted(given & {*OF_REPORT})):
        raise ConfigError(f"{', '.join(map(_option, unused))} needs --decide FILE")
    if chosen == "decide" and (unused := sorted(given & {"client", "by"})):
        raise ConfigError(f"--decide changes nothing and takes no {', '.join(map(_option, unused))}")
    if "by" in given and not chosen and "versions" not in given:
        raise ConfigError("--by NAME needs a change; add --versions and --shares, --to or --stop")
    if "client" in given:
        _check_client(args.client)


def _check_client(file: Path) -> None:
    """Refuse to replace a file that is not a client.

    Raises:
        ConfigError: it is another file, or cannot be written.
    """
    if not can_be_written(file):
        raise ConfigError(f"--client must be a file that can be written, got '{file}'")
    if file.exists():
        with file.open("rb") as stream:
            is_client = stream.read(len(FIRST_WORDS)) == FIRST_WORDS.encode()
        if not is_client:
            raise ConfigError(
                f"--client must be a new file or the client of an experiment, got '{file}', which is neither"
            )


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _plan(args: argparse.Namespace) -> Plan:
    from tasks.production.experiments import plan

    return plan(args.versions, args.shares, args.name)


def _start(args: argparse.Namespace, config: Config) -> int:
    from tasks.production.experiments import start

    promotion = start(config, _plan(args), args.by)
    code = exit_code(promotion, config.name)
    if promotion.state is PromotionState.IN_EXPERIMENT and promotion.change is not None:
        _write_client(args, config, promotion.change.experiment, promotion.change.arms)
    _told(config, promotion, f"experiment of {config.name}")
    return code


def _end(args: argparse.Namespace, config: Config) -> int:
    from tasks.production.experiments import choose, stop
    from tasks.production.metrics import watch

    if args.stop:
        promotion, watched = stop(config, args.by), None
    else:
        watched = watch(config)
        promotion = choose(config, args.to, args.by)
    code = exit_code(promotion, config.name)
    tell_others(config, promotion, f"end of an experiment of {config.name}", watched)
    return code


def _told(config: Config, promotion: Promotion, title: str) -> None:
    if promotion.state.exit_code == DONE:
        tell_others(config, promotion, title)


def _show(args: argparse.Namespace, config: Config) -> int:
    from tasks.production.experiments import current
    from tasks.store.experiment import spoiled
    from tasks.store.journal import pending

    known, change = current(config), pending(config.live_dir)
    if change is not None:
        warning(f"the {change.title} is not finished; the next change or {command_name('flows.doctor')} does it")
    if known is None:
        if args.client:
            raise ConfigError(f"--client needs an experiment, but none of '{config.name}' runs")
        say(f"no experiment of '{config.name}' runs; start one with --versions and --shares")
        return DONE
    say(f"experiment {known.name} of '{config.name}' runs since {known.since}, started by {known.actor}")
    for arm in known.arms:
        say(str(arm), "  ")
    for problem in spoiled(config.live_dir, known):
        warning(f"{problem}: the outcomes decide nothing any more; end the experiment with --stop")
    if args.client:
        _write_client(args, config, known.name, known.arms)
    return DONE


def _write_client(args: argparse.Namespace, config: Config, name: str, arms: Sequence[Arm]) -> None:
    """Write and show the client; production is as it is even if the file cannot be written."""
    code = redact(client_code(name, arms, config.name, config.promote.live_addresses))
    path = args.client or config.work_dir / "experiments" / config.name / f"{name}.py"
    print(code)  # as it is: a line of code must not be broken between words
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code, encoding="utf-8")
    except OSError as exc:
        warning(f"the client above could not be written to '{path}': {exc.strerror}; copy it, or use --client FILE")
        return
    given = arguments(str(args.config), args.set)
    say("", "  client    ", command=short_path(path))
    say("", "  decide    ", command=f"{command_here('flows.ab')} {given} --decide outcomes.csv")
    say("", "  undo      ", command=f"{command_here('flows.ab')} {given} --stop")


def _decide(args: argparse.Namespace, config: Config) -> int:
    """Print what the outcomes say, and change nothing."""
    from tasks.objects.store import refresh
    from tasks.production.experiments import current
    from tasks.store.experiment import rolled_back, spoiled

    if args.versions:
        wanted = _plan(args)
        if not args.name:
            raise ConfigError("--decide with --versions needs --name, the name of the experiment that has ended")
        refresh(config)
        name, arms, doubts = wanted.name, wanted.arms, rolled_back(config.live_dir, wanted.name, wanted.arms)
        if doubts is None:
            warning(
                f"the history of '{config.name}' has no experiment {name} with {', '.join(map(str, arms))}: check "
                "these options; whether a version was rolled back while it ran is unknown"
            )
    else:
        known = current(config)
        if known is None:
            raise ConfigError(
                f"no experiment of '{config.name}' runs; for one that has ended, add its --versions, --shares and "
                "--name, which the history has"
            )
        name, arms, doubts = known.name, known.arms, spoiled(config.live_dir, known)
    from tasks.experiment.decide import Question, decide, in_words
    from tasks.experiment.outcomes import read_outcomes

    logged = read_outcomes(args.decide, name, arms)
    question = Question(name, arms, args.effect, args.less_is_better, tuple(doubts or ()))
    say("\n".join(in_words(decide(question, logged))))
    return DONE


def _versions(text: str) -> list[int]:
    return [version_number(part.strip()) for part in text.split(",")]


def _shares(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) <= 3 for part in parts):
        raise argparse.ArgumentTypeError(f"shares must be whole percentages, such as 50,50, got '{text}'")
    return [int(part) for part in parts]


def _effect(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"an effect must be a positive number, such as 0.01, got '{text}'")
    return value


if __name__ == "__main__":
    raise SystemExit(main())
