"""What the documentation's tests read in a Markdown page: blocks, code in sentences, links, headings, commands."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.M | re.S)
ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
ENDS_A_COMMAND = {"&&", "||", "|", ";", "&"}


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text and where it stands."""

    language: str
    text: str
    where: str


@dataclass(frozen=True)
class Page:
    """A Markdown file."""

    path: Path

    @cached_property
    def text(self) -> str:
        """Return the whole text."""
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def blocks(self) -> list[Block]:
        """Return the fenced blocks."""
        found = FENCE.finditer(self.text)
        return [Block(m[1], m[2], f"{self.path}:{self.text.count(chr(10), 0, m.start()) + 1}") for m in found]

    @cached_property
    def prose(self) -> str:
        """Return the text without its fenced blocks."""
        return FENCE.sub("", self.text)

    @property
    def code_spans(self) -> list[str]:
        """Return the code within sentences; a span may go over the end of a line."""
        return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", self.prose)]

    @property
    def links(self) -> list[str]:
        """Return where links and pictures lead, also those by reference and in HTML."""
        prose = re.sub(r"`[^`]*`", "", self.prose)
        ways = r"\]\(\s*<?([^)>\s]+)", r"^\[[^\]]+\]:\s*<?([^>\s]+)", r"""(?:src|href)=["']([^"']+)"""
        return [link for way in ways for link in re.findall(way, prose, re.M)]

    @property
    def headings(self) -> list[str]:
        """Return the headings' texts."""
        return re.findall(r"^#+ (.+)$", self.prose, re.M)


def slug(heading: str) -> str:
    """Return the anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def commands(text: str) -> list[list[str]]:
    """Return the words of each command of a shell example, variables that it sets itself filled in."""
    found: list[list[str]] = []
    variables: dict[str, str] = {}
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        current: list[str] = []
        for word in [*lexer, ";"]:
            if word not in ENDS_A_COMMAND:
                current.append(word)
                continue
            command = expanded(current, variables)
            if command:
                found.append(command)
            current = []
    return found


def expanded(words: list[str], variables: dict[str, str]) -> list[str]:
    """Return a command without the variables that it sets, which are kept, and with those of before filled in."""
    command: list[str] = []
    for word in words:
        if not command and ASSIGNMENT.match(word):
            name, _, value = word.partition("=")
            variables[name] = value
        elif word.startswith(">"):
            break
        else:
            name = word.removeprefix("$")
            command += shlex.split(variables[name]) if word != name and name in variables else [word]
    return command
