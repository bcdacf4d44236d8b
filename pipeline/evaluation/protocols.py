"""Protocols: how a number was measured. Two numbers compare only if their protocols are equal.

Four different distances are called FID in the literature of this model. So each number here is
written with its protocol, and a published protocol is written down with its quirks, as far as they
are documented.
"""

import hashlib
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from pipeline.common.settings import Settings
from pipeline.config import PositiveInt, ProtocolName
from ratgan.options import Resize

ExtractorName = Literal[
    "builtin",
    "efficientnet-lite0",
    "inception-2015",
    "inception-torchvision",
    "inception-slim",
    "dinov2",
    "clip",
]
Reference = Literal["validation", "train", "all", "folder", "statistics"]
CHANGED = "-changed"
NOT_COMPARED = ("name", "quirks")


class Protocol(Settings):
    """What a number was measured by."""

    name: str
    """Of the preset; marked if anything in it was changed."""
    extractor: ExtractorName
    """Network whose features are compared."""
    weights_sha256: str = ""
    """Of its weights; filled in when they are loaded."""
    resize: Resize
    """How images come to the size the extractor takes."""
    reference: Reference = "validation"
    """Real images: a split of the prepared dataset or both, a folder of original images, or
    statistics that others took."""
    reference_crop: Literal["centre", "whole"] = "centre"
    """Of prepared images, which are a little larger than what training crops from them: the middle,
    as large as the generated images, or all. Those of a folder are taken whole."""
    reference_digest: str = ""
    """Of the real images themselves; filled in."""
    reference_count: Annotated[int, Field(ge=0)] = 0
    """Real images; filled in."""
    captions_of: Literal["validation", "train"] = "validation"
    """Split whose captions are drawn."""
    captions: Literal["random", "first"] = "random"
    """Which caption of an image is drawn in a pass: one at random, or its first."""
    captions_digest: str = ""
    """Of the captions themselves; filled in."""
    passes: PositiveInt | None = None
    """Passes over the captions' images, where these decide the number of generated images."""
    drop_last: Annotated[int, Field(ge=0)] = 0
    """Batch of which the last, incomplete one is left out of each pass, at random; 0: none is."""
    count: PositiveInt | None = None
    """Generated images; where passes decide it, filled in."""
    image_size: Annotated[int, Field(ge=0)] = 0
    """Of the generated images in pixels; filled in."""
    rounding: Literal["nearest", "truncate", "none"] = "nearest"
    """How numbers become pixels: rounded, cut down to whole numbers, or left as they are."""
    weights: Literal["average", "training"] = "average"
    """Of the generator: the moving average, or those that are trained."""
    truncation: Annotated[float, Field(gt=0, le=1)] | None = None
    """Noise is cut at two deviations and scaled by this; without it, it is not cut."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Of noise and of the choice of captions."""
    score_parts: PositiveInt = 10
    """Parts of which the Inception Score is the mean."""
    kernel_images: PositiveInt = 50_000
    """Most images of each set for the kernel distance."""
    neighbour_images: PositiveInt = 10_000
    """Most images of each set for precision, recall, density and coverage."""
    diversity_captions: PositiveInt = 20
    """Captions for which diversity is measured."""
    diversity_images: Annotated[int, Field(ge=2)] = 10
    """Images of each of them."""
    quirks: tuple[str, ...] = ()
    """What a reader must know to compare."""

    def changed(self, **changes: Any) -> "Protocol":
        """Return it with other values, and a name that says so where it has a published form."""
        changes = {name: value for name, value in changes.items() if getattr(self, name) != value}
        if not changes:
            return self
        if "count" in changes or "passes" in changes:
            changes = {"count": None, "passes": None} | changes
        name = self.name
        # One that is named for its extractor says no more than that.
        kept = name == self.extractor and "extractor" not in changes
        if not kept and not name.endswith(CHANGED):
            name += CHANGED
        return Protocol(**self.model_dump() | changes | {"name": name})

    def resolved(self, captions: int, **found: Any) -> "Protocol":
        """Fill in what is known when models, weights and images are.

        Args:
            captions: Images whose captions are drawn.
            found: The other fields that are filled in.

        Raises:
            ValueError: If a pass over so few captions leaves none.
        """
        count = self.count
        if self.passes is not None:
            count = self.passes * per_pass(captions, self.drop_last)
        if not count:
            raise ValueError(
                f"a pass over {captions} captions in batches of {self.drop_last} leaves none: use "
                f"a dataset with {max(1, self.drop_last)} images of {self.captions_of} or more."
            )
        return Protocol(**self.model_dump() | found | {"count": count})

    def label(self) -> str:
        """Name it so that unlike protocols have unlike names."""
        content = self.model_dump_json(exclude=set(NOT_COMPARED))
        return f"{self.name}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"

    def measure(self, kind: str, published: bool) -> str:
        """Name a measure: ``fid_clean``, ``fd_builtin``, ``precision_clean``.

        Args:
            kind: ``distance``, ``kernel``, or the name of another measure.
            published: Whether the extractor has the weights that its name is known by.
        """
        from ratgan.metrics.extractors import EXTRACTORS  # needs torch; --help does not

        inception = published and EXTRACTORS[self.extractor].measure == "fid"
        names = {"distance": "fid" if inception else "fd", "kernel": "kid" if inception else "kd"}
        return f"{names.get(kind, kind)}_{self.name}"


def per_pass(captions: int, drop_last: int) -> int:
    """Return how many images a pass over so many captions draws."""
    return captions - captions % drop_last if drop_last else captions


def differences(one: Protocol, other: Protocol) -> list[str]:
    """Say in what two protocols differ; empty if numbers by them compare."""
    before, now = (p.model_dump(exclude=set(NOT_COMPARED)) for p in (one, other))
    return [f"{key}: {before[key]} → {now[key]}" for key in before if before[key] != now[key]]


def _quirks(text: str) -> tuple[str, ...]:
    """Cut a text into its paragraphs, each a line."""
    return tuple(" ".join(part.split()) for part in text.split("\n\n") if part.strip())


_PAPER = """
    Pixels are cut down to whole numbers, not rounded: half a level darker on average.

    The trained weights are drawn from, not an average of them, and noise is not truncated.

    A caption of more than 18 words lost a random choice of them each time it was read; here it
    is read as it was prepared.
"""
_SLIM = """
    Features and scores are those of StackGAN's Inception-v3, fine-tuned on test classes of the
    dataset (50 of birds, 20 of flowers), by its averaged weights. They exist for TensorFlow 1 only:
    convert them to the names of torchvision's inception_v3. No such file could be tried here. The
    class 0, which stands for a background, is left out of the score.
"""
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="builtin",
            extractor="builtin",
            resize="antialias",
            count=2000,
            quirks=_quirks("""
                The extractor is small and fixed: its distance is no FID and compares with no
                published number.
            """),
        ),
        Protocol(
            name="efficientnet-lite0",
            extractor="efficientnet-lite0",
            resize="bicubic",
            count=10_000,
            quirks=_quirks("""
                For photographs where no file of Inception-v3 is at hand. This network was trained
                on ImageNet as that one was, but it is another one: its distance is no FID and
                compares with no published number.
            """),
        ),
        Protocol(
            name="clip",
            extractor="clip",
            resize="bicubic",
            count=30_000,
            quirks=_quirks("""
                Published CMMD is by CLIP ViT-L/14 of 336 px, of 30,000 images for captions of COCO,
                against its images squeezed to a square. By another CLIP, other images or another
                number of them it is another number.
            """),
        ),
        Protocol(
            name="clean",
            extractor="inception-2015",
            resize="bicubic",
            count=30_000,
            quirks=_quirks("""
                As clean-fid measures: images of whole numbers, resized by a smoothing bicubic in
                float, which agrees with Pillow's to 0.02 of 255 levels.

                30,000 images for random captions of the validation split, against all of its
                images, the middle of each, as others do on COCO; but prepared images were resized
                and stored as JPEG once more before.
            """),
        ),
        Protocol(
            name="dfgan",
            extractor="inception-torchvision",
            resize="bilinear",
            reference="statistics",
            passes=10,
            rounding="none",
            weights="training",
            truncation=0.88,
            seed=100,
            quirks=_quirks("""
                The lineage of DM-GAN, DF-GAN and GALIP: torchvision's Inception-v3. Values by it
                lie tens of percent away from those by another one, for the same images.

                The reference is their file bird_val256_FIDK0.npz or coco_val256_FIDK0.npz. The one
                of CUB was taken from the test images, multiplied to about 30,000 by mirroring and
                small shifts, which are documented no further.

                Images go into the network as they leave the generator, neither rounded nor stored.

                Noise is a normal cut at two deviations, times 0.88.

                Ten passes as for CUB; GALIP takes twelve there, and COCO takes one: --passes.

                torchvision's Resize smooths by default since 0.17, and did not when the numbers
                were published; here it does not.
            """),
        ),
        Protocol(
            name="paper-cub",
            extractor="inception-slim",
            resize="pillow",
            reference="folder",
            reference_crop="whole",
            passes=10,
            drop_last=24,
            rounding="truncate",
            weights="training",
            seed=100,
            quirks=_quirks(
                """
                Ten passes over the test captions in shuffled batches of 24, without the last
                incomplete one: 29,280 images for 2,933 captions, said to be 30,000. In each pass a
                random caption of each image.

                The published FID is 13.91. For the same weights its author gives 10.21 with an
                Inception-v3 that is not fine-tuned (--extractor): the two do not compare.

                The reference is by default the folder of all images of CUB-200-2011, training and
                test, not cropped, and squeezed to 299 px without keeping their aspect, while the
                generated ones are squares around birds. Which folder was used is not documented.
                """
                + _SLIM
                + _PAPER
            ),
        ),
        Protocol(
            name="paper-oxford102",
            extractor="inception-slim",
            resize="pillow",
            reference="folder",
            reference_crop="whole",
            count=30_000,
            rounding="truncate",
            weights="training",
            seed=100,
            quirks=_quirks(
                """
                The published code trains and tests on all 8,189 images: its captions are those of
                a dataset prepared with --split published-none.

                The reference is by default its folder jpg2/train. How many images were drawn is not
                documented; 30,000 is our choice.
                """
                + _SLIM
                + _PAPER
            ),
        ),
        Protocol(
            name="paper-coco",
            extractor="inception-2015",
            resize="tensorflow",
            reference="folder",
            reference_crop="whole",
            passes=6,
            rounding="truncate",
            weights="training",
            seed=100,
            quirks=_quirks(
                """
                Six passes over the validation captions: 243,024 images for 40,504 captions.

                By which network the published 14.60 was measured is not documented; inception-2015
                is our choice. Nor is the reference.
                """
                + _PAPER
            ),
        ),
    )
}
if set(PROTOCOLS) != set(get_args(ProtocolName)):
    raise RuntimeError("PROTOCOLS and ProtocolName must name the same ones.")
