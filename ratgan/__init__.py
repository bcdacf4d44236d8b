"""RAT-GAN (https://arxiv.org/abs/2204.10482) in plain PyTorch.

import ratgan

model = ratgan.load("outputs/quickstart/model")
model("a large red circle at the top left")[0].save("circle.png")
"""

from ratgan.text_to_image import TextToImage
from ratgan.weights.saved_model import load

__all__ = ["TextToImage", "load"]
