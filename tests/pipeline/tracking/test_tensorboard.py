"""Event files of TensorBoard: all points and pictures of a spool, each once."""

import math
import struct
import zlib

import pytest
from PIL import Image

from pipeline.cli.config import SyncConfig
from pipeline.cli.sync import sync
from tests.corpus_runs import lay_run, of_image

pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

RECORDS = [
    {"kind": "points", "time": 1_500, "step": 2, "values": {"loss/a": 0.1, "loss/b": 3.0}},
    {"kind": "points", "time": 2_500, "step": 4, "values": {"loss/a": math.nan, "loss/b": 1e-30}},
    {"kind": "points", "time": 9_000, "step": 4, "values": {"loss/b": 1e-30, "loss/c": 7.0}},
    {"kind": "measured", "time": 9_500, "step": 2, "values": {"eval/fid": 12.5}},
    {"kind": "measured", "time": 9_600, "step": 2, "values": {"eval/fid": 12.25}},
    {"kind": "status", "time": 9_700, "status": "FINISHED"},
]


def points_in(folder) -> set[tuple[str, int, float, bytes]]:
    """Name, step, time in seconds, and value as its 32 bits, in which NaN equals itself."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()
    found = [
        (name, each.step, each.wall_time, struct.pack("f", each.value))
        for name in events.Tags()["scalars"]
        for each in events.Scalars(name)
    ]
    assert len(found) == len(set(found))
    return set(found)


def images_in(folder) -> list[tuple[str, int, bytes]]:
    events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    return [
        (name, each.step, each.encoded_image_string)
        for name in events.Tags()["images"]
        for each in events.Images(name)
    ]


def to_tensorboard(run, **options) -> None:
    sync(SyncConfig(run=str(run), to="tensorboard", **options))


def test_every_point_and_picture_stands_once_however_often_it_is_written(tmp_path):
    run = tmp_path / "run"
    lay_run(run, [*RECORDS, of_image("a.png")], uri="http://127.0.0.1:9")
    Image.new("RGB", (8, 6), "red").save(run / "a.png")
    told = [
        ("loss/a", 2, 1.5, 0.1), ("loss/b", 2, 1.5, 3.0), ("loss/a", 4, 2.5, math.nan),
        ("loss/b", 4, 2.5, 1e-30), ("loss/c", 4, 9.0, 7.0), ("eval/fid", 2, 9.6, 12.25),
    ]  # fmt: skip

    for _ in range(2):
        to_tensorboard(run)

    expected = {(*place, struct.pack("f", value)) for *place, value in told}
    assert points_in(run / "tensorboard") == expected
    picture = (run / "a.png").read_bytes()
    assert images_in(run / "tensorboard") == [("samples", 1, picture)]


def test_runs_of_a_folder_go_to_folders_of_their_names(tmp_path):
    for name in ("a", "b"):
        lay_run(tmp_path / "runs" / name, RECORDS, uri="http://127.0.0.1:9")

    to_tensorboard(tmp_path / "runs", output=str(tmp_path / "logs"))

    assert points_in(tmp_path / "logs" / "a") == points_in(tmp_path / "logs" / "b")
    assert not (tmp_path / "runs" / "a" / "tensorboard").exists()


def test_what_cannot_be_written_is_said_and_keeps_nothing_else_out(tmp_path, capsys):
    run = tmp_path / "run"
    Image.new("RGB", (8, 8)).save(tmp_path / "private.png")
    header = b"IHDR" + struct.pack(">IIBBBBB", 2**16, 2**16, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header
    odd = [
        of_image("../private.png"),
        {"kind": "points", "step": "two", "values": {"loss/a": 1.0}},
        {"kind": "points", "step": 3, "values": {"loss/a": "high"}},
        {"kind": "points", "step": 3, "values": 5},
        {"kind": "points", "step": 3, "time": "late", "values": {"loss/a": 1.0}},
        {"kind": "points", "step": 5, "time": 10**400, "values": {"loss/a": 1.0}},
        of_image("bomb.png", key="bomb"),
    ]
    lay_run(run, [*odd, *RECORDS], uri="http://127.0.0.1:9")
    data = struct.pack(">I4sI", 0, b"IDAT", zlib.crc32(b"IDAT"))
    (run / "bomb.png").write_bytes(bomb + struct.pack(">I", zlib.crc32(header)) + data)

    to_tensorboard(run)

    assert "left out: 7; the first is" in capsys.readouterr().out
    assert len(points_in(run / "tensorboard")) == 6
    assert images_in(run / "tensorboard") == []


def test_a_run_that_leads_out_of_its_folder_is_refused_and_the_others_are_written(tmp_path):
    runs, theirs = tmp_path / "runs", tmp_path / "home"
    theirs.mkdir()
    for name in ("a", "b"):
        lay_run(runs / name, RECORDS, uri="http://127.0.0.1:9")
    (runs / "a" / "tensorboard").symlink_to(theirs)

    with pytest.raises(ValueError, match="'tensorboard' leads out of the folder"):
        to_tensorboard(runs)

    assert not list(theirs.iterdir())
    assert len(points_in(runs / "b" / "tensorboard")) == 6


@pytest.mark.parametrize(("to", "option"), [("mlflow", "output"), ("tensorboard", "uri")])
def test_an_option_of_the_other_tracker_is_refused(to, option, tmp_path):
    with pytest.raises(ValueError, match=f"--{option} out"):
        sync(SyncConfig(run=str(tmp_path), to=to, **{option: "x"}))
