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
    folder = folder.rename(tmp_path / "moved [v2] 100%")

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
        ({"generator": "no.pth"}, FileNotFoundError, "weights .*no.pth do not exist"),
        ({"generator": "encoder.safetensors"}, ValueError, "has no tensor"),
        ({"generator": "discriminator.pth"}, ValueError, "has no tensor"),
    ],
)
def test_what_does_not_belong_together_is_refused(changes, error, message, files, tmp_path):
    changes = {name: str(files / value) for name, value in changes.items()}

    with pytest.raises(error, match=message):
        import_official(options(files, tmp_path / "out", **changes))

    assert not (tmp_path / "out" / "model.json").exists()


def checkpoint(files, layout: str) -> object:
    """What a training script saved, by its layout."""
    generator, discriminator = (
        torch.load(files / f"{n}.pth") for n in ("generator", "discriminator")
    )
    plain = {name.removeprefix("module."): tensor for name, tensor in generator.items()}
    optimizer = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}
    return {
        "nested": {
            "model": {"netG": generator, "netD": discriminator},
            "optimizers": optimizer,
            "epoch": 12,
        },
        "compiled": {f"_orig_mod.{name}": tensor for name, tensor in plain.items()},
        "lightning": {
            "state_dict": {
                **{f"generator.{name}": tensor for name, tensor in plain.items()},
                **{f"discriminator.{name}": tensor for name, tensor in discriminator.items()},
                "inception.conv.weight": torch.ones(2),
            },
            "hyper_parameters": {"lr": 0.1},
            "optimizer_states": [optimizer],
        },
        "one of a module": {f"netG.{name}": tensor for name, tensor in plain.items()},
    }[layout]


@pytest.mark.parametrize(
    ("layout", "taken"),
    [
        ("nested", "generator 'model.netG', 28"),
        ("compiled", "generator, 28"),
        ("lightning", "generator 'state_dict.generator', 28"),
        ("one of a module", "generator 'netG', 28"),
    ],
)
def test_the_network_that_fits_is_taken_out_of_a_checkpoint(files, tmp_path, capsys, layout, taken):
    torch.save(checkpoint(files, layout), tmp_path / "c.pth")
    import_official(options(files, tmp_path / "plain"))
    capsys.readouterr()

    import_official(options(files, tmp_path / "out", generator=str(tmp_path / "c.pth")))

    assert taken in capsys.readouterr().out
    tensors = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert tensors == (tmp_path / "plain" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("layout", ["nested", "lightning"])
def test_generator_and_discriminator_come_out_of_one_file(files, tmp_path, capsys, layout):
    file = tmp_path / "c.pth"
    torch.save(checkpoint(files, layout), file)

    import_official(options(files, tmp_path / "out", generator=str(file), discriminator=str(file)))

    assert load_discriminator(tmp_path / "out").arguments["attention"] == "none"
    where = {"nested": "model.netD", "lightning": "state_dict.discriminator"}[layout]
    assert f"discriminator '{where}', attention none: 30 tensors" in capsys.readouterr().out


def test_of_two_that_fit_one_is_chosen_by_its_key(files, tmp_path):
    first, file = torch.load(files / "generator.pth"), tmp_path / "ema.pth"
    average = {name: tensor + 1 for name, tensor in first.items()}
    torch.save({"g": first, "g_ema": average}, file)

    with pytest.raises(
        ValueError, match=r"2 sets of tensors that fit: g \(\d+ tensors\), g_ema .*-key g_ema"
    ):
        import_official(options(files, tmp_path / "out", generator=str(file)))
    import_official(options(files, tmp_path / "g", generator=str(file), generator_key="g"))
    import_official(options(files, tmp_path / "e", generator=str(file), generator_key="g_ema"))

    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("g", "e")]
    assert weights[0] != weights[1]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("model", r"--generator-key 'model' is not in .*holds model\.netG \(.*, model\.netD \("),
        ("model.netD", "the generator has no tensor"),
        ("model.netG.block0", "the generator has no tensor"),
        (
            None,
            r"none of the sets of tensors in .* fits: model\.netG .*--generator-key model\.netG",
        ),
    ],
)
def test_a_key_that_does_not_fit_is_answered_with_what_there_is(files, tmp_path, key, message):
    file, saved = tmp_path / "c.pth", checkpoint(files, "nested")
    if key is None:
        saved["model"]["netG"] = {"block0.affine0.fc_beta.linear1.bias": torch.zeros(2)}
    torch.save(saved, file)

    with pytest.raises(ValueError, match=message):
        import_official(options(files, tmp_path / "out", generator=str(file), generator_key=key))


def test_tensors_of_other_shapes_are_refused_as_such(files, tmp_path):
    state = torch.load(files / "generator.pth")
    for name in ("module.block0.affine0.fc_gamma.linear1.weight", "module.conv_img.1.weight"):
        torch.save(state | {name: torch.zeros(3)}, tmp_path / "g.pth")
        with pytest.raises(ValueError, match="other shapes than the published ones"):
            import_official(options(files, tmp_path / "out", generator=str(tmp_path / "g.pth")))


def test_a_block_of_a_huge_number_costs_nothing(files, tmp_path):
    state = torch.load(files / "generator.pth") | {"module.block999999999.x": torch.zeros(1)}
    torch.save(state, tmp_path / "g.pth")

    with pytest.raises(ValueError, match="has a block999999999: it is from another model"):
        import_official(options(files, tmp_path / "out", generator=str(tmp_path / "g.pth")))
