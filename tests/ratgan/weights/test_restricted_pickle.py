"""Pickles of others: what real data holds is read, and nothing else, and nothing runs."""

import collections
import pickle

import numpy as np
import pytest

from ratgan.weights.restricted_pickle import load_foreign_pickle
from tests.conftest import REAL_DATA
from tests.corpus_pickles import bad_pickles

NAMES = ["001.A/a", "002.B/b-é"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_and_numbers_of_numpy_are_read(protocol):
    value = {
        "names": NAMES,
        "bytes": [b"001.A/a"],
        "words": {0: "<end>", 1: "the"},
        "classes": [np.int64(7), np.float32(0.5), np.bool_(True), np.str_("x")],
        "array": np.array([3, 1, 2], dtype=">i4"),
        "texts": np.array(NAMES),
        "objects": np.array(NAMES, dtype=object),
        "more": (collections.OrderedDict(a=1), {5}, None, True, 10**30),
    }

    read = load_foreign_pickle(pickle.dumps(value, protocol=protocol), "it")

    assert read == {
        "names": NAMES,
        "bytes": ["001.A/a"],
        "words": {0: "<end>", 1: "the"},
        "classes": [7, 0.5, True, "x"],
        "array": [3, 1, 2],
        "texts": NAMES,
        "objects": NAMES,
        "more": [{"a": 1}, [5], None, True, 10**30],
    }


def test_text_and_bytes_of_python_2_are_read():
    assert load_foreign_pickle(b"(lp0\nS'a\\xe9'\naVb\\u00e9\naI7\na.", "it") == ["aé", "bé", 7]


def test_what_several_hold_is_given_to_each():
    shared: list[object] = ["a", {"b": 1}]

    read = load_foreign_pickle(pickle.dumps([shared, {"c": shared}, shared]), "it")

    assert read == [["a", {"b": 1}], {"c": ["a", {"b": 1}]}, ["a", {"b": 1}]]


@pytest.mark.parametrize("case", bad_pickles("marker"))
def test_anything_else_is_refused_and_does_not_run(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    marker = tmp_path / "executed"
    content, message = bad_pickles(marker)[case]

    with pytest.raises(ValueError, match=f"(?s)names.pickle is refused: .*({message})"):
        load_foreign_pickle(content, "names.pickle")

    assert not marker.exists()
    if case == "runs code, protocol 0":
        pickle.loads(content)
        assert marker.exists(), "the attack of this test is none"


@pytest.mark.skipif(not (REAL_DATA / "metadata").is_dir(), reason="the real data are not here")
@pytest.mark.parametrize(
    ("file", "count", "first"),
    [
        ("metadata/birds/train/class_info.pickle", 8855, 2),  # scalars of NumPy
        ("metadata/birds/test/filenames.pickle", 2933, None),
        ("metadata/coco/train/filenames.pickle", 82783, "COCO_train2014_000000487025"),
    ],
)
def test_real_metadata_is_read(file, count, first):
    read = load_foreign_pickle((REAL_DATA / file).read_bytes(), file)

    assert len(read) == count
    assert first is None or read[0] == first
