"""Captions to pictures: the command a user types, and what it must not need."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.cli.generate import GenerateConfig, generate
from ratgan.picture import Picture, signed_png
from ratgan.text.minilm import WEIGHTS_SHA256
from ratgan.text.transform import SentenceTransform
from ratgan.weights.saved_model import pack_discriminator, pack_model
from tests.conftest import photo
from tests.ratgan.networks import small_discriminator, small_generator

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    encoder = {"name": "minilm", "sha256": WEIGHTS_SHA256}
    generator = small_generator()
    torch.manual_seed(0)
    transform = SentenceTransform(torch.zeros(384), torch.randn(384, 9), "whiten")
    for name, content in pack_model(generator, transform, encoder, {"step": 1}).items():
        (folder / name).write_bytes(content)
    return str(folder)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_each_caption_gets_a_file_and_all_get_a_grid(model, tmp_path):
    captions = ("a red bird", "../../etc/passwd \x1b[31m", "一只红色的小鸟")

    files = generate(GenerateConfig(captions=captions, model=model, output=str(tmp_path / "out")))

    assert [Path(file).name for file in files] == [
        "000-a-red-bird.png",
        "001-etc-passwd-31m.png",
        "002-caption.png",
        "grid.png",
    ]
    found = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert found == sorted(Path(f).name for f in files)
    assert pixels(files[0]).shape == (32, 32, 3)


def test_the_same_captions_and_seed_give_the_same_pixels(model, tmp_path):
    def draw(folder: str, seed: int) -> np.ndarray:
        config = GenerateConfig(
            captions=("a bird", "a tree"), model=model, output=str(tmp_path / folder), seed=seed
        )
        return pixels(generate(config)[1])

    assert np.array_equal(draw("a", 3), draw("b", 3))
    assert not np.array_equal(draw("c", 3), draw("d", 4))


def test_a_picture_does_not_depend_on_what_is_drawn_beside_it(model, tmp_path):
    captions = tuple(f"{color} bird number {n}" for n in range(3) for color in ("red", "blue"))

    def draw(*texts: str, folder: str) -> list[np.ndarray]:
        config = GenerateConfig(
            captions=texts, model=model, output=str(tmp_path / folder), same_noise=True
        )
        return [pixels(file) for file in generate(config)[:-1]]

    together = draw(*captions, folder="together")
    for number, caption in enumerate(captions):
        (alone,) = draw(caption, folder=f"alone-{number}")
        assert np.array_equal(alone, together[number]), caption


@pytest.mark.parametrize("show", ["each", "variations", "captions", "noises"])
def test_a_file_is_drawn_again_from_its_own_record(model, tmp_path, show):
    count = None if show == "each" else 3
    options = {"model": model, "show": show, "seed": 4, "truncation": 0.7, "count": count}
    captions = ("a bird", "zwei Vögel")
    *files, _ = generate(
        GenerateConfig(captions=captions, output=str(tmp_path / "first"), **options)
    )

    again = [
        generate(GenerateConfig(like=file, model=model, output=str(tmp_path / f"again-{n}")))[0]
        for n, file in enumerate(files[1::2])
    ]

    assert [Path(a).read_bytes() for a in again] == [Path(f).read_bytes() for f in files[1::2]]


def test_what_is_no_picture_of_this_model_is_not_drawn_again(model, tmp_path):
    def draw(path: Path) -> None:
        generate(GenerateConfig(like=str(path), model=model, output=str(tmp_path / "out")))

    picture = Picture("a bird", 1)
    image = Image.new("RGB", (32, 32))
    (tmp_path / "other.png").write_bytes(signed_png(image, picture, "0" * 64, 3))
    with pytest.raises(ValueError, match=r"other\.png: it was drawn by a model of sha256 0000"):
        draw(tmp_path / "other.png")
    photo().save(tmp_path / "photo.png")
    with pytest.raises(ValueError, match="this program did not draw it"):
        draw(tmp_path / "photo.png")
    (tmp_path / "text.png").write_text("<html>")
    with pytest.raises(ValueError, match="cannot be read as PNG"):
        draw(tmp_path / "text.png")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        draw(tmp_path / "nowhere.png")


def test_a_caption_far_from_the_training_is_noted(model, tmp_path, capsys, monkeypatch):
    config = GenerateConfig(captions=("a bird",), model=model, output=str(tmp_path))
    generate(config)
    assert "far from all captions" not in capsys.readouterr().out

    monkeypatch.setattr("ratgan.text_to_image.UNFAMILIAR", 0.5)
    generate(config)

    assert "note: 'a bird' is far from all captions of the training" in capsys.readouterr().out


def test_captions_are_read_from_a_file_too(model, tmp_path):
    (tmp_path / "captions.txt").write_text("\ufeffone bird\n\ntwo birds\n", encoding="utf-8")

    files = generate(
        GenerateConfig(
            captions=("no bird",),
            file=str(tmp_path / "captions.txt"),
            model=model,
            output=str(tmp_path / "out"),
        )
    )

    assert [Path(f).name for f in files[:-1]] == [
        "000-no-bird.png",
        "001-one-bird.png",
        "002-two-birds.png",
    ]


def test_what_cannot_be_drawn_is_refused(model, tmp_path):
    def draw(**options) -> None:
        generate(GenerateConfig(**({"model": model, "output": str(tmp_path)} | options)))

    with pytest.raises(ValueError, match="no caption given, for example"):
        draw()
    with pytest.raises(ValueError, match="CAP_EMPTY"):
        draw(captions=("a bird", " . "))
    with pytest.raises(FileNotFoundError, match=r"the caption file .* does not exist"):
        draw(file=str(tmp_path / "nowhere.txt"))
    with pytest.raises(FileNotFoundError, match="nor a saved model"):
        draw(captions=("a bird",), model=str(tmp_path / "nowhere"))
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        draw(file=str(tmp_path / "latin.txt"))


@pytest.mark.rest  # two processes that import torch
def test_drawing_imports_only_what_draws(model, tmp_path):
    code = f"""
import sys
import ratgan
assert ratgan.load
assert not {{"ray", "mlflow", "pydantic"}} & set(sys.modules), "by import ratgan"
sys.argv = ["generate.py", "--model", {model!r}, "--output", {str(tmp_path)!r}, "a red bird"]
sys.path.insert(0, {str(ROOT)!r})
import runpy
runpy.run_path({str(ROOT / "jobs" / "generate.py")!r}, run_name="__main__")
found = {{"matplotlib", "mlflow", "pandas", "pyarrow", "ray"}} & set(sys.modules)
assert not found, f"jobs/generate.py imports {{found}}"
"""

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "1 image in" in done.stdout
    assert (tmp_path / "grid.png").exists()


def test_a_missing_model_is_one_line_on_the_screen(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "jobs" / "generate.py"), "--model", str(tmp_path), "a bird"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )

    assert done.returncode == 2
    assert done.stderr.startswith("\nerror: ")
    assert "nor a saved model" in done.stderr
    assert "Traceback" not in done.stderr


def test_rows_are_of_one_caption_and_columns_of_one_noise(model, tmp_path):
    def draw(*captions: str, **options) -> list[np.ndarray]:
        output = str(tmp_path / str(len(list(tmp_path.iterdir()))))
        config = GenerateConfig(captions=captions, model=model, output=output, **options)
        return [pixels(file) for file in generate(config)[:-1]]

    rows = draw("a red bird", "two cats", show="variations", count=3)
    same = draw("a red bird", "two cats", same_noise=True)
    captions = draw("a red bird", "two cats", show="captions", count=3)
    noises = draw("two cats", show="noises", count=3)

    assert [len(each) for each in (rows, same, captions, noises)] == [6, 2, 3, 3]
    assert np.array_equal(rows[0], same[0])
    assert np.array_equal(rows[3], same[1]), "the first column has the first noise"
    assert not np.array_equal(rows[0], rows[1])
    assert np.array_equal(captions[0], same[0])
    assert np.array_equal(captions[-1], same[1]), "the way ends at the other caption"
    assert np.array_equal(noises[0], rows[3])
    assert np.array_equal(noises[-1], rows[4]), "the way ends at the second noise"
    assert not np.array_equal(noises[1], noises[0])


def test_attention_is_drawn_over_generated_and_given_images(model, tmp_path):
    discriminator = small_discriminator()
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    for name, content in pack_discriminator(discriminator).items():
        (checkpoint / name).write_bytes(content)
    photo(50, 40).save(tmp_path / "photo.png")
    options = {"captions": ("a red bird",), "model": model, "attention": str(checkpoint)}

    drawn = generate(GenerateConfig(**options, output=str(tmp_path / "drawn")))
    given = generate(
        GenerateConfig(**options, output=str(tmp_path / "given"), images=(f"{tmp_path}/photo.png",))
    )

    assert [Path(file).name for file in drawn] == [
        "000-a-red-bird.png",
        "grid.png",
        "attention.png",
    ]
    assert [Path(file).name for file in given] == ["grid.png", "attention.png"]
    assert pixels(drawn[-1]).shape == pixels(drawn[-2]).shape
    assert not np.array_equal(pixels(given[-1]), pixels(given[-2]))
    with pytest.raises(FileNotFoundError, match=r"holds no discriminator\.json"):
        generate(GenerateConfig(**(options | {"attention": str(tmp_path)})))
    two = options | {"captions": ("a red bird", "two cats")}
    with pytest.raises(ValueError, match="1 images and 2 captions"):
        generate(GenerateConfig(**two, images=(f"{tmp_path}/photo.png",)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 4}, "count is for rows"),
        ({"show": "noises", "same_noise": True}, "need --show each, not noises"),
        ({"images": ("a.png",)}, "images needs --attention"),
        ({"images": ("a.png",), "attention": "x", "truncation": 0.5}, "not drawn if they are"),
        ({"like": "a.png"}, "give no captions"),
        ({"like": "a.png", "captions": (), "seed": 3}, "give no captions"),
    ],
)
def test_pictures_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GenerateConfig(**({"captions": ("a bird",)} | options))


def test_one_caption_has_no_way_to_the_next(model, tmp_path):
    with pytest.raises(ValueError, match="needs at least two captions"):
        generate(
            GenerateConfig(captions=("a",), model=model, output=str(tmp_path), show="captions")
        )
