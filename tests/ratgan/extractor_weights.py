"""Files of weights in the shapes of published extractors, with random numbers.

The real files cannot be had where tests run; what reads them is the same.
"""

from pathlib import Path

import torch
from torchvision.models import inception_v3

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
