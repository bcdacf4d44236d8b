"""Everything bad at once through the real preparation: each row kept, or listed with its reason."""

import json
from collections import Counter

import pyarrow.parquet as pq
import pytest

from pipeline.data.dataset import PreparedDataset
from pipeline.preparation.config import PrepareConfig
from pipeline.preparation.prepare import prepare
from pipeline.preparation.sources.coco import CocoSource
from tests import corpus
from tests.conftest import encoded, photo

pytestmark = [pytest.mark.slow, pytest.mark.rest]

GOOD = 200


@pytest.fixture(scope="module")
def mixed(ray_session, tmp_path_factory):
    """Good images with good captions, and between them every case of the corpus."""
    root = tmp_path_factory.mktemp("mixed")
    images, annotations, expected = [], [], {}

    def add(content: bytes, caption, outcome: str | None) -> None:
        number = len(images) + 1
        name = f"{number:012d}.jpg"
        (root / "train2017" / name).write_bytes(content)
        images.append({"id": number, "file_name": name})
        annotations.append({"id": number, "image_id": number, "caption": caption})
        expected[f"train2017-{number:012d}"] = outcome

    def reason(outcome) -> str | None:
        return outcome.reason if isinstance(outcome, corpus.Refused) else None

    for split in ("train2017", "val2017", "annotations"):
        (root / split).mkdir()
    cases = list(corpus.images().items())
    # JSON carries text only; what is bytes there comes from files, in other layouts.
    texts = [(n, c, o) for n, (c, o) in corpus.captions().items() if isinstance(c, str)]
    for number in range(GOOD):
        add(encoded(photo(seed=number + 1000)), f"good picture {number}", None)
        if number < len(cases):
            add(cases[number][1][0], f"case {cases[number][0]}", reason(cases[number][1][1]))
        if number < len(texts):
            outcome = reason(texts[number][2])
            add(encoded(photo(seed=number + 5000)), texts[number][1], outcome)
    content = {"images": images, "annotations": annotations}
    (root / "annotations/captions_train2017.json").write_text(json.dumps(content))
    held_out = {"images": [{"id": 1, "file_name": "1.jpg"}]}
    held_out["annotations"] = [{"id": 1, "image_id": 1, "caption": "held out"}]
    (root / "val2017/1.jpg").write_bytes(encoded(photo(seed=9)))
    (root / "annotations/captions_val2017.json").write_text(json.dumps(held_out))
    config = PrepareConfig(
        source=CocoSource(root=str(root)),
        output=str(root / "prepared"),
        image_size=32,
        sentence_dim=8,
        rows_per_shard=64,
        max_rejects="60%",
    )
    return prepare(config), root / "prepared", expected, len(cases), len(texts)


def test_every_case_is_kept_or_rejected_for_its_reason(mixed):
    manifest, output, expected, cases, texts = mixed
    rejects = {}
    for shard in manifest.shards:
        if shard.rejects_file:
            for row in pq.read_table(output / shard.rejects_file).to_pylist():
                rejects[row["id"]] = row["reason"]

    # Two files of the corpus hold the same picture under two names, on purpose.
    wrong = {
        name: (outcome, rejects.get(name))
        for name, outcome in expected.items()
        if rejects.get(name) != outcome and rejects.get(name) != "IMG_DUPLICATE"
    }
    assert wrong == {}
    assert cases >= 39
    assert texts >= 20
    assert manifest.seen == len(expected) + 1 == manifest.written + manifest.rejected


def test_good_rows_among_bad_ones_are_all_kept(mixed):
    _, output, _, _, _ = mixed
    dataset = PreparedDataset(str(output))

    kept = Counter(example.caption for example in dataset.each("train"))

    assert {text for text in kept if text.startswith("good picture")} == {
        f"good picture {number}" for number in range(GOOD)
    }


def test_nothing_that_is_shown_holds_a_control_character(mixed):
    manifest, output, _, _, _ = mixed

    texts = list(PreparedDataset(str(output)).captions("train"))
    for shard in manifest.shards:
        if shard.rejects_file:
            table = pq.read_table(output / shard.rejects_file)
            texts += [str(value) for row in table.to_pylist() for value in row.values()]

    joiners = str.maketrans("", "", "\u200c\u200d")
    assert [text for text in texts if not text.translate(joiners).isprintable()] == []
