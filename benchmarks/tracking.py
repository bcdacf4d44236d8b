"""What telling the tracker costs a training step, with a live tracker and with a dead one.

    python benchmarks/tracking.py            both in turns, in one run
    python benchmarks/tracking.py --quick    fewer points

A real MLflow server is started for it. A point every 5 ms is a hundred times what a training tells.
The last line is JSON, in milliseconds.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pipeline.storage.folder import Folder
from pipeline.tracking.sender import Sender
from pipeline.tracking.tracker import Tracker

ROUNDS = 4  # of each tracker, in turns, so that a busy minute of the machine hits both
PAUSE_S = 0.005
VALUES = {f"loss/{name}": 0.5 for name in "abcdefgh"}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer points")
    points = 200 if parser.parse_args().quick else 1500
    with tempfile.TemporaryDirectory() as folder:
        live_port, dead_port = _free_port(), _free_port()
        server = _start_server(Path(folder), live_port)
        try:
            ports = {"live": live_port, "dead": dead_port}
            uris = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
            times: dict[str, list[float]] = {name: [] for name in uris}
            for number in range(ROUNDS):
                for name, uri in uris.items():
                    times[name] += measure(Path(folder) / f"{name}-{number}", uri, points)
        finally:
            server.terminate()
            server.wait(timeout=30)
    result = {name: _summary(values) for name, values in times.items()}
    for name, summary in result.items():
        print(f"{name:5}" + "".join(f"  {key} {value:8.3f} ms" for key, value in summary.items()))
    print(json.dumps(result))


def measure(place: Path, uri: str, points: int) -> list[float]:
    """Tell points to a run whose sender works beside it, and return each call's time in ms."""
    run = Folder(str(place))
    tracker = Tracker(run)
    tracker.begin(experiment="benchmark", name=place.name, tags={})
    sender = Sender(run, uri)
    sender.start()
    times = []
    for step in range(points):
        time.sleep(PAUSE_S)
        started = time.perf_counter()
        tracker.metrics(step, VALUES)
        times.append(1e3 * (time.perf_counter() - started))
    sender.delivery.stopped.set()
    return times


def _summary(times: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(times, n=100)
    return {"p50": round(cuts[49], 4), "p99": round(cuts[98], 4), "max": round(max(times), 4)}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _start_server(folder: Path, port: int) -> subprocess.Popen[bytes]:
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--workers", "1"),
        *("--artifacts-destination", f"{folder}/artifacts"),
    ]
    server = subprocess.Popen(
        command,
        env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            return server
        except (OSError, urllib.error.URLError):
            if server.poll() is not None:
                raise OSError(f"the MLflow server ended with {server.poll()}") from None
            time.sleep(0.5)


if __name__ == "__main__":
    main()
