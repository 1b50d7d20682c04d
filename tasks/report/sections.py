"""What the page's tables hold, as plain text; the template escapes all of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from configs.loading import shown
from configs.redaction import redact
from configs.schema import Config
from tasks.datasets.rows import load_arrays
from tasks.records import ServedAnswers, ServedLatency, Splits, TrainedModel, ValidationReport
from tasks.report.tables import clip, number
from tasks.savedmodel.resumed import resumed_words

LOG_LINES = 40
MOST_ROWS = 100  # of one table
MOST_REPLAYED = 20  # inputs of recorded requests
MOST_INPUTS = 16  # values of a row that are shown
CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")  # a terminal's colours, and what no page shows


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        caption: what it holds, for screen readers. head: names of the columns.
        numeric: columns from this one on are numbers, aligned right.
        rows: cells. note: what is left out, or empty.
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[int, ...] = ()
    note: str = ""


def evidence_list(report: ValidationReport, gate: str, key: str) -> list[Mapping[str, Any]]:
    """Return a list of records that a gate left as evidence, empty where it left none."""
    found = next((result.evidence.get(key) for result in report.gates if result.name == gate), None)
    return [item for item in found if isinstance(item, Mapping)] if isinstance(found, list | tuple) else []


def reading_text(report: ValidationReport) -> str:
    """Return how the quality gate read the judged output, and why; empty where it judged none."""
    found: Mapping[str, Any] = next((gate.evidence for gate in report.gates if gate.name == "quality"), {})
    if "task" not in found:
        return ""
    return f"{_text(found['task']) or 'no known task'} {_text(found.get('scores'))} ({_text(found.get('reading'))})"


def slices_table(report: ValidationReport) -> Table | None:
    """Return the metrics by slice, next to the champion's."""
    slices = evidence_list(report, "quality", "slices")
    metrics = list(dict.fromkeys(name for item in slices for name in _mapping(item, "metrics")))
    compared = [name for name in metrics if any(name in _mapping(item, "champion") for item in slices)]
    fewer = compared and any(item.get("unseen_rows", item.get("rows")) != item.get("rows") for item in slices)
    head = ["slice", "verdict", "rows", *(["rows compared"] if fewer else [])]
    for name in metrics:
        ours = [f"{name}, compared"] if fewer else []
        head += [name, *ours, f"{name}, champion"] if name in compared else [name]
    numeric = range(2, len(head))
    head.append("reason")
    rows = []
    for item in slices[:MOST_ROWS]:
        judged, passed = item.get("judged"), item.get("passed")
        row = [_text(item.get("slice")), ("pass" if passed else "FAIL") if judged else "too few rows"]
        row += [_figure(item.get(key)) for key in (("rows", "unseen_rows") if fewer else ("rows",))]
        for name in metrics:
            row.append(_figure(_mapping(item, "metrics").get(name)))
            if name in compared:
                row += [_figure(_mapping(item, "compared").get(name))] if fewer else []
                row.append(_figure(_mapping(item, "champion").get(name)))
        rows.append([*row, _text(item.get("reason"))])
    return _table("Metrics by slice", head, rows, len(slices), numeric)


def worst_table(report: ValidationReport) -> Table | None:
    """Return the rows whose served answers differ most, with their inputs."""
    worst = evidence_list(report, "parity", "worst")
    head = ["output", "row", "element", "served", "in process", "difference", "inputs"]
    rows = [
        [
            _text(item.get("output")),
            _figure(item.get("row")),
            _text(item.get("element")),
            _exact(item.get("served")),
            _exact(item.get("in_process")),
            _figure(item.get("difference")),
            _inputs(_mapping(item, "inputs")),
        ]
        for item in worst[:20]
    ]
    return _table("Rows whose served answers differ most", head, rows, len(worst), (1, 3, 4, 5))


def probes_table(report: ValidationReport) -> Table | None:
    """Return what the server answered to malformed and extreme requests, and which answers the gate refuses."""
    probes = report.served.probes if report.served else ()
    judged = next((gate.evidence.get("failed") for gate in report.gates if gate.name == "robustness"), None)
    rows = [
        [
            _text(probe.case),
            ("FAIL" if probe.case in judged else "pass") if isinstance(judged, list | tuple) else "",
            "an answer" if probe.normal else "4xx or finite numbers",
            str(probe.status) if probe.status else "no answer",
            ("yes" if probe.finite else "NO") if probe.status == 200 else "",
            clip(probe.words, 160),
        ]
        for probe in probes[:MOST_ROWS]
    ]
    head = ["request", "verdict", "should get", "status", "finite", "answer begins with"]
    return _table("Malformed and extreme requests", head, rows, len(probes), (3,))


def replay_tables(report: ValidationReport) -> list[Table]:
    """Return what became of recorded requests: decisions by slice, flipped rows, refusals, and the inputs."""
    tables = (_replayed_slices(report), _flipped(report), _refusals(report), _replayed_inputs(report))
    return [table for table in tables if table is not None]


def _replayed_slices(report: ValidationReport) -> Table | None:
    slices = sorted(evidence_list(report, "replay", "slices"), key=lambda item: (item.get("passed"), -item["share"]))
    rows = [
        [
            _text(item.get("slice")),
            "pass" if item.get("passed") else "FAIL",
            _figure(item.get("rows")),
            _figure(item.get("flipped")),
            *(_share(item.get(key)) for key in ("share", "low", "high", "elsewhere")),
        ]
        for item in slices[:MOST_ROWS]
    ]
    head = ["slice", "verdict", "rows", "other decisions", "share", "at least", "at most", "in the other rows"]
    return _table("Decisions that differ from the champion's", head, rows, len(slices), range(2, len(head)))


def _flipped(report: ValidationReport) -> Table | None:
    flipped = evidence_list(report, "replay", "flipped")
    rows = [
        [
            _figure(item.get("request")),
            _figure(item.get("row")),
            _inputs(_mapping(item, "candidate")),
            _inputs(_mapping(item, "champion")),
            _inputs(_mapping(item, "inputs")),
        ]
        for item in flipped[:MOST_ROWS]
    ]
    head = ["request", "row", "candidate", "champion", "inputs"]
    return _table("Recorded rows with another decision", head, rows, len(flipped), (1,))


def _refusals(report: ValidationReport) -> Table | None:
    refusals = evidence_list(report, "replay", "refusals")
    rows = [
        [_figure(item.get("request")), _text(item.get("refused by")), _text(item.get("words"))] for item in refusals
    ]
    return _table("Recorded requests that were refused", ["request", "refused by", "reason"], rows, len(rows), ())


def _replayed_inputs(report: ValidationReport) -> Table | None:
    inputs = sorted(evidence_list(report, "replay", "inputs"), key=lambda item: (not item.get("outside"), -item["psi"]))
    rows = []
    for item in inputs[:MOST_REPLAYED]:
        named = [
            f"{_figure(one.get('value'))} (request {_figure(one.get('request'))}, row {_figure(one.get('row'))})"
            for one in item.get("named", ())
        ]
        rows.append(
            [
                _text(item.get("name")),
                *(_figure(round(item.get(key, 0.0), 4)) for key in ("psi", "noise")),
                _text(item.get("span")),
                _figure(item.get("outside")),
                clip("; ".join(named), 400),
            ]
        )
    head = ["input", "stability index", "by chance at most", "training rows", "values outside", "the first ones"]
    return _table("Inputs of the recorded requests", head, rows, len(inputs), (1, 2, 4))


def _share(value: object) -> str:
    return f"{100 * value:.3g} %" if isinstance(value, float) else _text(value)


def latency_table(latency: ServedLatency) -> Table | None:
    """Return percentiles and throughput of each version."""
    samples = {name: times for name, times in load_arrays(latency.samples).items() if len(times)}
    rows = []
    for name, times in samples.items():
        figures = [*np.percentile(times, (50, 95, 99)), np.max(times)]
        rate = latency.requests_per_s.get(name)
        rows.append([name, *(f"{figure:,.2f}" for figure in figures), "" if rate is None else number(round(rate, 1))])
        rows[-1].append(f"{len(times):,}")
    head = ["version", "p50, ms", "p95, ms", "p99, ms", "slowest, ms", "requests/s", "requests"]
    return _table("Latency", head, rows, len(rows), range(1, len(head)))


def server_lines(served: ServedAnswers) -> dict[str, str]:
    """Return which server gave the answers."""
    server, latency = served.server, served.latency
    lines = {
        "backend": server.backend,
        "why": server.reason,
        "image": server.image,
        "image id": server.image_id,
        "flags": " ".join(server.args),
        "address": server.url,
        "version": server.version or ("unknown" if server.url else ""),
        "started in": number(server.startup_s, "s"),
        "test rows": f"{served.rows:,}, answered at {number(round(served.rows_per_s))} rows/s",
        "first request": number(latency.cold_ms, "ms") if latency else "",
        "memory": number(latency.memory_mb, "MB") if latency and latency.memory_mb else "unknown" if server.url else "",
    }
    return _shown(lines)


def log_tail(path: Path) -> str:
    """Return the last lines of a log, long ones cut; empty where there is none."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - 64 * 1024))
            lines = log.read().decode("utf-8", "replace").splitlines()
    except OSError:  # a page without a log says more than no page
        return ""
    return "\n".join(clip(CONTROL.sub("", line), 400) for line in lines[-LOG_LINES:])


def provenance_lines(
    splits: Splits, trained: TrainedModel, report: ValidationReport, facts: Mapping[str, str]
) -> dict[str, str]:
    """Return what the candidate is made of."""
    candidate, champion = report.candidate, report.champion
    rows = ", ".join(f"{count:,} {split}" for split, count in splits.rows.items())
    features = ", ".join(splits.features[:MOST_INPUTS])
    if len(splits.features) > MOST_INPUTS:
        features += f" and {len(splits.features) - MOST_INPUTS} more"
    lines = {
        "model": f"{candidate.name} version {candidate.version}",
        "digest": candidate.digest,
        "files": f"{candidate.size_bytes:,} bytes in {candidate.version_dir}",
        "weights": f"{trained.parameters or report.graph.parameters:,}",
        "champion": f"version {champion.version}, digest {champion.digest}" if champion else "no version was live",
        "task": reading_text(report),
        "trained": f"elsewhere: {trained.source}" if trained.source else resumed_words(candidate.version_dir),
        "trained on": _trained_on(splits) if trained.source else "",
        "data": splits.source,
        "rows": f"{rows}, as a stream; every test row was judged" if splits.streamed else rows,
        "features and targets": features,
        "rounded": "; ".join(f"{name} from {change}" for name, change in trained.rounded.items()),
        "data digest": splits.digest,
    }
    return _shown({name: redact(text) for name, text in {**lines, **facts}.items()})


def _trained_on(splits: Splits) -> str:
    """Return on which rows a model was trained elsewhere, and how many were not judged because of that."""
    if splits.left_out is None:
        return "rows that are not known: some of the judged rows may be among them"
    return f"{splits.trained_on:,} given rows; {splits.left_out:,} rows that are among them were not judged"


def config_yaml(config: Config) -> str:
    """Return the configuration with every default."""
    return clip(yaml.safe_dump(shown(config), sort_keys=False, allow_unicode=True, width=100), 60_000)


def _shown(lines: Mapping[str, str]) -> dict[str, str]:
    return {clip(name, 100): clip(text, 2000) for name, text in lines.items() if text}


def _table(
    caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], n_all: int, numeric: Sequence[int]
) -> Table | None:
    """Return a table, None if it has no rows; columns that are empty throughout are left out."""
    if not rows:
        return None
    kept = [index for index in range(len(head)) if any(row[index] for row in rows)]
    note = f"{n_all - len(rows):,} more are in the run's report.json." if n_all > len(rows) else ""
    cells = tuple(tuple(row[index] for index in kept) for row in rows)
    right = tuple(place for place, index in enumerate(kept) if index in numeric)
    return Table(caption, tuple(clip(head[index], 80) for index in kept), cells, right, note)


def _mapping(item: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = item.get(key)
    return found if isinstance(found, Mapping) else {}


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_text(item) for item in value)
    return "" if value is None else clip(str(value), 200)


def _figure(value: object) -> str:
    return number(float(value)) if isinstance(value, int | float) else _text(value)


def _exact(value: object) -> str:
    """Return enough digits to tell two float32 apart."""
    return f"{value:.9g}" if isinstance(value, float) else _text(value)


def _inputs(inputs: Mapping[str, Any]) -> str:
    """Return a row's inputs in one line, MOST_INPUTS values of them at most."""
    left, parts = MOST_INPUTS, []
    for name, value in inputs.items():
        if left <= 0:
            parts.append("…")
            break
        flat = _flat(value)
        shown = ", ".join(clip(_figure(item), 80) for item in flat[:left])
        more = f", … ({len(flat)} values)" if len(flat) > left else ""
        parts.append(f"{clip(str(name), 60)}: {shown}{more}")
        left -= len(flat)
    return "; ".join(parts)


def _flat(value: object) -> list[object]:
    return [leaf for item in value for leaf in _flat(item)] if isinstance(value, list | tuple) else [value]
