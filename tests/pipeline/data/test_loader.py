"""Prepared dataset to batches: the right rows, whoever reads them, and nothing damaged."""

import copy
import shutil
import threading
import weakref

import pytest
import torch

from pipeline.data.dataset import PreparedDataset
from pipeline.data.loader import Batch, BatchReader, prefetch
from pipeline.data.rows import Rows, image_key
from pipeline.data.sample_order import SampleOrder
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

VIEW = {"image_size": 32, "flip": True, "threads": 2, "reader": "threads"}
CPU = torch.device("cpu")
TENSORS = ("images", "sentences", "image_keys", "class_keys")


def stream(dataset: PreparedDataset, world: int, first: int, last: int, **view) -> list[Batch]:
    """Read steps as `world` workers would, and put their shares together."""
    plan = SampleOrder(dataset.units("train"), 12, seed=5)
    shares = [
        list(
            BatchReader(dataset, plan, rank=rank, world=world, **(VIEW | view)).batches(first, last)
        )
        for rank in range(world)
    ]
    return [
        Batch(*(torch.cat([getattr(s, name) for s in step]) for name in TENSORS))
        for step in zip(*shares, strict=True)
    ]


@pytest.fixture(scope="module")
def alone(shapes):
    return stream(shapes, 1, 0, 25)


def equal(left: list[Batch], right: list[Batch]) -> bool:
    return len(left) == len(right) and all(
        torch.equal(getattr(a, name), getattr(b, name))
        for a, b in zip(left, right, strict=True)
        for name in TENSORS
    )


@pytest.mark.parametrize(("world", "reader"), [(2, "threads"), (3, "threads"), (3, "ray")])
def test_workers_together_read_bit_for_bit_what_one_reads(
    ray_session, shapes, alone, world, reader
):
    assert equal(stream(shapes, world, 0, 25, reader=reader), alone)


@pytest.mark.parametrize("reader", ["threads", "resident", "ray"])
def test_starting_in_the_middle_reads_the_same_tail(ray_session, shapes, alone, reader):
    assert equal(stream(shapes, 1, 13, 25, reader=reader), alone[13:])


def test_all_images_held_in_memory_are_the_same_batches(shapes, alone):
    assert equal(stream(shapes, 2, 0, 25, reader="resident"), alone)


def test_what_fits_is_held_and_what_does_not_streams(shapes, monkeypatch):
    plan = SampleOrder(shapes.units("train"), 12, seed=5)
    whole = 120 * 3 * 40**2 + 240 * 4 * 384  # pixels of 120 images, vectors of 240 captions

    def chosen(free: int, holders: int = 1) -> str:
        monkeypatch.setattr("pipeline.data.in_memory.available", lambda: free)
        options = VIEW | {"reader": "auto"}
        return BatchReader(shapes, plan, rank=0, world=2, holders=holders, **options).reader

    assert chosen(4 * whole) == "resident"
    assert chosen(4 * whole - 1) == "threads"
    assert chosen(4 * whole, holders=2) == "threads"
    with pytest.raises(ValueError, match=r"data\.reader=resident would hold .* Use --data\.reader"):
        BatchReader(shapes, plan, rank=0, world=1, **(VIEW | {"reader": "resident", "holders": 9}))


def test_each_epoch_reads_every_image_once(shapes, alone):
    keys = torch.cat([batch.image_keys for batch in alone]).tolist()  # 300 positions, 120 images

    assert len(set(keys[:120])) == 120
    assert sorted(keys[:120]) == sorted(keys[120:240])
    assert keys[:120] != keys[120:240]


def test_an_image_comes_with_its_own_sentences(shapes, alone):
    stored = {}
    for unit in shapes.units("train"):
        for row in shapes.read(unit, ["id", "sentences"]).to_pylist():
            stored[image_key(row["id"])] = torch.tensor(row["sentences"]).view(-1, 384)

    chosen = [
        (stored[key] == sentence).all(1).nonzero().flatten().tolist()
        for batch in alone
        for key, sentence in zip(batch.image_keys.tolist(), batch.sentences, strict=True)
    ]

    assert all(chosen), "a sentence is not one of its image's"
    second = sum(choice == [1] for choice in chosen)
    assert 90 < second < 210, "of two captions each is taken about half of the 300 times"


@pytest.mark.parametrize("reader", ["threads", "resident", "ray"])
def test_captions_come_along_when_asked_for_and_are_those_of_the_sentences(
    ray_session, shapes, alone, reader
):
    plan = SampleOrder(shapes.units("train"), 12, seed=5)
    texts: dict[bytes, set[str]] = {}
    for unit in shapes.units("train"):
        for row in shapes.read(unit, ["captions", "sentences"]).to_pylist():
            vectors = torch.tensor(row["sentences"]).view(-1, 384)
            for text, vector in zip(row["captions"], vectors, strict=True):
                texts.setdefault(vector.numpy().tobytes(), set()).add(text)

    read = BatchReader(shapes, plan, rank=0, world=1, captions=True, **(VIEW | {"reader": reader}))
    with_texts = list(read.batches(0, 5))

    assert equal(with_texts, alone[:5])
    assert alone[0].captions == ()
    for batch in with_texts:
        assert len(batch.captions) == 12
        for text, vector in zip(batch.captions, batch.sentences, strict=True):
            assert text in texts[vector.numpy().tobytes()]


def test_every_caption_of_a_split_is_read(shapes):
    captions = list(shapes.captions("train"))

    assert len(captions) == 240
    assert captions[0] == shapes.examples("train", 1)[0].caption


def test_batches_are_uint8_images_of_the_training_size(alone):
    assert alone[0].images.shape == (12, 3, 32, 32)
    assert alone[0].images.dtype == torch.uint8


def views(batches) -> dict[int, set[bytes]]:
    """All that was shown of each image."""
    seen: dict[int, set[bytes]] = {}
    for batch in batches:
        for key, image in zip(batch.image_keys.tolist(), batch.images, strict=True):
            seen.setdefault(key, set()).add(image.numpy().tobytes())
    return seen


def test_images_are_cropped_differently_in_each_epoch(shapes):
    cropped = views(stream(shapes, 1, 0, 25, flip=False))

    assert sum(len(seen) > 1 for seen in cropped.values()) > 100


def test_images_are_mirrored_in_about_half_of_the_epochs(shapes):
    # At the stored size there is one crop, so what differs is mirrored.
    mirrored = views(stream(shapes, 1, 0, 100, image_size=40))
    plain = views(stream(shapes, 1, 0, 25, image_size=40, flip=False))

    assert all(len(seen) == 1 for seen in plain.values())
    assert sum(len(seen) == 2 for seen in mirrored.values()) > 110  # of 120, in 10 epochs
    assert max(len(seen) for seen in mirrored.values()) == 2


def test_a_copy_of_the_transform_on_another_device_leaves_the_datasets_own(shapes):
    copy.deepcopy(shapes.transform).to("meta")

    assert shapes.examples("train", 1)[0].sentence.device.type == "cpu"


def test_a_shard_of_another_size_is_refused(shapes, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(shapes.folder.path, folder)
    PreparedDataset(str(folder)).verify()
    shard = sorted((folder / "train").iterdir())[0]

    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"part-00000\.parquet has [\d,]+ bytes, and the manifest"):
        PreparedDataset(str(folder)).verify()
    shard.unlink()
    with pytest.raises(ValueError, match=r"part-00000\.parquet is missing"):
        PreparedDataset(str(folder)).verify()


@pytest.mark.parametrize("reader", ["threads", "ray"])
def test_a_row_group_is_let_go_after_its_last_image(ray_session, shapes, reader):
    plan = SampleOrder(shapes.units("train"), batch_size=4, seed=3)
    read = BatchReader(shapes, plan, rank=0, world=1, **(VIEW | {"reader": reader}))
    alive: weakref.WeakSet[Rows] = weakref.WeakSet()
    most = 0
    for rows, _, _ in read._streamed(17, 95):  # parts of four epochs of 30 steps
        alive.add(rows)
        # An epoch is 9 row groups in 4 lanes: two for each lane, and those of no other epoch.
        # The thread that read one may hold it for a moment more.
        wait_until(lambda: len(alive) <= 8, "row groups are let go")
        most = max(most, len(alive))

    assert most >= 4


def test_row_groups_are_read_once_an_epoch_and_ahead(shapes, monkeypatch):
    plan = SampleOrder(shapes.units("train"), batch_size=4, seed=3)
    reads: list[str] = []
    whole = PreparedDataset.read
    monkeypatch.setattr(
        PreparedDataset,
        "read",
        lambda self, unit, columns: (reads.append(str(unit)), whole(self, unit, columns))[1],
    )

    list(BatchReader(shapes, plan, rank=0, world=1, **VIEW).batches(0, 60))

    assert sorted(reads) == sorted(str(unit) for unit in plan.units for _ in range(2))


def test_classes_of_equal_meaning_share_a_key(shapes, alone):
    by_class: dict[int, set[int]] = {}
    for batch in alone:
        for image, group in zip(batch.image_keys.tolist(), batch.class_keys.tolist(), strict=True):
            by_class.setdefault(group, set()).add(image)

    meanings = {str(example.meaning) for example in shapes.examples("train")}
    assert len(by_class) == len(meanings)


def test_examples_are_read_in_order_with_their_meaning(shapes):
    examples = shapes.examples("validation", 5)

    assert len(examples) == 5
    for example in examples:
        assert example.meaning is not None
        assert example.meaning["objects"][0]["colour"] in example.caption
        assert example.image.shape == (3, 40, 40)
        assert example.sentence.shape == (16,)


@pytest.mark.parametrize("reader", ["threads", "resident", "ray"])
def test_a_damaged_shard_stops_training_with_its_cause(ray_session, shapes, tmp_path, reader):
    copy = tmp_path / "copy"
    shutil.copytree(shapes.folder.path, copy)
    for shard in (copy / "train").iterdir():
        content = bytearray(shard.read_bytes())
        content[len(content) // 3] ^= 0xFF
        shard.write_bytes(content)

    with pytest.raises(Exception, match=r"CRC|checksum|[Cc]orrupt"):
        stream(PreparedDataset(str(copy)), 1, 0, 25, reader=reader)


def test_prefetching_keeps_order_and_passes_errors_on():
    def numbers():
        yield from range(10)
        raise OSError("disk gone")

    received = prefetch(numbers(), CPU, depth=2)

    assert [next(received) for _ in range(10)] == list(range(10))
    with pytest.raises(OSError, match="disk gone"):
        next(received)


def test_prefetching_ends_its_thread_when_nobody_listens():
    before = threading.enumerate()
    batches = prefetch(iter(range(1000)), CPU, depth=2)
    next(batches)
    (thread,) = [t for t in threading.enumerate() if t.name == "prefetch" and t not in before]

    batches.close()

    wait_until(lambda: not thread.is_alive(), "the thread ends")
