"""The first lines of a version's page in MLflow, and the same in its report."""

from __future__ import annotations

import pytest

from tasks.report.standing import (
    BEGIN,
    END,
    RULE,
    block,
    first_lines,
    standing_of,
    with_block,
    with_first_lines,
)

PASSED = {"candidate": "3", "serving_version": "3", "validation_status": "passed", "arguments": "--config cfg.yaml"}
TIME = {"promotion_time": "2026-11-26T02:13:45+00:00"}


@pytest.mark.parametrize(
    ("tags", "sentence"),
    [
        (PASSED, "digits version 3 (registry version 7) passed every gate."),
        (
            {**PASSED, "promotion": "awaiting review", "review": "pending"},
            "digits version 3 (registry version 7) passed every gate and waits for your decision.",
        ),
        (
            {**PASSED, "promotion": "awaiting review", "review": " Approved ", "reviewed_by": "ann"},
            "digits version 3 (registry version 7) was approved by ann, but the decision has not been carried out yet.",
        ),
        (
            {**PASSED, **TIME, "promotion": "promoted"},
            "digits version 3 (registry version 7) went live on 2026-11-26 02:13 UTC.",
        ),
        ({**PASSED, "promotion": "promoted"}, "digits version 3 (registry version 7) went live."),
        (
            {**PASSED, **TIME, "promotion": "promoted", "serving_version": "7"},
            "digits version 7 went live on 2026-11-26 02:13 UTC.",
        ),
        (
            {**PASSED, "promotion": "canary", "promotion_time": "yesterday"},
            "digits version 3 (registry version 7) went live as the canary.",
        ),
        (
            {**PASSED, "promotion": "rolled back", "reason": "it answers NaN"},
            "digits version 3 (registry version 7) was rolled back.",
        ),
        (
            {**PASSED, **TIME, "promotion": "rejected", "review": "rejected"},
            "digits version 3 (registry version 7) was rejected by a reviewer in MLflow on 2026-11-26 02:13 UTC.",
        ),
        (
            {**PASSED, "promotion": "rejected", "review": "approved", "reason": "judged again"},
            "digits version 3 (registry version 7) was rejected.",
        ),
        (
            {**PASSED, "validation_status": "rejected", "failed_gates": "quality", "promotion": "rejected"},
            "digits version 3 (registry version 7) was rejected by the quality gate.",
        ),
        (
            {**PASSED, **TIME, "promotion": "unchanged", "reason": "nothing was changed"},
            "digits version 3 (registry version 7) has the bytes that were live already on 2026-11-26 02:13 UTC.",
        ),
        (
            {**PASSED, "promotion": "not served"},
            "digits version 3 (registry version 7) has the bytes that were live already, but production does not serve "
            "them.",
        ),
        (
            {**PASSED, "promotion": "refused", "review": "approved"},
            "digits version 3 (registry version 7) was approved, but it was not promoted.",
        ),
    ],
)
def test_one_sentence_says_what_became_of_it(tags: dict[str, str], sentence: str) -> None:
    """The first sentence has the serving number, MLflow's own where that differs, the state, who and when."""
    assert standing_of("digits", tags, 7).sentence == sentence


def test_productions_metrics_are_said_of_what_changed_it() -> None:
    """Page and report have the figures of the last change; a version that changed nothing since has none."""
    tags = {**PASSED, "promotion": "promoted", "production_metrics": "http://a_b:8501 in 4.2 s: 8 requests, <3> errors"}
    went_live = standing_of("digits", tags, 7)
    assert "Production's metrics: http://a\\_b:8501 in 4.2 s: 8 requests, \\<3\\> errors" in first_lines(went_live, "")
    assert "<dt>production&#39;s metrics</dt>" in block(went_live, "")
    assert "&lt;3&gt; errors" in block(went_live, "")
    assert standing_of("digits", {**tags, "promotion": "refused"}, 7).metrics == ""
    assert len(standing_of("digits", {**tags, "production_metrics": "x" * 4000}, 7).metrics) == 900
    many = {**tags, "production_metrics": "; ".join(["http://a: 1,208 requests"] * 99)}
    assert set(standing_of("digits", many, 7).metrics.split("; ")) == {"http://a: 1,208 requests", "…"}


def test_the_proof_is_one_line_with_its_command() -> None:
    """Page and report name the statement, who signed it, and the command that checks it; without one, they say so."""
    assert "Proof: none; a statement is written when a version goes live" in first_lines(
        standing_of("m", PASSED, 7), ""
    )
    tags = {
        **PASSED,
        "promotion": "promoted",
        "proof": "statement 0123, signed by key 4567",
        "proof_directory": "/a b/7",
    }
    went_live = standing_of("digits", tags, 7)
    line = "Proof: statement 0123, signed by key 4567; check it with `"
    page = first_lines(went_live, "")
    assert line in page
    assert page.partition(line)[2].partition("`")[0].endswith("verify --dir '/a b/7' --key PUBLIC_KEY")
    assert "<dt>proof</dt><dd>statement 0123, signed by key 4567; check it with " in block(went_live, "")
    unsigned = standing_of("digits", {**tags, "proof": "statement 0123, unsigned"}, 7)
    assert unsigned.verify.endswith("--allow-unsigned")


def test_a_reviewer_is_told_what_to_do_in_the_browser() -> None:
    """Which tag, which values, what they mean, when it takes effect, and the commands of a terminal."""
    found = standing_of("digits", {**PASSED, "promotion": "awaiting review", "review": "pending"}, 3)
    steps = " ".join(found.steps)
    for words in ("`review`", "`pending`", "`approved`", "`rejected`", "`reviewed_by`", "takes effect"):
        assert words in steps
    assert [command.partition("`")[2].partition("promote ")[2] for command in found.commands] == [
        "--config cfg.yaml`", "--config cfg.yaml --version 3 --approve --by NAME`",
    ]  # fmt: skip
    bare = {"candidate": "3", "validation_status": "passed", "promotion": "awaiting review"}
    assert standing_of("digits", bare, 3).commands == ()  # of an older release, which did not keep the arguments


@pytest.mark.parametrize("promotion", ["promoted", "rejected", "canary", "refused", "judged again", "stale"])
@pytest.mark.parametrize("review", ["approved", "rejected", "pending", ""])
def test_a_decision_is_asked_for_once(promotion: str, review: str) -> None:
    """What is decided asks for no decision any more, whatever the tag says."""
    found = standing_of("digits", {**PASSED, "promotion": promotion, "review": review}, 3)
    assert "--approve" not in " ".join((*found.steps, *found.commands))
    assert "waits" not in found.sentence


def test_a_page_is_rewritten_above_its_rule() -> None:
    """The first lines are replaced as often as something happens; what was logged below them stays."""
    waiting = first_lines(standing_of("digits", {**PASSED, "promotion": "awaiting review"}, 3), "#/report")
    page = with_first_lines("| gate |\n---", waiting)
    live = first_lines(standing_of("digits", {**PASSED, "promotion": "promoted"}, 3), "#/report")
    again = with_first_lines(page, live)
    assert "waits for your decision" in page
    assert "waits for your decision" not in again
    assert again == with_first_lines(again, live)
    assert again.endswith(f"{RULE}| gate |\n---")
    assert "[Open the report](#/report)" in again


def test_a_page_of_an_older_release_asks_no_more() -> None:
    """A description from before there were first lines keeps its table and loses its questions and old verdicts."""
    old = (
        "**awaiting: x**\n\ndigits version 3 passed every gate; digest `c9`.\n\nA person decides: nobody knows.\n\n"
        "| gate | verdict |\n\n- try it: `try`\n- approve it: `promote --approve`"
    )
    page = with_first_lines(old, f"new{RULE}")
    assert page.startswith(f"new{RULE}digits version 3")
    assert "- try it: `try`" in page
    assert "approve" not in page
    assert "A person decides" not in page


def test_long_words_leave_room_for_the_gates() -> None:
    """However long a name, a reason or the arguments are, the first lines end with their rule within MLflow's room."""
    long = {"promotion": "awaiting review", "needs_person": "*" * 9000, "reviewed_by": "n" * 9000, "reason": "_" * 9000}
    odd = {"arguments": "--set a='\n\n---\n\n'"}
    for more in ({}, {"arguments": "--set a=b " * 900}, odd, {"review": "approved"}, {"promotion": "refused"}):
        page = first_lines(standing_of("digits", {**PASSED, **long, **more}, 3), "#/report")
        assert page.endswith(RULE)
        assert page.count(RULE) == 1
        assert len(page) < 4000


def test_words_of_others_stay_words() -> None:
    """A reason or a name with markdown or HTML in it is shown as it is, on the page and in the report."""
    tags = {**PASSED, "promotion": "refused", "reason": "<b>x</b> [y](z) `q`\n\n---\n\n# big", "reviewed_by": "<i>"}
    found = standing_of("digits", tags, 3)
    page = first_lines(found, "")
    assert page.count(RULE) == 1
    assert page.endswith(RULE)
    assert r"\<b\>x\</b\> \[y\](z)" in page
    shown = str(block(found, ""))
    assert "&lt;b&gt;x&lt;/b&gt;" in shown
    assert "<i>" not in shown


def test_a_report_is_rewritten_between_its_marks() -> None:
    """The block of a report is replaced; a report from before there was one stays as it is."""
    old = block(standing_of("digits", {**PASSED, "promotion": "awaiting review"}, 3), "")
    new = block(
        standing_of("digits", {**PASSED, "promotion": "promoted", "reason": f"{END}{BEGIN}"}, 3), "https://m/#/v"
    )
    html = f"<main>{old}<p>gates</p></main>"
    changed = with_block(html, new)
    assert changed == f"<main>{new}<p>gates</p></main>"
    assert with_block(changed, old) == html
    assert with_block("<main></main>", new) == "<main></main>"
