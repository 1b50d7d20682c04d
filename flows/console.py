"""Prints the messages of commands: with colour and line breaks between words in a terminal, else as plain lines.

A pipe or a file gets each message as one line, for scripts. Colour follows rich's rules: NO_COLOR and TERM=dumb switch
it off, and FORCE_COLOR switches it on without a terminal. Source: https://rich.readthedocs.io/en/stable/console.html
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from configs.redaction import redact
from tasks.outcomes import RED, YELLOW

INDENT = 2  # columns, for the second and later lines of a message without a label
WORD = re.compile(r"\s*\S+")
SHELL_WORD = re.compile(r"\s*(?:[^\s'\"\\]|\\.|'[^']*'|\"[^\"]*\")+")  # a space in quotes does not end it
CONTINUED = " \\"  # continues a shell command on the next line


@dataclass(frozen=True)
class Line:
    """One line of output.

    Attributes:
        text: sentences, which are broken between words in a terminal.
        label: text before it, such as `error: `; later lines are indented by its width.
        command: a shell command after the text; a broken command can still be pasted.
        colour: rich's name of the colour of the label, or of the text if there is no label.
    """

    text: str = ""
    label: str = ""
    command: str = ""
    colour: str = ""

    @property
    def plain(self) -> str:
        """Return the whole as one plain line."""
        between = " " if self.text and self.command else ""
        return f"{self.label}{self.text}{between}{self.command}"


def say(text: str = "", label: str = "", *, command: str = "", colour: str = "", stream: TextIO | None = None) -> None:
    """Write a message of one or more lines to standard output, or to another stream, in one piece."""
    first, *others = redact(text).split("\n")  # before a line break could split a secret
    lines = [Line(first, redact(label), redact(command), colour), *map(Line, others)]
    write(lines, stream or sys.stdout)


def error(text: str) -> None:
    """Write an error to standard error."""
    say(text, "error: ", colour=RED, stream=sys.stderr)


def warning(text: str) -> None:
    """Write a warning to standard error."""
    say(text, "warning: ", colour=YELLOW, stream=sys.stderr)


def write(lines: Sequence[Line], stream: TextIO) -> None:
    """Write lines in one call, so that lines of other threads cannot come between them."""
    console = Console(file=stream)
    if not console.is_terminal:
        stream.write("".join(f"{line.plain}\n" for line in lines))
        stream.flush()
        return
    width = _width(console, stream) if stream.isatty() else None
    console.print(Text("\n").join(_painted(line, width) for line in lines), soft_wrap=True)


def _width(console: Console, stream: TextIO) -> int:
    """Return the terminal's width; rich asks only the standard streams, and no terminal that is called dumb."""
    if not os.environ.get("COLUMNS", "").isdigit():
        with contextlib.suppress(OSError):
            return os.get_terminal_size(stream.fileno()).columns or console.width
    return console.width


def _painted(line: Line, width: int | None) -> Text:
    """Return a line in its colour, broken to a width if one is given."""
    text = Text(line.plain if width is None else "\n".join(broken(line, width)))
    text.stylize(line.colour, 0, len(line.label.rstrip()) or len(text))
    return text


def broken(line: Line, width: int) -> list[str]:
    """Return a line as lines of at most `width` columns, broken between words.

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
        if "".join(words) != line.command:  # a quotation mark is not closed
            words = [line.command]
        _fill(lines, [between + words[0], *words[1:]], width, indent, CONTINUED)
    return [found.rstrip() for found in lines]


def _fill(lines: list[str], words: Sequence[str], width: int, indent: int, joint: str = "") -> None:
    """Add words, each with the spaces before it, to the last line, and start another line when it is full.

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
    """Prints log records to standard output."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message of a record."""
        try:
            say(self.format(record))
        except Exception:  # noqa: BLE001  a record that cannot be logged must not end the program
            self.handleError(record)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are also broken between words, and whose options are not abbreviated.

    A misspelt option must not be taken for another one, and a script must not break with the next option.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """End the process with a message on standard error."""
        if message:
            say(message.rstrip("\n"), stream=sys.stderr)
        raise SystemExit(status)
