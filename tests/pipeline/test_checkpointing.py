"""Training checkpoints: complete, verified, and passed over when damaged."""

import copy

import pytest
import torch

import ratgan
from pipeline.checkpointing import MARKER, newest_checkpoint, restore, save_checkpoint
from pipeline.storage import Folder
from ratgan.step import Gan, train_step
from ratgan.text.minilm import WEIGHTS_SHA256
from ratgan.text.transform import SentenceTransform
from tests.ratgan.networks import small_discriminator, small_generator
from tests.ratgan.test_step import small_batch

STATE = {"run": "test", "dataset": "d" * 64, "versions": {}, "config": {"seed": 1}, "images": 4}


def trained(steps: int = 2) -> Gan:
    gan = Gan.create(small_generator(), small_discriminator())
    for _ in range(steps):
        train(gan)
    return gan


def train(gan: Gan) -> dict[str, torch.Tensor]:
    return train_step(gan, **{name: value.float() for name, value in small_batch().items()})


def save(root: Folder, gan: Gan, step: int, keep: int = 2) -> Folder:
    return save_checkpoint(
        root,
        gan,
        step=step,
        state=STATE,
        transform=SentenceTransform.identity(9),
        encoder={"name": "minilm", "sha256": WEIGHTS_SHA256},
        keep=keep,
    )


def test_training_goes_on_bit_for_bit_from_a_checkpoint(tmp_path):
    gan = trained()
    folder = save(Folder(str(tmp_path)), gan, 2)
    other = Gan.create(small_generator(), small_discriminator())

    restore(folder, other)

    for _ in range(2):
        went_on, restored = train(gan), train(other)
        assert all(torch.equal(went_on[name], restored[name]) for name in went_on)
    for name in ("generator", "discriminator", "average"):
        ours, theirs = getattr(gan, name).state_dict(), getattr(other, name).state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name


def test_the_newest_checkpoint_is_found_with_its_state(tmp_path):
    root = Folder(str(tmp_path))
    gan = trained(0)
    for step in (9, 10, 100):
        save(root, gan, step, keep=3)

    folder, state = newest_checkpoint(root)

    assert folder.location.endswith("step-00000100")
    assert state == STATE | {"step": 100}


def test_old_checkpoints_go_when_newer_ones_are_committed(tmp_path):
    root = Folder(str(tmp_path))

    for step in (1, 2, 3, 4):
        save(root, trained(0), step, keep=2)

    assert root.names() == ["step-00000003", "step-00000004"]


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


@pytest.mark.parametrize("damage", ["deleted", "flipped", "cut"])
@pytest.mark.parametrize("file", FILES)
def test_any_damaged_file_sends_resume_to_the_one_before(tmp_path, file, damage, caplog):
    root = Folder(str(tmp_path))
    gan = trained()
    save(root, gan, 1)
    folder = save(root, gan, 2)
    path = tmp_path / "step-00000002" / file
    content = bytearray(path.read_bytes())
    if damage == "deleted":
        path.unlink()
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content if damage == "flipped" else content[: len(content) // 2])

    found, state = newest_checkpoint(root)

    assert state["step"] == 1
    assert found.location.endswith("step-00000001")
    assert f"checkpoint {folder} is passed over" in caplog.text


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


def test_moments_of_another_shape_are_refused_at_load(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = save(Folder(str(tmp_path)), trained(), 2)
    path = tmp_path / "step-00000002" / "generator_optimizer.safetensors"
    tensors = load_file(path)
    tensors["to_rgb.bias/exp_avg"] = torch.zeros(17)
    save_file(tensors, path)

    with pytest.raises(ValueError, match=r"moments of to_rgb\.bias"):
        restore(folder, copy.deepcopy(trained(0)))


def test_a_checkpoint_holds_a_usable_model(tmp_path):
    gan = trained()
    folder = save(Folder(str(tmp_path)), gan, 2)

    model = ratgan.load(folder.path)

    assert model.origin == {"run": "test", "dataset": "d" * 64, "versions": {}, "step": 2}
    for ours, theirs in zip(model.generator.parameters(), gan.average.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_no_checkpoint_is_found_where_none_is(tmp_path):
    assert newest_checkpoint(Folder(str(tmp_path / "nowhere"))) is None
