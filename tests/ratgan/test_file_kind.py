"""What a file is, by its first bytes."""

import io
import pickle
import zipfile

import pytest

from ratgan.file_kind import STARTS, file_kind, refusal


def zipped() -> bytes:
    buffer = io.BytesIO()
    zipfile.ZipFile(buffer, "w").close()
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"", "an empty file"),
        (b"\xef\xbb\xbf \n<HTML lang=en>", "a web page"),
        (b"<!-- saved from a browser -->\n<!DOCTYPE html>", "a web page"),
        ("a,b\n1,2\n".encode("utf-16"), "UTF-16"),
        ("a,b\n1,2\n".encode("utf-16-le"), "UTF-16"),
        (pickle.dumps([1]), "a pickle"),
        (zipped(), "a zip archive"),
        (b"image,caption\na.jpg,<html>\n", None),
        (b"{}", None),
    ],
)
def test_a_file_is_known_by_its_first_bytes(head, kind):
    assert file_kind(head) == kind


def test_every_refusal_says_what_to_do():
    for start in STARTS:
        said = refusal(start + b"x" * 99, "w.pth", "weights")
        assert said.startswith("w.pth is ")
        assert said.count(". ") == 1
        assert said.endswith(".")
    assert refusal(b"a,b\n", "w.pth", "weights") is None
