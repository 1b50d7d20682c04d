"""Whether what an example in the documentation says exists: commands, options, deployments, imported names."""

from __future__ import annotations

import ast
import importlib.util
import json
from itertools import pairwise
from pathlib import Path

import yaml

from flows import (
    ab,
    check,
    cli,
    doctor,
    history,
    infer_schema,
    init,
    keys,
    promote_cli,
    reap,
    rebuild,
    rehearse_cli,
    rollback,
    sweep_cli,
    sync,
    try_out,
    verify,
    webhook,
)
from tasks.model_server.flags import UnknownFlag, parse_flags
from tasks.program import SCRIPT, SUBCOMMANDS

PARSERS = {
    "train_and_serve": cli.build_parser(),
    "promote": promote_cli.build_parser(),
    "rollback": rollback.build_parser(),
    "rebuild": rebuild.build_parser(),
    "ab": ab.build_parser(),
    "doctor": doctor.build_parser(),
    "try_out": try_out.build_parser(),
    "reap": reap.build_parser(),
    "init": init.build_parser(),
    "infer_schema": infer_schema.build_parser(),
    "rehearse": rehearse_cli.build_parser(),
    "sweep": sweep_cli.build_parser(),
    "check": check.build_parser(),
    "webhook": webhook.build_parser(),
    "sync": sync.build_parser(),
    "history": history.build_parser(),
    "keys": keys.build_parser(),
    "verify": verify.build_parser(),
}
PREFECT_FILES = (Path("prefect.yaml"), Path("deploy/kubernetes/prefect.yaml"))
OTHERS = {"bash", "cat", "curl", "docker", "echo", "export", "git", "kubectl", "mkdir", "pip", "pre-commit", "prefect"}
"""Commands of others in our examples; whatever is neither among them nor ours is a mistake."""


def options_of(name: str) -> set[str]:
    """Return the long options of a command line."""
    return {option for action in PARSERS[name]._actions for option in action.option_strings if option.startswith("--")}


def problem(words: list[str]) -> str:
    """Return what is wrong with a command of an example, or an empty text."""
    program, *rest = words
    name = Path(program).name
    if name == "make":
        targets = [word for word in rest if "=" not in word]
        return "" if all(f"\n{target}:" in Path("Makefile").read_text() for target in targets) else "no such target"
    if name == SCRIPT:
        return problem_of_module(SUBCOMMANDS.get(rest[0], ""), rest[1:]) if rest[0][0] != "-" else ""
    if name.startswith("python") and rest[0].startswith("deploy/"):
        return "" if Path(rest[0]).is_file() else f"no program {rest[0]}"
    if name.startswith("python"):
        module = rest[1] if rest[0] == "-m" else rest[0].removesuffix(".py").replace("/", ".")
        return problem_of_module(module, rest[2:] if rest[0] == "-m" else rest[1:])
    if words[:3] == ["prefect", "deployment", "run"]:
        return problem_of_deployment(words[3], [value for option, value in pairwise(words) if option == "-p"])
    return "" if name in OTHERS else "no such command"


def problem_of_deployment(name: str, parameters: list[str]) -> str:
    """Return what is wrong with the name of a deployment and `parameter=JSON` items for its run."""
    found = {one["name"]: one for file in PREFECT_FILES for one in yaml.safe_load(file.read_text())["deployments"]}
    flow, _, deployment = name.partition("/")
    if deployment not in found:
        return "no such deployment"
    function = flow_of(found[deployment]["entrypoint"])
    given = dict(parameter.partition("=")[::2] for parameter in parameters)
    unknown = sorted(set(given) - {argument.arg for argument in function.args.args})
    return "no such flow" if flow != function.name.replace("_", "-") else ", ".join(unknown) or not_json(given)


def not_json(values: dict[str, str]) -> str:
    """Return the first value that cannot be read as JSON, or an empty text."""
    for value in values.values():
        try:
            json.loads(value)
        except ValueError:
            return value
    return ""


def flow_of(entrypoint: str) -> ast.FunctionDef:
    """Return the definition of a flow, `FILE:FUNCTION`."""
    file, _, function = entrypoint.partition(":")
    tree = ast.parse(Path(file).read_text())
    [found] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function]
    return found


def problem_of_module(module: str, arguments: list[str]) -> str:
    """Return what is wrong with the arguments of one of our programs."""
    arguments = ["1" if argument == "N" else argument for argument in arguments]
    package, _, name = module.partition(".")
    if module == "tasks.model_server":
        try:
            parse_flags(arguments)
        except UnknownFlag as exc:
            return str(exc)
    elif package == "flows" and name in PARSERS:
        try:
            PARSERS[name].parse_args(arguments)
        except SystemExit as exc:
            return f"exit code {exc.code}" if exc.code else ""
    elif package == "benchmarks":
        source = Path(f"benchmarks/{name}.py").read_text()
        return ", ".join(word for word in arguments if word.startswith("--") and f'"{word}"' not in source)
    elif module not in ("pytest", "docs.generate"):
        return f"no program {module}"
    return ""


def problem_of_mention(code: str) -> str:
    """Return what is wrong with code in a sentence, which may be a part of a command; empty if it is none of ours."""
    words = [word.strip("[]") for word in code.split()]
    if words[:1] == ["make"] or (words[:1] == ["python"] and words[1:] and words[1].startswith("benchmarks/")):
        return problem(words)
    if words[:1] == [SCRIPT]:
        module = SUBCOMMANDS.get(words[1], "nothing") if words[1:] else ""
    else:
        module = words[2] if words[:2] == ["python", "-m"] else ""
    if module in ("", "flows.NAME") or code == f"{SCRIPT} COMMAND":
        return ""
    if module == "tasks.model_server":
        return problem_of_module(module, [word for word in words if word.startswith("--")])
    name = module.removeprefix("flows.")
    if name not in PARSERS:
        return problem_of_module(module, words[3:])
    return ", ".join({word for word in words if word.startswith("--")} - options_of(name))


def names_in(module: str) -> set[str] | None:
    """Return every name that a module binds anywhere, without importing it; None where there is no such module."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or (rest and not spec.submodule_search_locations):
        return None
    if not rest and spec.origin in (None, "built-in", "frozen"):
        return set()
    base = Path(spec.submodule_search_locations[0]) if spec.submodule_search_locations else Path(spec.origin or "")
    paths = [base] if base.is_file() else [base.joinpath(*rest, "__init__.py"), base.joinpath(*rest).with_suffix(".py")]
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        return None
    names = set()
    for node in ast.walk(ast.parse(found.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return names
