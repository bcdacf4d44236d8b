"""Write a prepared dataset in the layout of other tools."""

from typing import Annotated

from pydantic import Field

from pipeline.common.console import DryRunReport, print_line
from pipeline.common.settings import Settings
from pipeline.data.dataset import PreparedDataset
from pipeline.data.export import Export
from pipeline.data.export_layouts import LAYOUTS, Captions, LayoutName
from pipeline.storage.disk_space import leaving_nothing, readable
from pipeline.storage.folder import Folder


class ExportConfig(Settings):
    """Write a prepared dataset in the layout of Hugging Face `datasets` or of `webdataset`.

    python jobs/export_data.py --data data/coco-256 --to huggingface --output data/coco-256-hub
    """

    data: str
    """Prepared dataset: folder or bucket address."""
    to: LayoutName
    """huggingface: parquet files that load_dataset reads, here or from a hub. webdataset: tars."""
    output: Annotated[str, Field(min_length=1)]
    """New or empty folder, or bucket address."""
    captions: Captions = "all"
    """all: as a list, in the column or JSON entry `captions`. first: the first of each image alone,
    as a text, in the column `text` or in KEY.txt, for tools that take one."""


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
