"""Words of others in one line: terminal codes, control characters, absurd lengths; and the words of our own."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.datasets.user_code import describe, resolve, translated
from tasks.errors import DataError, TrainingError
from tasks.words import MOST, few, one_line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("when calling \x1b[1mScale.call()\x1b[0m.\n\n  \x1b[38;5;196mbad\x1b[m", "when calling Scale.call(). bad"),
        ("\x1b]0;title\x07a\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "alink"),
        ("\x9b31mred\x1b(B\x1bM.", "red."),
        ("a\x00b\x07c\rd\x85e\u2028f\u2029g\th", "a b c d e f g h"),
        ("safe\u202eelif\u200b", "safeelif"),
        ("half \ud800 pair", r"half \ud800 pair"),
        ("Köln 東京", "Köln 東京"),
        ("\x1b", ""),
        ("", ""),
    ],
)
def test_a_line_is_plain(text: str, line: str) -> None:
    """What a terminal obeys, cannot show or breaks a line at is not in it; letters of every script are."""
    assert one_line(text) == line


@given(st.text(st.characters(codec=None)))
def test_whatever_the_text_is(text: str) -> None:
    """A line is printable, can be written as UTF-8, and does not change when it is made once more."""
    line = one_line(text)
    assert line.isprintable() or any(ord(letter) > 0x7E for letter in line)
    assert "\x1b" not in line and "\n" not in line
    line.encode()
    assert one_line(line) == line


def test_a_whole_cause_is_kept_and_an_absurd_one_has_both_ends() -> None:
    """A cause of 2,000 characters is whole; of a longer one the beginning and the remedy at the end are left."""
    cause = "a" * 1000 + " " + "b" * (MOST - 1001)
    assert one_line(cause) == cause
    for length in (MOST + 1, 10 * MOST, 1000 * MOST):
        line = one_line("The cause. " + "x " * length + "Do this.")
        assert len(line) <= MOST
        assert line.startswith("The cause. x x")
        assert line.endswith("x x Do this.")
        assert " ... " in line


class Mute(Exception):
    """An error that cannot say what it is."""

    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    ("raised", "words"),
    [
        (ValueError("two\nlines"), "ValueError: two lines ("),
        (SystemExit(3), "SystemExit: 3 ("),
        (KeyError(), "KeyError ("),
        (Mute(), "Mute ("),
    ],
)
def test_an_error_of_others_is_told_with_its_line(raised: BaseException, words: str) -> None:
    """An error of somebody else's code is one of ours with its class, its words and the user's own line."""
    with pytest.raises(TrainingError) as caught, translated("it must work", TrainingError):
        raise raised
    assert str(caught.value).startswith(f"it must work, got {words}test_words.py:")
    assert str(caught.value).endswith(" in test_an_error_of_others_is_told_with_its_line)")
    assert caught.value.__cause__ is raised


@pytest.mark.parametrize("content", ["import sys; sys.exit('no')", "raise ValueError('two\\nlines')", "def f(:", "1/0"])
def test_a_module_that_does_not_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    """Whatever a user's module does while it is imported, even an exit, is one line that names it."""
    (tmp_path / "broken_module.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(TrainingError, match="model.build 'broken_module:f' must import, got ") as caught:
        resolve("broken_module:f", "model.build", TrainingError)
    assert "broken_module.py" in str(caught.value)
    assert str(caught.value).isprintable()


def test_an_error_of_ours_stays_what_it_is() -> None:
    """A PipelineError is not translated again, and an error that no user's line led to names none."""
    with pytest.raises(DataError, match="^mine$"), translated("it must work", TrainingError):
        raise DataError("mine")
    try:
        int("x")
    except ValueError as exc:
        assert describe(exc.with_traceback(None)) == "ValueError: invalid literal for int() with base 10: 'x'"


BANNED = (
    # what it says: how it is said now
    r"held against",  # compared with
    r"\bserves (now|no more)\b",  # is live now, is no longer live
    r"\bat hand\b|to be pulled",  # is not available locally and could not be pulled
    r"\bsurely\b",  # a confidence interval
    r"\bstr(ike|ikes|uck) [\w ]*out\b",  # close
    r"\btimes the champion's bytes\b",  # the size of the champion
    r"for serving\.backend is",  # (serving.backend=auto)
    r"\bgain (\{|[+-])",  # better or worse by how much
    r"\b(leaves|leave) the graph",  # reaches outside the graph
    r"\bchampion of (now|today)\b",  # the version that is live now
    r"\bnobody answers\b",  # no server answers
    r"\b(no task|none) of ours\b",  # no known task
    r"\bin company\b|\bthereof\b|\bwhosoever\b|\bwhoever\b|\bhereby\b|\bherein\b|\bhence\b|\blest\b",
    r"\b(?<!there )(?<!0 )is no (?!longer\b|different\b|more\b|better\b|worse\b|such\b)[a-z{]",  # is not a
    r"\bthat there is not\b|\bthat can be,",  # valid, existing
    r"\bstands? (there|here|bare|once|twice|within)\b",  # is given twice, contains
    r"\bwhatever (the|else|is|it|becomes|still)\b",  # regardless of the
    r"\bnobody (else|has|is|can|knows|listens|waits|hears|wants|reads|could|gets)\b|\bsomebody else\b",  # name who
    r"\b(array|entry|line|value|element|number|score|request|row) an? (row|input|output|epoch|request|version)\b",
    r"\bwithout a word\b|\bnot a word\b",  # silently
    r"\b(come|came) to (its|a|the) (rename|version|verdict|live)\b",  # reach
    r"\bmend(s|ed|ing)?\b",  # repair, correct
    r"\blook(s|ed|ing)? (into|through)\b",  # examine
    r"\bnone answers\b|\bto be had\b",  # no engine answers
    r", for (it|the \w+|\w+s) (is|are|was|were|has|have|did|does)\b",  # because
    r"\bdeal(s|t)? (rows )?out\b|\bdealt\b",  # assign
    r"\bends? itself\b|\bended itself\b",  # crashes
    r"\bplain files?\b",  # regular file
    r"\bserves as before\b|\bcould not be told\b|\bdoes not know of\b",  # is still live, could not be updated
    r"\bor quotes around\b",  # put text in quotes
    r"\bis left behind\b|\banew\b",  # could not be removed, again
)
"""Phrases that are telegraphic or old-fashioned, as patterns; in place of a value stands `{}`."""
PACKAGES = ("flows", "tasks", "configs")


def written(source: str) -> Iterator[tuple[int, str]]:
    """Give line and text of every string of a module, docstrings included; a value within one is `{}`."""
    nodes = list(ast.walk(ast.parse(source)))
    parts = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.lineno, node.value


def texts(package: str) -> Iterator[tuple[str, str]]:
    """Give place and text of everything that a package says: its strings, its templates and its documents."""
    for path in sorted(Path(package).rglob("*")):
        if path.suffix == ".py":
            yield from ((f"{path}:{line}", text) for line, text in written(path.read_text(encoding="utf-8")))
        elif path.suffix in (".j2", ".md", ".toml"):
            yield str(path), path.read_text(encoding="utf-8")


@pytest.mark.parametrize("package", [*PACKAGES, "deploy", "docs", "README.md"])
def test_what_is_said_is_modern_english(package: str) -> None:
    """No string, docstring, template or document has a phrase that had to be rewritten before."""
    said = [("README.md", Path(package).read_text(encoding="utf-8"))] if package == "README.md" else texts(package)
    found = [
        f"{place}: {phrase}: ...{text[max(0, match.start() - 40) : match.end() + 40]}"
        for place, text in ((place, " ".join(text.split())) for place, text in said)
        for phrase in BANNED
        if (match := re.search(phrase, text, re.IGNORECASE))
    ]
    assert found == []


@pytest.mark.parametrize(
    "sentence",
    [
        '"held against version 3 as champion, and version 4 serves now"',
        '"accuracy 0.9, " "surely not at least 0.95"',
        'f"{ratio:.3g} times the champion\'s bytes"',
        'f"gain {gain:+.2g} [{low:+.2g}, {high:+.2g}]"',
        '"gain +0 [+0, +0]"',
        '"The embedded server judges, for serving.backend is auto: %s"',
        '"neither at hand " f"nor to be {what}"',
        'def f():\n    """Strike the open\n    change out."""',
        "f\"'{shown}' is no {kind} ({exc})\"",
        'f"it holds a character that there is not: {exc}"',
        "f\"the key '{key}' must stand here once, and stands twice\"",
        "f\"'{field}' must be a path that can be, got '{path}': {reason}\"",
        '"mode of the published files, whatever the umask of the run"',
        '"directory_mode must begin with 07, or nobody gets in"',
        'f"{where} must be an array or a list with one entry a row, got {kind}"',
        'f"not a word for {limit_s:g} s"',
        'f"the {what}, which had not come to its rename; run the promotion again"',
        "f\"'{path}' must be a ModelServerConfig, got {reason}; mend it\"",
        '"the 256 MB that are looked into"',
        'f"A container needs a Docker engine, and none answers at {address}"',
        "f\"warning: '{file}' is not written, for the candidate did not pass\"",
        '"it dealt rows out by position"',
        'f"The server ended itself: {words}"',
        'f"a version directory must hold plain files only, got {odd}"',
        'f"; version {previous} serves as before"',
        "f\"'{where}' begins with 0: {value:d}; write that, or quotes around a text\"",
        'f"Container {name} is left behind: {reason}"',
    ],
)
def test_a_phrase_is_found_however_it_is_written(sentence: str) -> None:
    """In one string or several, with values in it, over lines, or in a docstring."""
    said = [" ".join(text.split()) for _, text in written(sentence)]
    assert any(re.search(phrase, text, re.IGNORECASE) for phrase in BANNED for text in said)


def test_a_long_list_is_cut() -> None:
    """Thousands of columns do not fill the screen; what is left out is counted."""
    assert few([], "; ") == ""
    assert few(["a", "b"], "; ") == "a; b"
    assert few(range(2022), most=2) == "0, 1, and 2,020 more"
