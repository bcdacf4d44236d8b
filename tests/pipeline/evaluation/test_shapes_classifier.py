"""The classifier that reads shapes: trained once for a dataset, anew if damaged."""

from types import SimpleNamespace

import torch

from pipeline.data.dataset import Example
from pipeline.evaluation.shapes_classifier import ShapesReader
from pipeline.preparation.sources.shapes import ShapesSource
from pipeline.storage.folder import Folder


def test_a_kept_classifier_is_used_again_unless_it_is_damaged(tmp_path):
    draw = torch.Generator().manual_seed(0)
    examples = [
        Example(
            torch.randint(0, 256, (3, 8, 8), generator=draw, dtype=torch.uint8),
            record.captions[0],
            torch.zeros(1),
            record.meaning,
            0,
        )
        for record in ShapesSource(count=70, pairs=0).records()
    ]
    shapes = SimpleNamespace(
        digest="of these", manifest=SimpleNamespace(cache_size=8), examples=lambda *_: examples
    )
    cache = Folder(str(tmp_path))
    first = ShapesReader(shapes, 10, cache).classifier.state_dict()
    (weights,) = tmp_path.glob("*.safetensors")
    content, written = weights.read_bytes(), weights.stat().st_mtime_ns

    again = ShapesReader(shapes, 10, cache).classifier

    assert not again.training
    assert all(torch.equal(first[name], each) for name, each in again.state_dict().items())
    assert weights.stat().st_mtime_ns == written

    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    ShapesReader(shapes, 10, cache)

    assert weights.read_bytes() == content
