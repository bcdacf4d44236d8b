"""Training checkpoints: complete, verified, and passed over when damaged."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import ratgan
from pipeline.checkpoint.gan_state import restore
from pipeline.checkpoint.store import MARKER, Score, commit, delete_after, newest_checkpoint
from pipeline.storage.folder import Folder
from ratgan.step import Gan
from tests.pipeline.checkpoint.checkpoints import (
    STATE,
    hashes,
    new_gan,
    reseal,
    save,
    train,
    trained,
)
from tests.ratgan.networks import small_discriminator, small_generator


def test_training_goes_on_bit_for_bit_from_a_checkpoint(tmp_path):
    gan = trained(2)
    folder = save(Folder(str(tmp_path)), gan, 2)
    other = new_gan()

    restore(folder, other)

    for step in (2, 3):
        assert train(gan, step) == train(other, step)
    assert hashes(gan, 4) == hashes(other, 4)


def test_the_newest_checkpoint_is_found_with_its_state(tmp_path):
    root = Folder(str(tmp_path))
    gan = trained(0)
    for step in (9, 10, 100):
        save(root, gan, step, keep=3)

    folder, state = newest_checkpoint(root)

    assert folder.location.endswith("step-00000100")
    assert state == STATE | {"step": 100, "extra": False, "score": None, "best": None}


def test_old_checkpoints_go_when_newer_ones_are_committed(tmp_path):
    root = Folder(str(tmp_path))

    for step in (1, 2, 3, 4):
        save(root, trained(0), step, keep=2)

    assert root.names() == ["step-00000003", "step-00000004"]


@pytest.mark.parametrize("keep", [2, 3, 4, 5, 7, 9])
def test_as_many_as_were_asked_for_are_kept(tmp_path, keep):
    root = Folder(str(tmp_path))

    for step in range(1, 9):
        commit(root, [], step=step, state=STATE, keep=keep)

        kept = range(max(1, step - keep + 1), step + 1)
        assert root.names() == [f"step-{each:08d}" for each in kept]


def test_what_was_cut_short_before_is_cleared_away(tmp_path):
    root = Folder(str(tmp_path))
    (root / "step-00000001").write("weights", b"half of")

    commit(root, [], step=2, state=STATE, keep=2)

    assert root.names() == ["step-00000002"]


FILES = (
    "COMMITTED",
    "files.json",
    "state.json",
    "generator.safetensors",
    "discriminator.safetensors",
    "generator_optimizer.safetensors",
    "discriminator_optimizer.safetensors",
    "model/model.safetensors",
    "model/model.json",
)


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    """Checkpoints of steps 1 and 2."""
    root = tmp_path_factory.mktemp("checkpoints")
    gan = trained(1)
    for step in (1, 2):
        save(Folder(str(root)), gan, step)
    return root


@pytest.mark.parametrize("damage", ["deleted", "flipped", "cut"])
@pytest.mark.parametrize("file", FILES)
def test_any_damaged_file_sends_resume_to_the_one_before(
    two_checkpoints, tmp_path, file, damage, caplog
):
    root = Folder(str(shutil.copytree(two_checkpoints, tmp_path / "checkpoints")))
    folder = root / "step-00000002"
    path = Path(folder.path) / file
    content = bytearray(path.read_bytes())
    if damage == "deleted":
        path.unlink()
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content if damage == "flipped" else content[: len(content) // 2])

    found, state = newest_checkpoint(root)

    assert state["step"] == 1
    assert found.location.endswith("step-00000001")
    fate = "is passed over" if (file, damage) == (MARKER, "deleted") else "is damaged"
    assert f"checkpoint {folder} {fate}" in caplog.text


def test_a_save_that_is_cut_short_leaves_the_one_before_and_can_be_repeated(tmp_path, monkeypatch):
    root = Folder(str(tmp_path))
    gan = trained()
    save(root, gan, 1)
    written = []
    original = Folder.write

    def fail_late(self: Folder, name: str, content: bytes) -> str:
        written.append(name)
        if len(written) == 5:
            raise OSError(28, "No space left on device")
        return original(self, name, content)

    monkeypatch.setattr(Folder, "write", fail_late)
    with pytest.raises(OSError, match="No space left"):
        save(root, gan, 2)
    assert not (tmp_path / "step-00000002" / MARKER).exists()
    assert newest_checkpoint(root)[1]["step"] == 1

    monkeypatch.undo()
    save(root, gan, 2)
    assert newest_checkpoint(root)[1]["step"] == 2


def test_a_checkpoint_of_other_networks_is_refused(tmp_path):
    folder = save(Folder(str(tmp_path)), trained(), 2)
    wider = Gan.create(small_generator(base_channels=4), small_discriminator())

    with pytest.raises(ValueError, match=r"generator\.safetensors does not fit the network"):
        restore(folder, wider)


def test_a_checkpoint_holds_a_usable_model(tmp_path):
    gan = trained()
    folder = save(Folder(str(tmp_path)), gan, 2)

    model = ratgan.load(folder.path)

    assert model.origin == {"run": "test", "dataset": "d" * 64, "versions": {}, "step": 2}
    for ours, theirs in zip(model.generator.parameters(), gan.average.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_no_checkpoint_is_found_where_none_is(tmp_path):
    assert newest_checkpoint(Folder(str(tmp_path / "nowhere"))) is None


def scored(root: Folder, values: list[float], **options) -> list[str]:
    """Commit a checkpoint for each value, and list what is there then."""
    for step, value in enumerate(values, 1):
        score = Score("eval/fid", value, **options)
        commit(root, [("weights", b"w")], step=step, state=STATE, keep=2, score=score)
    return root.names()


@pytest.mark.parametrize(
    ("values", "options", "kept", "best"),
    [
        ([3, 9, 4, 5, 6], {}, [2, 4, 5], 2),
        ([9, 3, 4, 5, 6], {"higher_is_better": False}, [2, 4, 5], 2),
        ([1, 2, 3, 4, 5], {}, [4, 5], 5),
        ([7, 7, 7, 7, 7], {}, [1, 4, 5], 1),
        ([float("nan"), 2, 1, float("nan"), 1], {}, [2, 4, 5], 2),
    ],
    ids=["highest", "lowest", "newest", "the first of equals", "what could not be measured"],
)
def test_the_best_is_never_let_go_and_each_says_which_it_is(tmp_path, values, options, kept, best):
    root = Folder(str(tmp_path))

    names = scored(root, values, **options)

    assert names == [f"step-{step:08d}" for step in kept]
    said = newest_checkpoint(root)[1]["best"]
    assert (said["step"], said["value"], said["metric"]) == (best, values[best - 1], "eval/fid")


def test_the_best_stays_when_later_ones_are_not_measured(tmp_path):
    root = Folder(str(tmp_path))
    scored(root, [9, 1])

    for step in (3, 4, 5):
        commit(root, [], step=step, state=STATE, keep=2)

    assert root.names() == [f"step-{step:08d}" for step in (1, 4, 5)]
    assert newest_checkpoint(root)[1]["best"]["step"] == 1


def test_one_checkpoint_is_too_few_to_keep(tmp_path):
    with pytest.raises(ValueError, match="keep=1 must be at least 2"):
        commit(Folder(str(tmp_path)), [], step=1, state=STATE, keep=1)


def test_nothing_is_let_go_before_the_newer_one_reads_back_as_it_was_written(tmp_path, monkeypatch):
    root = Folder(str(tmp_path))
    for step in (1, 2):
        commit(root, [("weights", b"good")], step=step, state=STATE, keep=2)
    read = Folder.read

    def read_badly(self: Folder, name: str, *span) -> bytes:
        return b"bad" if name == "weights" and "00000003" in str(self) else read(self, name, *span)

    monkeypatch.setattr(Folder, "read", read_badly)
    with pytest.raises(OSError, match=r"step 3 was written to .* reads back damaged: weights"):
        commit(root, [("weights", b"good")], step=3, state=STATE, keep=2)

    assert root.names() == ["step-00000001", "step-00000002"]


def test_those_of_a_stop_go_with_the_next_which_has_the_same_beside_it_as_ever(tmp_path):
    root = Folder(str(tmp_path))
    names = []
    for step, extra in [(10, False), (20, False), (23, True), (26, True), (30, False)]:
        commit(root, [], step=step, state=STATE, keep=2, extra=extra)
        names.append([int(name.removeprefix("step-")) for name in root.names()])
        assert newest_checkpoint(root)[1]["step"] == step
        assert newest_checkpoint(root, extras=False)[1]["step"] == (20 if extra else step)

    assert names == [[10], [10, 20], [20, 23], [20, 26], [20, 30]]
    for step in (33, 36):
        commit(root, [], step=step, state=STATE, keep=2, extra=True)
    delete_after(root, 30)
    assert root.names() == ["step-00000030"]


def test_where_there_are_those_of_stops_only_they_are_gone_back_to(tmp_path):
    root = Folder(str(tmp_path))
    for step in (3, 6):
        commit(root, [], step=step, state=STATE, keep=2, extra=True)

    assert newest_checkpoint(root, extras=False)[1]["step"] == 6


@pytest.mark.parametrize("place", ["local", "bucket"])
def test_a_damaged_checkpoint_is_set_aside_and_never_looked_at_again(tmp_path, place, caplog):
    root = Folder(str(tmp_path) if place == "local" else f"memory://{tmp_path.name}-aside")
    for step in (1, 2, 3):
        commit(root, [("model/weights", b"good")], step=step, state=STATE, keep=3)
    for step in (2, 3):
        (root / f"step-{step:08d}").write("model/weights", b"gooe")

    # Whoever does not train the run, an evaluation for example, leaves it as it is.
    assert newest_checkpoint(root)[1]["step"] == 1
    assert root.names() == [f"step-{step:08d}" for step in (1, 2, 3)]

    found = newest_checkpoint(root, set_aside=True)

    assert found[1]["step"] == 1
    assert root.names() == ["damaged-step-00000002", "damaged-step-00000003", "step-00000001"]
    assert (root / "damaged-step-00000003").read("model/weights") == b"gooe"
    assert "damaged (model/weights is not what its hash says) and now called" in caplog.text
    caplog.clear()
    assert newest_checkpoint(root)[1]["step"] == 1
    assert not caplog.records
    commit(root, [("model/weights", b"again")], step=3, state=STATE, keep=2)
    assert newest_checkpoint(root)[1]["step"] == 3


def test_one_that_cannot_be_set_aside_is_passed_over(tmp_path, monkeypatch, caplog):
    root = Folder(str(tmp_path))
    for step in (1, 2):
        commit(root, [("weights", b"good")], step=step, state=STATE, keep=2)
    (root / "step-00000002").write("weights", b"gooe")

    def refuse(*paths, **options) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(type(root.backend), "rename", refuse)

    assert newest_checkpoint(root, set_aside=True)[1]["step"] == 1
    assert "passed over: weights is not what its hash says; it could not be set aside" in (
        caplog.text
    )


def test_a_checkpoint_that_cannot_be_let_go_stops_nothing(tmp_path, monkeypatch, caplog):
    root = Folder(str(tmp_path))
    for step in (1, 2):
        commit(root, [], step=step, state=STATE, keep=2)

    def refuse(self: Folder) -> None:
        raise PermissionError("read-only")

    with monkeypatch.context() as patched:
        # Before it writes, a commit clears the place of its own step, where nothing is yet.
        patched.setattr(Folder, "remove", lambda self: refuse(self) if self.exists() else None)
        commit(root, [], step=3, state=STATE, keep=2)

    assert newest_checkpoint(root)[1]["step"] == 3
    assert "step-00000001 could not be removed: read-only" in caplog.text


class Evil:
    """Runs a command in whoever unpickles it."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def forged(path, change) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


FORGERIES = {
    "missing key": (
        "generator.safetensors",
        lambda tensors: tensors.pop("to_rgb.bias"),
        r"generator\.safetensors does not fit the network: missing to_rgb\.bias",
    ),
    "extra key": (
        "discriminator.safetensors",
        lambda tensors: tensors.update(more=torch.ones(2)),
        r"discriminator\.safetensors does not fit the network: unknown more",
    ),
    "moments of another shape": (
        "generator_optimizer.safetensors",
        lambda tensors: tensors.update({"to_rgb.bias/exp_avg": torch.zeros(17)}),
        r"moments of to_rgb\.bias are .*17.* and should be",
    ),
    "moments missing": (
        "discriminator_optimizer.safetensors",
        lambda tensors: [tensors.pop(name) for name in list(tensors) if name.endswith("/step")],
        r"moments of .* and should be .*'step'",
    ),
    "moments of nothing": (
        "generator_optimizer.safetensors",
        lambda tensors: tensors.update({"nobody.weight/exp_avg": torch.zeros(2)}),
        r"moments of unknown nobody\.weight",
    ),
    "NaN": (
        "model/model.safetensors",
        lambda tensors: tensors["generator.to_rgb.bias"].fill_(float("nan")),
        r"model\.safetensors/generator\.to_rgb\.bias are NaN or infinite",
    ),
}


@pytest.mark.parametrize("case", FORGERIES)
def test_what_does_not_fit_is_refused_even_with_hashes_that_do(two_checkpoints, tmp_path, case):
    file, change, message = FORGERIES[case]
    path = Path(shutil.copytree(two_checkpoints / "step-00000001", tmp_path / "step-00000001"))
    folder = Folder(str(path))
    forged(path / file, change)
    reseal(path)

    assert newest_checkpoint(Folder(str(tmp_path)))[1]["step"] == 1
    with pytest.raises(ValueError, match=message):
        restore(folder, new_gan())


def test_a_pickle_in_the_place_of_tensors_is_never_unpickled(two_checkpoints, tmp_path):
    path = Path(shutil.copytree(two_checkpoints / "step-00000001", tmp_path / "step-00000001"))
    folder = Folder(str(path))
    torch.save(Evil(f"touch {tmp_path}/ran"), path / "generator.safetensors")
    reseal(path)

    with pytest.raises(ValueError, match=r"generator\.safetensors is not a file of safetensors"):
        restore(folder, new_gan())

    assert not (tmp_path / "ran").exists()


def test_a_file_that_changes_after_it_was_looked_through_is_not_loaded(two_checkpoints, tmp_path):
    path = Path(shutil.copytree(two_checkpoints / "step-00000001", tmp_path / "step-00000001"))
    folder = Folder(str(path))
    forged(path / "generator.safetensors", lambda t: t["to_rgb.bias"].add_(1))

    with pytest.raises(ValueError, match=r"generator\.safetensors is damaged: its hash"):
        restore(folder, new_gan())


def test_there_is_no_pickle_in_a_checkpoint(two_checkpoints):
    files = [path for path in (two_checkpoints / "step-00000001").rglob("*") if path.is_file()]

    assert len(files) == 10
    for path in files:
        if path.suffix == ".safetensors":
            assert load_file(path)
        elif path.name != MARKER:
            assert json.loads(path.read_text())
