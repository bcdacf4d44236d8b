"""Pictures a second of jobs/serve.py, beside a plain FastAPI loop that draws request by request.

    python benchmarks/serving.py            a model for 64 px; both servers in turns, in one run
    python benchmarks/serving.py --quick    fewer requests

Every request has a caption and a seed of its own; captions repeat, as those of people do. Drawing
without a server is measured in the same run: one picture at a time, and all of them together as
jobs/generate.py does. The last line is JSON.
"""

import argparse
import http.client
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlencode

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch

import ratgan
from ratgan.generator import Generator
from ratgan.picture import Picture
from ratgan.text.minilm import WEIGHTS_SHA256
from ratgan.text.transform import SentenceTransform
from ratgan.visualize import to_pil
from ratgan.weights.saved_model import pack_model

CLIENTS = (1, 32)
ROUNDS = 3  # of each server, in turns, so that a busy minute of the machine hits both
CAPTIONS = tuple(
    f"a {size} {colour} bird" for size in ("small", "big") for colour in ("red", "blue")
)
READY_S = 300


def make_model(folder: Path) -> None:
    """Write a model of 64 px, a quarter as wide as the published one."""
    torch.manual_seed(0)
    transform = SentenceTransform(torch.zeros(384), torch.randn(384, 96), "whiten")
    encoder = {"name": "minilm", "sha256": WEIGHTS_SHA256}
    generator = Generator(image_size=64, sentence_dim=96, base_channels=16)
    for name, content in pack_model(generator, transform, encoder, {"step": 0}).items():
        (folder / name).write_bytes(content)


def plain(model: str) -> None:
    """Serve as a few lines would: draw each request when it comes."""
    import uvicorn
    from fastapi import FastAPI, Response

    loaded, app = ratgan.load(model), FastAPI()
    encoder, noise_dim = loaded.load_encoder(), loaded.generator.noise_dim

    @app.get("/imagine")
    def imagine(prompt: str, seed: int) -> Response:
        with torch.inference_mode():
            noise = torch.randn(1, noise_dim, generator=torch.Generator().manual_seed(seed))
            drawn = loaded.generator(noise, loaded.transform(encoder.encode([prompt])))
        buffer = io.BytesIO()
        to_pil(((drawn[0] + 1) * 127.5).clamp(0, 255).byte()).save(buffer, "PNG")
        return Response(buffer.getvalue(), media_type="image/png")

    config = uvicorn.Config(app, host="127.0.0.1", port=0, access_log=False, log_level="error")
    server = uvicorn.Server(config)
    listener = config.bind_socket()
    print(f"open http://127.0.0.1:{listener.getsockname()[1]}/", flush=True)
    server.run(sockets=[listener])


class Served:
    """A server in a process of its own."""

    def __init__(self, *command: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        for line in self.process.stdout or ():
            if "http://" in line:
                self.port = int(line.partition("http://")[2].partition("/")[0].rpartition(":")[2])
                return
        raise RuntimeError(f"{command} did not start")

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(60)

    def ask(self, clients: int, requests: int) -> tuple[float, list[float]]:
        """Let clients ask at once: seconds in all, and of each request."""

        def one(client: int) -> list[float]:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=READY_S)
            times = []
            for number in range(client, requests, clients):
                question = {"prompt": CAPTIONS[number % len(CAPTIONS)], "seed": number}
                started = time.perf_counter()
                connection.request("GET", f"/imagine?{urlencode(question)}")
                answer = connection.getresponse()
                content = answer.read()
                if answer.status != 200:
                    raise RuntimeError(content[:200])
                times.append(time.perf_counter() - started)
            connection.close()
            return times

        started = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            times = [each for some in pool.map(one, range(clients)) for each in some]
        return time.perf_counter() - started, times


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer requests")
    parser.add_argument("--plain", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain:
        plain(options.plain)
        return
    requests = 32 if options.quick else 128
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder))
        model = ratgan.load(folder)
        servers = {
            "ours": Served("jobs/serve.py", "--model", folder, "--port", "0"),
            "plain": Served(__file__, "--plain", folder),
        }
        try:
            result = measure(model, servers, requests)
        finally:
            for server in servers.values():
                server.close()
    print(json.dumps(result))


def measure(
    model: ratgan.TextToImage, servers: dict[str, Served], requests: int
) -> dict[str, float]:
    """Ask both servers in turns, and draw without one."""
    for server in servers.values():
        server.ask(2, 16)
    model.draw(CAPTIONS)
    seconds: dict[tuple[str, int], list[float]] = {}
    times: dict[tuple[str, int], list[float]] = {}
    direct, together = [], []
    pictures = [Picture(CAPTIONS[number % len(CAPTIONS)], number) for number in range(requests)]
    for _ in range(ROUNDS):
        started = time.perf_counter()
        model.draw_pictures(pictures)
        together.append(time.perf_counter() - started)
        for number in range(requests // ROUNDS):
            started = time.perf_counter()
            model.draw(CAPTIONS[number % len(CAPTIONS)], seed=number)
            direct.append(time.perf_counter() - started)
        for name, server in servers.items():
            for clients in CLIENTS:
                whole, each = server.ask(clients, requests)
                seconds.setdefault((name, clients), []).append(whole)
                times.setdefault((name, clients), []).extend(each)
    generate = requests / statistics.median(together)
    result = {
        "direct_p50_ms": round(1000 * statistics.median(direct), 2),
        "generate_images_per_s": round(generate, 2),
    }
    for (name, clients), each in times.items():
        rate = requests / statistics.median(seconds[name, clients])
        p50, p99 = (1000 * statistics.quantiles(each, n=100)[n] for n in (49, 98))
        print(
            f"{name:6} {clients:3} clients {rate:8.1f} images/s  p50 {p50:7.1f} ms"
            f"  p99 {p99:7.1f} ms"
        )
        figures = {"images_per_s": rate, "p50_ms": p50, "p99_ms": p99}
        figures["vs_generate"] = rate / generate
        result |= {f"{name}_{clients}_{key}": round(value, 2) for key, value in figures.items()}
    most = max(CLIENTS)
    ratio = result[f"ours_{most}_images_per_s"] / result[f"plain_{most}_images_per_s"]
    result["ours_over_plain"] = round(ratio, 3)
    result["p50_over_direct"] = round(result["ours_1_p50_ms"] / result["direct_p50_ms"], 3)
    return result


if __name__ == "__main__":
    main()
