"""Convert weights of the published RAT-GAN code into a saved model."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.common.console import DryRunReport, print_line
from pipeline.common.settings import Settings
from pipeline.preparation.text_encoders import find_encoder
from pipeline.storage.disk_space import leaving_nothing, readable
from pipeline.storage.folder import Folder
from ratgan.text.transform import SentenceTransform
from ratgan.weights.published import import_discriminator, import_generator, read_state_dict
from ratgan.weights.saved_model import pack_discriminator, pack_model


class ImportOfficialConfig(Settings):
    """Convert published weights into a model that `ratgan.load` reads.

    python jobs/import_official.py --generator netG_500.pth --encoder-path damsm.safetensors
    """

    generator: str
    """State dict of the published generator (.pth)."""
    encoder_path: str
    """The text encoder of its training, written by jobs/import_damsm.py."""
    discriminator: str | None = None
    """State dict of the published discriminator, to show its attention."""
    affines_per_block: Literal[4, 6] | None = None
    """Architecture of the generator, if the weights do not determine it."""
    output: Annotated[str, Field(min_length=1)] = "outputs/official"
    """Folder or bucket address for the model."""


def import_official(config: ImportOfficialConfig) -> Folder:
    """Import the weights, and report the use of every tensor.

    Returns:
        Folder of the model.

    Raises:
        ValueError: If the weights are not those of the published code, or do not fit the encoder.
        FileNotFoundError: If a file is missing.
    """
    folder = Folder(config.output)
    folder.check_writable("output")
    for name, content in _converted(config).items():
        folder.write(name, content)
    print_line(f"model {folder}. Draw: python jobs/generate.py --model {folder} …")
    return folder


def plan_import_official(config: ImportOfficialConfig) -> None:
    """Convert the weights, and print what would be written; raises the errors of the import."""
    folder = Folder(config.output)
    with leaving_nothing(folder):
        folder.check_writable("output")
        size = sum(len(content) for content in _converted(config).values())
        report = DryRunReport()
        report.line("output", f"{folder}: {readable(size)}")
        report.end()


def _converted(config: ImportOfficialConfig) -> dict[str, bytes]:
    """Return the files of the model, and print the use of every tensor."""
    place, encoder_file = find_encoder("damsm", config.encoder_path)
    encoder = place.loaded()
    generator, report = import_generator(
        read_state_dict(config.generator), affines_per_block=config.affines_per_block
    )
    if generator.sentence_dim != encoder.dim:
        raise ValueError(
            f"the generator needs sentence vectors of {generator.sentence_dim} numbers, and "
            f"{config.encoder_path} gives {encoder.dim}: it is not the encoder of these weights."
        )
    files = pack_model(
        generator.float(),
        SentenceTransform.identity(encoder.dim),  # the published code feeds DAMSM vectors as is
        {"name": encoder.name, "sha256": encoder.sha256},
        {"imported_from": config.generator},
        encoder_file,
    )
    print_line(f"generator, {generator.num_steps} steps of the controller: {report}")
    if config.discriminator is not None:
        discriminator, report = import_discriminator(read_state_dict(config.discriminator))
        files |= pack_discriminator(discriminator.float())
        print_line(f"discriminator, attention {discriminator.arguments['attention']}: {report}")
    return files
