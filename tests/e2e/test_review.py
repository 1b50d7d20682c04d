"""A person decides: in MLflow's pages by a tag, or at a terminal; what was approved goes live, and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest

from flows import verify
from tasks.proof import keys
from tasks.proof.chain import line_digest, texts_of

# MLflow warns while it is imported and used, about the next NumPy, protobuf or Python; it is not judged here.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
QUICK = ("--set", "training.epochs=3", "--set", "gates.metrics.accuracy={min: 0.3, worse_by: 0.5}")
REVIEW = (*QUICK, "--set", "promote.mode=review")


def tags_of(user: Any, number: int) -> dict[str, str]:
    """Return the tags of one of MLflow's versions."""
    return dict(user.registry()[1][number - 1].tags)


def history_of(user: Any) -> bytes:
    """Return the history as it lies on the disk."""
    return bytes((user.models_root / "digits" / ".history.jsonl").read_bytes())


@pytest.fixture(scope="module")
def first(user: Any) -> Any:
    """Return the workspace after a first run whose configuration wants a person for first runs only."""
    done = user.run(*QUICK, "--set", "gates.first_run=review")
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def waiting(user: Any, first: Any) -> dict[int, int]:
    """Approve the first candidate, then have five more, trained side by side; give candidate to MLflow's number."""
    user.tag(1, review="approved")
    done = user.run(*QUICK, flow="promote")
    assert done.returncode == 0, done.stdout + done.stderr
    runs = [user.start(*REVIEW, "--set", f"seed={seed}") for seed in range(1, 6)]
    for run in runs:
        out, err = run.communicate(timeout=600)
        assert run.returncode == 0, out + err
    return {int(found.tags["candidate"]): int(found.version) for found in user.registry()[1]}


def test_a_first_run_waits(user: Any, first: Any, ask_prefect: Callable[[str, dict[str, object]], Any]) -> None:
    """With gates.first_run: review a first candidate that passed is live nowhere: challenger, awaiting review."""
    assert user.versions() == []
    assert "digits version 1 awaiting review" in first.stdout
    assert "--version 1 --approve --by NAME" in first.stdout
    aliases, [version] = user.registry()
    assert aliases == {"challenger": 1}
    assert (version.tags["promotion"], version.tags["review"]) == ("awaiting review", "pending")
    assert version.description.startswith("**digits version 1 passed every gate and waits for your decision.**")
    assert user.history()[-1] == (1, "awaiting review")
    [newest] = ask_prefect("/flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})
    assert (newest["state"]["type"], newest["state"]["name"]) == ("COMPLETED", "AwaitingReview")


def test_nobody_has_decided(user: Any, first: Any) -> None:
    """While nobody has decided, or with a word that is no decision, nothing is promoted, and the screen says so."""
    user.tag(1, review="aproved")
    done = user.run(*QUICK, flow="promote")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Nothing to do" in done.stdout
    assert "candidate 1 has the tag review=aproved, which is not a decision" in done.stdout
    assert user.versions() == []


def test_approved_on_a_page(user: Any, waiting: dict[int, int]) -> None:
    """The tag review=approved brings the candidate's own bytes into production, and the champion is that version."""
    assert user.tree(user.models_root / "digits" / "1") == user.tree(user.work_dir / "candidates" / "digits" / "1")
    assert user.versions() == [1]
    assert user.registry()[0]["champion"] == 1
    assert [state for version, state in user.history() if version == 1] == [
        "exported", "validated", "awaiting review", "approved", "live",
    ]  # fmt: skip
    version = user.registry()[1][0]
    assert version.tags["promotion"] == "promoted"
    assert version.description.startswith("**digits version 1 went live on ")
    assert "Decided by: a reviewer in MLflow" in version.description


def test_approved_at_a_terminal(user: Any, waiting: dict[int, int]) -> None:
    """Where a reviewer's key is listed, a tag leaves a candidate waiting; --approve --by NAME --key FILE promotes it.

    MLflow, the history and the proof know who said so and with which key, and `verify` checks that signature.
    """
    public = keys.new(user.directory / "ann.pem")
    signed = (*QUICK, "--set", f"promote.approvers=[{user.directory / 'ann.pem.pub'}]")
    user.tag(waiting[2], review="approved", reviewed_by="mallory")
    done = user.run(*signed, "--version", "2", flow="promote")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "candidate 2 is not approved: it has a tag and no signature" in " ".join(done.stdout.split())
    assert user.versions() == [1]
    assert tags_of(user, waiting[2])["promotion"] == "awaiting review"
    by = ("--version", "2", "--approve", "--by", "ann", "--key", "ann.pem")
    assert user.run(*signed, *by, "--later", flow="promote").returncode == 0
    assert user.versions() == [1]
    done = user.run(*signed, flow="promote")
    assert done.returncode == 0, done.stdout + done.stderr
    how = f"approved by ann, signed with key {keys.key_id(public)[:8]}"
    assert f"digits promoted: candidate 2: version 2 is live, {how}" in done.stdout
    assert user.versions() == [1, 2]
    assert how in user.registry()[1][waiting[2] - 1].description
    assert tags_of(user, waiting[2])["history_head"] in map(line_digest, texts_of(history_of(user)))
    live, approver = str(user.models_root / "digits" / "2"), str(user.directory / "ann.pem.pub")
    assert verify.main(["--dir", live, "--allow-unsigned", "--approver", approver]) == 0
    public = keys.new(user.directory / "bob.pem")
    assert verify.main(["--dir", live, "--allow-unsigned", "--approver", str(user.directory / "bob.pem.pub")]) == 3
    tags = tags_of(user, waiting[2])
    assert (tags["review"], tags["reviewed_by"], tags["promotion"]) == ("approved", "ann", "promoted")
    assert user.registry()[0]["champion"] == waiting[2]
    assert b'"actor":"ann"' in history_of(user)


def test_another_champion_since(user: Any, waiting: dict[int, int]) -> None:
    """An approved candidate whose champion changed is judged again, against the new one, and then promoted."""
    assert tags_of(user, waiting[3])["judged_beside"] == "1"
    user.tag(waiting[3], review="approved", reviewed_by="bob")
    done = user.run(*QUICK, flow="promote")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "judging again" in done.stdout
    assert user.versions() == [1, 2, 3]
    aliases, found = user.registry()
    again = found[-1]
    assert (again.tags["candidate"], again.tags["judged_beside"], again.tags["promotion"]) == ("3", "2", "promoted")
    assert aliases["champion"] == int(again.version)
    assert tags_of(user, waiting[3])["promotion"] == "judged again"


def test_rejected_is_the_last_word(user: Any, waiting: dict[int, int]) -> None:
    """A rejected candidate is closed with exit code 3; approving it afterwards is refused, on its page too."""
    before = user.versions()
    user.tag(waiting[4], review="rejected", reviewed_by="carl")
    done = user.run(*QUICK, flow="promote")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "digits rejected: candidate 4: rejected by carl" in done.stdout
    assert tags_of(user, waiting[4])["promotion_by"] == "carl"
    assert b'"actor":"carl"' in history_of(user)
    user.tag(waiting[4], review="approved")
    done = user.run(*QUICK, flow="promote")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "digits refused: candidate 4 was rejected before (rejected by carl)" in done.stdout
    version = user.registry()[1][waiting[4] - 1]
    assert "was approved, but it was not promoted on " in version.description.splitlines()[0]
    assert "candidate 4 was rejected before" in version.description
    assert version.tags["promotion"] == "refused"
    assert user.versions() == before
    assert user.run(*QUICK, flow="promote").returncode == 0  # it is answered once, not at every run


def test_other_bytes_are_refused(user: Any, waiting: dict[int, int]) -> None:
    """An approval is of a digest: the bytes of another candidate in its place are refused with the reason."""
    before = user.versions()
    candidates = user.work_dir / "candidates" / "digits"
    shutil.rmtree(candidates / "5")
    shutil.copytree(candidates / "3", candidates / "5")
    user.tag(waiting[5], review="approved")
    done = user.run(*QUICK, flow="promote")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "digits refused: candidate 5: the files were changed after their validation" in done.stdout
    assert "the files were changed" in user.registry()[1][waiting[5] - 1].description
    assert user.versions() == before


def test_an_edited_digest_is_refused(user: Any, waiting: dict[int, int]) -> None:
    """Writing the digest of other validated bytes into the tag approves nothing, even with those bytes on the disk."""
    before = user.versions()
    candidates = user.work_dir / "candidates" / "digits"
    shutil.rmtree(candidates / "6")
    shutil.copytree(candidates / "3", candidates / "6")
    user.tag(waiting[6], digest=tags_of(user, waiting[3])["digest"])
    done = user.run(*QUICK, "--version", "6", "--approve", "--by", "eve", flow="promote")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "is not what was validated as candidate 6" in done.stdout
    assert "is not what was validated" in user.registry()[1][waiting[6] - 1].description
    assert user.versions() == before


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--version", "99", "--approve", "--by", "ann"), "a candidate that awaits review, got 99; waiting: none"),
        (("--version", "1", "--approve", "--by", "ann"), "got 1, which is promoted; waiting: none"),
        (("--version", "1", "--approve"), "need --version N"),
        (("--approve", "--by", "ann"), "need --version N"),
        (("--by", "ann"), "--by NAME needs a decision"),
        (("--to", "stable", "--version", "1"), "cannot be combined with --version"),
        (("--version", "0"), "a whole number of at least 1, got '0'"),
    ],
)  # fmt: skip
def test_a_wrong_approval(user: Any, waiting: dict[int, int], args: tuple[str, ...], words: str) -> None:
    """An approval of nothing that waits, or by nobody, is a usage error in one line that says what is missing."""
    before = user.history()
    done = user.run(*QUICK, *args, flow="promote")
    assert done.returncode == 2, done.stdout + done.stderr
    assert words in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert user.history() == before


def test_nothing_to_make_stable(user: Any, waiting: dict[int, int]) -> None:
    """--to stable where no labels are in use is refused in one line that names the setting."""
    done = user.run(*QUICK, "--to", "stable", flow="promote")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "promote.layout is latest" in done.stderr
