"""Training resumed from any step, and after a kill anywhere in a save, ends bit for bit the same.

From each of the 40 checkpoints one step is done and held against the next checkpoint: equal one by
one, so equal from each to the end.
"""

import hashlib
import multiprocessing
import os
import random
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed

from pipeline.checkpoint.async_saver import Saver
from pipeline.checkpoint.damsm_state import pair_files, pair_tensors
from pipeline.checkpoint.damsm_state import restore as restore_pair
from pipeline.checkpoint.gan_state import gan_tensors, restore
from pipeline.checkpoint.store import MARKER, damage, newest_checkpoint
from pipeline.common.failpoints import VARIABLE, arm
from pipeline.data.sample_order import RowGroup, SampleOrder
from pipeline.distributed import collective
from pipeline.storage.folder import Folder
from ratgan.randomness import generator_for
from ratgan.text.pretraining import Pair, pretrain_step, word_dropout
from ratgan.text.vocabulary import Vocabulary
from tests.pipeline.checkpoint.checkpoints import (
    STATE,
    hashes,
    new_gan,
    packer,
    save,
    stored_hashes,
    train,
)
from tests.ratgan.test_pretraining import small_pair

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
STEPS = 40
PATIENCE_S = 500
VOCABULARY = Vocabulary(("<end>", *(f"word{n}" for n in range(8))), 4)


@pytest.fixture(autouse=True)
def one_thread():
    """The same order of additions in every process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pretrain(pair: Pair, step: int) -> dict[str, float]:
    """Do step `step` of a pretraining whose data follow from the step."""
    draw = generator_for(100, step, 78)
    lengths = torch.tensor([4, 1, 3, 2])
    values = pretrain_step(
        pair,
        images=torch.rand(4, 3, 32, 32, generator=draw, dtype=torch.float64) * 2 - 1,
        tokens=torch.randint(1, 9, (4, 4), generator=draw) * (torch.arange(4) < lengths[:, None]),
        lengths=lengths,
        classes=torch.tensor([0, 1, 2, 1]),
        dropout=word_dropout(5, step, (4, 4, 6)).double(),
        lr=2e-3 * 0.98**step,
    )
    return {name: float(value) for name, value in values.items()}


def pair_hashes(pair: Pair) -> dict[str, str]:
    files = pair_files(pair_tensors(pair), {}, pair=pair, vocabulary=VOCABULARY)
    return {name: hashlib.sha256(content).hexdigest() for name, content in files}


def test_a_gan_resumed_from_any_step_does_the_next_one_bit_for_bit(tmp_path):
    root, gan, losses = Folder(str(tmp_path)), new_gan(), []
    with Saver(root, keep=STEPS) as saver:
        for step in range(STEPS):
            losses.append(train(gan, step))
            saver.save(step + 1, gan_tensors(gan), packer(gan), STATE)

    for step in range(1, STEPS):
        resumed = new_gan()
        restore(root / f"step-{step:08d}", resumed)
        assert train(resumed, step) == losses[step], step
        assert hashes(resumed, step + 1) == stored_hashes(root / f"step-{step + 1:08d}"), step
    assert len(root.names()) == STEPS
    assert len({loss["loss/generator"] for loss in losses}) == STEPS, "no two steps are the same"


def test_a_text_encoder_resumed_from_any_step_does_the_next_one_bit_for_bit(tmp_path):
    root, pair, losses = Folder(str(tmp_path)), small_pair(), []
    pack = partial(pair_files, pair=pair, vocabulary=VOCABULARY)
    with Saver(root, keep=STEPS) as saver:
        for step in range(STEPS):
            losses.append(pretrain(pair, step))
            saver.save(step + 1, pair_tensors(pair), pack, {})

    for step in range(1, STEPS):
        resumed = small_pair()
        restore_pair(root / f"step-{step:08d}", resumed)
        assert pretrain(resumed, step) == losses[step], step
        assert pair_hashes(resumed) == stored_hashes(root / f"step-{step + 1:08d}"), step
    assert len(root.names()) == STEPS


@pytest.mark.parametrize(
    "left_out",
    ["generator", "average", "discriminator", "generator_optimizer", "discriminator_optimizer"],
)
def test_a_checkpoint_without_any_one_part_would_be_found_out(tmp_path, left_out):
    gan = new_gan()
    for step in range(3):
        train(gan, step)
    folder = save(Folder(str(tmp_path)), gan, 3)
    resumed, fresh = new_gan(), new_gan()
    train(fresh, 0)
    restore(folder, resumed)
    setattr(resumed, left_out, getattr(fresh, left_out))
    if left_out in ("generator", "discriminator"):  # and its moments, by the new parameters
        optimizer = f"{left_out}_optimizer"
        setattr(resumed, optimizer, getattr(fresh, optimizer))
    elif left_out != "average":
        network = getattr(resumed, left_out.removesuffix("_optimizer"))
        optimizer = getattr(resumed, left_out)
        optimizer.param_groups[0]["params"] = list(network.parameters())

    train(gan, 3)
    train(resumed, 3)

    assert hashes(resumed, 4) != hashes(gan, 4)


def test_no_step_draws_from_a_global_generator():
    gan, pair = new_gan(), small_pair()
    plan = SampleOrder([RowGroup("shard", 0, 20), RowGroup("shard", 1, 20)], 4, 100)

    def states() -> list:
        legacy = np.random.get_state()[1].tolist()  # noqa: NPY002
        return [torch.get_rng_state().tolist(), legacy, random.getstate()]

    before = states()
    train(gan, 0)
    pretrain(pair, 0)
    plan.resolve(plan.positions(0, 1, 0, 30))

    assert states() == before


def test_a_step_is_the_same_whatever_the_global_generators_hold():
    ends = []
    for seed in (1, 2):
        gan = new_gan()
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        train(gan, 0)
        ends.append(hashes(gan, 1))

    assert ends[0] == ends[1]


KILLED_AT, LAST = 3, 5


def run(folder: str, fault: str = "") -> None:
    """Train with a checkpoint at each step, from the newest one to the last step."""
    torch.set_num_threads(1)
    arm(fault)
    root, gan = Folder(folder), new_gan()
    found = newest_checkpoint(root)
    if found:
        restore(found[0], gan)
    with Saver(root, keep=2) as saver:
        for step in range(found[1]["step"] if found else 0, LAST):
            train(gan, step)
            saver.check()
            saver.save(step + 1, gan_tensors(gan), packer(gan), STATE)


FOLDER = f"step-{KILLED_AT:08d}"
FAULTS = [
    f"kill@checkpoint.before_write:step={KILLED_AT},file=model/model.safetensors",
    f"kill@checkpoint.before_write:step={KILLED_AT},file=discriminator_optimizer.safetensors",
    f"kill@storage.before_fsync:file={FOLDER}/model/model.safetensors",
    f"kill@storage.before_rename:file={FOLDER}/generator.safetensors",
    f"kill@storage.before_fsync:file={FOLDER}/state.json",
    f"kill@storage.before_rename:file={FOLDER}/files.json",
    f"kill@checkpoint.before_marker:{KILLED_AT}",
    f"kill@storage.before_fsync:file={FOLDER}/COMMITTED",
    f"kill@storage.before_rename:file={FOLDER}/COMMITTED",
    f"kill@checkpoint.after_marker:{KILLED_AT}",
    f"kill@checkpoint.before_letting_go:{KILLED_AT}",
]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """What a run that nobody kills leaves."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    threads = torch.get_num_threads()
    run(str(folder))
    torch.set_num_threads(threads)
    return stored_hashes(Folder(str(folder)) / f"step-{LAST:08d}")


@pytest.fixture(scope="module")
def starter():
    """Starts processes that have torch already, from one that never ran a step."""
    return multiprocessing.get_context("forkserver")


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.removeprefix("kill@") for fault in FAULTS])
def test_a_run_killed_anywhere_in_a_save_ends_as_one_that_was_not(
    tmp_path, uninterrupted, starter, fault, record_property
):
    killed = starter.Process(target=run, args=(str(tmp_path), fault))
    killed.start()
    killed.join(PATIENCE_S)
    assert killed.exitcode == -signal.SIGKILL

    for folder in tmp_path.iterdir():
        if (folder / MARKER).exists():
            assert damage(Folder(str(folder))) is None, f"{folder.name} is visible and not whole"
    marked = "after_marker" in fault or "letting_go" in fault
    found = newest_checkpoint(Folder(str(tmp_path)))
    assert found[1]["step"] == (KILLED_AT if marked else KILLED_AT - 1)
    run(str(tmp_path))

    assert stored_hashes(Folder(str(tmp_path)) / f"step-{LAST:08d}") == uninterrupted
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000004", "step-00000005"]
    assert not list(tmp_path.rglob("*.tmp"))
    record_property("steps_lost", KILLED_AT - found[1]["step"])
    record_property("weights_equal", True)


def test_the_environment_kills_a_save_too(tmp_path, uninterrupted):
    code = "from tests.pipeline.training.test_exact_resume import os, run"
    code += f"; run({str(tmp_path)!r}, os.environ[{VARIABLE!r}])"
    environment = os.environ | {VARIABLE: FAULTS[6], "PYTHONPATH": str(ROOT)}

    killed = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=False, timeout=PATIENCE_S
    )
    run(str(tmp_path))

    assert killed.returncode == -signal.SIGKILL
    assert stored_hashes(Folder(str(tmp_path)) / f"step-{LAST:08d}") == uninterrupted


def share(whole: torch.Tensor) -> torch.Tensor:
    return whole.chunk(collective.world())[collective.rank()]


def step_together(gan, step: int) -> dict[str, float]:
    return train(gan, step, share, synchronize=collective.average_gradients)


def together(rank: int, output: str) -> None:
    """Train with two workers, then resume both from each checkpoint and do the next step."""
    torch.set_num_threads(1)
    meeting = f"file://{output}/meeting"
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    root, gan, losses, steps = Folder(f"{output}/checkpoints"), new_gan(), [], 12
    for step in range(steps):
        losses.append(step_together(gan, step))
        if rank == 0:
            save(root, gan, step + 1, keep=steps)
    distributed.barrier()
    equal = []
    for step in range(1, steps):
        resumed = new_gan()
        restore(root / f"step-{step:08d}", resumed)
        same = step_together(resumed, step) == losses[step]
        stored = stored_hashes(root / f"step-{step + 1:08d}")
        equal.append(same and hashes(resumed, step + 1) == stored)
    Path(output, f"equal-{rank}").write_text(str(equal))
    distributed.destroy_process_group()


def test_two_workers_resumed_from_any_step_do_the_next_one_bit_for_bit(tmp_path):
    mp.start_processes(together, args=(str(tmp_path),), nprocs=2, start_method="forkserver")

    for rank in range(2):
        assert (tmp_path / f"equal-{rank}").read_text() == str([True] * 11)
