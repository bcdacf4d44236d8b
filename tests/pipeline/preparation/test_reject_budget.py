"""Too many rejects end a preparation with the commonest reason, and the first case of it."""

from collections import Counter

import pytest

from pipeline.data.manifest import REJECT_SCHEMA, SHARD_SCHEMA
from pipeline.preparation.listing import Part
from pipeline.preparation.reject_budget import Budget, first_of_commonest, reasons_of
from pipeline.preparation.shards import write_shard
from pipeline.storage.folder import Folder


def reject(number: int, reason: str, kind: str = "image", location: str = "images/{}.jpg") -> dict:
    values = dict.fromkeys(REJECT_SCHEMA.names, "x") | {"sha256": None}
    names = {"id": f"id {number}", "location": location.format(number)}
    return values | names | {"kind": kind, "reason": reason, "detail": f"why {number}"}


def shard_of(folder: Folder, index: int, rejects: list[dict]):
    part = Part("train", index, len(rejects), "digest")
    empty = SHARD_SCHEMA.empty_table()
    return write_shard(folder, part, empty, rejects, row_group_rows=8, seen=len(rejects))


def test_the_first_case_of_the_commonest_reason_is_told(tmp_path):
    folder = Folder(str(tmp_path))
    shards = [
        shard_of(folder, 1, [reject(5, "IMG_MISSING"), reject(6, "IMG_MISSING")]),
        shard_of(folder, 0, [reject(0, "CAP_EMPTY"), reject(1, "IMG_MISSING", "caption")]),
    ]
    shards.append(shard_of(folder, 2, []))

    with pytest.raises(ValueError, match="IMG_MISSING 2, CAP_EMPTY 1") as error:
        Budget.parse("1").check(reasons_of(shards), 40, folder, shards)

    assert str(error.value).startswith("3 of 40 originals cannot be used, and max_rejects=1 permit")
    assert "\nThe first IMG_MISSING: images/5.jpg: why 5\n" in str(error.value)
    Budget.parse("3").check(reasons_of(shards), 40, folder, shards)


def test_an_original_without_a_place_is_named_by_its_id_and_nothing_obeys_it(tmp_path):
    folder = Folder(str(tmp_path))
    bad = reject(0, "PATH_UNSAFE", location="") | {"id": "a\x1b[2Jb" + "c" * 500}
    shards = [shard_of(folder, 0, [bad])]

    said = first_of_commonest(folder, shards, reasons_of(shards))

    assert said.startswith(r"The first PATH_UNSAFE: a\x1b[2Jbccc")
    assert len(said) < 200
    assert first_of_commonest(folder, [], Counter()) == ""
