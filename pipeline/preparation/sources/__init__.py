"""One file per layout of originals; a new layout is a new file and a line here."""

from typing import Annotated

import tyro

from pipeline.preparation.sources.coco import CocoSource
from pipeline.preparation.sources.cub import CubSource
from pipeline.preparation.sources.folder import FolderSource
from pipeline.preparation.sources.huggingface import HuggingFaceSource
from pipeline.preparation.sources.img2dataset import Img2datasetSource
from pipeline.preparation.sources.karpathy import KarpathySource
from pipeline.preparation.sources.oxford102 import Oxford102Source
from pipeline.preparation.sources.shapes import ShapesSource
from pipeline.preparation.sources.table import TableSource
from pipeline.preparation.sources.webdataset import WebDatasetSource

AnySource = (
    Annotated[CocoSource, tyro.conf.subcommand("coco")]
    | Annotated[CubSource, tyro.conf.subcommand("cub")]
    | Annotated[Oxford102Source, tyro.conf.subcommand("oxford102")]
    | Annotated[KarpathySource, tyro.conf.subcommand("karpathy")]
    | Annotated[FolderSource, tyro.conf.subcommand("folder")]
    | Annotated[TableSource, tyro.conf.subcommand("table")]
    | Annotated[HuggingFaceSource, tyro.conf.subcommand("huggingface")]
    | Annotated[Img2datasetSource, tyro.conf.subcommand("img2dataset")]
    | Annotated[WebDatasetSource, tyro.conf.subcommand("webdataset")]
    | Annotated[ShapesSource, tyro.conf.subcommand("shapes")]
)
