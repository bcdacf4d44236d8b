"""Pairs of encoders: through their files, DAMSM of either origin and CLIP."""

import pytest
import torch
from safetensors.torch import save_file

from ratgan import efficientnet
from ratgan.metrics.pairs import load_pair
from ratgan.metrics.retrieval import mean_cosine, recall_at
from ratgan.text.damsm import CaptionNetwork, pack
from ratgan.text.image_branch import EfficientNetBranch, InceptionBranch, SmallBranch
from ratgan.text.vocabulary import Vocabulary
from tests.ratgan.extractor_weights import (
    install_efficientnet,
    write_inception,
    write_whole_clip,
)

VOCABULARY = Vocabulary(("<end>", "red", "blue", "bird"), 4)
IMAGES = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0)).float()
CAPTIONS = ("a red bird", "a blue bird")


def write_text(folder, dim: int = 8) -> None:
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    content = pack(CaptionNetwork(4, 5, dim), VOCABULARY)
    (folder / "text_encoder.safetensors").write_bytes(content)


def test_a_small_pair_gives_the_vectors_of_its_two_sides(tmp_path):
    write_text(tmp_path)
    torch.manual_seed(1)
    branch = SmallBranch(8, channels=8)
    save_file(branch.state_dict(), tmp_path / "image_branch.safetensors")

    pair = load_pair("damsm", tmp_path)

    with torch.no_grad():
        expected = branch.eval()(IMAGES / 127.5 - 1)[1]
    assert torch.equal(pair.of_images(IMAGES), expected)
    assert pair.of_captions(CAPTIONS).shape == (2, 8)
    assert (pair.name, len(pair.sha256)) == ("damsm", 64)


def test_projections_of_inception_and_attngans_file_give_the_same(tmp_path):
    state = write_inception(tmp_path / "inception.pth", 1000)
    torch.manual_seed(1)
    branch = InceptionBranch(state, 8)
    for folder in ("ours", "attngan"):
        write_text(tmp_path / folder)
    projections = {n: t for n, t in branch.state_dict().items() if n.startswith("to_")}
    save_file(projections, tmp_path / "ours" / "image_branch.safetensors")
    theirs = {
        n.replace("to_regions", "emb_features").replace("to_whole", "emb_cnn_code"): t
        for n, t in projections.items()
    }
    kept = {n: t for n, t in state.items() if "num_batches" not in n and not n.startswith("fc.")}
    torch.save(kept | theirs, tmp_path / "attngan" / "image_branch.safetensors")

    ours = load_pair("damsm", tmp_path / "ours", inception_weights=tmp_path / "inception.pth")
    attngan = load_pair("damsm", tmp_path / "attngan")

    assert torch.equal(ours.of_images(IMAGES), attngan.of_images(IMAGES))
    assert ours.of_images(IMAGES).shape == (2, 8)
    assert ours.sha256 != attngan.sha256
    with pytest.raises(ValueError, match="projections of Inception-v3 alone: name the weights"):
        load_pair("damsm", tmp_path / "ours")


def test_projections_of_efficientnet_stand_on_the_installed_wheel(tmp_path, monkeypatch):
    branch = EfficientNetBranch(install_efficientnet(tmp_path / "site", monkeypatch), 8).eval()
    write_text(tmp_path)
    projections = {n: t for n, t in branch.state_dict().items() if n.startswith("to_")}
    save_file(projections, tmp_path / "image_branch.safetensors")

    pair = load_pair("damsm", tmp_path)

    with torch.no_grad():
        assert torch.equal(pair.of_images(IMAGES), branch(IMAGES / 127.5 - 1)[1])
    monkeypatch.setattr(efficientnet, "WHEEL_PACKAGE", "no_such_package")
    with pytest.raises(FileNotFoundError, match=r"pip install 'ratgan\[perceptual\]'"):
        load_pair("damsm", tmp_path)


def test_clip_compares_its_two_towers(tmp_path):
    from transformers import CLIPModel

    folder = write_whole_clip(tmp_path / "clip")

    pair = load_pair("clip", folder)

    images, captions = pair.of_images(IMAGES), pair.of_captions(CAPTIONS)
    model = CLIPModel.from_pretrained(folder).eval()
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    tokens = pair.text._tokenizer(list(CAPTIONS), padding=True, return_tensors="pt")
    with torch.no_grad():
        output = model(pixel_values=(IMAGES / 255 - mean) / deviation, **tokens)
    cosines = torch.nn.functional.normalize(images) @ torch.nn.functional.normalize(captions).T
    expected = output.logits_per_image / model.logit_scale.exp()
    torch.testing.assert_close(cosines, expected, rtol=1e-4, atol=1e-5)
    assert mean_cosine(images, captions) == pytest.approx(expected.diag().mean().item(), abs=1e-5)


def test_recall_counts_queries_whose_answer_is_among_the_nearest():
    answers = torch.eye(4)
    # The first finds its own at once, the second as its second, the others as their last.
    queries = torch.tensor(
        [[1.0, 0, 0, 0], [0.9, 0.8, 0, 0], [0.9, 0.8, 0.1, 0.7], [0.9, 0.8, 0.7, 0.1]]
    )
    classes = torch.arange(4)

    recalls = [recall_at(queries, answers, classes, within) for within in (1, 2, 3, 4)]

    assert recalls == [0.25, 0.5, 0.5, 1.0]
    assert recall_at(queries, answers, torch.tensor([0, 0, 1, 2]), 1) == 0.5


def test_parts_that_do_not_belong_together_are_refused(tmp_path):
    write_text(tmp_path, dim=6)
    save_file(SmallBranch(8, channels=8).state_dict(), tmp_path / "image_branch.safetensors")
    with pytest.raises(ValueError, match="gives 6 numbers and the image branch 8"):
        load_pair("damsm", tmp_path)

    save_file({"x": torch.zeros(1)}, tmp_path / "image_branch.safetensors")
    with pytest.raises(ValueError, match="no projection of regions"):
        load_pair("damsm", tmp_path)
    (tmp_path / "image_branch.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"the image branch's weights .* do not exist"):
        load_pair("damsm", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"the text encoder file .* does not exist"):
        load_pair("damsm", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"nowhere is not a folder with the config\.json"):
        load_pair("clip", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="pair 'blip' is not known"):
        load_pair("blip", tmp_path)
