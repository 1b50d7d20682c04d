"""`make bench` compares with the last commit. No run here starts a container."""

import subprocess

from benchmarks.run import committed, report

ONCE, TWICE = {"ratios": {"time": [1.0]}}, {"ratios": {"time": [2.0]}}


def test_the_comparison_is_with_the_commit_and_not_with_the_last_run(tmp_path):
    root = tmp_path
    for name in ("benchmarks", "docs"):
        (root / name).mkdir()
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@localhost"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert committed(root) == {}
    report({"a": ONCE}, {}, root)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "results"], check=True)
    report({"a": TWICE}, committed(root), root)
    assert committed(root) == {"a": ONCE}
