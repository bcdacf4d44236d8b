"""RAT-GAN (https://arxiv.org/abs/2204.10482) in plain PyTorch.

import ratgan

model = ratgan.load("outputs/quickstart/model")
model("a large red circle at the top left")[0].save("circle.png")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ratgan.text_to_image import TextToImage
    from ratgan.weights.saved_model import load

__all__ = ["TextToImage", "load"]


def __getattr__(name: str) -> Any:  # so that `ratgan.options` does not import torch
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ratgan.text_to_image import TextToImage
    from ratgan.weights.saved_model import load

    return load if name == "load" else TextToImage
