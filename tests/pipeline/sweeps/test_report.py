"""Tables and pictures of sweeps and ablations."""

import io

import numpy as np
import yaml
from PIL import Image

from pipeline.cli.main import load_preset, parse
from pipeline.config import TrainConfig
from pipeline.storage.folder import Folder
from pipeline.sweeps.ablation import setting_table, settings
from pipeline.sweeps.config import AblateConfig
from pipeline.sweeps.report import (
    how_sure,
    learning_curves,
    parallel_coordinates,
    spread,
    trial_table,
    winner_command,
)
from pipeline.sweeps.space import parse_space
from pipeline.sweeps.study_folder import TrialRecord

SPACE = parse_space(
    ["optim.generator_lr=loguniform(1e-5,1e-3)", "model.attention=choice(none,softmax)"]
)


def trial(number: int, status: str, curve, rate=1e-4, attention="none", **more) -> TrialRecord:
    values = {"optim.generator_lr": rate, "model.attention": attention}
    return TrialRecord(number, values, status, curve=curve, **more)


TRIALS = [
    trial(1, "finished", [(10, 0.2), (20, 0.9)], seconds=12.3),
    trial(0, "stopped", [(10, 0.1)], 1e-3, "softmax", why="at step 10 of 20"),
]


def test_the_table_has_a_row_for_each_trial_with_its_values_and_its_error():
    failed = trial(2, "failed", [], why="no memory |\non the GPU")

    lines = trial_table([*TRIALS, failed], SPACE, "eval/x", "max").splitlines()

    assert lines[0].startswith("| trial | optim.generator_lr | model.attention | eval/x | best st")
    assert lines[2] == "| 1 | 0.0001 | none | 0.9 | 20 | finished | 12 |  |"
    assert lines[3] == "| 0 | 0.001 | softmax | 0.1 | 10 | stopped | 0 | at step 10 of 20 |"
    assert lines[4] == "| 2 | 0.0001 | none | – | – | failed | 0 | no memory / on the GPU |"


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def red(picture: np.ndarray) -> int:
    """Count pixels in the colour of the best trial."""
    return int((np.abs(picture - [0xD6, 0x27, 0x28]).max(-1) < 12).sum())


def test_pictures_show_every_trial_and_the_best_in_red():
    curves = pixels(learning_curves(TRIALS, 1, "eval/x", "lr"))
    lines = pixels(parallel_coordinates(TRIALS, 1, SPACE, "eval/x", "max", "lr"))
    alone = pixels(learning_curves(TRIALS[:1], 1, "eval/x", "lr"))
    none = pixels(learning_curves(TRIALS, 7, "eval/x", "lr"))

    assert curves.shape[1] > 600
    assert red(curves) > 300
    assert red(lines) > 300
    assert red(none) < 50
    assert (curves != alone).any(), "the second trial is drawn too"


def test_trials_that_are_all_alike_are_drawn_too():
    alike = [trial(n, "finished", [(10, 0.5)]) for n in range(2)]

    assert red(pixels(parallel_coordinates(alike, 0, SPACE, "eval/x", "min", "lr"))) > 300


def test_the_winner_is_a_preset_with_its_values_and_the_length_of_the_run(tmp_path):
    run = TrainConfig(total_epochs=3, name="birds", tracking={"uri": "http://me:secret@x"})

    command = winner_command(Folder(str(tmp_path)), run, "lr", {"optim.generator_lr": 0.002})

    assert command == f"python jobs/train_coco.py --preset {tmp_path}/winner.yaml"
    text = (tmp_path / "winner.yaml").read_text()
    assert text.startswith("# The winner of lr: optim.generator_lr 0.002.\n# Run: python jobs/")
    assert "secret" not in text
    winner = load_preset(TrainConfig, f"{tmp_path}/winner.yaml")
    assert (winner.name, winner.total_epochs, winner.optim.generator_lr) == ("lr-winner", 3, 0.002)
    assert yaml.safe_load(text)["optim"]["discriminator_lr"] == run.optim.discriminator_lr


def test_an_ablation_compares_settings_over_seeds():
    flags = ["--metric=eval/x", "--space=model.attention=choice(none,softmax)"]
    config = parse(AblateConfig, flags, "cub")
    runs = []
    for number, (seed, attention, value) in enumerate(
        [(0, "none", 0.5), (0, "softmax", 0.7), (1, "none", 0.1), (1, "softmax", 0.9)]
    ):
        values = {"seed": seed, "model.attention": attention}
        latest = {"eval/x": value, "eval/y": 1.0, "loss/generator": 3.0}
        runs.append(TrialRecord(number, values, "finished", latest=latest))
    runs[2].status = "failed"

    groups = settings(config, runs)

    assert [group["values"]["model.attention"] for group in groups] == ["none", "softmax"]
    assert groups[0]["curves"]["eval/x"] == {"0": 0.5}
    assert groups[0]["failed"] == [1]
    assert groups[1]["curves"] == {"eval/x": {"0": 0.7, "1": 0.9}, "eval/y": {"0": 1.0, "1": 1.0}}
    assert setting_table(config, groups).splitlines()[2:] == [
        "| none | 1 (1 failed) | 0.5 (0.5–0.5) | 1 (1–1) |",
        "| softmax | 2 | 0.8 (0.7–0.9) | 1 (1–1) |",
    ]
    assert spread([]) == "–"


def test_a_winner_within_the_spread_of_the_next_is_said_to_be_so():
    near = [trial(4, "finished", [(8, 0.62)]), trial(2, "finished", [(8, 0.60)])]
    far = [near[0], trial(3, "finished", [(8, 0.30)])]

    assert how_sure(near, "eval/agreement", "max", 500) == (
        "Trial 2 (0.6) is not distinguishable from it with 500 images (90 %)."
    )
    assert how_sure(near, "eval/agreement", "max", 10_000) == ""
    assert how_sure(far, "eval/agreement", "max", 500) == ""
    assert "jobs/compare.py" in how_sure(near, "eval/fd_builtin", "min", 500)
    assert how_sure(near[:1], "eval/fd_builtin", "min", 500) == ""
    assert how_sure(near, "loss/generator", "min", 500) == ""
