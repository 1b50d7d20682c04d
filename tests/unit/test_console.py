"""What a command says: broken between words and in colour on a terminal, plain lines anywhere else."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from configs.redaction import remember
from flows.console import Line, broken, error, say, write
from flows.main import main
from flows.streams import our_streams
from tasks.outcomes import GREEN

ROOT = Path(__file__).parents[2]
WIDTHS = [80, 120]
SWITCHES = ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "LINES", "TERM", "COLORTERM")
COMMAND = ".venv/bin/python -m flows.promote --config 'a team/cfg.yaml' --set gates.metrics={auc:0.9} --by 'Ann Lee'"
MESSAGES = [
    Line("A container needs a Docker engine, and none answers at unix:///var/run/docker.sock: No file.", "error: "),
    Line("the largest difference is 0 over 356 rows; small batches agree as well. " * 3, "  parity     pass     "),
    Line("wide letters 東京都, several of them 東京都渋谷区, in one sentence about a model 東京 of theirs", "error: "),
    Line("every output\tmust have an answer\tfor each row, got 3 of 'scores' for 4 rows and more words", "warning: "),
    Line("  with blanks   within and before, as a traceback has them, and then many words more to be broken"),
    Line(command=COMMAND, label="  approve   "),
    Line("Train, judge and promote the model:", command=COMMAND),
    Line("short:", command="keras-rehearsal reap"),
    Line("http://127.0.0.1:5000/#/experiments/1/runs/" + "0" * 32 + "?workflowType=machine_learning", "  review    "),
]
words = st.text(
    st.characters(exclude_categories=("Cc", "Cf", "Cs", "Zs", "Zl", "Zp", "Mn", "Me"), exclude_characters="\\"),
    min_size=1,
    max_size=30,
)


class Screen(io.StringIO):
    """A terminal that keeps what is written to it, each time."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[str] = []

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.written.append(text)
        return super().write(text)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Set no switch but a usual terminal, 80 columns wide."""
    for name in SWITCHES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    return monkeypatch


def check_unbroken(line: Line, shown: list[str], width: int) -> None:
    """Assert that the words are those of the message, and that no line is too wide that could have been broken."""
    joints = [row.removesuffix(" \\") for row in shown[:-1]] + shown[-1:]
    assert " ".join(joints).split() == line.plain.split()
    assert [row for row in shown if cell_len(row) > width and len(row.removesuffix(" \\").split()) > 1] == []


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("line", MESSAGES, ids=lambda line: line.plain[:12])
def test_no_word_is_broken(line: Line, width: int) -> None:
    """A message in a terminal has the same words as in a pipe; further lines stand under the first one's text."""
    if "'" not in line.command:  # a quoted argument may have blanks, and is one word
        check_unbroken(line, broken(line, width), width)
    indent = cell_len(line.label) or 2
    wide = [row for row in broken(line, width)[1:] if cell_len(row) + indent > width]
    assert [row for row in broken(line, width)[1:] if row not in wide and not row.startswith(" " * indent)] == []


@given(st.lists(words), st.text("ab", max_size=12), st.integers(20, 130))
def test_whatever_the_words_are(said: list[str], label: str, width: int) -> None:
    """No word of any script is broken, at any width; the words stay in their order."""
    line = Line(" ".join(said), f"{label}: " if label else "")
    check_unbroken(line, broken(line, width), width)


def test_a_word_wider_than_the_terminal_has_a_line_of_its_own() -> None:
    """It can be selected as a whole, and what comes behind it is broken as usual."""
    line = Line(f"see {'x' * 100} and {'then some more words ' * 4}", "error: ")
    assert broken(line, 80)[:2] == ["error: see", f"{'x' * 100}"]
    assert all(cell_len(row) <= 80 for row in broken(line, 80)[2:])


def test_a_command_is_read_by_a_shell_as_it_was() -> None:
    """Where a command is broken, and wherever that is, a shell reads the same arguments."""
    odd = ["a b", "it's", '"', "\\", "$HOME", "", "*", "--set", "x" * 90, "päth/to", "{a: [1, 2]}", "#"]
    expected = "".join(f"{word}\n" for word in odd)
    for width in range(20, 130, 7):
        rows = broken(Line("do this:", command=f"printf '%s\\n' {shlex.join(odd)}"), width)
        script = "\n".join(rows).removeprefix("do this:")
        done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=True, timeout=600)
        assert done.stdout == expected, script


@pytest.mark.parametrize("command", ["x 'open " + "word " * 30, "ends in \\", "'", 'a "b c'])
def test_half_a_quotation_is_left_as_it_is(command: str) -> None:
    """What is no shell command is not broken at all."""
    assert broken(Line(command=command), 20)[-1].strip() == command.strip()


@given(st.text(), st.sampled_from(["", "error: "]))
def test_without_a_terminal_a_message_is_itself(text: str, label: str) -> None:
    """A pipe gets exactly the message and a line break, whatever it holds; rich's own markup means nothing."""
    with pytest.MonkeyPatch.context() as patched:
        for name in SWITCHES:
            patched.delenv(name, raising=False)
        pipe = io.StringIO(newline="")
        say(text, label, colour=GREEN, stream=pipe)
    assert pipe.getvalue() == f"{label}{text}\n"


def test_markup_and_emoji_are_text(environment: pytest.MonkeyPatch) -> None:
    """On a terminal, too, nothing in a message is an instruction."""
    environment.setenv("NO_COLOR", "1")
    text = "[red]no[/red] :smile: [/] [link=x] 3.5 'quoted' http://h"
    screen = Screen()
    say(text, stream=screen)
    assert screen.getvalue() == f"{text}\n"


@pytest.mark.parametrize(
    ("switch", "value", "coloured"),
    [("TERM", "xterm", True), ("NO_COLOR", "1", False), ("NO_COLOR", "", True), ("TERM", "dumb", False)],
)
def test_colour_on_a_terminal(environment: pytest.MonkeyPatch, switch: str, value: str, coloured: bool) -> None:
    """The word of the verdict stands with and without colour."""
    environment.setenv(switch, value)
    screen = Screen()
    write([Line("0.96 (at least 0.95)", "  quality pass     ", colour=GREEN)], screen)
    assert ("\x1b[32m" in screen.getvalue()) == ("\x1b" in screen.getvalue()) == coloured
    assert re.sub(r"\x1b\[\d*m", "", screen.getvalue()) == "  quality pass     0.96 (at least 0.95)\n"


def test_forced_colour_breaks_nothing(environment: pytest.MonkeyPatch) -> None:
    """FORCE_COLOR gives a pipe colour, and every message still is one line."""
    environment.setenv("FORCE_COLOR", "1")
    pipe = io.StringIO()
    say("word " * 40 + "end", "error: ", colour="red", stream=pipe)
    assert pipe.getvalue() == f"\x1b[31merror:\x1b[0m {'word ' * 40}end\n"


def test_a_secret_is_hidden_before_it_could_be_broken(environment: pytest.MonkeyPatch) -> None:
    """A password with blanks is found as a whole, and not across two lines."""
    environment.setenv("NO_COLOR", "1")
    remember("correct horse battery staple")
    for length in range(40, 80):
        screen = Screen()
        environment.setattr(sys, "stderr", screen)
        with our_streams():
            error(f"{'x' * length} correct horse battery staple")
        assert "horse" not in screen.getvalue()
        assert "***" in screen.getvalue()


def test_a_message_is_written_at_once(environment: pytest.MonkeyPatch) -> None:
    """No other thread's line can come between the words of one message, or between its lines."""
    for is_terminal in (True, False):
        screen = Screen()
        environment.setattr(screen, "isatty", lambda answer=is_terminal: answer)
        say(f"{'word ' * 100}\nsecond line", "error: ", colour="red", stream=screen)
        assert [text for text in screen.written if text.strip()] == [screen.getvalue()]


def test_letters_that_the_stream_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path in letters that LANG does not know ends no command; what can be shown is."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    with our_streams():
        say("candidate models/Köln/1")
    assert raw.getvalue() == b"candidate models/K\\xf6ln/1\n"


def in_terminal(arguments: list[str], columns: int, directory: Path, **switches: str) -> tuple[int, str]:
    """Run a command in a terminal of so many columns; return its exit code and what the terminal got."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in SWITCHES}
    environment = {**kept, "PYTHONPATH": str(ROOT), "TERM": "xterm", **switches}
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environment, cwd=directory
    )
    os.close(theirs)
    got: list[bytes] = []

    def read() -> None:
        while True:
            try:
                got.append(os.read(ours, 65536))
            except OSError:  # Linux' way to say that nobody has the other end any more
                return

    reader = threading.Thread(target=read)
    reader.start()
    try:
        code = process.wait(600)
    finally:
        process.kill()
        reader.join()
        os.close(ours)
    return code, b"".join(got).decode()


LONG = ["flows.rollback", "--config", "cfg.yaml", "--set", "trianing.epochs=3"]
WRONG = ["flows.rollback", "--config", "cfg.yaml", "--to", "the-version-before-the-last-one-that-was-live-on-friday"]


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("arguments", [LONG, WRONG], ids=["configuration", "usage"])
def test_an_error_in_a_terminal(tmp_path: Path, arguments: list[str], columns: int) -> None:
    """A real terminal of 80 and of 120 columns gets the words of a pipe, none of them broken."""
    (tmp_path / "cfg.yaml").write_text(f"name: m\nwork_dir: {'very/' * 20}long\nsed: {{{'a, ' * 40}b}}\n")
    piped = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False,
        env={**{name: value for name, value in os.environ.items() if name not in SWITCHES}, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    code, got = in_terminal(arguments, columns, tmp_path)
    assert code == piped.returncode == 2
    assert "\x1b" not in piped.stderr
    rows = re.sub(r"\x1b\[\d*m", "", got).splitlines()
    assert " ".join(rows).split() == piped.stderr.split()
    assert [row for row in rows if len(row) > columns] == []


@pytest.mark.parametrize("switches", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_the_colour_of_an_error_in_a_terminal(tmp_path: Path, switches: dict[str, str]) -> None:
    """An error is red in a terminal, and plain where colour is not wanted or not to be had."""
    code, got = in_terminal(["flows.doctor", "--config", "none.yaml"], 80, tmp_path, **switches)
    assert code == 2
    assert got.startswith("error: --config must name" if switches else "\x1b[31merror:\x1b[0m --config must name")
    assert ("\x1b" in got) == (not switches)


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch, term: str) -> None:
    """A terminal is asked for its width whatever it is called, also for the list of commands."""
    for name in SWITCHES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", term)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 40, 0, 0))
    with os.fdopen(theirs, "w") as stream, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", stream)
        say("some words " * 20)
        assert main(["--help"]) == 0
    got = b""
    with contextlib.suppress(OSError):  # Linux' way to say that nobody has the other end any more
        while part := os.read(ours, 65536):
            got += part
    os.close(ours)
    rows = got.decode().splitlines()
    assert max(map(len, rows)) in range(33, 41)
    assert "                rows and model, and" in [row[:35] for row in rows]  # below the description of `check`


def test_a_stream_that_somebody_kept_ends_without_an_error() -> None:
    """A library may keep a command's standard output for longer than the stream below, which has nothing to write."""
    below = io.StringIO()
    with contextlib.redirect_stdout(below), our_streams():
        kept = sys.stdout
    below.close()
    kept.flush()
    kept.close()
    assert kept.closed
