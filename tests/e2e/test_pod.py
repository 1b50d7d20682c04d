"""The pod of a run on Kubernetes: its containers run here in the same order, with the same commands and volumes.

No run here starts a container: the run in the pod knows no engine.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterator
from typing import Any

import docker
import pytest

from tests.attached_server import KEPT, NO_MODELS
from tests.kubernetes import DEPLOYMENTS, job

pytestmark = pytest.mark.docker
TIMEOUT_S = 1500
UNITS = {"Mi": 2**20, "Gi": 2**30}


@pytest.fixture
def pod() -> Iterator[Pod]:
    """Give a pod without containers; it is removed with its volumes."""
    with contextlib.closing(docker.from_env(timeout=TIMEOUT_S)) as client:
        made = Pod(client)
        yield made
        made.remove()


class Pod:
    """Starts what a pod's specification names as a kubelet does: one network, the same volumes, init containers first.

    Claims and empty directories are new volumes that every user can write.
    """

    def __init__(self, client: docker.DockerClient) -> None:
        self._client = client
        self._volumes: dict[str, Any] = {}
        self.containers: dict[str, Any] = {}

    def start(self, spec: dict[str, Any], wait_for: Callable[[Callable[[], bool], float], bool]) -> None:
        """Run the init containers, start the sidecar, wait for its startup probe, and start the one container."""
        self._volumes = {volume["name"]: self._client.volumes.create() for volume in spec["volumes"]}
        self._open_volumes(spec["initContainers"][0]["image"])
        network = "none"
        for container in [*spec["initContainers"], *spec["containers"]]:
            started = self._start(container, spec["securityContext"], network)
            if container.get("restartPolicy") == "Always":
                network = f"container:{started.id}"
                port = container["startupProbe"]["tcpSocket"]["port"]
                knock = ["bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{port}"]
                assert wait_for(lambda knock=knock, to=started: to.exec_run(knock).exit_code == 0, 600), started.logs()
            elif container in spec["initContainers"]:
                assert started.wait(timeout=TIMEOUT_S)["StatusCode"] == 0, started.logs()

    def _open_volumes(self, image: str) -> None:
        places = {volume.name: {"bind": f"/volumes/{name}", "mode": "rw"} for name, volume in self._volumes.items()}
        command = ["sh", "-c", "chmod 0777 /volumes/*"]
        self._client.containers.run(
            image, entrypoint=command, user="0", volumes=places, network_mode="none", remove=True
        )

    def _start(self, container: dict[str, Any], general: dict[str, Any], network: str) -> Any:
        identity = {**general, **container["securityContext"]}
        memory = container["resources"]["limits"]["memory"]
        started = self._client.containers.create(
            container["image"],
            entrypoint=container.get("command"),
            command=container.get("args"),
            working_dir=container.get("workingDir"),
            environment={variable["name"]: variable["value"] for variable in container.get("env", [])},
            user=f"{identity['runAsUser']}:{identity['runAsGroup']}",
            group_add=[str(identity["fsGroup"])],
            read_only=container["securityContext"]["readOnlyRootFilesystem"],
            cap_drop=container["securityContext"]["capabilities"]["drop"],
            security_opt=["no-new-privileges"],
            mem_limit=int(memory[:-2]) * UNITS[memory[-2:]],
            network_mode=network,
            volumes={
                self._volumes[mount["name"]].name: {
                    "bind": mount["mountPath"],
                    # `nocopy`, because a claim hides what the image has there
                    "mode": ("ro" if mount.get("readOnly") else "rw") + ",nocopy",
                }
                for mount in container["volumeMounts"]
            },
        )
        self.containers[container["name"]] = started
        started.start()
        return started

    def remove(self) -> None:
        """Remove everything."""
        for started in reversed(self.containers.values()):
            started.remove(force=True)
        for volume in self._volumes.values():
            volume.remove(force=True)


@pytest.mark.long
def test_a_run_in_its_pod(
    pod: Pod, flows_image: str, test_image: str, wait_for: Callable[[Callable[[], bool], float], bool]
) -> None:
    """A run is judged by the server beside it, goes live on the claim, and leaves nothing in the shared directory.

    Without Prefect's and MLflow's servers, the job's command is the main job, with the deployment's own places.
    """
    places = [one for one in DEPLOYMENTS[0]["parameters"]["overrides"] if not one.startswith(("tracking.", "promote."))]
    quick = ["tracking.uri=sqlite:////rehearsal/mlflow.db", "training.epochs=2", "gates.metrics.accuracy=0.1"]
    words = [word for override in [*places, *quick] for word in ("--set", override)]
    command = ["flows.train_and_serve", "--config", DEPLOYMENTS[0]["parameters"]["config"], *words]
    images = {"image": flows_image, "server_image": test_image}
    pod.start(job({**images, "command": shlex.join(command)})["spec"]["template"]["spec"], wait_for)

    run, server = pod.containers["prefect-job"], pod.containers["tensorflow-serving"]
    status = run.wait(timeout=TIMEOUT_S)["StatusCode"]
    printed = run.logs().decode()
    assert status == 0, printed + server.logs().decode()
    assert "judged by attached http://127.0.0.1:8501: AVAILABLE after" in printed
    assert b"".join(run.get_archive("/models/digits/1/saved_model.pb")[0])
    assert set(server.exec_run(["ls", "-A", "/shared"]).output.decode().split()) == KEPT
    assert server.exec_run(["cat", "/shared/models.config"]).output.decode() == NO_MODELS
    assert server.exec_run(["touch", "/shared/mine"]).exit_code != 0
