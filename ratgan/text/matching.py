"""How well images and captions match, and the losses that teach it (DAMSM).

After AttnGAN (https://arxiv.org/abs/1711.10485), equations 7 to 13: each word looks
for the regions of an image that show it, and the match of an image with a caption is
that of its words with what they found. A second match compares both as wholes. In a
batch every image must find its caption and every caption its image.

Dimensions in this file:
    I images and C captions (equal in a batch, B), R regions of an image, L words of the longest
    caption, D size of all vectors.
"""

import torch
from torch import Tensor
from torch.nn import functional

WORD_FOCUS = 4.0  # γ1: how sharply a word looks at the regions that fit it
WORD_POOLING = 5.0  # γ2: how much the best word of a caption counts
SHARPNESS = 10.0  # γ3: of the choice among the captions (or images) of a batch


def word_matches(
    regions: Tensor,
    words: Tensor,
    mask: Tensor,
    *,
    focus: float = WORD_FOCUS,
    pooling: float = WORD_POOLING,
) -> Tensor:
    """Match every image with every caption, word by word.

    Args:
        regions: Of the images, [I, R, D].
        words: Of the captions, [C, L, D].
        mask: True where there is a word, at least one in each caption, bool, [C, L].
        focus: γ1.
        pooling: γ2.

    Returns:
        ``1/γ2 · log Σ exp(γ2 · cos(word, what it found))``, [I, C].
    """
    likeness = torch.einsum("ird,cld->iclr", regions, words)
    likeness = likeness.masked_fill(~mask[None, :, :, None], -torch.inf)
    share = likeness.softmax(2)  # of the words of a caption in a region
    look = (focus * share).softmax(3)  # of a word, over the regions
    found = torch.einsum("iclr,ird->icld", look, regions)
    cosine = functional.cosine_similarity(found, words[None], dim=3)  # [I, C, L]
    return (pooling * cosine).masked_fill(~mask[None], -torch.inf).logsumexp(2) / pooling


def sentence_matches(wholes: Tensor, sentences: Tensor) -> Tensor:
    """Match every image with every caption as wholes.

    Args:
        wholes: Of the images, [I, D].
        sentences: Of the captions, [C, D].

    Returns:
        Cosines, [I, C].
    """
    return functional.normalize(wholes, dim=1) @ functional.normalize(sentences, dim=1).T


def matching_loss(
    matches: Tensor, classes: Tensor, *, sharpness: float = SHARPNESS
) -> tuple[Tensor, Tensor]:
    """Ask each image for its caption, and each caption for its image.

    Another caption of an image's own class may fit the image as well: such pairs are left out of
    the choice.

    Args:
        matches: Of the images with the captions of a batch, image n and caption n
            belonging together, [B, B].
        classes: A number for the class of each, int64, [B].
        sharpness: γ3.

    Returns:
        Mean cross entropy of the choice of a caption, and of the choice of an image.
    """
    own = torch.arange(len(matches), device=matches.device)
    alike = (classes[:, None] == classes) & (own[:, None] != own)
    scores = (sharpness * matches).masked_fill(alike, -torch.inf)
    return functional.cross_entropy(scores, own), functional.cross_entropy(scores.T, own)
