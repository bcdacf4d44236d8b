"""A real server of pictures in a thread of the test."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from pipeline.checkpoint.store import commit
from pipeline.serving import serve as serving
from pipeline.serving.config import ServeConfig
from pipeline.storage.folder import Folder
from ratgan.text.minilm import WEIGHTS_SHA256
from ratgan.text.transform import SentenceTransform
from ratgan.weights.saved_model import pack_discriminator, pack_model
from tests.ratgan.networks import small_discriminator, small_generator

STEP = 7
CARD = "# A run\n\n10 images with captions such as\n\n* a red bird\n* <b>two</b> cats\n\nend\n"


def make_run(folder: Path, seed: int = 0) -> Path:
    """Write a run with a small model, its card and a checkpoint with its discriminator."""
    encoder = {"name": "minilm", "sha256": WEIGHTS_SHA256}
    torch.manual_seed(seed)
    transform = SentenceTransform(torch.zeros(384), torch.randn(384, 9), "whiten")
    files = pack_model(small_generator(), transform, encoder, {"step": STEP})
    saved = {f"model/{name}": content for name, content in files.items()}
    checkpoint = pack_discriminator(small_discriminator()) | saved
    run = Folder(str(folder))
    commit(run / "checkpoints", checkpoint.items(), step=STEP, state={}, keep=2)
    for name, content in (files | {"README.md": CARD.encode()}).items():
        (run / "model").write(name, content)
    return folder


@contextmanager
def served(config: ServeConfig) -> Iterator[str]:
    """Serve while the block runs, at the address that is given."""
    server, listener = serving.prepare(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(60)
        listener.close()
        assert not thread.is_alive()
