"""One file per layout of originals; a new layout is a new file and a line here."""

from typing import Annotated

import tyro

from pipeline.sources.coco import CocoSource
from pipeline.sources.shapes import ShapesSource

AnySource = (
    Annotated[CocoSource, tyro.conf.subcommand("coco")]
    | Annotated[ShapesSource, tyro.conf.subcommand("shapes")]
)
