"""The private names of Ray and torch that the product relies on are still there.

Neither library promises them. When an upgrade takes one away, its test fails with what breaks and
what to do; when the product begins to use another, it must be entered here.
"""

import ast
import importlib
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray
import torch

ROOT = Path(__file__).parents[2]
SEEN_WITH = {"ray": "2.60.0", "torch": "2.11 to 2.15"}


@dataclass(frozen=True)
class Name:
    """A private name: where it is used, what stops working without it, what to do then."""

    used_by: str
    breaks: str
    remedy: str


LOOPBACK = "Ray's ports are open to the network, or `ray start` refuses the second local node"
AUTHENTICATION = "a private Ray takes the token or the authentication mode of an earlier one"
NAMES = {
    "ray._private.authentication.authentication_token_setup.Config.initialize": Name(
        "pipeline/ray_cluster/private_ray.py",
        AUTHENTICATION,
        "find how Ray reads RAY_AUTH_MODE again; or set it before ray is imported",
    ),
    "ray._private.authentication.authentication_token_setup.AuthenticationTokenLoader.instance": (
        Name(
            "pipeline/ray_cluster/private_ray.py",
            AUTHENTICATION,
            "find how Ray forgets a token it has read; or start Ray once in a process only",
        )
    ),
    "ray._private.parameter.RayParams": Name(
        "pipeline/ray_cluster/private_ray.py",
        "of two runs on a machine the second waits for port 52365 and has no agent",
        "look for an option of ray.init for the listening port of the dashboard's agent",
    ),
    "ray._private.ray_constants.ENABLE_RAY_CLUSTER": Name(
        "pipeline/ray_cluster/private_ray.py, pipeline/ray_cluster/loopback.py",
        LOOPBACK,
        "find what services.get_node_ip_address asks now; or set its variable before the import",
    ),
    "ray._private.ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR": Name(
        "pipeline/ray_cluster/loopback.py", LOOPBACK, "as for ENABLE_RAY_CLUSTER"
    ),
    "ray._private.ray_constants.GCS_PORT_ENVIRONMENT_VARIABLE": Name(
        "pipeline/ray_cluster/private_ray.py",
        "Ray's processes are told an address at which their Ray is not",
        "look for an option of ray.init for the port of the head's store",
    ),
    "ray._private.ray_constants.RAY_ADDRESS_ENVIRONMENT_VARIABLE": Name(
        "pipeline/ray_cluster/private_ray.py",
        "Ray Train's PlacementGroupCleaner fails where two Rays run on a machine",
        "it is RAY_ADDRESS; write it out",
    ),
    "ray._private.ray_constants.RAY_API_SERVER_ADDRESS_ENVIRONMENT_VARIABLE": Name(
        "pipeline/ray_cluster/private_ray.py",
        "a run asks the cluster that the user exported for the state of its own Ray",
        "it is RAY_API_SERVER_ADDRESS; write it out",
    ),
    "ray._private.ray_constants.RAY_START_HOOK": Name(
        "pipeline/ray_cluster/loopback.py",
        LOOPBACK,
        "look in ray/scripts/scripts.py for what replaced it",
    ),
    "ray._private.services.get_node_ip_address": Name(
        "pipeline/ray_cluster/loopback.py",
        "nodes of cluster/start-local.sh join at the machine's address in its network",
        "find what `ray start` asks for the address of a node",
    ),
    "ray._private.state.state.get_draining_nodes": Name(
        "pipeline/distributed/preemption.py",
        "a machine that is to be taken away is lost instead of left with its step saved",
        "ask ray.util.state.list_nodes, or Ray Train's preemption watcher",
    ),
    "ray._private.runtime_env.packaging._dir_travel": Name(
        "pipeline/ray_cluster/submit.py",
        "a folder too large to send is refused by Ray with HTTP 413 only, after its upload",
        "find how Ray walks a working_dir with its .rayignore",
    ),
    "ray.serve._private.replica.add_port_to_grpc_server": Name(
        "pipeline/serving/replicas.py",
        "each replica of jobs/serve.py has a port at all addresses of its machine",
        "find where Ray Serve opens the gRPC port of a replica, or an option for its address",
    ),
    "ray.train.torch.config._TorchBackend.on_start": Name(
        "pipeline/distributed/process_group.py",
        "workers on several machines each wait for the others at 127.0.0.1",
        "find where Ray Train sets up torch's process group, or set GLOO_SOCKET_IFNAME on nodes",
    ),
    "ray.train.torch.config.get_address_and_port": Name(
        "pipeline/distributed/process_group.py",
        "torch's store listens on all addresses, and every stranger can write to it",
        "find where Ray Train chooses the port of the store, and let it take one that is open",
    ),
    "ray.train.torch.TorchTrainer._register_sigint_handler": Name(
        "pipeline/distributed/ray_trainer.py",
        "Ctrl-C ends a run without a checkpoint of the step at hand",
        "find where Ray Train's fit() sets its handler of SIGINT",
    ),
    "torch._C._will_engine_execute_node": Name(
        "ratgan/ops/convolution.py",
        "D's penalty computes gradients that nobody asked for: a third slower",
        "look for a public way to ask which inputs a backward needs",
    ),
    "torch._dynamo.config": Name(
        "pipeline/training/device.py",
        "--compile leaves blocks beyond torch's own limit as they are",
        "find the limit of recompilation: torch.compiler.config, if it is there",
    ),
    "torch._foreach_copy_": Name(
        "pipeline/distributed/collective.py", "workers cannot add gradients up", "copy one by one"
    ),
    "torch._foreach_mul_": Name(
        "pipeline/distributed/collective.py",
        "workers cannot add gradients up",
        "multiply one by one",
    ),
    "torch._subclasses.fake_tensor.FakeTensorMode": Name(
        "pipeline/training/step_cost.py",
        "--dry-run cannot compute the memory of a step",
        "count on the meta device",
    ),
    "torch.utils._python_dispatch.TorchDispatchMode": Name(
        "ratgan/ops/op_counter.py",
        "the operations of a step cannot be counted",
        "use torch.utils.flop_counter",
    ),
    "torch.utils._pytree.tree_leaves": Name(
        "ratgan/ops/op_counter.py",
        "as TorchDispatchMode",
        "use torch.utils.pytree, where it is public",
    ),
}
# Names that syntax does not tell: of a class that is subclassed, and one not promised either.
BY_HAND = {
    "ray.train.torch.TorchTrainer._register_sigint_handler",
    "ray.train.torch.config.get_address_and_port",
}


def resolve(dotted: str) -> object:
    """Import as much of a dotted name as is a module, then take its attributes."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(dotted)


def is_private(dotted: str) -> bool:
    return any(part.startswith("_") and not part.endswith("__") for part in dotted.split("."))


def private_names(path: Path) -> set[str]:
    """Every private name of Ray and torch that a file uses, as far as its own syntax tells."""
    aliases: dict[str, str] = {}
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                aliases[each.asname or each.name.partition(".")[0]] = (
                    each.name if each.asname else each.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for each in node.names:
                aliases[each.asname or each.name] = f"{node.module}.{each.name}"
    found = {name for name in aliases.values() if is_private(name)}
    for node in ast.walk(tree):
        parts, inner = [], node
        while isinstance(inner, ast.Attribute):
            parts.insert(0, inner.attr)
            inner = inner.value
        if parts and isinstance(inner, ast.Name) and inner.id in aliases:
            found.add(".".join([aliases[inner.id], *parts]))
    return {n for n in found if n.partition(".")[0] in ("ray", "torch") and is_private(n)}


@pytest.mark.parametrize("dotted", NAMES)
def test_a_private_name_is_there(dotted):
    name = NAMES[dotted]

    try:
        found = resolve(dotted)
    except (AttributeError, ModuleNotFoundError) as error:
        pytest.fail(
            f"{error}: {dotted} is gone (here: ray {ray.__version__}, torch {torch.__version__}; "
            f"seen with {SEEN_WITH}). {name.used_by} relies on it. Without it: {name.breaks}. "
            f"What to do: {name.remedy}."
        )

    assert found is not None
    for file in name.used_by.split(", "):
        assert (ROOT / file).exists()


def test_every_private_name_in_use_is_entered_here():
    files = [
        path for root in ("pipeline", "ratgan", "jobs") for path in (ROOT / root).rglob("*.py")
    ]
    used = {name for path in files for name in private_names(path)}

    def known(name: str) -> bool:
        return any(name == each or f"{each}.".startswith(f"{name}.") for each in NAMES) or any(
            name.startswith(f"{each}.") for each in NAMES
        )

    assert len(files) > 100
    assert len(used) > 15
    assert sorted(name for name in used if not known(name)) == []
    unused = [
        each
        for each in NAMES
        if each not in BY_HAND
        and not any(name == each or name.startswith(f"{each}.") for name in used)
        and not any(each.startswith(f"{name}.") for name in used)
    ]
    assert unused == []
