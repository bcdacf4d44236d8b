"""The classifier that reads shapes: trained once for a dataset, anew if damaged."""

import torch

from pipeline.evaluation.shapes_classifier import ShapesReader
from pipeline.storage.folder import Folder


def test_a_kept_classifier_is_used_again_unless_it_is_damaged(shapes, tmp_path):
    cache = Folder(str(tmp_path))
    first = ShapesReader(shapes, 10, cache).classifier.state_dict()
    (weights,) = tmp_path.glob("*.safetensors")
    written = weights.stat().st_mtime_ns, weights.read_bytes()

    again = ShapesReader(shapes, 10, cache).classifier

    assert not again.training
    assert all(torch.equal(first[name], each) for name, each in again.state_dict().items())
    assert weights.stat().st_mtime_ns == written[0]

    weights.write_bytes(written[1][:-1] + bytes([written[1][-1] ^ 1]))
    ShapesReader(shapes, 10, cache)

    assert weights.read_bytes() == written[1]
