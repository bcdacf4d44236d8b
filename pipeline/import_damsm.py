"""AttnGAN's text encoder into a file that preparation takes."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from pipeline.progress import say
from pipeline.settings import Settings
from pipeline.storage import Folder
from ratgan.text.import_damsm import import_damsm
from ratgan.text.vocabulary import MAX_WORDS


class ImportDamsmConfig(Settings):
    """Import an AttnGAN text encoder. No code of the files is run."""

    weights: str
    """text_encoder*.pth of an AttnGAN training."""
    captions: str
    """captions.pickle of the same training: its word numbers are those of the weights."""
    output: str = "data/text_encoder.safetensors"
    """File to write; a path or bucket address."""
    max_words: Annotated[int, Field(ge=1)] = MAX_WORDS
    """Words of a caption that are read: 18 for birds and flowers, 12 for COCO in AttnGAN."""


def import_encoder(config: ImportDamsmConfig) -> str:
    """Write the encoder file.

    Returns:
        Its sha256.

    Raises:
        ValueError: If a file is refused, or the two are not of one training.
        FileNotFoundError: If one is not there.
    """
    content, vocabulary = import_damsm(
        Path(config.weights).expanduser(), Path(config.captions).expanduser(), config.max_words
    )
    place, _, name = config.output.rpartition("/")
    sha256 = Folder(place or ".").write(name, content)
    say(
        f"text encoder of {len(vocabulary.words):,} words at {config.output}\n  sha256 {sha256}\n"
        f"  use it: python jobs/prepare.py … --encoder damsm --encoder-path {config.output}"
    )
    return sha256
