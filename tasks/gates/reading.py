"""The task: what the answers of an output are, decided once from the loss, the targets and the output.

    clues + targets + answers -- decide --> Reading -- settle (gates.task, gates.scores) --> Reading

At fit that is done before training, with the answers of the untrained model to a few rows, and the result travels with
the export. An export without one is read by its answers alone: `undeclared`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from configs.sections.gates import Gates
from tasks.datasets.readings import read_readings
from tasks.datasets.rows import Array
from tasks.errors import DataError
from tasks.gates.scores import Scored, are_numbers, as_float, improbable
from tasks.records import Candidate, Clues, Reading, Scores, Task

MOST_LABELS = 30  # more values than these, answered as integers, are counts and not classes


def decide(clues: Clues, target: Array, answers: Array) -> Reading:
    """Return how answers are read; the task is empty where no built-in metric fits.

    Args:
        target: shape (n, ...), true values. answers: shape (m, ...), some answers; of these, only shape and dtype
            count.
    """
    said = clues.loss or "an unknown loss"
    ending = f" on a {clues.ends_in}" if clues.ends_in else ""
    if clues.family == "binary" and are_numbers(target) and not _are_between_0_and_1(target):
        return Reading("", "", f"{said}{ending} expects targets from 0 to 1, got {_range(target)}", clues)
    wanted = _wanted(clues, target, answers)
    problems = [misfit(task, target, answers) for task in wanted]
    for task, problem in zip(wanted, problems, strict=True):
        if not problem:
            scores = _scores(clues, task, answers)
            return Reading(task, scores, f"{said}{ending}, {_words(target, answers)}", clues)
    return Reading("", "", f"{said}{ending}: {problems[0]}", clues)


def undeclared(gates: Gates, target: Array, answers: Array) -> Reading:
    """Infer how answers are read from the answers themselves, for an export that does not record it.

    They are probabilities if they look like it. Other class scores can only be ranked, and a single number for each row
    that is not a probability is a value.
    """
    ends_in = "" if gates.scores or not are_numbers(answers) else _looks(answers)
    found = decide(Clues(ends_in=ends_in), target, answers)  # type: ignore[arg-type]
    scores, task = found.scores, found.task
    if scores == "probabilities" and not Scored(target, answers, found).probable():
        task, scores = ("regression", "values") if _width(answers) == 1 else (task, "margins")
    return Reading(task, scores, f"inferred from the answers: {_words(target, answers)}")


def _looks(answers: Array) -> str:
    """Return the final activation that the answers look like, or an empty string."""
    if are_labels(answers) or not len(answers):
        return ""
    if _width(answers) > 1 and not improbable(answers, add_up=True):
        return "softmax"
    return "" if improbable(answers, add_up=False) else "sigmoid"


def settle(gates: Gates, found: Reading, target: Array, answers: Array, output: str) -> Reading:
    """Return a reading that follows `gates.task` and `gates.scores`.

    Raises:
        DataError: they contradict the output, the targets or each other.
    """
    if not gates.task and not gates.scores:
        return found
    task = gates.task or (found.task if found.scores not in ("", "values") else _class_task(target, answers))
    if not task or (task == "regression" and gates.scores):
        raise DataError(
            f"gates.scores applies to scores of classes, but output '{output}' is read as "
            f"{task or found.task or 'none of them'} ({found.reason}); set gates.task to what it is"
        )
    problem = misfit(task, target, answers)
    if problem:
        raise DataError(f"gates.task is {task}, but output '{output}' does not fit: {problem}; change it or remove it")
    scores: Scores = gates.scores or (found.scores if task == found.task else _scores(found.clues, task, answers))
    if gates.scores and are_labels(answers):
        raise DataError(f"gates.scores is {gates.scores}, but output '{output}' answers with integers; remove it")
    if gates.scores == "logits" and _shares(found.clues, task, answers):
        raise DataError(
            f"gates.scores is logits, but output '{output}' ends in a {found.clues.ends_in}: its answers are "
            "probabilities; remove it"
        )
    names = [f"gates.{name}" for name in ("task", "scores") if getattr(gates, name)]
    reason = found.reason if (task, scores) == (found.task, found.scores) else " and ".join(names)
    return Reading(task, scores, reason, found.clues)


def reading_of(gates: Gates, candidate: Candidate, output: str, target: Array, served: Array) -> Reading:
    """Return how an output's answers are read: as its export kept it, and as `gates` say now.

    Raises:
        DataError: the test rows do not fit that, or `gates` contradict it.
    """
    kept = read_readings(candidate.version_dir).get(output)
    found = settle(gates, kept or undeclared(gates, target, served), target, served, output)
    if not of_own_metrics(gates):
        refuse_misfit(found, target, served, output)
    return found


def of_own_metrics(gates: Gates) -> bool:
    """Return whether the user's own metrics alone judge: they are given what was served, however it is read."""
    return bool(gates.metrics) and all(":" in name for name in gates.metrics)


def refuse_misfit(found: Reading, target: Array, served: Array, output: str) -> None:
    """Raise `DataError` if the test rows cannot be read as it was decided by the training rows."""
    problem = misfit(found.task, target, served) if found.task else ""
    if problem:
        what = f"output '{output}' is read as {found} ({found.reason})"
        raise DataError(f"{what}, but the test rows do not fit: {problem}")


def reading_of_champion(kept: Reading | None, own: Reading, target: Array, served: Array) -> Reading:
    """Return how a champion's answers are read: as its own export kept it, else as probabilities where they look so.

    What does neither is read as the candidate's answers are.
    """
    if kept is not None and kept.task:
        return kept
    probable = own.scores == "logits" and Scored(target, served, replace(own, scores="probabilities")).probable()
    return replace(own, scores="probabilities", reason="inferred from the answers") if probable else own


def why_not_compared(own: Reading, its: Reading, target: Array, served: Array) -> str:
    """Return why a champion's answers cannot be compared with the candidate's, or an empty string."""
    if own.task != its.task:
        return f"the champion's answers are read as {its}, {its.reason}"
    problem = misfit(its.task, target, served) if its.task else ""
    try:
        Scored(target, served, its, "of the champion").check()
    except DataError as exc:
        problem = str(exc)
    return problem


def misfit(task: Task, target: Array, answers: Array) -> str:
    """Return why targets and answers do not fit a task, or an empty string."""
    shapes = f"targets of shape {shape_of(target)} and answers of shape {shape_of(answers)}"
    if not len(target):
        return "there are no rows"
    if not are_numbers(target) or not are_numbers(answers):
        return f"targets of {target.dtype} and answers of {answers.dtype} are not both numbers"
    if task == "regression":
        same = _size(target) == _size(answers)
        return "" if same else f"{shapes} do not have the same number of values per row"
    width = _width(answers)
    if not width:
        return f"{shapes} do not have one answer per row; judge tokens and pixels by your own metric (module:function)"
    if are_labels(answers) and _size(target) == 1:
        return _no_labels(task, target)
    if task == "multilabel":
        if width < 2 or _width(target) != width:
            return f"{shapes} do not have one column per label"
        return "" if _are_marks(target) else f"targets of {_range(target)} are not 0 and 1"
    if task == "binary" and width == 1:
        if _size(target) != 1:
            return f"{shapes} do not have one target and one answer per row"
        return "" if _are_marks(target) else f"targets of {_range(target)} are not 0 and 1"
    return _no_classes(task, target, width, shapes)


def _no_labels(task: Task, target: Array) -> str:
    if task == "multilabel":
        return "there is one label per row, not several"
    if task == "binary" and not _are_marks(target):
        return f"targets of {_range(target)} are not 0 and 1"
    return "" if _are_whole(target) else f"targets of {_range(target)} are not class numbers"


def _no_classes(task: Task, target: Array, width: int, shapes: str) -> str:
    """Return why targets do not name one of `width` classes in each row, or an empty string."""
    if width < 2 or (task == "binary" and width != 2):
        return f"{shapes} do not have {'one or two scores' if task == 'binary' else 'a score for each class'} per row"
    if _size(target) == 1:
        values = as_float(target)
        named = _are_whole(target) and values.min() >= 0 and values.max() < width
        return "" if named else f"targets of {_range(target)} do not name {width} classes, 0 to {width - 1}"
    if _width(target) != width:
        return f"{shapes} do not have the same number of classes"
    return "" if are_one_hot(target) else "a row of the targets is not one-hot (a single 1, otherwise 0)"


def are_labels(answers: Array) -> bool:
    """Return whether an answer is one integer or boolean: the number of a class, not a score."""
    return answers.dtype.kind in "biu" and _width(answers) == 1


def are_one_hot(target: Array) -> bool:
    """Return whether every row of (n, k), k > 1, has a single 1 and else 0."""
    if not are_numbers(target) or _width(target) < 2:
        return False
    values = as_float(target)
    return bool(np.isin(values, (0, 1)).all() and (values.sum(axis=1) == 1).all())


def _wanted(clues: Clues, target: Array, answers: Array) -> tuple[Task, ...]:
    """Return the possible tasks, the likeliest first."""
    width = _width(answers)
    classes: Task = "binary" if width in (1, 2) else "multiclass"
    each: Task = "multilabel" if width > 1 else "binary"
    soft: tuple[Task, ...] = ("regression",) if not clues.from_logits and _are_between_0_and_1(target) else ()
    if are_labels(answers):
        few = are_numbers(target) and _are_whole(target) and len(np.unique(target)) <= MOST_LABELS
        return ("binary", "multiclass", "regression") if few else ("regression",)
    if clues.family == "binary":
        return (classes if clues.ends_in == "softmax" else each, *soft)
    if clues.family in ("classes", "one-hot margin"):
        return (classes,)
    if clues.family == "one-hot":
        return (classes, *soft)
    if clues.family == "margin":
        return (each,)
    classes_by_targets = target.dtype.kind in "biu" or are_one_hot(target)
    if not clues.ends_in and (clues.family == "numbers" or not classes_by_targets):
        return ("regression",)
    order = (each, classes) if clues.ends_in == "sigmoid" else (classes, each)
    return (*order, "regression")


def _class_task(target: Array, answers: Array) -> Task:
    """Return the task of classes that fits, or an empty one."""
    tasks: tuple[Task, ...] = ("binary", "multiclass", "multilabel")
    return next((task for task in tasks if not misfit(task, target, answers)), "")


def _scores(clues: Clues, task: Task, answers: Array) -> Scores:
    if task == "regression":
        return "values"
    if are_labels(answers):
        return "labels"
    if _shares(clues, task, answers):
        return "probabilities"
    if clues.family in ("margin", "one-hot margin"):
        return "margins"
    return "logits" if clues.from_logits or clues.ends_in == "log_softmax" else "probabilities"


def _shares(clues: Clues, task: Task, answers: Array) -> bool:
    """Return whether the output is made of probabilities whatever its loss says.

    Keras itself takes what went into a softmax or a sigmoid where a loss wants logits.

    Source: `_get_logits` in keras/src/backend/tensorflow/nn.py.
    """
    each = task == "multilabel" or (task == "binary" and _width(answers) == 1)
    return clues.ends_in == "softmax" or (clues.ends_in == "sigmoid" and each)


def _words(target: Array, answers: Array) -> str:
    return f"targets {target.dtype} {shape_of(target)}, answers {answers.dtype} {shape_of(answers)}"


def shape_of(array: Array) -> str:
    """Return a shape whose first axis is the row, such as `(n, 3)`."""
    return f"({', '.join(['n', *map(str, array.shape[1:])])})".replace("(n)", "(n,)")


def _size(array: Array) -> int:
    """Return how many numbers a row has."""
    return int(np.prod(array.shape[1:]))


def _width(array: Array) -> int:
    """Return the number of columns, 1 for a single number in each row in any shape, and 0 for more than two axes."""
    return _size(array) if array.ndim <= 2 or _size(array) == 1 else 0


def _are_between_0_and_1(target: Array) -> bool:
    if not are_numbers(target):
        return False
    values = as_float(target)
    return bool(((values >= 0) & (values <= 1)).all())


def _are_whole(target: Array) -> bool:
    values = as_float(target)
    return bool((values == np.floor(values)).all())


def _are_marks(target: Array) -> bool:
    """Return whether all are 0 and 1, or -1 and 1."""
    return bool(np.isin(target, (0, 1)).all() or np.isin(target, (-1, 1)).all())


def _range(target: Array) -> str:
    values = as_float(target)
    return f"{values.min():g} to {values.max():g}" if values.size else "no row"
