"""Resuming: what a training is told when it goes on in another way than before."""

import pytest
import torch

from pipeline import collective
from pipeline.checkpointing import commit
from pipeline.config import TrainConfig
from pipeline.loop import resume
from pipeline.storage import Folder

CONFIG = TrainConfig(total_steps=10)


def committed(root: Folder, **state) -> None:
    commit(root, [], step=4, state={"config": CONFIG.record(), **state}, keep=2)


@pytest.mark.parametrize(
    ("workers", "more_threads", "said"),
    [(1, 0, ""), (2, 0, "numbers equal only to rounding: workers 2 → 1"), (1, 1, "threads ")],
)
def test_a_change_of_workers_or_threads_is_said_to_change_the_rounding(
    tmp_path, capsys, workers, more_threads, said
):
    root, restored = Folder(str(tmp_path)), []
    committed(root, workers=workers, threads=torch.get_num_threads() + more_threads)

    step = resume(CONFIG, root, torch.device("cpu"), restored.append)

    assert (step, collective.world()) == (4, 1)
    assert restored[0].location == f"{root}/step-00000004"
    out = capsys.readouterr().out
    assert "resuming from step 4" in out
    assert ("to rounding" in out) == bool(said)
    assert said in out


def test_a_checkpoint_from_before_workers_were_recorded_is_resumed(tmp_path, capsys):
    committed(Folder(str(tmp_path)))

    assert resume(CONFIG, Folder(str(tmp_path)), torch.device("cpu"), lambda folder: None) == 4
    assert "to rounding" not in capsys.readouterr().out


def test_without_a_checkpoint_training_starts_at_zero(tmp_path):
    assert resume(CONFIG, Folder(str(tmp_path)), torch.device("cpu"), pytest.fail) == 0
