"""Options of the commands that have no package of their own; needs no torch, so --help is fast."""

from typing import Annotated, Literal, Self

import tyro
from pydantic import Field, model_validator

from pipeline.common.settings import Settings
from ratgan.options import Device
from ratgan.text.vocabulary import MAX_WORDS


class GenerateConfig(Settings):
    """Generate images for captions. The same captions and seed give the same files.

    python jobs/generate.py --model outputs/quickstart/model "a large red circle in the centre"
    """

    captions: tyro.conf.Positional[tuple[str, ...]] = ()
    """Captions, one image for each."""
    model: str = "outputs/quickstart/model"
    """Saved model, checkpoint or run: a folder or bucket address. Of a run, the model of its
    end, or of its newest complete checkpoint if it has not ended."""
    encoder_path: str | None = None
    """Text encoder, if the model does not contain it. A location that only the model names is not
    opened."""
    file: str | None = None
    """Text file with one caption on each line, in addition to those of the command line."""
    output: str = "outputs/generated"
    """Folder or bucket address for the PNG files and grid.png."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Another seed gives other images for the same captions."""
    show: Literal["each", "variations", "captions", "noises"] = "each"
    """each: one image for each caption. The others give rows of images. variations: each caption
    with several noises, the same for all captions. captions: an interpolation from each caption to
    the next. noises: each caption with an interpolation from one noise to another."""
    count: Annotated[int, Field(ge=2, le=64)] | None = None
    """Images in such a row. Default: 8."""
    truncation: Annotated[float, Field(ge=0, le=2)] | None = None
    """Cut the noise at two deviations and multiply it by this: below 1, less variety and fewer odd
    images. Default: noise as in training."""
    same_noise: bool = False
    """Use the same noise for all captions, so that images differ only by their captions."""
    attention: str | None = None
    """Checkpoint of a run, outputs/NAME/checkpoints/step-…: also show the attention of its
    discriminator for each caption."""
    images: tuple[str, ...] = ()
    """With attention: image files, one for each caption, instead of generated images."""
    like: str | None = None
    """PNG file of this command or of jobs/serve.py: draw it again, from its own record, instead of
    captions. The model must be the same."""
    device: Device = "auto"
    """auto: a GPU if there is one. Pictures are the same bits on the same kind of device."""
    columns: Annotated[int, Field(ge=1)] = 4
    """Images in a row of the grid, with --show each."""

    @model_validator(mode="after")
    def _check_combination(self) -> Self:
        rows = self.show != "each"
        if self.count is not None and not rows:
            raise ValueError("count is for rows: choose them with, for example, --show variations.")
        if rows and (self.same_noise or self.attention):
            raise ValueError(f"same_noise and attention need --show each, not {self.show}.")
        if self.images and self.attention is None:
            raise ValueError("images needs --attention, the checkpoint of a run.")
        if self.images and (self.seed or self.same_noise or self.truncation is not None):
            raise ValueError(
                "images are not drawn if they are given: give no seed, same_noise or truncation."
            )
        given = rows or self.captions or self.file or self.images
        if self.like and (given or self.seed or self.same_noise or self.truncation is not None):
            raise ValueError(
                "like takes everything from the file: give no captions, rows or noise."
            )
        return self


class ExportConfig(Settings):
    """Write a prepared dataset in the layout of Hugging Face `datasets` or of `webdataset`.

    python jobs/export_data.py --data data/coco-256 --to huggingface --output data/coco-256-hub
    """

    data: str
    """Prepared dataset: folder or bucket address."""
    to: Literal["huggingface", "webdataset"]
    """huggingface: parquet files that load_dataset reads, here or from a hub. webdataset: tars."""
    output: Annotated[str, Field(min_length=1)]
    """New or empty folder, or bucket address."""
    captions: Literal["all", "first"] = "all"
    """all: as a list, in the column or JSON entry `captions`. first: the first of each image alone,
    as a text, in the column `text` or in KEY.txt, for tools that take one."""


class ImportDamsmConfig(Settings):
    """Import an AttnGAN text encoder. Code in the files is never executed."""

    weights: str
    """text_encoder*.pth of an AttnGAN training."""
    captions: str
    """captions.pickle of the same training: the weights use its word numbers."""
    output: str = "data/text_encoder.safetensors"
    """File to write; a path or bucket address."""
    max_words: Annotated[int, Field(ge=1)] = MAX_WORDS
    """Words of a caption that are used: 18 for birds and flowers, 12 for COCO in AttnGAN."""


class ImportOfficialConfig(Settings):
    """Convert published weights into a model that `ratgan.load` reads.

    python jobs/import_official.py --generator netG_500.pth --encoder-path damsm.safetensors
    """

    generator: str
    """State dict of the published generator (.pth), or a checkpoint that holds it."""
    generator_key: str | None = None
    """Where it is in a file of several networks: model.netG, or g_ema. Default: the one that
    fits."""
    encoder_path: str
    """The text encoder of its training, written by jobs/import_damsm.py."""
    discriminator: str | None = None
    """State dict of the published discriminator, to show its attention; or a checkpoint."""
    discriminator_key: str | None = None
    """As --generator-key, for the discriminator."""
    affines_per_block: Literal[4, 6] | None = None
    """Architecture of the generator, if the weights do not determine it."""
    output: Annotated[str, Field(min_length=1)] = "outputs/official"
    """Folder or bucket address for the model."""


class InspectConfig(Settings):
    """Show the content of a prepared dataset.

    python jobs/inspect_data.py --data data/coco-256
    """

    data: str
    """Prepared dataset: folder or bucket address."""
    output: str = "outputs/inspect"
    """Folder for report.json and contact_sheet.png."""
    samples: Annotated[int, Field(ge=0, le=400)] = 24
    """Images on the contact sheet."""
    split: str = "train"
    """Split of the contact sheet."""
    seed: int = 0
    """Seed of the choice of images."""
    verify: bool = False
    """Read every shard, and compare its sha256 with the manifest."""


class SyncConfig(Settings):
    """Send unsent metrics of one run, or of all runs in a folder. Safe to repeat."""

    run: str = "outputs"
    """Folder or bucket address of a run, or of a folder with runs."""
    uri: str | None = None
    """MLflow server or store. Default: the last one of the run, if it is MLFLOW_TRACKING_URI or the
    file beside the run; name any other here, one with a password in MLFLOW_TRACKING_URI."""
    to: Literal["mlflow", "tensorboard"] = "mlflow"
    """Where it goes. For TensorBoard the whole history is written anew each time."""
    output: str | None = None
    """With to=tensorboard: folder in which each run gets one of its name. Default: tensorboard in
    the run's own folder."""
