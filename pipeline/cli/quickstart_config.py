"""Options of the quickstart; needs no torch, so --help is fast."""

from pipeline.common.settings import Settings
from pipeline.config import TrainConfig
from pipeline.preparation.sources.shapes import ShapesSource


class QuickstartConfig(Settings):
    """Draw shapes, prepare them, train on them, and measure if images agree with captions."""

    source: ShapesSource = ShapesSource(pairs=0.0)
    """The shapes to draw."""
    sentence_dim: int = 32
    """Numbers kept of a whitened sentence vector; few are enough for these simple captions."""
    train: TrainConfig = TrainConfig(total_steps=2000)
    """The training; its dataset is the one drawn here."""
