"""Small GANs and their checkpoints, as tests need them."""

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from pipeline.checkpoint.async_saver import Saver
from pipeline.checkpoint.gan_state import gan_files, gan_tensors
from pipeline.checkpoint.store import FILES, MARKER, Score
from pipeline.storage.folder import Folder
from ratgan.randomness import generator_for, mismatched_partners, step_noise
from ratgan.step import Gan, train_step
from ratgan.text.minilm import WEIGHTS_SHA256
from ratgan.text.transform import SentenceTransform
from tests.ratgan.networks import small_discriminator, small_generator

STATE = {
    "run": "test",
    "dataset": "d" * 64,
    "versions": {},
    "config": {"seed": 1},
    "images": 4,
    "encoder": {"name": "minilm", "sha256": WEIGHTS_SHA256},
}
SEED, BATCH = 100, 4


def new_gan() -> Gan:
    return Gan.create(small_generator(), small_discriminator())


def trained(steps: int = 2) -> Gan:
    gan = new_gan()
    for step in range(steps):
        train(gan, step)
    return gan


def train(gan: Gan, step: int, share: Callable = lambda whole: whole, **options) -> dict:
    """Do step `step` of a run whose data follow from the step, as those of a real one do."""
    draw = generator_for(SEED, step, 77)
    images = torch.rand(BATCH, 3, 32, 32, generator=draw) * 2 - 1
    sentences = torch.randn(BATCH, 9, generator=draw)
    partners = mismatched_partners(SEED, step, torch.arange(BATCH), torch.tensor([0, 0, 1, 2]))
    values = train_step(
        gan,
        images=share(images),
        sentences=share(sentences),
        mismatched=share(sentences[partners]),
        noise=share(step_noise(SEED, step, BATCH, 7)),
        average_decay=min(0.999, (1 + step) / (10 + step)),
        **options,
    )
    return {name: float(value) for name, value in values.items()}


def packer(gan: Gan):
    return partial(gan_files, gan=gan, transform=SentenceTransform.identity(9))


def hashes(gan: Gan, step: int) -> dict[str, str]:
    """Hash the files that a checkpoint of this GAN would have: all its tensors, bit for bit."""
    files = packer(gan)(gan_tensors(gan), STATE | {"step": step})
    return {name: hashlib.sha256(content).hexdigest() for name, content in files}


def stored_hashes(folder: Folder) -> dict[str, str]:
    listed = folder.read_json(FILES)
    return {name: sha256 for name, sha256 in listed.items() if name != "state.json"}


def save(root: Folder, gan: Gan, step: int, keep: int = 2, score: Score | None = None) -> Folder:
    with Saver(root, keep=keep, background=False) as saver:
        saver.save(step, gan_tensors(gan), packer(gan), STATE, score)
    return root / f"step-{step:08d}"


def reseal(folder: Path) -> None:
    """Make hashes and marker fit what is in a checkpoint now, as only a forger would."""
    listed = json.loads((folder / FILES).read_text())
    fresh = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in listed}
    content = json.dumps(fresh).encode()
    (folder / FILES).write_bytes(content)
    (folder / MARKER).write_text(hashlib.sha256(content).hexdigest())
