"""Words of others in one line: terminal codes, control characters, absurd lengths."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.datasets.references import describe, resolve, translated
from tasks.errors import DataError, TrainingError
from tasks.words import MOST, one_line


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
