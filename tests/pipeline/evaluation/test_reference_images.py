"""The real images of an evaluation."""

import numpy as np
import pytest

from pipeline.evaluation.reference_images import _of_folder, _of_statistics
from tests.pipeline.preparation.sources.layouts import jpeg, write


def test_original_images_behind_links_are_all_found(tmp_path):
    write(tmp_path / "disk/birds/1.jpg", jpeg(1))
    write(tmp_path / "store/0a1b", jpeg(2))
    write(tmp_path / "data/3.jpg", jpeg(3))
    (tmp_path / "data/birds").symlink_to(tmp_path / "disk/birds")
    (tmp_path / "data/2.jpg").symlink_to(tmp_path / "store/0a1b")

    found = _of_folder(str(tmp_path / "data"))

    assert found.images.names == ("2.jpg", "3.jpg", "birds/1.jpg")
    assert found.count == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>Quota exceeded</html>", "s.npz is a web page, not statistics. Open the link"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of git-lfs"),
        (b"", "is an empty file"),
        (b"PK\x03\x04", "does not hold mu and sigma"),
        (None, "does not hold mu and sigma: Python objects, which are not read$"),
    ],
)
def test_what_is_no_file_of_statistics_is_named(tmp_path, content, message):
    if content is None:
        np.savez(tmp_path / "s.npz", mu=np.array([{}]), sigma=np.zeros(1))
    else:
        (tmp_path / "s.npz").write_bytes(content)

    with pytest.raises(ValueError, match=message):
        _of_statistics(str(tmp_path / "s.npz"))
