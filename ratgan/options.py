"""The choices that options have: names alone, without torch, which takes seconds to import."""

from typing import Literal

STANDARD = "rat-gan"  # architecture of saved models and runs that name none
# Options of that architecture; those of others are in the signatures of their networks.
STANDARD_OPTIONS = frozenset(
    {
        "affine_dim",
        "affines_per_block",
        "attention",
        "base_channels",
        "controller_dim",
        "image_size",
        "noise_dim",
        "output",
        "recurrent",
        "residual_start",
    }
)
AttentionKind = Literal["soft_threshold", "softmax", "none"]
Augmentation = Literal["translation", "cutout", "colour"]
Device = Literal["auto", "cpu", "cuda"]
Output = Literal["tanh", "linear"]
Precision = Literal["float32", "bfloat16"]
Resize = Literal["tensorflow", "bilinear", "antialias", "pillow", "bicubic"]
