"""Runs that start from the weights of others: what is taken, refused, recorded, and only once."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from mlflow import MlflowClient

from pipeline.checkpoint.gan_state import gan_files, gan_tensors
from pipeline.checkpoint.optimizer_state import reset_moments
from pipeline.checkpoint.store import commit
from pipeline.common.failpoints import VARIABLE
from pipeline.config import TrainConfig
from pipeline.storage.folder import Folder
from pipeline.training.dry_run import plan_training
from pipeline.training.gan_step import build
from pipeline.training.launch import Launch
from pipeline.training.start_from import find_start
from pipeline.training.train import train
from ratgan.step import Gan
from ratgan.text.transform import SentenceTransform
from ratgan.weights.saved_model import pack_discriminator, pack_model
from tests.chaos.commands import KILLED, Command
from tests.pipeline.checkpoint.checkpoints import STATE
from tests.pipeline.training.test_train import config, weights

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
SIZES = {"image_size": 32, "base_channels": 2, "controller_dim": 8, "affine_dim": 8}


def options(shapes, output: Path, source: object, name: str = "new", **changes) -> TrainConfig:
    return config(shapes, output, name, start_from=str(source), **changes)


def found(shapes, output: Path, source: object, **changes):
    """What a new run would start from."""
    run = options(shapes, output, source, **changes)
    return find_start(run, Launch(run, shapes, Folder(str(output / "new")).closed(), 12, 8))


def other_gan(shapes, output: Path, sentence_dim: int | None = None, **model) -> Gan:
    """Networks with weights that no run begins with; the average has others."""
    run = config(shapes, output, seed=7, model=SIZES | model)
    gan = build(run, sentence_dim or shapes.transform.dim, CPU)
    with torch.no_grad():
        for number, network in enumerate((gan.generator, gan.average, gan.discriminator), 1):
            for parameter in network.parameters():
                parameter.add_(0.01 * number)
    return gan


def other_run(shapes, output: Path, transform: SentenceTransform | None = None, **model) -> Path:
    """A run with a checkpoint of step 4."""
    transform = transform or shapes.transform
    gan = other_gan(shapes, output, transform.dim, **model)
    for optimizer in (gan.generator_optimizer, gan.discriminator_optimizer):
        reset_moments(optimizer)
    state = STATE | {"step": 4, "encoder": shapes.manifest.encoder.record()}
    files = gan_files(gan_tensors(gan), state, gan=gan, transform=transform)
    commit(Folder(str(output / "other/checkpoints")), files, step=4, state=state, keep=2)
    return output / "other"


def lay_model(folder: Path, gan: Gan, shapes, *, discriminator: bool, origin=None) -> Path:
    """A saved model, or an imported one."""
    files = pack_model(
        gan.average, shapes.transform, shapes.manifest.encoder.record(), origin or {"step": 4}
    )
    if discriminator:
        files |= pack_discriminator(gan.discriminator)
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def equal(network, other) -> bool:
    return all(torch.equal(t, other.state_dict()[n]) for n, t in network.state_dict().items())


@pytest.mark.parametrize("place", ["", "checkpoints/step-00000004"])
def test_of_a_run_generator_average_and_discriminator_are_taken(place, shapes, tmp_path):
    source = other_run(shapes, tmp_path)

    start = found(shapes, tmp_path, source / place)

    theirs = other_gan(shapes, tmp_path)
    for name in ("generator", "average", "discriminator"):
        assert equal(getattr(start.gan, name), getattr(theirs, name)), name
        assert len(start.accounts[name].taken) == len(getattr(theirs, name).state_dict())
    listed = json.loads((source / "checkpoints/step-00000004/files.json").read_text())
    assert start.lineage == {
        "place": f"{source}/checkpoints/step-00000004",
        "step": 4,
        "image_size": 32,
        "text": "same",
        "sha256": {
            "average": listed["model/model.safetensors"],
            "generator": listed["generator.safetensors"],
            "discriminator": listed["discriminator.safetensors"],
        },
        "taken": {name: str(account) for name, account in start.accounts.items()},
    }
    for optimizer in (start.gan.generator_optimizer, start.gan.discriminator_optimizer):
        assert all(
            not tensor.any() for each in optimizer.state.values() for tensor in each.values()
        )


@pytest.mark.parametrize("discriminator", [False, True], ids=["saved model", "imported"])
def test_a_model_gives_its_generator_to_both_and_a_discriminator_if_it_has_one(
    discriminator, shapes, tmp_path
):
    theirs = other_gan(shapes, tmp_path)
    origin = {"imported_from": "netG.pth"} if discriminator else {"step": 4}
    source = lay_model(
        tmp_path / "model", theirs, shapes, discriminator=discriminator, origin=origin
    )

    start = found(shapes, tmp_path, source)

    own = build(options(shapes, tmp_path, source), shapes.transform.dim, CPU).discriminator
    assert equal(start.gan.generator, theirs.average)
    assert equal(start.gan.average, theirs.average)
    assert equal(start.gan.discriminator, theirs.discriminator if discriminator else own)
    assert start.lineage["step"] == (None if discriminator else 4)
    assert ("discriminator" in start.lineage["sha256"]) == discriminator
    if not discriminator:
        reasons = set(start.accounts["discriminator"].anew.values())
        assert reasons == {f"{source} holds no discriminator"}


def test_a_run_in_a_bucket_gives_what_it_gives_on_a_disk(shapes, tmp_path):
    source = other_run(shapes, tmp_path)
    bucket = Folder(f"memory://{tmp_path.name}/other")
    for file in filter(Path.is_file, source.rglob("*")):
        bucket.write(file.relative_to(source).as_posix(), file.read_bytes())

    start = found(shapes, tmp_path, bucket)

    local = found(shapes, tmp_path, source)
    for name in ("generator", "average", "discriminator"):
        assert equal(getattr(start.gan, name), getattr(local.gan, name)), name
    assert start.lineage["place"] == f"{bucket}/checkpoints/step-00000004"
    assert start.lineage["sha256"] == local.lineage["sha256"]


@pytest.mark.parametrize(("here", "there"), [(64, 32), (32, 64)])
def test_another_image_size_takes_the_levels_that_fit(here, there, shapes, tmp_path):
    source = other_run(shapes, tmp_path, image_size=there)

    start = found(shapes, tmp_path, source, model=SIZES | {"image_size": here})

    theirs = other_gan(shapes, tmp_path, image_size=there)
    own, given = start.gan.generator.blocks, theirs.generator.blocks
    assert all(equal(*pair) for pair in zip(reversed(own), reversed(given), strict=False))
    assert (len(own), len(given)) == ((5, 4) if here == 64 else (4, 5))
    assert start.lineage["image_size"] == there
    assert equal(start.gan.discriminator.from_rgb, theirs.discriminator.from_rgb)
    gan = start.gan
    drawn = gan.generator(torch.randn(2, gan.generator.noise_dim), torch.randn(2, 16))
    assert drawn.shape == (2, 3, here, here)
    assert gan.discriminator(drawn, torch.randn(2, 16))[0].isfinite().all()


def other_transform(shapes, kind: str = "whiten") -> SentenceTransform:
    """Another basis of the same vectors: turned, and so exactly convertible."""
    own = shapes.transform
    turn = torch.linalg.qr(
        torch.randn(own.dim, own.dim, generator=torch.Generator().manual_seed(1))
    )
    return SentenceTransform(own.mean, own.projection @ turn[0], kind)


def test_another_transform_is_refused_unless_it_is_said(shapes, tmp_path):
    transform = other_transform(shapes)
    source = other_run(shapes, tmp_path, transform)

    with pytest.raises(ValueError, match=r"fitted to other captions\. Use --start-text refit"):
        found(shapes, tmp_path, source)
    start = found(shapes, tmp_path, source, start_text="refit")

    # The same captions mean the same to the weights: they draw what they drew.
    raw = torch.randn(3, len(transform.mean), generator=torch.Generator().manual_seed(2))
    raw = shapes.transform.mean + raw @ shapes.transform.projection @ shapes.transform.projection.T
    theirs, noise = other_gan(shapes, tmp_path).average, torch.randn(3, 100)
    drawn = start.gan.average(noise, shapes.transform(raw))
    expected = theirs(noise, transform(raw))
    assert torch.allclose(drawn, expected, atol=1e-3)
    assert (drawn[0] - drawn[1]).abs().max() > 1e-2
    assert start.lineage["text"] == "refit"
    assert start.accounts["generator"].in_part == {
        "controller.lstm.weight_ih_l0": "refit to other sentence vectors"
    }


def test_another_encoder_is_refused_unless_it_is_said(shapes, tmp_path):
    source = lay_model(tmp_path / "model", other_gan(shapes, tmp_path), shapes, discriminator=False)
    record = json.loads((source / "model.json").read_text())
    record["encoder"]["sha256"] = "0" * 64
    (source / "model.json").write_text(json.dumps(record))

    with pytest.raises(ValueError, match=r"other weights of the text encoder.*learned anew"):
        found(shapes, tmp_path, source)
    start = found(shapes, tmp_path, source, start_text="refit")

    assert start.lineage["text"] == "other"
    assert list(start.accounts["generator"].anew) == ["controller.lstm.weight_ih_l0"]


def test_to_refit_the_text_of_random_weights_is_refused(shapes, tmp_path):
    with pytest.raises(ValueError, match="start_text=refit has no effect without --start-from"):
        config(shapes, tmp_path, start_text="refit")


def a_run_of_other_widths(shapes, folder: Path) -> Path:
    return other_run(shapes, folder, base_channels=4, affines_per_block=2)


def a_model_of_another_architecture(shapes, folder: Path) -> Path:
    return with_record(shapes, folder, architecture="stackgan")


def a_model_with_nan(shapes, folder: Path) -> Path:
    gan = other_gan(shapes, folder)
    gan.average.to_rgb.weight.data[0, 0, 0, 0] = float("nan")
    return lay_model(folder / "model", gan, shapes, discriminator=False)


def a_model_whose_record_lacks_its_generator(shapes, folder: Path) -> Path:
    return with_record(shapes, folder, generator=None)


def with_record(shapes, folder: Path, **changes) -> Path:
    source = lay_model(folder / "model", other_gan(shapes, folder), shapes, discriminator=True)
    record = json.loads((source / "model.json").read_text())
    (source / "model.json").write_text(json.dumps(record | changes))
    return source


def a_model_of_a_link(shapes, folder: Path) -> Path:
    source = with_record(shapes, folder)
    (source / "model.safetensors").rename(folder / "elsewhere")
    (source / "model.safetensors").symlink_to(folder / "elsewhere")
    return source


def a_run_whose_checkpoints_are_a_link(shapes, folder: Path) -> Path:
    source = other_run(shapes, folder)
    (source / "checkpoints").rename(folder / "elsewhere")
    (source / "checkpoints").symlink_to(folder / "elsewhere")
    return source


def a_damaged_checkpoint(shapes, folder: Path) -> Path:
    checkpoint = other_run(shapes, folder) / "checkpoints" / "step-00000004"
    with (checkpoint / "discriminator.safetensors").open("r+b") as file:
        file.write(b"xxxx")
    return checkpoint


def an_empty_folder(shapes, folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


REFUSED = {
    a_run_of_other_widths: r"generator has model.affines_per_block=2, not 4, model.base_channels=4,"
    " not 2. Its weights fit a run with the same options only",
    a_model_of_another_architecture: "architecture='stackgan' must be one of rat-gan",
    a_model_with_nan: "1 of .* numbers of generator/to_rgb.weight are NaN",
    a_model_whose_record_lacks_its_generator: "model.json is damaged",
    a_model_of_a_link: "leads out of the folder by a link",
    a_run_whose_checkpoints_are_a_link: "leads out of the folder by a link",
    a_damaged_checkpoint: "discriminator.safetensors is not what its hash says. Name another",
    an_empty_folder: "start_from=.*/empty holds no model.json: it is neither a run",
    lambda shapes, folder: folder / "nowhere": "start_from=.*/nowhere holds no model.json",
}


@pytest.mark.parametrize("source", REFUSED, ids=lambda each: each.__name__)
def test_what_cannot_be_started_from_is_refused_with_a_reason(source, shapes, tmp_path):
    place = source(shapes, tmp_path)

    with pytest.raises((ValueError, FileNotFoundError), match=REFUSED[source]):
        found(shapes, tmp_path, place)

    assert not (tmp_path / "new").exists()


def test_a_dry_run_says_what_would_be_taken_and_keeps_nothing(shapes, tmp_path, capsys):
    source = other_run(shapes, tmp_path)

    plan_training(options(shapes, tmp_path / "out", source))

    (line,) = [each for each in capsys.readouterr().out.splitlines() if "weights " in each][:1]
    assert f"{source}/checkpoints/step-00000004 at step 4. tensors of the generator: " in line
    assert "tensors of the discriminator: 23 taken, 0 in part, 0 anew, 0 left out" in line
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def started(shapes, tmp_path_factory):
    """A run of 4 steps that started from another, and went through."""
    output = tmp_path_factory.mktemp("started")
    train(short(shapes, output, other_run(shapes, output)))
    return output


def short(shapes, output: Path, source: Path) -> TrainConfig:
    steps = {"total_steps": 4, "checkpoint_every": 2, "log_every": 1, "threads": 1}
    return options(shapes, output, source, name="run", **steps)


@pytest.mark.rest
def test_where_a_run_started_is_in_its_model_card_checkpoints_record_and_tags(started):
    run = started / "run"
    state = json.loads((run / "checkpoints/step-00000004/state.json").read_text())
    lineage = state["started_from"]
    record = json.loads((run / "run.json").read_text())
    client = MlflowClient(f"sqlite:///{started}/mlflow.db")

    tags = client.get_run(record["mlflow_run_id"]).data.tags
    artifacts = [each.path for each in client.list_artifacts(record["mlflow_run_id"])]

    place = f"{started}/other/checkpoints/step-00000004"
    assert (lineage["place"], lineage["step"], state["step"]) == (place, 4, 4)
    assert json.loads((run / "model/model.json").read_text())["origin"]["started_from"] == lineage
    card = (run / "model/README.md").read_text()
    assert f"## Started from\n\n`{place}` after 4 steps" in card
    assert f"* generator: {lineage['taken']['generator']}" in card
    assert tags["started_from"] == place
    assert tags["started_from.sha256.average"] == lineage["sha256"]["average"]
    assert tags["started_from.taken.discriminator"] == "23 taken, 0 in part, 0 anew, 0 left out"
    assert "started_from.json" in artifacts
    lists = record["started_from"]["tensors"]
    assert len(lists["generator"]["taken"]) == int(lineage["taken"]["generator"].split()[0])
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == [
        "step-00000002",
        "step-00000004",
    ], "the one of step 0 goes as others do"


@pytest.mark.rest
def test_the_source_is_part_of_what_a_resume_compares(started, shapes):
    other = short(shapes, started, started / "other").model_copy(update={"start_from": None})

    with pytest.raises(ValueError, match=r"start_from: .*/other → None"):
        train(other)


@pytest.mark.rest
@pytest.mark.parametrize(
    "fault",
    ["kill@checkpoint.before_marker:0", "kill@worker.step:step=0", "kill@worker.step:step=1"],
)
def test_a_run_killed_at_its_start_ends_as_one_that_was_not(
    fault, started, shapes, tmp_path, capsys
):
    run = short(shapes, tmp_path, other_run(shapes, tmp_path))
    preset = tmp_path / "preset.yaml"
    preset.write_text(yaml.safe_dump(run.record()))
    with Command("train_coco", f"--preset={preset}", **{VARIABLE: fault}) as killed:
        assert killed.wait() == KILLED, killed.said
    if "worker" in fault:  # the weights are the run's own now
        shutil.rmtree(tmp_path / "other")

    train(run)

    said = capsys.readouterr().out
    assert ("starts from" in said) == ("marker" in fault), "taken once"
    assert "starting from step 0" in said
    assert weights(tmp_path / "run", 4) == weights(started / "run", 4)


@pytest.mark.rest
def test_a_worker_never_begins_with_random_weights_in_place_of_those_named(
    shapes, tmp_path, monkeypatch
):
    monkeypatch.setattr("pipeline.training.train.begin", lambda *_: None)  # as if it were lost

    with pytest.raises(Exception, match="not even the one of step 0"):
        train(short(shapes, tmp_path, other_run(shapes, tmp_path)))
