"""The documentation names everything there is, and nothing that there is not: commands, options, fields, links."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from pydantic import BaseModel

from configs.loading import load_config
from configs.schema import Config
from configs.sections.features import Feature
from configs.sections.gates import GATES, METRICS, Bound
from docs.generate import BEGIN, END, escaped, page
from tasks import errors
from tasks.program import SCRIPT, SUBCOMMANDS
from tasks.proof.keys import new as new_key
from tests.certificates import certificate
from tests.examples import PARSERS, flow_of, names_in, options_of, problem, problem_of_mention
from tests.markdown import Block, Page, commands, slug

PAGES = [Page(path) for path in [Path("README.md"), Path("CONTRIBUTING.md"), *sorted(Path("docs").rglob("*.md"))]]
TEXT = "\n".join(page.text for page in PAGES)
CONFIGURATION = Path("docs/configuration.md").read_text(encoding="utf-8")


def blocks(*languages: str) -> list[Any]:
    """Return the fenced blocks of these languages as parameters that say where they stand."""
    found = [block for page in PAGES for block in page.blocks if block.language in languages]
    return [pytest.param(block, id=block.where) for block in found]


def fields(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Give every field's dotted name and description."""
    for key, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields(field.annotation, f"{prefix}{key}.")
        else:
            yield prefix + key, field.description or ""


@pytest.mark.parametrize(("name", "description"), [*fields(Config), *fields(Bound), *fields(Feature)])
def test_every_field_is_documented(name: str, description: str) -> None:
    """Each configuration field has a description, and stands in docs/configuration.md with exactly that description."""
    assert description
    lines = CONFIGURATION.splitlines()
    assert any(line.startswith(f"| `{name}` |") and escaped(description) in line for line in lines)


def test_the_configuration_page_is_what_the_schema_gives() -> None:
    """`make docs` would change nothing in the page, and would undo a change of a generated line."""
    assert page(CONFIGURATION) == CONFIGURATION, "run make docs"
    assert page(CONFIGURATION.replace("| `training.epochs` |", "| `training.rounds` |")) == CONFIGURATION


@pytest.mark.parametrize(("old", "new"), [(BEGIN, ""), (END, ""), (END, END + END), (BEGIN, END), (BEGIN, BEGIN + END)])
def test_a_page_without_its_marks_is_left_alone(old: str, new: str) -> None:
    """Where a mark is gone, doubled or out of place, nothing that was written by hand is overwritten."""
    with pytest.raises(ValueError, match="must have one line"):
        page(CONFIGURATION.replace(old, new))


def test_the_readme_is_short() -> None:
    """A stranger reads at most 120 lines."""
    assert len(PAGES[0].text.splitlines()) <= 120


def test_every_option_of_the_main_job_is_documented() -> None:
    """Each option of the main job stands in the documentation."""
    assert {option for option in options_of("train_and_serve") if f"`{option}" not in TEXT} == set()


@pytest.mark.parametrize("name", PARSERS)
def test_every_command_and_its_own_options_are_documented(name: str) -> None:
    """Each command is documented, with each option that it has for itself on a line that names the command."""
    own = options_of(name) - {"--help", "--config", "--set", "--debug"}
    if name == "train_and_serve":
        own = set()  # they have a table
    word = next(word for word, module in SUBCOMMANDS.items() if module == f"flows.{name}")
    lines = [line for line in TEXT.splitlines() if f"{SCRIPT} {word}" in line]
    assert lines
    assert any(f"python -m flows.{name}`" in line for line in lines)
    assert {option for option in own if not any(option in line for line in lines)} == set()


def test_every_command_line_is_looked_at() -> None:
    """There is no command line in flows/ whose options are not looked at here."""
    found = {path.stem for path in Path("flows").glob("*.py") if 'if __name__ == "__main__"' in path.read_text()}
    assert found - {"temporary_server", "promote_cli", "rehearse_cli", "sweep_cli", "cli"} == set(PARSERS)


def test_every_metric_and_error_is_documented() -> None:
    """Each metric and each direct kind of pipeline error stands in the documentation."""
    kinds = [kind.__name__ for kind in errors.PipelineError.__subclasses__()]
    assert [name for name in [*METRICS, *kinds] if name not in TEXT] == []


def test_every_gate_and_every_word_of_the_script_is_documented() -> None:
    """Each gate has a row on the page about gates, and each subcommand one on the page about commands."""
    gates, table = (Path(f"docs/{name}.md").read_text(encoding="utf-8") for name in ("gates", "commands"))
    assert [name for name in GATES if f"\n| {name} |" not in gates] == []
    assert [word for word in SUBCOMMANDS if f"\n| `{SCRIPT} {word}" not in table] == []


def test_no_example_is_passed_over() -> None:
    """Each fence is closed, and its language is one whose examples are looked at here, or plain text."""
    languages = {block.language for page in PAGES for block in page.blocks}
    assert languages <= {"", "sh", "text", "yaml", "json", "python", "bash"}
    assert [page.path for page in PAGES if page.text.count("```") != 2 * len(page.blocks)] == []


def test_the_run_book_is_run() -> None:
    """Commands for the stack, in `bash`, stand in the run-book only; the test of the stack follows each page."""
    with_commands = {page.path for page in PAGES if any(block.language == "bash" for block in page.blocks)}
    pages = set(Path("docs/run-book").glob("*.md")) - {Path("docs/run-book/README.md")}
    assert with_commands == pages
    test = Path("tests/e2e/test_stack.py").read_text()
    assert [page.stem for page in pages if page.stem not in test] == []
    assert [page.name for page in pages if f"({page.name})" not in Path("docs/run-book/README.md").read_text()] == []


@pytest.mark.parametrize("block", blocks("", "sh"))
def test_commands_of_examples(block: Block) -> None:
    """Each command in a fenced example exists, and its command line takes all of its arguments."""
    assert {" ".join(words): problem(words) for words in commands(block.text) if problem(words)} == {}


def test_examples_with_mistakes() -> None:
    """A misspelt command, option, target or flag in an example is found."""
    wrong = [
        "keras-rehearsal runn --config cfg.yaml", "keras-rehearsal run --confg cfg.yaml", "make tests", "mke run",
        "keras-rehearsal run", "python -m flows.main_job", "python -m benchmarks.gates --row 3", "mkdir a && rolback",
        "keras-rehearsal promote --config cfg.yaml --version x",
        'C="--config cfg.yaml --sett a=1"\nkeras-rehearsal run $C', "keras-rehearsal serve --prt=8500",
        "prefect deployment run train-and-serve/nihgtly", "prefect deployment run promote/approvals -p versoin=3",
        "prefect deployment run train-and-serve/nightly -p overrides=[seed=1]",
    ]  # fmt: skip
    assert [text for text in wrong if not any(problem(words) for words in commands(text))] == []


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.path)) for page in PAGES])
def test_commands_in_sentences(page: Page) -> None:
    """Each of our commands in a sentence or a table exists, with each of its options."""
    assert {code: problem_of_mention(code) for code in page.code_spans if problem_of_mention(code)} == {}


@pytest.mark.parametrize("block", blocks("yaml"))
def test_yaml_examples(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each YAML example is a configuration, or a part of one, or a deployment of a flow with parameters that it has."""
    found = yaml.safe_load(block.text)
    if "deployments" in found:
        for deployment in found["deployments"]:
            taken = {argument.arg for argument in flow_of(deployment["entrypoint"]).args.args}
            assert set(deployment["parameters"]) <= taken
            assert Path(deployment["parameters"]["config"]).is_file()
        return
    (tmp_path / "my_model.py").write_text("def load(): ...\n\ndef build(features, hidden=1): ...\n")
    (tmp_path / "batching.txt").write_text("max_batch_size { value: 32 }")
    authority = certificate(tmp_path, "ca")
    certificate(tmp_path, "client", authority)
    for name in ("signer", "ann", "bob"):
        new_key(tmp_path / f"{name}.pem")
    for name in re.findall(r"\$\{(\w+)\}", block.text):
        monkeypatch.setenv(name, f"the value of {name}")
    (tmp_path / "cfg.yaml").write_text(block.text if "name" in found else f"name: example\n{block.text}")
    assert load_config(tmp_path / "cfg.yaml").name


@pytest.mark.parametrize("block", blocks("json"))
def test_json_examples(block: Block) -> None:
    """Each JSON example can be read."""
    assert json.loads(block.text)


@pytest.mark.parametrize("block", blocks("python"))
def test_python_examples(block: Block) -> None:
    """Each Python example compiles, and each name that it imports exists."""
    compile(block.text, block.where, "exec")
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.Import):
            assert all(names_in(alias.name) is not None for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = names_in(node.module) or set()
            assert "*" in names or {alias.name for alias in node.names} <= names, node.module


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.path)) for page in PAGES])
def test_links(page: Page) -> None:
    """Each relative link and picture leads to a file that is there, and to a heading that it has."""
    broken = []
    for link in page.links:
        if "://" in link:
            continue
        file, _, heading = link.partition("#")
        target = (page.path.parent / file) if file else page.path
        if not target.exists() or (heading and heading not in {slug(title) for title in Page(target).headings}):
            broken.append(link)
    assert broken == []


def test_every_page_and_picture_is_linked() -> None:
    """No page and no picture lies in docs/ that nothing leads to."""
    linked = {(page.path.parent / link.partition("#")[0]).resolve() for page in PAGES for link in page.links}
    files = [path for path in Path("docs").rglob("*") if path.suffix in (".md", ".png")]
    assert [str(path) for path in files if path.resolve() not in linked] == []


def test_every_decision_has_a_number_and_a_date() -> None:
    """The numbers of the decisions follow each other, and the index has the title and the date of each."""
    paths = sorted(Path("docs/decisions").glob("[0-9]*.md"))
    assert [int(path.name[:3]) for path in paths] == [*range(1, len(paths) + 1)]
    index = Path("docs/decisions/README.md").read_text(encoding="utf-8")
    for path in paths:
        text = path.read_text(encoding="utf-8")
        [title] = re.findall(r"^# \d{3}: (.+)$", text, re.M)
        [date] = re.findall(r"^Date: (\d{4}-\d\d-\d\d)$", text, re.M)
        assert f"[{title}]({path.name}) | {date} |" in index


def test_makefile_targets_have_help() -> None:
    """Each phony target of the Makefile has one line of help."""
    text = Path("Makefile").read_text()
    targets = next(line for line in text.splitlines() if line.startswith(".PHONY:")).split()[1:]
    assert [t for t in targets if f"\n{t}:" not in text or "##" not in text.split(f"\n{t}:")[1].splitlines()[0]] == []


def test_hooks_are_those_of_make_check_and_fetch_nothing() -> None:
    """Each hook before a commit is a tool of .venv, and what `make check` runs is among them."""
    found = yaml.safe_load(Path(".pre-commit-config.yaml").read_text())
    assert {repository["repo"] for repository in found["repos"]} == {"local"}
    entries = [hook["entry"] for repository in found["repos"] for hook in repository["hooks"]]
    assert all(entry.startswith(".venv/bin/") for entry in entries)
    recipe = Path("Makefile").read_text().split("\ncheck:")[1].split("\n\n")[0].splitlines()[1:]
    assert {line.strip().replace("$(BIN)", ".venv/bin").removesuffix(" .") for line in recipe} <= set(entries)


def test_the_workflow_runs_the_whole_suite() -> None:
    """The workflow on GitHub calls .ci/run, and each target of make that it calls exists."""
    [job] = yaml.safe_load(Path(".github/workflows/ci.yml").read_text())["jobs"].values()
    called = [words for step in job["steps"] if "run" in step for words in commands(step["run"])]
    assert ["bash", ".ci/run"] in called
    assert Path(".ci/run").is_file()
    assert [words for words in called if words[0] == "make" and problem(words)] == []


def test_versions_of_python_are_the_same_everywhere() -> None:
    """The versions that a wheel installs on are those that are classified, documented and taken by make."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    taken = SpecifierSet(project["requires-python"])
    minors = [minor for minor in range(100) if f"3.{minor}.1" in taken]
    classified = [c.rpartition("3.")[2] for c in project["classifiers"] if "Python :: 3." in c]
    assert classified == [str(minor) for minor in minors]
    versions = [f"3.{minor}" for minor in minors]
    assert f"You need Python {', '.join(versions[:-1])} or {versions[-1]} on" in Path("README.md").read_text()
    assert f"(3, {minors[0]}) <= sys.version_info < (3, {minors[-1] + 1})" in Path("Makefile").read_text()
    assert f"with Python {versions[0]} to {versions[-1]};" in Path("Dockerfile").read_text()


def test_lock_files_name_no_host() -> None:
    """Lock files carry versions and hashes, and no address."""
    for name in ("requirements.lock", "requirements-s3.lock", "requirements-dev.lock"):
        text = Path(name).read_text()
        assert "--hash=sha256:" in text
        assert "://" not in text
        assert "index" not in text.lower().replace("importlib", "")


def test_links_however_they_are_written(tmp_path: Path) -> None:
    """A link with a title, in angle brackets, by reference, in HTML, or around a picture is looked at; code is not."""
    written = [
        '[a](a.md "title")', "[b](<b.md>)", "[c][1]", "[1]: c.md", '<img src="d.png">', "[![e](e.png)](f.md)",
        "`[x](x.md)`", "```\n[y](y.md)\n```",
    ]  # fmt: skip
    (tmp_path / "page.md").write_text("\n".join(written))
    assert sorted(Page(tmp_path / "page.md").links) == ["a.md", "b.md", "c.md", "d.png", "e.png", "f.md"]


def test_contributing_lists_the_long_proofs() -> None:
    """CONTRIBUTING names each file with a test that carries the mark `long`, and no other."""
    marked = {
        str(path)
        for path in Path("tests").rglob("test_*.py")
        if re.search(r"\bpytest[.]mark[.]long\b", path.read_text())
    }
    listed = re.findall(r"^  - `(tests/\S+)`:", Path("CONTRIBUTING.md").read_text(), re.M)
    assert set(listed) == marked


def test_every_variable_of_ours_is_read() -> None:
    """No page names a variable of the environment that no code, test or image reads."""
    named = set(re.findall(r"\bREHEARSAL_[A-Z_]+", TEXT))
    readers = [path for top in ("flows", "tasks", "configs", "tests") for path in Path(top).rglob("*.py")]
    read = set(re.findall(r"\bREHEARSAL_[A-Z_]+", "\n".join(path.read_text() for path in readers)))
    assert named
    assert named <= read
