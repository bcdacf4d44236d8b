"""Convert weights of the published RAT-GAN code into a saved model."""

from functools import partial

from pipeline.cli.config import ImportOfficialConfig
from pipeline.common.commands import MORE, job_command
from pipeline.common.console import DryRunReport, print_line, printable
from pipeline.preparation.text_encoders import find_encoder
from pipeline.storage.disk_space import leaving_nothing, readable
from pipeline.storage.folder import Folder
from ratgan.text.transform import SentenceTransform
from ratgan.weights.published import import_discriminator, import_from, import_generator
from ratgan.weights.saved_model import pack_discriminator, pack_model


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
    print_line(f"model {folder}. Draw: {job_command('generate', '--model', folder, MORE)}")
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
    build = partial(import_generator, affines_per_block=config.affines_per_block)
    generator, report, key = import_from(
        config.generator, build, config.generator_key, "--generator-key"
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
    print_line(f"generator{_taken(key)}, {generator.num_steps} steps of the controller: {report}")
    if config.discriminator is not None:
        discriminator, report, key = import_from(
            config.discriminator,
            import_discriminator,
            config.discriminator_key,
            "--discriminator-key",
        )
        files |= pack_discriminator(discriminator.float())
        attention = discriminator.arguments["attention"]
        print_line(f"discriminator{_taken(key)}, attention {attention}: {report}")
    return files


def _taken(key: str) -> str:
    """Say which set of tensors of a file was taken, if it has several."""
    return f" {printable(key)!r}" if key else ""
