"""Published weights to a model that draws, with the text encoder they were trained with."""

import pytest
import torch

import ratgan
from pipeline.cli.generate import GenerateConfig, generate
from pipeline.cli.import_official import ImportOfficialConfig, import_official
from ratgan.text.damsm import CaptionNetwork, pack
from ratgan.text.vocabulary import Vocabulary
from ratgan.weights.saved_model import load_discriminator
from tests.ratgan.golden import golden_state


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Published state dicts, as DataParallel saves them, and an encoder file."""
    folder = tmp_path_factory.mktemp("published")
    for network in ("generator", "discriminator"):
        state = {f"module.{n}": t.float() for n, t in golden_state(network).items()}
        torch.save(state, folder / f"{network}.pth")
    torch.manual_seed(0)
    vocabulary = Vocabulary.of(["a small red bird"])
    for name, dim in (("encoder", 256), ("other", 64)):
        content = pack(CaptionNetwork(len(vocabulary.words), 300, dim), vocabulary)
        (folder / f"{name}.safetensors").write_bytes(content)
    return folder


def options(files, output, **changes) -> ImportOfficialConfig:
    values = {
        "generator": str(files / "generator.pth"),
        "encoder_path": str(files / "encoder.safetensors"),
        "affines_per_block": 4,
        "output": str(output),
    }
    return ImportOfficialConfig(**(values | changes))


def test_imported_weights_draw_captions_with_their_own_encoder(files, tmp_path, capsys):
    folder = tmp_path / "official"

    import_official(options(files, folder, discriminator=str(files / "discriminator.pth")))

    model = ratgan.load(folder)
    assert model.transform.kind == "identity"
    assert model("a small red bird")[0].size == (256, 256)
    assert load_discriminator(folder).arguments["attention"] == "none"
    said = capsys.readouterr().out
    assert "276 tensors used for 63 of ours, 49 copies of the LSTM left out, 140 tensors" in said
    assert "discriminator, attention none: 30 tensors used for 30 of ours" in said


def test_a_discriminator_without_attention_has_no_pictures_of_it(files, tmp_path):
    folder = tmp_path / "official"
    import_official(options(files, folder, discriminator=str(files / "discriminator.pth")))

    with pytest.raises(ValueError, match="has no attention: there are no maps"):
        generate(
            GenerateConfig(
                captions=("a red bird",),
                model=str(folder),
                attention=str(folder),
                output=str(tmp_path / "out"),
            )
        )


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"encoder_path": "other.safetensors"}, ValueError, "sentence vectors of 256.*gives 64"),
        ({"encoder_path": "no.safetensors"}, FileNotFoundError, "does not exist"),
        ({"generator": "no.pth"}, FileNotFoundError, "does not exist"),
        ({"generator": "encoder.safetensors"}, ValueError, "has no tensor"),
        ({"generator": "discriminator.pth"}, ValueError, "has no tensor"),
    ],
)
def test_what_does_not_belong_together_is_refused(changes, error, message, files, tmp_path):
    changes = {name: str(files / value) for name, value in changes.items()}

    with pytest.raises(error, match=message):
        import_official(options(files, tmp_path / "out", **changes))

    assert not (tmp_path / "out" / "model.json").exists()
