"""Write a prepared dataset in the layout of other tools."""

from pipeline.cli.config import ExportConfig
from pipeline.common.console import DryRunReport, print_line
from pipeline.data.dataset import PreparedDataset
from pipeline.data.export import Export
from pipeline.data.export_layouts import LAYOUTS
from pipeline.storage.disk_space import leaving_nothing, readable
from pipeline.storage.folder import Folder


def export_data(config: ExportConfig) -> Folder:
    """Write the files, their card last.

    Returns:
        The folder.

    Raises:
        ValueError: If the dataset is incomplete or damaged, or the folder has other files.
        OSError: If it cannot be written, or there is no room.
    """
    export = _checked(config)
    export.check_room()
    lines = []
    for split, count in export.write().items():
        files = f"{count.files:,} file{'' if count.files == 1 else 's'}"
        lines.append(f"{split:12}{count.images:,} images, {count.captions:,} captions, {files}")
        if export.folder.local_path:  # for a bucket both packages need more than an address
            lines.append(f"{'':12}{export.layout.usage(export.folder.path, split, count.files)}")
    print_line("\n".join([*lines, f"exported to {export.folder}"]))
    return export.folder


def plan_export(config: ExportConfig) -> None:
    """Print what would be written; raises the errors of the export."""
    folder = Folder(config.output)
    with leaving_nothing(folder):
        export, report = _checked(config), DryRunReport()
        export.check_room()
        report.line("data", f"{export.dataset.folder}: {export.dataset.manifest.written:,} images")
        report.line("output", f"{folder}: up to {readable(export.most_bytes())}")
        report.end()


def _checked(config: ExportConfig) -> Export:
    """Return the export, if its dataset is complete and its folder can be used."""
    dataset = PreparedDataset(config.data)
    dataset.verify()
    export = Export(dataset, Folder(config.output), LAYOUTS[config.to](config.captions))
    export.refuse_strangers()
    export.folder.check_writable("output")
    return export
