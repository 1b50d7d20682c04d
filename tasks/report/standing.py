"""What has become of a version: the first lines of its page in MLflow and of its report, rewritten at each change."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from markupsafe import Markup, escape

from configs.redaction import redact
from configs.schema import Config
from tasks.outcomes import PromotionState
from tasks.program import command_name
from tasks.records import ValidationReport
from tasks.report.tables import clip
from tasks.words import one_line

REVIEW, REVIEWER = "review", "reviewed_by"
PENDING, APPROVED, REJECTED = "pending", "approved", "rejected"
WAITING = (PromotionState.AWAITING_REVIEW, PromotionState.NOT_PROMOTED)  # it passed every gate, and a person may decide
UNNAMED = "a reviewer in MLflow"
TIME, BY, METRICS = "promotion_time", "promotion_by", "production_metrics"
EXPERIMENT, WAY_BACK, CHANGE = "experiment", "way_back", "rehearsed_change"
APPROVAL = "approval"  # the signed approval itself
APPROVERS = "approvers"  # the reviewers' keys, one of which must have signed an approval
HEAD = "history_head"  # the digest of the history's last line, with which a cut end shows
PROOF, PROOF_OF = "proof", "proof_directory"  # what is kept of the statement, and the directory that it is about
CHANGED = (PromotionState.PROMOTED, PromotionState.CANARY, PromotionState.ROLLED_BACK)
ARGUMENTS = "arguments"
DECIDES = "every gate passed, and a person decides: "

MOST_FIRST = 3000  # characters; MLflow has room for 5000 in all, and long commands give way first
RULE = "\n\n---\n\n"  # ends what is written anew; what follows it stays as it was logged
_ASKS = ("- approve it: ", "A person decides: ", "**")  # lines of pages that were written before there was a rule
BEGIN, END = "<!-- what has become of it -->", "<!-- as it was judged -->"


NO_PROOF = "none; a statement is written when a version goes live"


@dataclass(frozen=True)
class Standing:
    """What has become of a version.

    Attributes:
        sentence: in one sentence, with every number that the version has, and when. why: the reason, or empty.
        by: who decided, or empty.
        metrics: what production's metrics say about its last change of production, or empty.
        experiment: what it is, or was last, in an experiment on real users, or empty.
        change: what the rehearsal of the change from the champion has shown, or empty.
        way_back: whether a rollback from it was proven when it was judged, or empty.
        proof: which statement about its promotion is kept, and who signed it. verify: the command that checks it.
        steps: what a reader can do; text in backticks is to be typed. commands: for a terminal, each with its purpose.
    """

    sentence: str
    why: str = ""
    by: str = ""
    steps: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    metrics: str = ""
    experiment: str = ""
    change: str = ""
    way_back: str = ""
    proof: str = NO_PROOF
    verify: str = ""


def now() -> str:
    """Return the time as ISO 8601, UTC, in seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def numbered(name: str, tags: Mapping[str, str], registry_version: int) -> str:
    """Return a version by its serving number, and by MLflow's own where that is another one.

    Args:
        registry_version: 0 where there is none yet.
    """
    number = tags.get("serving_version") or tags.get("candidate", "")
    differs = registry_version and number != str(registry_version)
    return f"{name} version {number}" + (f" (registry version {registry_version})" if differs else "")


def standing_of(name: str, tags: Mapping[str, str], registry_version: int) -> Standing:
    """Return what the tags of a version say of it."""
    found = _standing_of(name, tags, registry_version)
    proof, directory = clip(tags.get(PROOF, ""), 200), tags.get(PROOF_OF, "")
    found = replace(
        found,
        experiment=clip(tags.get(EXPERIMENT, ""), 300),
        change=clip(tags.get(CHANGE, ""), 400),
        way_back=clip(tags.get(WAY_BACK, ""), 300),
        proof=proof or NO_PROOF,
    )
    if proof and directory and "`" not in directory and directory.isprintable():
        key = " --key PUBLIC_KEY" if "unsigned" not in proof else " --allow-unsigned"
        command = f"{command_name('flows.verify')} --dir {shlex.quote(directory)}{key}"
        found = replace(found, verify=command)
    if tags.get("promotion") not in CHANGED:
        return found
    return replace(found, metrics=_whole_parts(tags.get(METRICS, ""), 900))


def _whole_parts(text: str, most: int) -> str:
    """Return the first parts of a text, which semicolons separate, so that no number loses its last digits."""
    shown = clip(text, most)
    kept, separator, _ = shown[:-2].rpartition("; ")
    return f"{kept}; …" if separator and shown.endswith("…") else shown


def _standing_of(name: str, tags: Mapping[str, str], registry_version: int) -> Standing:
    who, state = numbered(name, tags, registry_version), tags.get("promotion", "")
    reason, when = clip(tags.get("reason", ""), 600), _readable(tags.get(TIME, ""))
    decision, reviewer = tags.get(REVIEW, "").strip().lower(), clip(one_line(tags.get(REVIEWER, "")), 80) or UNNAMED
    on = f" on {when}" if when else ""
    if state in WAITING or (not state and tags.get("needs_person")):
        return _waiting(who, tags, reason)
    if state in (PromotionState.PROMOTED, PromotionState.CANARY):
        sentence = f"{who} went live{' as the canary' if state == PromotionState.CANARY else ''}{on}"
        there_is_another = state == PromotionState.PROMOTED and tags.get("judged_beside")
        back = _command(tags, "flows.rollback", "", "Go back to the version before, while this one serves")
        by = clip(tags.get(BY, ""), 80) or "the gates"
        return Standing(f"{sentence}.", reason, by, commands=back if there_is_another else ())
    if state == PromotionState.UNCHANGED:
        return Standing(f"{who} has the bytes that were live already{on}.", reason)
    if state == PromotionState.NOT_SERVED:
        sentence = f"{who} has the bytes that were live already{on}, but production does not serve them."
        return Standing(sentence, reason, commands=_command(tags, "flows.doctor", "", "Look at production"))
    if state == PromotionState.REJECTED and decision == REJECTED:
        return Standing(f"{who} was rejected by {reviewer}{on}.", "", reviewer)
    if state == PromotionState.REJECTED and tags.get("validation_status") == "passed":
        return Standing(f"{who} was rejected{on}.", reason, clip(tags.get(BY, ""), 80))
    if state == PromotionState.REFUSED:
        return Standing(f"{who} was approved, but it was not promoted{on}.", reason, reviewer)
    if state == "judged again":
        why = "because what is live has changed since then, or an earlier release judged it"
        sentence = f"{who} was judged again{on}, {why}."
        return Standing(sentence, reason, reviewer)
    if state == PromotionState.STALE:
        return Standing(f"{who} is judged again, because what is live changed while it was judged.", reason)
    if state == PromotionState.ROLLED_BACK:
        again = _decision(tags, "Try it once more")
        return Standing(f"{who} was rolled back{on}.", reason, clip(tags.get(BY, ""), 80), commands=again)
    failed = bool(tags.get("failed_gates"))
    steps = ("Read what the failed gates say, change the model, its data or the bounds, and run again.",)
    return Standing(f"{who} {verdict(tags)}{on}.", "" if failed else reason, "the gates", steps if failed else ())


def why_a_person(config: Config, report: ValidationReport) -> str:
    """Return why a person must decide about a candidate that passed, or an empty string.

    Nobody decides about the bytes that are live: an approval would change nothing.
    """
    if report.champion is not None and report.champion.digest == report.candidate.digest:
        return ""
    if not report.passed or report.needs_person:
        return report.needs_person if report.passed else ""
    if not config.needs_person(has_champion=report.champion is not None):
        return ""
    setting = "promote.mode" if config.promote.mode == "review" else "gates.first_run"
    return f"{setting} is set to review"


def verdict(tags: Mapping[str, str]) -> str:
    """Return what the gates said."""
    failed = tags.get("failed_gates", "")
    if failed:
        return f"was rejected by the {failed} gate{'s' if ',' in failed else ''}"
    return "passed every gate" if tags.get("validation_status") == "passed" else "was rejected"


def _waiting(who: str, tags: Mapping[str, str], reason: str) -> Standing:
    decision = tags.get(REVIEW, "").strip().lower()
    effect = (
        "The decision takes effect when the promote flow runs next, on its schedule or when somebody runs "
        f"`{command_name('flows.promote')}`."
    )
    at_once = _command(tags, "flows.promote", "", "Act on all decisions now")
    if decision in (APPROVED, REJECTED):
        by = clip(one_line(tags.get(REVIEWER, "")), 80) or UNNAMED
        sentence = f"{who} was {decision} by {by}, but the decision has not been carried out yet."
        return Standing(sentence, reason, by, (effect,), at_once)
    steps: tuple[str, ...] = (
        "Read the report and the gates.",
        f"On this version's page in MLflow, click the pencil of the tag `{REVIEW}` and replace `{PENDING}` by "
        f"`{APPROVED}` to put the version into production, or by `{REJECTED}` to close it; then save.",
        f"Below the tags, add the tag `{REVIEWER}` with your name as its value, so that the history says who decided.",
        effect,
    )
    if signers := clip(tags.get(APPROVERS, ""), 300):
        steps = (
            steps[0],
            f"Approve it at a terminal with your private key, by the command below: a tag alone approves nothing here. "
            f"The keys that count are {signers}.",
            f"Reject it there, or by the tag `{REVIEW}` with the value `{REJECTED}`, which needs no key.",
            effect,
        )
    not_asked_for = tags.get("promotion") == PromotionState.NOT_PROMOTED
    asked = "was not promoted: you can decide" if not_asked_for else "waits for your decision"
    needed = clip(tags.get("needs_person", ""), 600)
    said = reason.removeprefix(DECIDES)  # it may say more than the tag, which was set before the outcome
    why = reason if not_asked_for else said if said != reason else needed or reason
    return Standing(
        f"{who} passed every gate and {asked}.", why, steps=steps, commands=(*at_once, *_decision(tags, "Decide here"))
    )


def _decision(tags: Mapping[str, str], purpose: str) -> tuple[str, ...]:
    key = " --key KEY" if tags.get(APPROVERS) else ""
    options = f" --version {tags.get('candidate', '')} --approve --by NAME{key}"
    instead = "or --reject without --key" if key else "or --reject"
    return _command(tags, "flows.promote", options, f"{purpose} (--approve {instead})")


def _command(tags: Mapping[str, str], module: str, options: str, purpose: str) -> tuple[str, ...]:
    """Return a command with its purpose; none where its arguments are unknown or do not fit in one line of code."""
    arguments = tags.get(ARGUMENTS, "")
    if not arguments or "`" in arguments or not arguments.isprintable():
        return ()
    return (f"{purpose}: `{command_name(module)} {arguments}{options}`",)


def _readable(time: str) -> str:
    """Return a time for people, empty where it is not known."""
    try:
        return f"{datetime.fromisoformat(time).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return ""


def first_lines(standing: Standing, report_address: str) -> str:
    """Return the first part of a page in MLflow, as markdown, up to the rule that ends it."""
    lines = [f"**{_plain(standing.sentence)}**"]
    details = [("Reason", standing.why), ("Decided by", standing.by), ("Change, rehearsed", standing.change)]
    details += [("Way back", standing.way_back)]
    details += [("Experiment", standing.experiment), ("Production's metrics", standing.metrics)]
    lines.append(" \N{MIDDLE DOT} ".join(f"{name}: {_plain(text)}" for name, text in details if text))
    check = f"; check it with `{standing.verify}`" if standing.verify else ""
    lines.append(f"Proof: {_plain(standing.proof)}{check}")
    lines.append(f"[Open the report]({report_address})" if report_address else "")
    lines.append("\n".join(f"{number}. {step}" for number, step in enumerate(standing.steps, 1)))
    commands = "\n".join(f"- {command}" for command in standing.commands)
    text = redact("\n\n".join(filter(None, (*lines, commands))))
    return (text if len(text) <= MOST_FIRST else redact("\n\n".join(filter(None, lines)))) + RULE


def with_first_lines(known: str, first: str) -> str:
    """Return a page with its first part replaced; one from before there was a rule loses what asks for a decision."""
    if RULE in known:
        return first + known.partition(RULE)[2]
    kept = [line for line in known.splitlines() if not line.startswith(_ASKS)]
    return first + "\n".join(kept).strip()


def _plain(text: str) -> str:
    """Return text in one line that markdown shows as it is."""
    return re.sub(r"([\\`*\[\]<>_])", r"\\\1", " ".join(text.split()))


def block(standing: Standing, page: str) -> Markup:
    """Return the same as a part of the report.

    Args:
        page: address of the version's page in MLflow, or empty.
    """
    details = [("reason", standing.why), ("decided by", standing.by), ("change, rehearsed", standing.change)]
    details += [("way back", standing.way_back)]
    details += [("experiment", standing.experiment), ("production's metrics", standing.metrics)]
    check = f"; check it with {standing.verify}" if standing.verify else ""
    details += [("proof", f"{standing.proof}{check}")]
    lines = Markup("").join(
        Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(name, redact(text)) for name, text in details if text
    )
    link = Markup('<p><a href="{}" rel="noreferrer" target="_top">Its page in MLflow</a></p>').format(page)
    parts = (
        (True, Markup('<p class="standing">{}</p>').format(redact(standing.sentence))),
        (lines, Markup("<dl>{}</dl>").format(lines)),
        (standing.steps, Markup("<h2>What to do</h2><ol>{}</ol>").format(_items(standing.steps))),
        (page, link),
        (standing.commands, Markup("<details><summary>Commands</summary><ul>{}</ul></details>").format(
            _items(standing.commands))),
    )  # fmt: skip
    return Markup(BEGIN) + Markup("").join(part for wanted, part in parts if wanted) + Markup(END)  # noqa: S704


def _items(texts: Sequence[str]) -> Markup:
    return Markup("").join(Markup("<li>{}</li>").format(_code(redact(text))) for text in texts)


def _code(step: str) -> Markup:
    """Return a step with what stands in backticks as code."""
    parts = step.split("`")
    return Markup("").join(Markup("<code>{}</code>").format(t) if n % 2 else escape(t) for n, t in enumerate(parts))


def with_block(html: str, new: Markup) -> str:
    """Return a report with its block replaced; one from before there was a block stays as it is."""
    before, found, rest = html.partition(BEGIN)
    return f"{before}{new}{rest.partition(END)[2]}" if found and END in rest else html
