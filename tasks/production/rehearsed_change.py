"""Phase C of a rehearsal: the candidate replaces the champion under load, and a rollback puts it back.

copy      the live directory, with hard links, below the run's directory
serve     the copy, with production's flags, while clients send requests at random times
change    by the code that changes production: stage, verify, rename, wait until it is served, record
rollback  by the code of `rollback`, with the same steps
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from configs.schema import Config
from tasks.datasets.predict_body import predict_body
from tasks.datasets.rows import Array, load_arrays
from tasks.errors import (
    LiveChanged,
    MemoryExceeded,
    ModelLoadError,
    PredictionError,
    ServerCrashed,
    ServingError,
    ServingUnavailable,
    StoreError,
)
from tasks.gates.change import alike, is_doubtful, p99_ms
from tasks.gates.parity import tolerances
from tasks.production.steps import going_back, making_stable, publishing
from tasks.records import Champion, Change, ServedAnswers, ServedChange, Signature
from tasks.savedmodel.files import link_tree
from tasks.serving.change import Show, at_once, memory_watched, watching_server
from tasks.serving.client import RestClient, read_answer
from tasks.serving.launch import ThrowawayServer
from tasks.serving.load import row_picks
from tasks.serving.open_loop import OK, Connection, GrpcConnection, Load, OpenLoop, RestConnection
from tasks.serving.rehearsal import Rehearsal
from tasks.serving.rehearse import killed_words
from tasks.serving.way_back import refusal_words
from tasks.store.champion import champion_version, predecessor
from tasks.store.history import HISTORY, read, served_digest
from tasks.store.layout import versions
from tasks.store.serving_config import MODELS_CONFIG, labels_of, listed_versions, write_config
from tasks.store.transaction import STABLE, Production, carry_out
from tasks.waiting import waiting_for
from tasks.words import one_line

ACTOR = "rehearsal"
ROUNDS = 5  # a change is slow if the quietest of so many is, compared with the quietest time before
POLL_S = 0.02
FEWEST_AFTER = 20  # requests that are due after each change, however slow their rate is
ATTACHED = "an attached server has the flags and the directory of its owner; use backend docker or embedded"
LIVE_ALREADY = "these files are live already, so that nothing changes"
NOT_SERVED = "the live version cannot be served, as the gate way_back says"
OTHER_ROWS = "the champion does not accept these rows, so that its clients change with it"


def rehearse_change(config: Config, rehearsal: Rehearsal, served: ServedAnswers) -> ServedAnswers:
    """Return the answers with the change from the champion to the candidate, if a champion is live.

    Args:
        served: the answers of phases A and B, which those under load are compared with.

    Raises:
        ServingError: the server could not be started, or ended for a reason that is not the candidate's.
        StoreError: the copy cannot be written.
    """
    champion = rehearsal.champion
    beside, attached = served.champion, rehearsal.backend.kind == "attached"
    if served.change is not None or "change" not in rehearsal.gates.judging:
        return served
    if champion is None or beside is None:
        damaged = champion is None and served.way_back is not None and served.way_back.problem
        return _not_rehearsed(served, rehearsal, NOT_SERVED) if champion or damaged else served
    live_already = champion.digest == rehearsal.candidate.digest
    if beside.answers is None or attached or live_already:
        return _not_rehearsed(served, rehearsal, ATTACHED if attached else LIVE_ALREADY if live_already else OTHER_ROWS)
    asked = _asked(config, rehearsal, served, beside.signature, beside.answers)
    settings = rehearsal.gates.change
    doubtful: list[tuple[float, float, ServedChange]] = []
    for number in range(1, ROUNDS + 1):
        with _copied(config, rehearsal, champion) as model_dir:
            change = replace(_round(config, rehearsal, champion, asked, model_dir, number), rounds=number)
        requests = load_arrays(change.requests) if change.requests else {}
        if not is_doubtful(change, requests, settings):
            break
        doubtful.append((*p99_ms(change, requests), change))
    else:
        _, _, quietest = min(doubtful, key=lambda found: found[1])
        change = replace(quietest, rounds=ROUNDS, usual_ms=min(before for before, _, _ in doubtful))
    return replace(served, change=change)


def _not_rehearsed(served: ServedAnswers, rehearsal: Rehearsal, why: str) -> ServedAnswers:
    old = rehearsal.champion.version if rehearsal.champion is not None else 0
    return replace(served, change=ServedChange(old, rehearsal.candidate.version, not_rehearsed=why))


@dataclass(frozen=True)
class _Asked:
    """The requests of the clients, and the validated answers to them.

    Attributes:
        name, label: the model, and the label that the clients ask for, or empty.
        rest, grpc: the bodies of the requests, which have the same rows; none where a transport is not used.
        validated: by `like_old` and `like_new` a signature, and a function from the number of a request to the answers.
    """

    name: str
    label: str
    rest: Sequence[bytes]
    grpc: Sequence[bytes]
    validated: Mapping[str, tuple[Signature, Callable[[int], dict[str, Array]]]]


def _asked(
    config: Config, rehearsal: Rehearsal, served: ServedAnswers, of_champion: Signature, champion_answers: Path
) -> _Asked:
    """Return requests over gRPC, whose answers name their version, and over REST if the configuration uses it."""
    from tasks.serving.grpc_client import predict_request  # imports grpc

    candidate, serving, settings = rehearsal.candidate, rehearsal.serving, rehearsal.gates.change
    rows = load_arrays(candidate.requests)
    most = min(settings.rows, serving.most_rows or settings.rows)
    picks = row_picks(len(next(iter(rows.values()))), most)
    blocks = [{name: array[index] for name, array in rows.items()} for index in picks]
    label, name = (STABLE if config.promote.layout == "labels" else ""), candidate.signature.name
    over_rest = serving.protocol != "grpc" and not (served.signature.beyond_rest or of_champion.beyond_rest)

    def answers_of(path: Path) -> Callable[[int], dict[str, Array]]:
        found = load_arrays(path)
        return lambda number: {output: array[picks[number]] for output, array in found.items()}

    of_candidate = Signature(candidate.signature.inputs, candidate.signature.outputs, name)  # with its paddings
    return _Asked(
        candidate.name,
        label,
        [predict_body(block, name) for block in blocks] if over_rest else [],
        [predict_request(candidate.name, label or None, block, name).SerializeToString() for block in blocks],
        {
            "like_old": (of_champion, answers_of(champion_answers)),
            "like_new": (of_candidate, answers_of(served.answers)),
        },
    )


@contextlib.contextmanager
def _copied(config: Config, rehearsal: Rehearsal, champion: Champion) -> Iterator[Path]:
    """Yield a copy of the live directory that production would load, which is removed at the end.

    Raises:
        LiveChanged: another process has changed what is live. StoreError: the copy cannot be written.
    """
    root = rehearsal.directory / "change"
    try:
        try:
            shutil.rmtree(root, ignore_errors=True)  # of a run that was killed
            _copy(config, rehearsal, champion, root / config.name)
        except FileNotFoundError as exc:
            raise _changed(champion) from exc
        except OSError as exc:
            raise StoreError(
                f"the live version must be copied below work_dir, got '{exc.filename or root}': {exc.strerror or exc}"
            ) from exc
        _check_same(config, champion, root / config.name)
        yield root / config.name
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _copy(config: Config, rehearsal: Rehearsal, champion: Champion, model_dir: Path) -> None:
    """Link the versions that production would load, and copy its history and its labels."""
    live, labelled = config.live_dir, config.promote.layout == "labels"
    wanted = {champion.version, predecessor(live, None)}
    if labelled:
        wanted |= {*listed_versions(live), *labels_of(live).values()}
    model_dir.mkdir(parents=True)
    for number, path in versions(live).items():
        if number in wanted:
            link_tree(path, model_dir / path.name)
    if (live / HISTORY).is_file():
        shutil.copyfile(live / HISTORY, model_dir / HISTORY)
    if labelled:
        _begin_config(rehearsal, model_dir)
        write_config(model_dir, sorted(versions(live).keys() & wanted), labels_of(live))


def _check_same(config: Config, champion: Champion, model_dir: Path) -> None:
    """Raise `LiveChanged` unless the version that was compared with is still live, and is in the copy."""
    now = champion_version(config.live_dir, config.promote.layout)
    if now != champion.version or champion.version not in versions(model_dir):
        raise _changed(champion)


def _changed(champion: Champion) -> LiveChanged:
    return LiveChanged(
        f"version {champion.version} must stay live while a candidate is compared with it, but another process has "
        "changed what is live; run it again"
    )


def _begin_config(rehearsal: Rehearsal, model_dir: Path) -> None:
    """Name the place of the copy as a container sees it; `write_config` keeps it."""
    if rehearsal.backend.kind == "docker":
        entry = f'name: "{model_dir.name}" base_path: "/models/{model_dir.name}" model_platform: "tensorflow"'
        (model_dir.parent / MODELS_CONFIG).write_text(f"model_config_list {{ config {{ {entry} }} }}\n")


@dataclass
class _Live:
    """The champion as a server is started on it (a `Served`)."""

    name: str
    version: int
    version_dir: Path
    run_id: str


def _round(  # noqa: PLR0913, PLR0917  what is changed, where, and how it is asked
    config: Config, rehearsal: Rehearsal, champion: Champion, asked: _Asked, model_dir: Path, number: int
) -> ServedChange:
    """Rehearse the change once, in a server of its own; `number` is that of the rehearsal."""
    candidate, serving = rehearsal.candidate, rehearsal.serving
    settings, limit_mb = rehearsal.gates.change, serving.memory_mb * 2**20 / 1e6
    new = max(candidate.version, max(versions(model_dir)) + 1)
    change = ServedChange(champion.version, new, limit_mb=limit_mb)
    live = _Live(candidate.name, champion.version, model_dir / champion.version_dir.name, candidate.run_id)
    log_file = rehearsal.directory / "server_change.log"
    labelled = config.promote.layout == "labels"
    peak, loop = _nothing, None
    watching = watching_server(rehearsal.backend, serving, live, model_dir, labels=labelled, log_file=log_file)
    try:
        with contextlib.ExitStack() as stack:
            after_the_server = stack.enter_context(contextlib.ExitStack())
            server, client, show = stack.enter_context(watching)
            peak = stack.enter_context(memory_watched(server))
            most = at_once(rehearsal.backend, serving.args)
            kinds = stack.enter_context(_connections(server, asked, serving.request_timeout_s, most))
            loop = OpenLoop(kinds, len(asked.grpc), settings.rate, timeout_s=serving.request_timeout_s)
            after_the_server.callback(loop.join)
            with loop.running(), waiting_for("the rehearsal of the change"):
                steps = _Steps(config, rehearsal, champion, loop, server, client, show, model_dir)
                change = steps.take(change)
            if (ended := server.ended()) is not None:
                raise ended
            change = replace(change, peak_mb=peak())
    except (MemoryExceeded, ModelLoadError, PredictionError, ServerCrashed) as exc:
        if loop is None:  # without the candidate
            raise ServingError(
                f"the server of the rehearsed change must serve what is live, but did not, although it served version "
                f"{champion.version} before: {refusal_words(exc)}. Repair or remove the version that is named, or "
                "leave change out of gates.use",
                exc.detail,
            ) from exc
        killed = killed_words(exc) if isinstance(exc, MemoryExceeded) else ""
        return replace(change, peak_mb=peak(), killed=killed, problem=change.problem or one_line(str(exc)))
    found = loop.load()
    arrays = {"due_s": found.due_s, "sent_s": found.sent_s, "done_s": found.done_s, "status": found.status}
    path = rehearsal.save(f"change{number}", arrays | _recognised(rehearsal, asked, found))
    return replace(change, requests=path, refusals=found.refusals)


def _nothing() -> float:
    return 0.0


@contextlib.contextmanager
def _connections(
    server: ThrowawayServer, asked: _Asked, timeout_s: float, most: int
) -> Iterator[list[Callable[[], Connection]]]:
    """Yield what opens a connection of each transport; at most `most` requests over gRPC may be open."""
    from tasks.serving.grpc_client import open_channel  # imports grpc

    place = f"/v1/models/{asked.name}" + (f"/labels/{asked.label}" if asked.label else "")
    with contextlib.closing(open_channel(server.grpc_target)) as channel:
        turn = threading.Semaphore(most)
        kinds: list[Callable[[], Connection]] = [lambda: GrpcConnection(channel, asked.grpc, timeout_s, turn)]
        if asked.rest:
            url = server.rest_url
            kinds.append(lambda: RestConnection(url, f"{place}:predict", asked.rest, timeout_s))
        yield kinds


def _recognised(rehearsal: Rehearsal, asked: _Asked, found: Load) -> dict[str, Array]:
    """Return which version each answer names, and whether it is the validated answer of each version."""
    from tasks.serving.grpc_client import read_answer as read_message  # imports grpc

    named = np.zeros(len(found.replies), np.int64)
    like = {which: np.zeros(len(found.replies), bool) for which in asked.validated}
    good = set(found.reply[found.status == OK].tolist())
    for place, (kind, number, body) in enumerate(found.replies):
        for which, (signature, validated) in asked.validated.items() if place in good else ():
            tolerance = tolerances(signature, rehearsal.gates.atol, rehearsal.gates.rtol)
            try:
                if kind == 0:
                    named[place], answer = read_message(body, signature.outputs)
                else:
                    answer = read_answer(body, signature.outputs)
                like[which][place] = alike(answer, validated(number), tolerance, signature.outputs)
            except ServingError:  # an answer with other outputs is not this version's
                continue
    return {"named": named[found.reply], **{which: flags[found.reply] for which, flags in like.items()}}


@dataclass(frozen=True)
class _Steps:
    """The steps of a change, by the code that changes production, on the copy of its directory."""

    config: Config
    rehearsal: Rehearsal
    champion: Champion
    loop: OpenLoop
    server: ThrowawayServer
    client: RestClient
    show: Show
    model_dir: Path

    def take(self, change: ServedChange) -> ServedChange:
        """Make the change and take it back, with pauses in which clients are served; return when that was."""
        seconds = self.rehearsal.gates.change.seconds
        self._pause(seconds)
        change = self._forward(change)
        if change.problem:
            return change
        self._pause(seconds / 2)
        change = self._back(change)
        self._pause(seconds / 2)
        return change

    def _forward(self, change: ServedChange) -> ServedChange:
        """Make the candidate live, and with labels the stable version."""
        production, width = self._production([]), self.config.export.version_width
        step = publishing(production, self.rehearsal.candidate, self.champion, change.new, f"{change.new:0{width}d}")
        begun, problem = self._carried_out(step)
        change = replace(change, changed_s=begun, problem=problem)
        if problem or production.layout == "latest":
            return change
        self._pause(0)
        begun, problem = self._carried_out(making_stable(production, ACTOR))
        return replace(change, labelled_s=begun, problem=problem)

    def _back(self, change: ServedChange) -> ServedChange:
        """Take the change back, as `rollback` does."""
        try:
            step = going_back(self._production([]), self.config.candidates_dir, None, ACTOR)
        except StoreError as exc:
            if served_digest(read(self.config.live_dir), self.champion.version):
                return replace(change, problem=f"the rollback is refused: {exc}")
            return replace(change, no_way_back="the history does not know the live version")
        if step.digest != self.champion.digest:  # it was rolled back before, and put back by hand
            return replace(change, no_way_back=f"rollback goes to version {step.version}, which is not the live one")
        if step.operation == "publish":
            number = change.new + 1
            step = replace(step, version=number, directory=f"{number:0{self.config.export.version_width}d}")
        rolled_back = self.loop.now()
        begun, problem = self._carried_out(step)
        return replace(change, back=step.version, rolled_back_s=rolled_back, renamed_back_s=begun, problem=problem)

    def _carried_out(self, change: Change) -> tuple[float, str]:
        """Make a change; return when the server could first see it, and why it was taken back, or an empty string."""
        begun: list[float] = []
        result = carry_out(self._production(begun), change)
        problem = f"version {change.version} did not go live: {result.reason}" if result.state != "live" else ""
        if not problem and change.operation == "label":
            problem = self._label_moved(change)
        return (begun or [self.loop.now()])[0], problem

    def _production(self, begun: list[float]) -> Production:
        """Return the copy as a production; `begun` gets the time at which the server could first see a change."""
        promote = self.config.promote

        def mark() -> None:
            if not begun:
                begun.append(self.loop.now())

        return Production(
            self.model_dir, promote.layout, self._served, lambda _change: None, int(promote.directory_mode, 8),
            None,  # the files are hard links to those of production and of the candidate
            show=lambda: self.show(mark),
        )  # fmt: skip

    def _served(self, change: Change) -> str:
        """Wait until the server has loaded a version; return why it has not, or an empty string."""

        def state() -> tuple[str, str]:
            return self.client.states().get(change.version, ("unknown", ""))

        return self._until(lambda: state()[0] == "AVAILABLE", lambda: _refusal(state()), f"version {change.version}")

    def _label_moved(self, change: Change) -> str:
        """Wait until the label names the version; return why it does not, or an empty string."""
        return self._until(
            lambda: self.client.labelled(change.label) == change.version, lambda: "", f"the label {change.label}"
        )

    def _until(self, happened: Callable[[], bool], refusal: Callable[[], str], what: str) -> str:
        most_s = self.rehearsal.gates.change.max_seconds
        deadline = time.monotonic() + most_s
        while time.monotonic() < deadline:
            with contextlib.suppress(ServingUnavailable):
                if happened():
                    return ""
                if words := refusal():
                    return words
            if (ended := self.server.ended()) is not None:
                raise ended
            time.sleep(POLL_S)
        return f"{what} was not served within {most_s:g} s (gates.change.max_seconds)"

    def _pause(self, seconds: float) -> None:
        time.sleep(max(seconds, FEWEST_AFTER / self.rehearsal.gates.change.rate))


def _refusal(told: tuple[str, str]) -> str:
    return f"the server refused it: {one_line(told[1])}" if told[0] == "END" else ""
