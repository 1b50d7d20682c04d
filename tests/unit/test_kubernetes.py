"""The manifests in deploy/kubernetes are valid, belong together, and give no pod a right that it does not need."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from kubernetes_validate import validate

from configs.loading import load_config
from flows.sync import build_parser
from tasks.model_server.flags import Flags, parse_flags
from tasks.model_server.tf_protos import message_module
from tasks.objects.health import PATH
from tasks.store.serving_config import EMPTY
from tests.kubernetes import (
    DEPLOYMENTS,
    OVERLAYS,
    ROOT,
    TEMPLATE,
    VERSIONS,
    containers,
    job,
    manifests,
    named,
    pods,
)
from tests.markdown import Page, commands

PROPERTIES = TEMPLATE["variables"]["properties"]
EXAMPLES = {"string": "200Mi", "integer": 7, "boolean": False, "object": {"a": "b"}}
overlays = pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)


@overlays
def test_every_manifest_is_valid(overlay: Path) -> None:
    """Each object has only fields that Kubernetes knows, with values of their types; none lies in another namespace."""
    for one in manifests(overlay):
        assert [validate(one, version, strict=True) for version in VERSIONS] == [*VERSIONS]
        assert one["kind"] == "Namespace" or one["metadata"]["namespace"] == "rehearsal"


@pytest.mark.parametrize(
    "values",
    [{}, {name: EXAMPLES[about["type"]] for name, about in PROPERTIES.items() if "enum" not in about}],
    ids=["defaults", "every variable"],
)
def test_the_job_is_valid(values: dict[str, Any]) -> None:
    """With and without job variables, the job of a run has only fields that Kubernetes knows."""
    made = job(values)
    assert [validate(made, version, strict=True) for version in VERSIONS] == [*VERSIONS]
    assert "{{" not in json.dumps(made)
    [container] = made["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ([values["command"]] if values else ["prefect", "flow-run", "execute"])
    assert {"name": "HOME", "value": "/tmp"} in container["env"]


def test_a_mistake_is_found() -> None:
    """A misspelt field, a wrong type and a wrong place of a field are not valid."""
    for path, value in [("backoffLimits", 0), ("backoffLimit", "none"), ("restartPolicy", "Never")]:
        made = job({})
        made["spec"][path] = value
        with pytest.raises(Exception, match=r"not allowed|not of type"):
            validate(made, VERSIONS[0], strict=True)


def test_the_template_uses_each_variable() -> None:
    """Each placeholder of the job is a variable of the work pool, and each variable has an effect."""
    placeholders = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(TEMPLATE["job_configuration"])))
    assert placeholders == set(PROPERTIES)
    # the others have none: prefect_kubernetes/worker.py 0.8.0 declares, for example, stream_output, and never reads it
    assert set(TEMPLATE["job_configuration"]) == {
        "name", "command", "env", "labels", "annotations", "namespace", "job_manifest",
    }  # fmt: skip
    assert PROPERTIES["namespace"]["default"] == named("StatefulSet", "serving")["metadata"]["namespace"]


@overlays
def test_no_pod_is_privileged(overlay: Path) -> None:
    """No container is root, writes its own file system, has capabilities, or uses memory without a limit."""
    for name, pod in pods(overlay):
        general = pod["securityContext"]
        assert general["runAsNonRoot"], name
        assert general["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"} & set(pod), name
        assert not [volume for volume in pod["volumes"] if "hostPath" in volume], name
        for container in containers(pod):
            own = container["securityContext"]
            assert {**general, **own}["runAsUser"] > 0, container["name"]
            assert own["readOnlyRootFilesystem"], container["name"]
            assert not own["allowPrivilegeEscalation"], container["name"]
            assert own["capabilities"] == {"drop": ["ALL"]}, container["name"]
            assert set(container["resources"]["limits"]) == {"cpu", "memory"}, container["name"]


@overlays
def test_only_the_worker_has_rights(overlay: Path) -> None:
    """No pod but the worker gets a token of the cluster, and the worker may only see to jobs."""
    tokens = {name: pod["automountServiceAccountToken"] for name, pod in pods(overlay)}
    assert tokens == {"serving": False, "job": False, "prefect-worker": True}
    bindings = [one for one in manifests(overlay) if one["kind"].endswith("Binding")]
    assert [one["subjects"] for one in bindings] == [
        [{"kind": "ServiceAccount", "name": "prefect-worker", "namespace": "rehearsal"}]
    ]
    rules = named("Role", "prefect-worker", overlay)["rules"]
    assert {resource: rule["verbs"] for rule in rules for resource in rule["resources"]} == {
        "jobs": ["create", "delete", "get", "list", "watch"],
        "pods": ["get", "list", "watch"],
        "pods/log": ["get"],
    }
    assert not [one for one in manifests(overlay) if one["kind"].startswith("ClusterRole")]


@overlays
def test_what_a_pod_names_is_there(overlay: Path) -> None:
    """Each account, claim and config map of a pod is among the manifests, and each mount has its volume."""
    there = {(one["kind"], one["metadata"]["name"]) for one in manifests(overlay)}
    for name, pod in pods(overlay):
        named_here = {("ServiceAccount", pod["serviceAccountName"])} if "serviceAccountName" in pod else set()
        for volume in pod["volumes"]:
            if "configMap" in volume:
                named_here.add(("ConfigMap", volume["configMap"]["name"]))
            if "persistentVolumeClaim" in volume:
                named_here.add(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
        for container in containers(pod):
            named_here |= {
                ("ConfigMap", source["configMapRef"]["name"])
                for source in container.get("envFrom", [])
                if "configMapRef" in source
            }
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted <= {volume["name"] for volume in pod["volumes"]}
        assert named_here <= there, name


@overlays
def test_services_reach_production(overlay: Path) -> None:
    """Each Service and the disruption budget select production's pods, and each port of a Service is one of theirs."""
    serving = named("StatefulSet", "serving", overlay)["spec"]
    labels = serving["template"]["metadata"]["labels"]
    ports = {port["name"] for port in serving["template"]["spec"]["containers"][0]["ports"]}
    for name in ("serving", "serving-replicas"):
        service = named("Service", name, overlay)["spec"]
        assert service["selector"] == labels
        assert {port["targetPort"] for port in service["ports"]} == ports
    assert named("PodDisruptionBudget", "serving", overlay)["spec"]["selector"]["matchLabels"] == labels
    assert serving["selector"]["matchLabels"] == labels


@overlays
def test_production_is_started_as_documented(overlay: Path) -> None:
    """Production's flags exist, and it cannot write what it serves."""
    [container] = named("StatefulSet", "serving", overlay)["spec"]["template"]["spec"]["containers"]
    flags = parse_flags(container["args"])
    assert flags.max_num_load_retries == 0
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    config = Path(flags.model_config_file)
    assert mounts[str(config.parent)]["readOnly"]
    assert mounts["/models"]["readOnly"]
    assert (config.parent == Path("/models")) == (overlay.name == "labels")
    assert ("/etc/serving" in mounts) == (overlay.name != "labels")


def test_readiness_asks_for_a_model_that_is_listed() -> None:
    """The model whose state makes production ready is in the list, at a path of the claim."""
    generated = next(name for kind, name in objects() if kind == "ConfigMap" and name.startswith("models-config-"))
    config: Any = message_module("tensorflow_serving.config.model_server_config_pb2").ModelServerConfig()
    text_format.Parse(named("ConfigMap", generated)["data"]["models.config"], config)
    listed = {model.name: model.base_path for model in config.model_config_list.config}
    for overlay, route in zip(OVERLAYS, ("metadata", "labels/stable/metadata", "metadata"), strict=True):
        [container] = named("StatefulSet", "serving", overlay)["spec"]["template"]["spec"]["containers"]
        [(name, base_path)] = listed.items()
        assert container["readinessProbe"]["httpGet"] == {"path": f"/v1/models/{name}/{route}", "port": "rest"}
        assert base_path == f"/models/{name}"


def objects() -> list[tuple[str, str]]:
    """Return kind and name of each object."""
    return [(one["kind"], one["metadata"]["name"]) for one in manifests()]


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda one: one["name"])
def test_a_deployment_fits_the_pod(deployment: dict[str, Any]) -> None:
    """The places that a deployment names are mounted in its job, its server is the sidecar, and it asks each replica.

    The sidecar is a native one: it starts before the run and ends after it.
    """
    config = load_config(Path(deployment["parameters"]["config"]), deployment["parameters"]["overrides"])
    pod = job(deployment["work_pool"]["job_variables"])["spec"]["template"]["spec"]
    [main] = pod["containers"]
    [empty_list, server] = pod["initContainers"]
    mounted = {mount["mountPath"] for mount in main["volumeMounts"]}
    shared = str(config.serving.attached.directory)
    assert {str(config.work_dir), str(config.models_root), shared} <= mounted
    assert {"name": "shared", "mountPath": shared, "readOnly": True} in server["volumeMounts"]
    assert f"{shared}/models.config" in empty_list["command"][-1]
    assert parse_flags(server["args"]) == Flags(
        model_config_file=f"{shared}/models.config", model_config_file_poll_wait_seconds=1, max_num_load_retries=0
    )
    assert server["restartPolicy"] == "Always"
    assert config.serving.attached.url == f"http://127.0.0.1:{server['startupProbe']['tcpSocket']['port']}"
    replicas = named("StatefulSet", "serving")["spec"]
    assert config.promote.live_addresses == tuple(
        f"http://serving-{n}.{replicas['serviceName']}:8501" for n in range(replicas["replicas"])
    )
    [worker] = named("Deployment", "prefect-worker")["spec"]["template"]["spec"]["containers"]
    assert f"--pool={deployment['work_pool']['name']}" in worker["args"]


def test_a_sync_beside_each_server_follows_the_object_store(capsys: pytest.CaptureFixture[str]) -> None:
    """The sync is a native sidecar whose options exist; it alone writes the directory that the server reads."""
    pod = dict(pods(ROOT / "objects"))["serving"]
    [sync] = pod["initContainers"]
    module, *options = sync["args"]
    args = build_parser().parse_args(options)
    assert (module, sync["restartPolicy"]) == ("flows.sync", "Always")
    assert sync["startupProbe"]["httpGet"] == {"path": PATH, "port": sync["ports"][0]["name"]}
    assert args.health[1] == sync["ports"][0]["containerPort"]
    [volume] = [volume for volume in pod["volumes"] if volume["name"] == "models"]
    assert set(volume) == {"name", "emptyDir"}
    [server] = pod["containers"]
    mounts = [{m["name"]: m for m in one["volumeMounts"]}["models"] for one in (sync, server)]
    assert [mount.get("readOnly", False) for mount in mounts] == [False, True]
    assert {mount["mountPath"] for mount in mounts} == {str(args.to)}
    assert sync["securityContext"]["runAsGroup"] == pod["securityContext"]["fsGroup"]
    assert capsys.readouterr().err == ""


def test_production_reads_the_volume_that_jobs_write() -> None:
    """The claim `models` is at the same path in both: the store's models.config names paths as the jobs see them."""
    job_pod, production = (dict(pods())[name] for name in ("job", "serving"))
    for pod in (job_pod, production):
        [volume] = [volume for volume in pod["volumes"] if volume["name"] == "models"]
        assert volume["persistentVolumeClaim"]["claimName"] == "models"
        mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounts["models"] == "/models"
        assert pod["securityContext"]["fsGroup"] == job_pod["securityContext"]["runAsGroup"]


@pytest.mark.parametrize(
    ("before", "meanwhile", "after"),
    [
        (None, None, EMPTY),
        ("", None, EMPTY),
        ("a list", None, "a list"),
        (None, "another replica's or a promotion's", "another replica's or a promotion's"),
    ],
)
def test_the_first_list_replaces_no_other(
    before: str | None, meanwhile: str | None, after: str, tmp_path: Path
) -> None:
    """Production's list is only begun where there is none, even if another writer is faster, and nothing else stays."""
    models, tools = tmp_path / "models", tmp_path / "tools"
    models.mkdir(), tools.mkdir()
    if before is not None:
        (models / "models.config").write_text(before)
    if meanwhile is not None:  # written just before the name is taken
        (tools / "ln").write_text(f'#!/bin/sh\nprintf "%s" "{meanwhile}" > models.config\nexec /bin/ln "$@"\n')
        (tools / "ln").chmod(0o755)
    script = dict(pods(ROOT / "labels"))["serving"]["initContainers"][0]["command"][-1]
    environment = {"PATH": f"{tools}:{os.environ['PATH']}", "HOSTNAME": "serving-0"}
    done = subprocess.run(["sh", "-c", script.replace("/models", str(models))], check=False, env=environment)
    assert done.returncode == 0
    assert {path.name: path.read_text() for path in models.iterdir()} == {"models.config": after}


def test_nobody_reaches_a_job() -> None:
    """The policy is for the pods of jobs, and allows nothing; the kubelet's probes come from the node, which may."""
    policy = named("NetworkPolicy", "rehearsal-job")["spec"]
    labels = job({})["spec"]["template"]["metadata"]["labels"]
    assert policy == {"podSelector": {"matchLabels": labels}, "policyTypes": ["Ingress"]}


def test_a_node_can_be_drained_before_the_first_promotion() -> None:
    """Replicas that are not ready yet do not hold up a drain, which the budget alone would never allow."""
    assert named("PodDisruptionBudget", "serving")["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_a_job_ends_and_is_not_repeated_by_kubernetes() -> None:
    """A pod that cannot start does not hold its deployment's turn for ever, and only Prefect begins a run again."""
    spec = job({})["spec"]
    assert (spec["activeDeadlineSeconds"], spec["backoffLimit"]) == (86400, 0)
    for container in containers(spec["template"]["spec"]):
        assert "imagePullPolicy" not in container  # Kubernetes' own: Always for the tag latest, which changes


def test_the_first_lists_of_models_are_empty() -> None:
    """Where a server may start before a list was written, it starts on the store's list of no models."""
    production, run = (dict(pods(ROOT / "labels"))[name]["initContainers"][0] for name in ("serving", "job"))
    assert [f"echo '{EMPTY.strip()}' > " in first["command"][-1] for first in (production, run)] == [True, True]


def test_the_documented_overlays_are_those_that_are_checked() -> None:
    """Each documented kubectl command renders or applies one of the overlays of these tests, and each is documented."""
    blocks = Page(Path("docs/kubernetes.md")).blocks
    called = [words for block in blocks for words in commands(block.text) if words[0] == "kubectl"]
    assert {" ".join(words[1:-1]) for words in called} == {"kustomize", "apply -k"}
    assert {Path(words[-1]).resolve() for words in called} == {overlay.resolve() for overlay in OVERLAYS}


def test_one_release_judges_and_serves() -> None:
    """Production and the throwaway server are one release of TensorFlow Serving, on nodes that its image runs on."""
    found = [
        (one["image"], pod.get("nodeSelector"))
        for overlay in OVERLAYS
        for _, pod in pods(overlay)
        for one in containers(pod)
        if one["image"].startswith("tensorflow/serving")
    ]
    assert len({image for image, _ in found}) == 1
    assert all(selector == {"kubernetes.io/arch": "amd64"} for _, selector in found)
