"""Finds the training rows of a champion that an older release exported without a record of its rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from tasks.datasets.fitting import fit_to_inputs
from tasks.datasets.rows import Array, load_arrays, load_rows
from tasks.datasets.seen import Record, request_fingerprints, write_record
from tasks.errors import DataError
from tasks.records import Champion, Signature
from tasks.store.rehearsals import Rehearsed, recall_or_warn


def with_record(champion: Champion, candidates_dir: Path, inputs: Mapping[str, str], path: Path) -> Champion:
    """Return a champion with its record: its own, or one that is made from the rows of its run if these still exist.

    Args:
        candidates_dir: where its rehearsal was kept. inputs: maps served names of inputs to features (`export.inputs`).
        path: the file for a new record.
    """
    if champion.seen is not None:
        return champion
    known = recall_or_warn(candidates_dir, champion.digest)
    record = _record(known, inputs) if known is not None else None
    if record is None:
        return champion
    write_record(path, record)
    return replace(champion, seen=path)


def _record(known: Rehearsed, inputs: Mapping[str, str]) -> Record | None:
    """Return the rows of a run, or None if they are gone or their requests had other names."""
    splits, candidate = known.splits, known.report.candidate
    files = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    try:
        asked = {
            split: _requests(load_rows(path).features, candidate.signature, inputs) for split, path in files.items()
        }
        sent = load_arrays(candidate.requests)
    except DataError:
        return None
    if set(sent) != set(asked["test"]) or not all(np.array_equal(sent[name], asked["test"][name]) for name in sent):
        return None  # the inputs have other names in the configuration now
    return Record({split: request_fingerprints(requests, candidate.name) for split, requests in asked.items()})


def _requests(features: Mapping[str, Array], signature: Signature, inputs: Mapping[str, str]) -> dict[str, Array]:
    """Return rows in the form of a signature.

    Raises:
        DataError: the rows do not fit it.
    """
    if len(signature.inputs) > 1 or len(features) > 1:
        names = {spec.name: inputs.get(spec.name, spec.name) for spec in signature.inputs}
        features = {served: features[name] for served, name in names.items() if name in features}
    return fit_to_inputs(features, signature.inputs)
