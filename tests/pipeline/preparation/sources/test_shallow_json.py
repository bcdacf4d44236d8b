"""JSON that is nested deeply is refused before it takes memory, wherever it is streamed."""

import io
import json

import ijson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.preparation.sources.coco import CocoSource
from pipeline.preparation.sources.karpathy import KarpathySource
from pipeline.preparation.sources.shallow_json import MAX_DEPTH, ShallowJson
from pipeline.preparation.sources.table import TableSource
from tests.conftest import write_coco
from tests.pipeline.preparation.sources.layouts import write

DEEP = "[" * 5000 + "]" * 5000


def nested(depth: int, text: str) -> bytes:
    value: object = text
    for _ in range(depth):
        value = {text: value}
    return json.dumps([text, value], ensure_ascii=False).encode("utf-8", "surrogatepass")


def read(content: bytes, size: int) -> bytes:
    stream = ShallowJson(io.BytesIO(content))
    return b"".join(iter(lambda: stream.read(size), b""))


@settings(deadline=None, derandomize=True)
@given(text=st.text('a\\"[]{}\n'), size=st.integers(1, 40))
def test_only_brackets_outside_of_texts_count(text, size):
    allowed, too_deep = nested(MAX_DEPTH - 1, text), nested(MAX_DEPTH, text)

    assert read(allowed, size) == allowed
    with pytest.raises(ijson.JSONError, match=f"nested more than {MAX_DEPTH} deep"):
        read(too_deep, size)


def test_each_source_that_streams_json_refuses_deep_nesting(tmp_path):
    for name in ("train2017", "val2017"):
        write_coco(tmp_path / "coco", name, {1: ["one"]})
    deep = f'{{"images": [{DEEP}]}}'
    write(tmp_path / "coco/annotations/captions_train2017.json", deep)
    file = str(write(tmp_path / "rows.json", deep))
    sources = [
        CocoSource(root=str(tmp_path / "coco")),
        KarpathySource(root=file),
        TableSource(root=file),
    ]

    for source in sources:
        with pytest.raises(
            ValueError, match=r"is not valid JSON.*: it is nested more than 200 deep"
        ):
            list(source.records())
