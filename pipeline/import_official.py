"""Weights of the published RAT-GAN code to a model of ours: read, convert, account for, save."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.encoders import find_encoder
from pipeline.progress import say
from pipeline.settings import Settings
from pipeline.storage import Folder
from ratgan.checkpoint import pack_discriminator, pack_model
from ratgan.official import import_discriminator, import_generator, read_state_dict
from ratgan.text.transform import SentenceTransform


class ImportOfficialConfig(Settings):
    """Turn published weights into a model that `ratgan.load` reads.

    python jobs/import_official.py --generator netG_500.pth --encoder-path damsm.safetensors
    """

    generator: str
    """State dict of the published generator (.pth)."""
    encoder_path: str
    """The text encoder it was trained with, as jobs/import_damsm.py wrote it."""
    discriminator: str | None = None
    """State dict of the published discriminator, for pictures of its attention."""
    affines_per_block: Literal[4, 6] | None = None
    """Which graph the generator's weights are of, where they do not tell."""
    output: Annotated[str, Field(min_length=1)] = "outputs/official"
    """Folder or bucket address for the model."""


def import_official(config: ImportOfficialConfig) -> Folder:
    """Import as the config says, and report what became of every tensor.

    Returns:
        Folder of the model.

    Raises:
        ValueError: If the weights are not those of the published code, or do not fit the encoder.
        FileNotFoundError: If a file is missing.
    """
    folder = Folder(config.output)
    folder.check_writable("output")
    place, encoder_file = find_encoder("damsm", config.encoder_path)
    encoder = place.loaded()
    generator, report = import_generator(
        read_state_dict(config.generator), affines_per_block=config.affines_per_block
    )
    if generator.sentence_dim != encoder.dim:
        raise ValueError(
            f"the generator reads sentence vectors of {generator.sentence_dim} numbers, and "
            f"{config.encoder_path} gives {encoder.dim}: it is not the encoder of these weights."
        )
    files = pack_model(
        generator.float(),
        SentenceTransform.identity(encoder.dim),  # the published code feeds DAMSM vectors as is
        {"name": encoder.name, "sha256": encoder.sha256},
        {"imported_from": config.generator},
        encoder_file,
    )
    say(f"generator, {generator.num_steps} steps of the controller: {report}")
    if config.discriminator is not None:
        discriminator, report = import_discriminator(read_state_dict(config.discriminator))
        files |= pack_discriminator(discriminator.float())
        say(f"discriminator, attention {discriminator.arguments['attention']}: {report}")
    for name, content in files.items():
        folder.write(name, content)
    say(f"model {folder}. Draw: python jobs/generate.py --model {folder} …")
    return folder
