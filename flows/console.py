"""What a command says: on a terminal in colour and broken between words, anywhere else as plain lines.

A pipe or a file gets each message as one line, which scripts read. Colour follows rich's rules: NO_COLOR and TERM=dumb
switch it off, FORCE_COLOR switches it on without a terminal. Source: https://rich.readthedocs.io/en/stable/console.html
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from configs.redaction import redact
from tasks.outcomes import RED, YELLOW

INDENT = 2  # of the further lines of a message without a label
WORD = re.compile(r"\s*\S+")
SHELL_WORD = re.compile(r"\s*(?:[^\s'\"\\]|\\.|'[^']*'|\"[^\"]*\")+")  # a space within quotes ends none
CONTINUED = " \\"  # what a shell reads on beyond


@dataclass(frozen=True)
class Line:
    """One line of what a command says.

    Attributes:
        text: sentences, which a terminal may break between words.
        label: what stands before it, such as `error: `; the further lines are indented by as much.
        command: a shell command behind the text; where it is broken, the shell reads on.
        colour: of the label, or of the text where there is none, as rich names it.
    """

    text: str = ""
    label: str = ""
    command: str = ""
    colour: str = ""

    @property
    def plain(self) -> str:
        """Return all of it in one line."""
        between = " " if self.text and self.command else ""
        return f"{self.label}{self.text}{between}{self.command}"


def say(text: str = "", label: str = "", *, command: str = "", colour: str = "", stream: TextIO | None = None) -> None:
    """Write a message of one or more lines to standard output, or another stream, in one piece."""
    first, *others = redact(text).split("\n")  # before a break could come into a secret
    lines = [Line(first, redact(label), redact(command), colour), *map(Line, others)]
    write(lines, stream or sys.stdout)


def error(text: str) -> None:
    """Write an error to standard error."""
    say(text, "error: ", colour=RED, stream=sys.stderr)


def warning(text: str) -> None:
    """Write to standard error what went wrong beside the matter."""
    say(text, "warning: ", colour=YELLOW, stream=sys.stderr)


def write(lines: Sequence[Line], stream: TextIO) -> None:
    """Write lines at once, so that none of another thread's comes between them or their words."""
    console = Console(file=stream)
    if not console.is_terminal:
        stream.write("".join(f"{line.plain}\n" for line in lines))
        stream.flush()
        return
    width = console.width if stream.isatty() else None
    console.print(Text("\n").join(_painted(line, width) for line in lines), soft_wrap=True)


def _painted(line: Line, width: int | None) -> Text:
    """Return a line in its colour, broken to a width, if there is one."""
    text = Text(line.plain if width is None else "\n".join(broken(line, width)))
    text.stylize(line.colour, 0, len(line.label.rstrip()) or len(text))
    return text


def broken(line: Line, width: int) -> list[str]:
    """Return a line as lines of at most `width` columns, none of which ends within a word.

    Only a word that is itself wider than the terminal is left for the terminal to break, so that it can be copied.
    """
    indent = cell_len(line.label) or INDENT
    lines = [line.label]
    _fill(lines, WORD.findall(line.text.expandtabs()), width, indent)
    if line.command:
        between = " " if line.text else ""
        if line.text and cell_len(lines[-1]) + cell_len(between + line.command) > width:
            lines.append(" " * indent)  # a command is easier to copy from a line of its own
            between = ""
        words = SHELL_WORD.findall(line.command)
        if "".join(words) != line.command:  # a quotation that does not end
            words = [line.command]
        _fill(lines, [between + words[0], *words[1:]], width, indent, CONTINUED)
    return [found.rstrip() for found in lines]


def _fill(lines: list[str], words: Sequence[str], width: int, indent: int, joint: str = "") -> None:
    """Add words, each with the blanks before it, to the last line, and begin another one where it is full.

    Args:
        joint: what ends a line that goes on in the next one.
    """
    for number, word in enumerate(words, start=1):
        room = width - (cell_len(joint) if number < len(words) else 0)
        if cell_len(lines[-1] + word) <= room:
            lines[-1] += word
            continue
        alone = word.lstrip()
        margin = indent if indent + cell_len(alone) <= room else 0
        if cell_len(lines[-1].rstrip()) > margin:
            lines[-1] += joint if number > 1 else ""
            lines.append(" " * margin)
        lines[-1] += alone


class LineHandler(logging.Handler):
    """Says what is logged on standard output."""

    def emit(self, record: logging.LogRecord) -> None:
        """Say a record's message."""
        try:
            say(self.format(record))
        except Exception:  # noqa: BLE001  as of every handler: what cannot be logged ends nothing
            self.handleError(record)


class Parser(argparse.ArgumentParser):
    """A parser of arguments whose errors are broken between words, too."""

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """End the process, with a message on standard error."""
        if message:
            say(message.rstrip("\n"), stream=sys.stderr)
        raise SystemExit(status)
