"""Judges what is live on another server, by what it answered when it was judged; nothing is trained or changed."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from configs.errors import ConfigError
from configs.schema import Config
from configs.sections.gates import Gates
from tasks.datasets.golden import read_golden
from tasks.datasets.rows import load_arrays, load_rows
from tasks.errors import DataError
from tasks.gates.judge import judge, judge_files, own_rows
from tasks.gates.parity import tolerances
from tasks.gates.serving import judge_refusal
from tasks.gates.way_back import ALLOWED, judge_recorded, recorded_answers
from tasks.objects.store import refresh
from tasks.records import Backend, Candidate, GateResult, Recorded, ServedAnswers, WayBack
from tasks.savedmodel.safety import MB, read_graph
from tasks.serving.launch import throwaway_server
from tasks.serving.rehearsal import OWN, Rehearsal
from tasks.serving.rehearse import rehearse
from tasks.serving.way_back import refusal_words
from tasks.store.champion import champion_version, predecessor
from tasks.store.rehearsals import Rehearsed
from tasks.store.serving_config import labels_of
from tasks.store.way_back import served_version

log = logging.getLogger(__name__)
LIVE, WAY_BACK = "which is live", "which a rollback would return to"
BOUND = ("contract", "quality", "latency")  # gates that can fail by a bound of today, whatever the server answers


@dataclass(frozen=True)
class InProduction:
    """A version that a server of production would have to serve.

    Attributes:
        version: its number. role: why it matters, in a few words.
        known: its files and its recorded answers. rehearsal: its own, or None if the recorded answers are gone.
    """

    version: int
    role: str
    known: WayBack
    rehearsal: Rehearsed | None


@dataclass(frozen=True)
class Verdict:
    """The verdicts on one version on one server.

    Attributes:
        server: which one, such as `docker tensorflow/serving:2.20.0`.
        allowed: whether the version may fail, by `promote.allow_no_way_back`.
    """

    version: int
    role: str
    server: str
    gates: tuple[GateResult, ...]
    allowed: bool = False

    @property
    def passed(self) -> bool:
        """Return whether every gate passed, or the version may fail."""
        return self.allowed or all(gate.passed for gate in self.gates)

    @property
    def why(self) -> str:
        """Return the summaries of the failed gates in one line, or an empty string."""
        said = "; ".join(f"{gate.name}: {gate.summary}" for gate in self.gates if not gate.passed)
        return f"{said}; {ALLOWED}" if said and self.allowed else said


def in_production(config: Config) -> tuple[InProduction, ...]:
    """Return the live version, the one that `rollback` would return to now if there is one, and others with a label.

    Raises:
        ConfigError: no version is live. StoreError: the store cannot be read.
    """
    refresh(config)
    champion = champion_version(config.live_dir, config.promote.layout)
    if champion is None:
        raise ConfigError(
            f"--live judges the live version, but there is none in '{config.live_dir}'; promote one first"
        )
    found = [(champion, LIVE)]
    if (target := predecessor(config.live_dir, champion)) is not None:
        found.append((target, WAY_BACK))
    else:
        log.warning(
            "no way back of version %d is judged, because there is none: no version before it served other bytes and "
            "was not rolled back", champion,
        )  # fmt: skip
    others = labels_of(config.live_dir) if config.promote.layout == "labels" else {}
    for label, version in sorted(others.items()):  # the server would have to serve them to users as well
        if version not in dict(found):
            found.append((version, f"which has the label {label}"))
    return tuple(
        InProduction(version, role, *served_version(config.live_dir, config.candidates_dir, version))
        for version, role in found
    )


def judge_on(config: Config, one: InProduction, backend: Backend, directory: Path) -> Verdict:
    """Return the verdicts of all gates on a version, served alone by one server.

    The gate `recorded` compares the answers with those of the version's own rehearsal. A gate that fails with the
    recorded answers as well fails by a bound that was changed since then: it passes here, and says so.

    Args:
        directory: where the answers and the server's log are written.

    Raises:
        ServingError: the server gave no usable answers. DataError: the golden file cannot be used.
    """
    allowed = one.role == WAY_BACK and config.promote.allow_no_way_back
    return Verdict(one.version, one.role, str(backend), tuple(_gates(config, one, backend, directory)), allowed)


def _gates(config: Config, one: InProduction, backend: Backend, directory: Path) -> list[GateResult]:
    known = one.known
    if known.version_dir is None:
        return [GateResult("recorded", False, f"it cannot be served: {known.problem or known.unproven}")]
    graph = read_graph(known.version_dir, config.gates.safety.max_graph_mb * MB)
    files = [_as_before(gate, {"size"}) for gate in judge_files(config.gates, graph, None)]
    if not all(gate.passed for gate in files):  # no server loads an unsafe graph
        return files
    if one.rehearsal is None or known.recorded is None or (gone := _gone(one.rehearsal.report.candidate)):
        why = known.unproven or f"the recorded answers are gone: '{gone}' is not there any more"
        return [*files, *_loaded(config, one, backend, directory, why)]
    candidate = replace(one.rehearsal.report.candidate, version=int(known.version_dir.name))
    candidate = replace(candidate, version_dir=known.version_dir)
    gates, unfit = _that_fit(config, candidate)
    try:
        served = rehearse(Rehearsal(config.serving, candidate, backend, directory, gates))
    except OWN as exc:
        return [*files, judge_refusal(str(backend), refusal_words(exc), exc.detail)]
    found = [*judge(gates, candidate, served, keras_names=config.export.outputs), *unfit]
    failed = {gate.name for gate in found if not gate.passed}
    before = _failed_before(config, candidate, one.rehearsal) if failed & {*BOUND} else set()
    return [*files, *(_as_before(gate, before) for gate in found), _recorded(config, known.recorded, served)]


def _that_fit(config: Config, candidate: Candidate) -> tuple[Gates, list[GateResult]]:
    """Return the gates whose settings fit a version, which may be older than the settings, and a line for each other.

    What does not fit, such as golden rows with another input, says nothing about a server.
    """
    gates, keras_names = config.gates, config.export.outputs
    unfit = []
    try:
        if gates.golden.file is not None and "golden" in gates.judging:
            read_golden(gates.golden.file, candidate.signature)
    except DataError as exc:
        unfit.append(GateResult("golden", True, f"not judged, because its settings do not fit this version: {exc}"))
    try:
        if "quality" in gates.judging and load_rows(candidate.targets).targets:
            own_rows(gates, candidate, load_arrays(candidate.reference), keras_names)
    except DataError as exc:
        unfit.append(GateResult("quality", True, f"not judged, because its settings do not fit this version: {exc}"))
    left = tuple(name for name in gates.judging if name not in {gate.name for gate in unfit})
    return gates.model_copy(update={"use": left or ("contract",)}), unfit


def _gone(candidate: Candidate) -> Path | None:
    """Return the first file of a rehearsal that is not there any more, or None."""
    return next((path for path in (candidate.reference, candidate.targets) if not path.is_file()), None)


def _recorded(config: Config, recorded: Recorded, served: ServedAnswers) -> GateResult:
    tolerance = tolerances(recorded.signature, config.gates.atol, config.gates.rtol)
    try:
        then = recorded_answers(recorded)
    except DataError as exc:
        return GateResult("recorded", False, f"nothing is known of its answers when it was judged: {exc}")
    return judge_recorded(load_arrays(served.answers), then, recorded.signature, tolerance)


def _failed_before(config: Config, candidate: Candidate, known: Rehearsed) -> set[str]:
    """Return the gates that fail with the recorded answers by today's bounds, as far as these answers are there."""
    if known.report.served is None:
        return set()
    gates = config.gates.model_copy(update={"use": BOUND})
    then = replace(known.report.served, champion=None, way_back=None)
    try:
        found = judge(gates, candidate, then, keras_names=config.export.outputs)
    except DataError as exc:
        log.warning("it is not known which gates fail with the recorded answers as well: %s", exc)
        return set()
    return {gate.name for gate in found if not gate.passed}


def _as_before(gate: GateResult, before: set[str]) -> GateResult:
    """Return a verdict that the server did not cause as passed, with the reason."""
    if gate.passed or gate.name not in before:
        return gate
    return replace(gate, passed=True, summary=f"{gate.summary}; it fails without this server as well", note=None)


def _loaded(config: Config, one: InProduction, backend: Backend, directory: Path, why: str) -> list[GateResult]:
    """Load a version whose recorded answers are gone; that it can be loaded proves nothing of its answers."""
    assert one.known.version_dir is not None
    served = _Loaded(config.name, one.known.version_dir)
    try:
        with throwaway_server(backend, config.serving, served, directory / "server.log"):
            pass
    except OWN as exc:
        return [judge_refusal(str(backend), refusal_words(exc), exc.detail)]
    return [GateResult("recorded", False, f"it loads, but nothing is known of its answers: {why}")]


@dataclass(frozen=True)
class _Loaded:
    """A version directory to load (`launch.Served`)."""

    name: str
    version_dir: Path
    run_id: str = "upgrade"

    @property
    def version(self) -> int:
        return int(self.version_dir.name)
