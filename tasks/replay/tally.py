"""Counts what became of recorded requests, and keeps the first of each kind: memory does not grow with their number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tasks.datasets.strings import Array
from tasks.records import ReplayedSlice, ServedReplay, Signature
from tasks.replay.bodies import shown
from tasks.replay.decisions import Rule, flips, lost_numbers
from tasks.replay.files import Request, requests_in
from tasks.replay.profile import Profile
from tasks.replay.slices import Slicer
from tasks.words import one_line

KEPT = 5  # examples of each slice, and of each kind of refusal
MOST_KEPT = 100
MOST_LATE = 10  # requests that are not answered in time, after which nothing more is sent
REASONS = 20  # different reasons why a request is not sent, which are counted one by one


HOPELESS = f"after {MOST_LATE} requests that were not answered in time no further one was sent"
TRANSPORTS = {
    "json": "recorded JSON, unchanged",
    "grpc": "gRPC",
    "converted": "JSON that was made of the PredictRequests",
}


class Answer(NamedTuple):
    """What a version answered: one array for each output, or None, why it refused, and whether that was in time."""

    outputs: Mapping[str, Array] | None
    words: str = ""
    is_late: bool = False


@dataclass
class _Counts:
    requests: int = 0
    rows: int = 0
    flipped: int = 0
    squares: tuple[int, int, int] = (0, 0, 0)

    def add(self, flipped: int, rows: int) -> None:
        self.requests, self.rows, self.flipped = self.requests + 1, self.rows + rows, self.flipped + flipped
        both, mixed, all_rows = self.squares
        self.squares = both + flipped * flipped, mixed + flipped * rows, all_rows + rows * rows


@dataclass
class Tally:
    """The counters of one replay.

    Attributes:
        file: the recorded requests. model: the name of the model. every: which of them are sent.
        transports: how they were sent, as in `TRANSPORTS`.
        signature: the candidate's. champion: the champion's, or None without one.
        rules: by output, what counts as another decision. slicer, profile: what is known of the training rows.
        reference: which rows these are. notes: what else a reader must know.
    """

    file: Path
    model: str
    every: int
    signature: Signature
    champion: Signature | None
    rules: Mapping[str, Rule]
    slicer: Slicer
    profile: Profile
    reference: str = ""
    notes: tuple[str, ...] = ()
    sent: int = field(default=0, init=False)
    transports: set[str] = field(default_factory=set, init=False)
    _skipped: Counter[str] = field(default_factory=Counter, init=False)
    _first: dict[str, int] = field(default_factory=dict, init=False)
    _slices: dict[str, _Counts] = field(default_factory=lambda: {"": _Counts()}, init=False)
    _flipped: list[dict[str, Any]] = field(default_factory=list, init=False)
    _examples: Counter[str] = field(default_factory=Counter, init=False)
    _refusals: list[dict[str, Any]] = field(default_factory=list, init=False)
    _refused: Counter[str] = field(default_factory=Counter, init=False)
    _not_finite: int = field(default=0, init=False)
    _unread: int = field(default=0, init=False)
    _late: int = field(default=0, init=False)
    _crash: str = field(default="", init=False)

    def requests(self) -> Iterator[Request]:
        """Yield the requests to send, and count the others."""
        for request in requests_in(self.file, self.model):
            if request.skipped:
                self._skip(request.skipped, request.number)
            elif request.number % self.every == 0:
                yield request

    @property
    def is_hopeless(self) -> bool:
        """Return whether so many requests were not answered in time that no more should be sent."""
        return self._late >= MOST_LATE

    def _skip(self, reason: str, number: int) -> None:
        if reason not in self._first and len(self._first) >= REASONS:
            reason = "for other reasons"
        self._first.setdefault(reason, number)
        self._skipped[reason] += 1

    def add(self, request: Request, rows: Mapping[str, Array] | None, ours: Answer, theirs: Answer | None) -> None:
        """Count one request.

        Args:
            rows: its rows, or None if it does not fit the candidate's inputs. theirs: None without a champion.
        """
        self.sent += 1
        self._late += ours.is_late or (theirs is not None and theirs.is_late)
        self._unread += rows is None
        if rows is not None:
            self.profile.add(request.number, rows)
        if self._is_refused(request, ours, theirs) or theirs is None or theirs.outputs is None or ours.outputs is None:
            return
        compared = [name for name in self.rules if name in ours.outputs and name in theirs.outputs]
        if not compared:
            return
        own, other = ([len(answer[name]) for name in compared] for answer in (ours.outputs, theirs.outputs))
        if len({*own, *other}) > 1:
            words = f"it has {' and '.join(map(str, sorted({*own, *other})))} answers"
            self._refuse("both" if own == other else "candidate", request, words)
            return
        self._compare(request, rows, ours.outputs, theirs.outputs, compared)

    def _is_refused(self, request: Request, ours: Answer, theirs: Answer | None) -> bool:
        """Count a refusal by who refused."""
        if theirs is None:
            if ours.outputs is None:
                self._refuse("candidate", request, ours.words)
        elif ours.outputs is None:
            self._refuse("both" if theirs.outputs is None else "candidate", request, ours.words)
        elif theirs.outputs is None:
            self._refuse("champion", request, theirs.words)
        return ours.outputs is None or (theirs is not None and theirs.outputs is None)

    def _refuse(self, by: str, request: Request, words: str) -> None:
        self._refused[by] += 1
        if self._refused[by] <= KEPT:
            self._refusals.append({"request": request.number, "refused by": by, "words": one_line(words, 300)})

    def crashed(self, request: Request, words: str) -> None:
        """Note that the candidate ended its server at a request; no further one was sent."""
        self._crash = f"request {request.number:,} crashed the server: {one_line(words, 300)}"

    def _compare(
        self,
        request: Request,
        rows: Mapping[str, Array] | None,
        ours: Mapping[str, Array],
        theirs: Mapping[str, Array],
        compared: Sequence[str],
    ) -> None:
        flipped, lost = np.zeros(len(ours[compared[0]]), bool), np.zeros(len(ours[compared[0]]), bool)
        for name in compared:
            missing = lost_numbers(ours[name], theirs[name])
            lost |= missing
            flipped |= flips(self.rules[name], ours[name], theirs[name]) | missing
        self._not_finite += int(lost.sum())
        places = [("", np.ones(len(flipped), bool))]
        if rows is not None and len(next(iter(rows.values()))) == len(flipped):
            places += self.slicer.of(rows)
        for title, where in places:
            self._slices.setdefault(title, _Counts()).add(int((flipped & where).sum()), int(where.sum()))
        for row in np.flatnonzero(flipped).tolist() if len(self._flipped) < MOST_KEPT else ():
            of_row = [title for title, where in places if where[row]]
            if len(self._flipped) < MOST_KEPT and any(self._examples[title] < KEPT for title in of_row):
                self._examples.update(of_row)
                self._flipped.append(
                    {
                        "request": request.number,
                        "row": row,
                        "slices": [title for title in of_row if title],
                        "candidate": shown({name: ours[name] for name in compared}, row),
                        "champion": shown({name: theirs[name] for name in compared}, row),
                        "inputs": {} if rows is None else shown(rows, row),
                    }
                )

    def found(self) -> ServedReplay:
        """Return what was counted."""
        skipped = {
            f"{reason} (the first one is request {self._first[reason]:,})": count
            for reason, count in self._skipped.items()
        }
        slices = [
            ReplayedSlice(title, one.requests, one.rows, one.flipped, one.squares)
            for title, one in self._slices.items()
        ]
        return ServedReplay(
            file=self.file.name,
            transport=" and ".join(TRANSPORTS[kind] for kind in sorted(self.transports)) or "nothing",
            crash=self._crash,
            requests=self.sent,
            rows=slices[0].rows,
            skipped=skipped,
            refused=self._refused["candidate"],
            refused_by_both=self._refused["both"],
            refused_by_champion=self._refused["champion"],
            not_finite=self._not_finite,
            unread=self._unread,
            rules={name: rule.words for name, rule in self.rules.items()},
            slices=tuple(slices) if self.champion is not None else (),
            flipped=tuple(self._flipped),
            refusals=tuple(self._refusals),
            inputs=self.profile.found(),
            reference=self.reference,
            notes=self.notes + ((HOPELESS,) if self.is_hopeless else ()),
        )
