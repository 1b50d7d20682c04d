"""The scripts around the images and the stack: the bill of materials, the secrets in .env, and what make starts."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
NAMES = ("MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY", "REHEARSAL_WEBHOOK_SECRET")
DOCKER = '#!/bin/sh\necho "$* FLOWS_IMAGE=$FLOWS_IMAGE" >>"$LOG"\n'


def script(name: str) -> ModuleType:
    """Return a script of deploy/ as a module."""
    spec = importlib.util.spec_from_file_location(Path(name).stem, ROOT / "deploy" / name)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def values(file: Path) -> dict[str, str]:
    """Return the variables of an .env file; the last line of a variable counts."""
    return dict(line.partition("=")[::2] for line in file.read_text().splitlines() if "=" in line)


@pytest.mark.parametrize(
    "before",
    [
        None, "", "SERVING_IMAGE=a", "# REHEARSAL_WEBHOOK_SECRET=x\nSERVING_IMAGE=a\n",
        "REHEARSAL_WEBHOOK_SECRET=\n", "REHEARSAL_WEBHOOK_SECRET=x\nREHEARSAL_WEBHOOK_SECRET=''\n",
        "export MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY=  # later\nSERVING_IMAGE=a\r\n",
    ],
)  # fmt: skip
def test_missing_secrets_are_added(before: str | None, tmp_path: Path) -> None:
    """Whatever .env says already stays; each secret that it lacks is added, once, for its owner only."""
    file, write_env = tmp_path / ".env", script("stack/write_env.py")
    if before is not None:
        file.write_text(before, newline="")
        file.chmod(0o644)
    (tmp_path / ".env.new").write_text("interrupted")
    write_env.main(file)
    written = file.read_bytes().decode()
    assert written.startswith(before or "")
    assert all(len(values(file)[name]) >= 32 for name in NAMES)
    assert values(file).get("SERVING_IMAGE") == ("a" if "=a" in (before or "") else None)
    assert file.stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / ".env.new").exists()
    write_env.main(file)
    assert file.read_bytes().decode() == written


@pytest.mark.parametrize("form", ['{}="an earlier one"', "{}: an", " export {} = an", "\ufeff{}=an", "{}=\n{}=an"])
def test_a_secret_that_is_there_stays(form: str, tmp_path: Path) -> None:
    """A secret of an earlier start is kept, because MLflow's webhooks can be read with no other."""
    kept, link = tmp_path / "kept", tmp_path / ".env"
    before = form.replace("{}", NAMES[0])
    kept.write_text(before)
    link.symlink_to(kept)
    script("stack/write_env.py").main(link)
    assert link.is_symlink()
    assert kept.read_text().startswith(f"{before}\n{NAMES[1]}=")
    assert kept.read_text().count("\n") == before.count("\n") + 2


def test_an_empty_list_of_models(tmp_path: Path) -> None:
    """An interrupted start leaves no empty file, with which TensorFlow Serving does not start; a list is kept."""
    file, setup = tmp_path / "models.config", script("stack/setup.py")
    file.touch()
    setup.write_list(file)
    assert file.read_text() == "model_config_list {}\n"
    file.write_text("model_config_list { config {} }\n")
    setup.write_list(file)
    assert "config {}" in file.read_text()
    assert list(tmp_path.iterdir()) == [file]


@pytest.fixture
def make(tmp_path: Path) -> Path:
    """Return a checkout whose path has a space, with a `docker` that writes down how it is called."""
    checkout = tmp_path / "a b"
    (checkout / "bin").mkdir(parents=True)
    (checkout / "bin" / "docker").write_text(DOCKER)
    (checkout / "bin" / "docker").chmod(0o755)
    (checkout / "deploy").symlink_to(ROOT / "deploy")
    (checkout / "Makefile").symlink_to(ROOT / "Makefile")
    return checkout


def made(checkout: Path, *arguments: str, **env: str) -> list[str]:
    """Run make, and return the calls of docker."""
    log = checkout / "log"
    log.write_text("")
    path = f"{checkout / 'bin'}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        ["make", *arguments],
        cwd=checkout,
        env={**{key: value for key, value in os.environ.items() if "IMAGE" not in key}, "PATH": path, **env}
        | {"LOG": str(log)},
        check=True,
        capture_output=True,
        timeout=600,
    )
    return log.read_text().splitlines()


def test_settings_that_were_there_before(make: Path) -> None:
    """With settings in .env before the first start, `make up` adds the secrets and uses the image that it names."""
    (make / ".env").write_text("SERVING_IMAGE=a\nFLOWS_IMAGE='registry/flows:2'")
    assert made(make, "up") == [
        "image inspect registry/flows:2 FLOWS_IMAGE=registry/flows:2",
        "compose up --detach --wait FLOWS_IMAGE=registry/flows:2",
    ]
    assert values(make / ".env").keys() == {"SERVING_IMAGE", "FLOWS_IMAGE", *NAMES}
    assert made(make, "up", FLOWS_IMAGE="mine:3")[1].endswith("FLOWS_IMAGE=mine:3")
    (make / ".env").unlink()
    assert "keras-rehearsal:" in made(make, "up", FLOWS_IMAGE="")[1]


@pytest.mark.parametrize(("data", "volumes"), [("", False), ("Delete", False), ("keep", False), ("delete", True)])
def test_the_end(data: str, volumes: bool, make: Path) -> None:
    """Only DATA=delete removes data, and without .env the stack can still be ended; no other secrets are written."""
    [call] = made(make, "down", f"DATA={data}")
    assert call.startswith("compose --profile * down --remove-orphans")
    assert ("--volumes" in call) == volumes
    assert not (make / ".env").exists()


def test_the_bill_of_materials(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every installed package is listed; one that the lock lacks, or pins at another version, ends the build."""
    sbom, lock = script("sbom.py"), tmp_path / "requirements.lock"
    found = sbom.installed()
    pins = [f"{name}=={version} ; python_version >= '3'" for name, version in found.items()]
    lock.write_text("\n".join(pins) + "\nabsent==1\n    --hash=sha256:0\n")
    assert sbom.main(lock) == 0
    components = json.loads(capsys.readouterr().out)["components"]
    assert {one["name"]: one["version"] for one in components} == found
    assert "numpy" in found
    assert "pip" not in found
    lock.write_text("\n".join(pin for pin in pins if not pin.startswith("numpy==")) + "\nnumpy==0\n")
    assert sbom.main(lock) == 1
    assert f"got numpy {found['numpy']}\n" in capsys.readouterr().err


def test_what_a_lock_pins(tmp_path: Path) -> None:
    """Names are compared as indexes do, a package may have several pins, and an address encodes a local version."""
    sbom, lock = script("sbom.py"), tmp_path / "lock"
    lock.write_text("Py_YAML[x]==6.0 ; a\npy.yaml==5 \\\n    --hash=sha256:1\n# no==1\n-r other\n")
    assert sbom.read_lock(lock) == {"py-yaml": {"6.0", "5"}}
    assert sbom.purl("torch", "2.0+cpu") == "pkg:pypi/torch@2.0%2Bcpu"


def test_everything_can_run_at_once() -> None:
    """No two services publish the same port by default, whatever the profile; nor do those that the run-book adds."""
    published = [
        found
        for file in (ROOT / "compose.yaml", *sorted((ROOT / "docs/run-book").glob("*.md")))
        for found in re.findall(r"127\.0\.0\.1:\$\{(\w+):-(\d+)\}:", file.read_text(encoding="utf-8"))
    ]
    ports = dict(published)
    assert len(published) == len(ports) >= 5
    assert len(set(ports.values())) == len(ports)
