"""Convert AttnGAN's text encoder into a file for preparation."""

from pathlib import Path

from pipeline.cli.config import ImportDamsmConfig
from pipeline.common.commands import MORE, job_command
from pipeline.common.console import DryRunReport, print_line
from pipeline.storage.disk_space import leaving_nothing, readable
from pipeline.storage.folder import Folder
from ratgan.text.import_damsm import import_damsm


def import_encoder(config: ImportDamsmConfig) -> str:
    """Write the encoder file.

    Returns:
        Its sha256.

    Raises:
        ValueError: If a file is refused, or the two come from different trainings.
        FileNotFoundError: If one does not exist.
    """
    content, words = _converted(config)
    place, _, name = config.output.rpartition("/")
    sha256 = Folder(place or ".").write(name, content)
    use = job_command("prepare", MORE, "--encoder", "damsm", "--encoder-path", config.output)
    print_line(
        f"text encoder of {words:,} words at {config.output}\n  sha256 {sha256}\n  use it: {use}"
    )
    return sha256


def plan_import_encoder(config: ImportDamsmConfig) -> None:
    """Convert the files, and print what would be written; raises the errors of the import."""
    folder = Folder(config.output.rpartition("/")[0] or ".")
    with leaving_nothing(folder):
        folder.check_writable("output")
        content, words = _converted(config)
        report = DryRunReport()
        report.line("encoder", f"{words:,} words, read from {config.weights}")
        report.line("output", f"{config.output}: {readable(len(content))}")
        report.end()


def _converted(config: ImportDamsmConfig) -> tuple[bytes, int]:
    """Return the encoder file, and the size of its vocabulary."""
    content, vocabulary = import_damsm(
        Path(config.weights).expanduser(), Path(config.captions).expanduser(), config.max_words
    )
    return content, len(vocabulary.words)
