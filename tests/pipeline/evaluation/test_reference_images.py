"""The real images of an evaluation."""

from pipeline.evaluation.reference_images import _of_folder
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
