"""Serve from replicas on Ray Serve: each runs the application of the one-process form.

Ray's proxy listens and forwards. It knows neither tokens nor the shape of our errors: each replica
has a guard of its own, and a middleware of the proxy replaces the errors that the proxy makes.
"""

import contextlib
import http.client
import logging
import math
import os
import threading
import time
from typing import Any

import ray
import ray.serve._private.replica as ray_replica
import torch
from ray import serve
from ray.serve import Application
from ray.serve.exceptions import RayServeException

from pipeline.common.console import print_line
from pipeline.ray_cluster.connection import connect, obtainable
from pipeline.serving.access import (
    TOKEN,
    address,
    checked_token,
    in_cluster,
    listen,
    own_names,
    read_token,
)
from pipeline.serving.app import build_app
from pipeline.serving.config import ServeConfig
from pipeline.serving.drawing_queue import BATCH
from pipeline.serving.guard import App, Guard
from pipeline.serving.models import load_models

NAME = "ratgan"
SPARE = 64  # requests that a replica takes beyond its queue, so that it answers when that is full
SPARE_S = 10  # the application's own time-out comes first
READY_S = 120
QUIET = {"log_level": "WARNING", "enable_access_log": False}  # captions are who asks's affair
CALLBACK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
PROXY = {
    "RAY_SERVE_ENABLE_HA_PROXY": "0",  # it would listen at all addresses of the machine
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # on a busy machine 5 s are too few
    CALLBACK: "pipeline.serving.proxy:middlewares",
}


class Replica:
    """One process that draws.

    Args:
        config: Of the server.
        hosts: Values of the Host header that are its own; None permits all.
        token: That requests must bring; none if empty.
        threads: Of torch: the last bits of a picture depend on their number.
    """

    def __init__(
        self, config: ServeConfig, hosts: frozenset[str] | None, token: str, threads: int
    ) -> None:
        _listen_at_the_node_only()
        torch.set_num_threads(threads)
        self.guarded = Guard(build_app(config, load_models(config)), hosts, token)

    def __serve_build_asgi_app__(self) -> App:
        return self.guarded


def _listen_at_the_node_only() -> None:
    """Let this replica listen at the address of its node; Ray would listen at all of the machine.

    Its port is for other deployments, asks for Ray's token, and is opened after the constructor.
    """
    open_port, node = ray_replica.add_port_to_grpc_server, ray.util.get_node_ip_address()
    ray_replica.add_port_to_grpc_server = lambda server, _: open_port(server, address(node, 0))


def application(options: dict[str, Any]) -> Application:
    """Build the application of cluster/serve.yaml, whose replicas answer to any name.

    Args:
        options: Of `ServeConfig`. The token comes from the environment, RATGAN_SERVE_TOKEN.

    Raises:
        ValueError: If an option is wrong, or there is no token.
    """
    token = checked_token(os.environ.get(TOKEN, ""), TOKEN)
    return _application(ServeConfig(**options), None, token)


def serve_replicas(config: ServeConfig) -> None:
    """Start the replicas, and answer until SIGINT or SIGTERM; as `serve`.

    Raises:
        ValueError: If an option is wrong, or a cluster is served without a token.
        FileNotFoundError: If a model does not exist.
        OSError: If the port is taken, or the server does not answer there.
    """
    cluster, port = in_cluster(config), config.port
    token = read_token(config.token_file) if config.token_file else ""
    if not cluster:
        with listen(config) as listener:  # for its error, and for a free port
            port = listener.getsockname()[1]
    # An error is shown at once here; Ray would try it again in each replica.
    load_models(config.model_copy(update={"device": "cpu"}))
    connect(cpus=config.replicas or 1)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    if cluster and (others := list(serve.status().applications)):
        # Their port and their doors are there already, and ours would have no effect.
        raise ValueError(f"the cluster serves already ({', '.join(others)}): end that first.")
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        try:
            serve.start(
                proxy_location="HeadOnly",
                http_options={
                    "host": config.host,
                    "port": port,
                    "request_timeout_s": config.timeout_s + SPARE_S,
                },
                logging_config=QUIET,
                controller_options={"runtime_env": {"env_vars": PROXY}},
            )
            # What a cluster is called, it does not know; a page elsewhere knows no token.
            hosts = None if cluster else own_names(config, port)
            serve.run(_application(config, hosts, token), name=NAME)
            if not cluster:
                _wait_until_ready(config.host, port)
            where = "on the cluster's head (" if cluster else "("
            print_line(f"open http://{address(config.host, port)}/ {where}Ctrl-C stops the server)")
            threading.Event().wait()
        finally:
            with contextlib.suppress(RayServeException):  # it did not start
                serve.delete(NAME)
                if cluster and not serve.status().applications:
                    serve.shutdown()
            ray.shutdown()
    print_line("stopped.")


def _wait_until_ready(host: str, port: int) -> None:
    """Return when the proxy knows its route."""
    ends = time.monotonic() + READY_S
    while time.monotonic() < ends:
        connection = http.client.HTTPConnection(host, port, timeout=READY_S)
        with contextlib.closing(connection), contextlib.suppress(OSError):
            connection.request("GET", "/healthz")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.1)
    raise OSError(f"the server does not answer at {address(host, port)} within {READY_S} s.")


def _application(config: ServeConfig, hosts: frozenset[str] | None, token: str) -> Application:
    replicas = config.replicas or 1
    gpus = obtainable("GPU") if config.device != "cpu" else 0
    if config.device == "cuda" and not gpus:
        raise ValueError("device=cuda: Ray has no GPU. Use auto or cpu.")
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name=NAME,
        ray_actor_options={
            "num_cpus": 1,
            "num_gpus": 1 / math.ceil(replicas / gpus) if gpus else 0,
        },
        autoscaling_config={
            "min_replicas": 1,
            "initial_replicas": replicas,
            "max_replicas": replicas,
            "target_ongoing_requests": 2 * BATCH,
        },
        max_ongoing_requests=config.max_queue + SPARE,
        max_queued_requests=config.max_queue,
        graceful_shutdown_timeout_s=config.timeout_s,
        logging_config=QUIET,
    )
    return deployment.bind(config, hosts, token, torch.get_num_threads())
