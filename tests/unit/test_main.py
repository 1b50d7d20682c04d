"""Command lines that end before anything is imported: in a directory that is gone, and with options of another one."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows import cli, main, promote_cli, rehearse_cli


def test_a_directory_that_was_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The current directory may be gone: then no path can be found, and one line says so."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert main.main(["run", "--config", "cfg.yaml"]) == 2
    assert capsys.readouterr().err.startswith("error: the current directory must exist and be readable, got No such")


def test_an_interrupt_during_an_import(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C in the first moment is the same word and exit code as later."""

    def interrupted(_module: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(main.importlib, "import_module", interrupted)
    assert main.main(["doctor", "--config", "cfg.yaml"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        (cli, ["--version", "3", "--config", "cfg.yaml"], "--version shows the version of this program"),
        (cli, ["--config", "cfg.yaml", "--dry"], "unrecognized arguments: --dry"),
        (cli, ["--conf", "cfg.yaml"], "the following arguments are required: --config"),
        (rehearse_cli, ["--config", "cfg.yaml", "--model", "m", "--sig", "s"], "unrecognized arguments: --sig s"),
        (promote_cli, ["--config", "cfg.yaml", "--approved"], "unrecognized arguments: --approved"),
    ],
)
def test_options_are_written_in_full(
    capsys: pytest.CaptureFixture[str], command: object, words: list[str], said: str
) -> None:
    """The start of an option is not that option, and the version of a model is not the program's."""
    with pytest.raises(SystemExit) as end:
        command.main(words)  # type: ignore[attr-defined]
    assert end.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_label_where_there_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An option that the configuration contradicts is refused before Prefect is started."""
    (tmp_path / "cfg.yaml").write_text("name: m\n")
    assert promote_cli.main(["--config", str(tmp_path / "cfg.yaml"), "--to", "stable"]) == 2
    assert capsys.readouterr().err == "error: --to stable moves a label, but promote.layout is latest\n"
