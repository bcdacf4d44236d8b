"""WebDataset tars: samples by name, read in place."""

import gzip
import io
import json
import tarfile

import pytest

from pipeline.preparation.decoding.images import MAX_BYTES, RejectedError
from pipeline.preparation.sources.left_aside import counting
from pipeline.preparation.sources.look import look_at
from pipeline.preparation.sources.webdataset import WebDatasetSource
from pipeline.storage.folder import Folder
from tests.pipeline.preparation.sources.layouts import jpeg, outcome, write, write_tar


def source_at(root, **options):
    return WebDatasetSource(root=str(root), **{"validation": 0, **options})


def listed(root, **options):
    return {r.id: r for r in source_at(root, **options).records()}


def test_members_are_grouped_by_their_name_before_the_first_dot(tmp_path):
    tar = write_tar(
        tmp_path / "0.tar",
        {
            "b/001.json": json.dumps({"url": "http://x", "caption": "from json"}),
            "a.jpg": jpeg(1),
            "b/001.JPG": jpeg(2),
            "a.txt": "from text\n\nagain\n",
            "a.json": json.dumps({"key": "no caption here"}),
            "a.seg.png": "another kind",
            "a.cls": "3",
        },
    )
    source = source_at(tar)

    records = list(source.records())

    assert [r.id for r in records] == ["0.tar/a.jpg", "0.tar/b/001.JPG"]
    assert outcome(source, records[0]) == ([b"from text", b"again"], jpeg(1))
    assert outcome(source, records[1]) == (["from json"], jpeg(2))
    assert records[0].size == len(jpeg(1))


@pytest.mark.parametrize("style", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_each_format_of_tar_gives_the_right_bytes(tmp_path, style):
    name = "long/" * 18 + "x.jpg"
    with tarfile.open(tmp_path / "0.tar", "w", format=style) as tar:
        for i in range(3):
            header = tarfile.TarInfo(f"{i}{name}")
            header.size = len(jpeg(i))
            tar.addfile(header, io.BytesIO(jpeg(i)))
    source = source_at(tmp_path / "0.tar")

    assert [source.read_image(r) for r in source.records()] == [jpeg(i) for i in range(3)]


def test_samples_of_the_same_name_in_two_tars_are_two(tmp_path):
    for tar in ("train-0", "train-1", "val-0"):
        write_tar(tmp_path / f"{tar}.tar", {"0.jpg": jpeg(), "0.txt": tar})

    records = listed(tmp_path, validation_files="val-*.tar")

    assert {n: r.split for n, r in records.items()} == {
        "train-0.tar/0.jpg": "train",
        "train-1.tar/0.jpg": "train",
        "val-0.tar/0.jpg": "validation",
    }
    assert len(listed(f"{tmp_path}/train-{{0..1}}.tar")) == 2
    assert len(listed(tmp_path / "*-0.tar")) == 2


def test_what_lacks_its_image_or_caption_is_listed_so_that_it_is_counted(tmp_path):
    tar = write_tar(tmp_path / "0.tar", {"a.jpg": jpeg(), "b.txt": "alone", "c.jpg": b""})
    source = source_at(tar)

    records = listed(tar)

    assert records["0.tar/a.jpg"].texts == ()
    assert records["0.tar/b"].location == ""
    assert source.read_image(records["0.tar/c.jpg"]) == b""


def test_endings_and_a_deeper_key_can_be_chosen_and_others_are_counted(tmp_path):
    named = {"a.input.jpg": jpeg(), "a.outputs.txt": "x"}
    tar = write_tar(tmp_path / "0.tar", named)

    with pytest.raises(ValueError, match=r"members: 1 \.input\.jpg, 1 \.outputs\.txt\. Choose"):
        listed(tar)
    source = source_at(tar, image_ending="input.jpg", caption_ending=".outputs.txt")
    assert [outcome(source, r) for r in source.records()] == [([b"x"], jpeg())]
    tar = write_tar(tmp_path / "1.tar", {"a.jpg": jpeg(), "a.caption.txt": "x", "a.cls": "3"})
    with counting() as aside:
        assert [r.texts for r in source_at(tar).records()] == [()]
    assert aside.as_plain() == {"members": {".caption.txt": 1, ".cls": 1}}
    tar = write_tar(tmp_path / "2.tar", {"a.jpg": jpeg(), "a.json": '{"meta": {"said": "x"}}'})
    source = source_at(tar, caption_key="meta.said")
    assert [source.read_captions(r) for r in source.records()] == [["x"]]
    (record,) = source_at(tar).records()
    with pytest.raises(RejectedError, match=r"2\.tar/a\.json has no 'caption'.*there: 'meta'"):
        source_at(tar).read_captions(record)


def test_an_empty_text_falls_back_to_json_and_a_text_can_be_one_caption(tmp_path):
    members: dict[str, bytes | str] = {f"{name}.jpg": jpeg() for name in "abc"}
    members |= {"a.txt": "", "a.json": '{"caption": "from json"}'}
    members |= {"b.txt": " ", "b.json": '{"caption": null}', "c.txt": "a boat\nby the sea\n"}
    tar = write_tar(tmp_path / "0.tar", members)

    for lines, last in (
        (None, [b"a boat", b"by the sea"]),
        ("one-caption", [b"a boat by the sea"]),
    ):
        source = source_at(tar, text_lines=lines)
        read = [source.read_captions(r) for r in source.records()]
        assert read == [["from json"], [], last]


def test_links_devices_and_names_that_lead_out_are_never_followed(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            header = tarfile.TarInfo(f"{kind.decode()}.jpg")
            header.type, header.linkname = kind, "/etc/passwd"
            tar.addfile(header)
        header = tarfile.TarInfo("../../etc/x.jpg")
        header.size = len(jpeg())
        tar.addfile(header, io.BytesIO(jpeg()))
    source = source_at(tmp_path / "0.tar")

    (record,) = source.records()

    assert record.id == "0.tar/../../etc/x.jpg"
    assert source.read_image(record) == jpeg()


@pytest.mark.parametrize("cut", ["in data", "in a header", "header changed"])
def test_a_damaged_tar_gives_what_is_complete_and_one_reject(tmp_path, cut):
    tar = write_tar(tmp_path / "0.tar", {f"{i}.jpg": jpeg(i) for i in range(3)})
    with tarfile.open(tar) as whole:
        last = whole.getmembers()[-1]
    content = bytearray(tar.read_bytes())
    if cut == "in data":
        del content[last.offset_data + 100 :]
    elif cut == "in a header":
        del content[last.offset + 100 :]
    else:
        content[last.offset : last.offset + 200] = b"x" * 200
    tar.write_bytes(content)
    source = source_at(tar)

    records = listed(tar)

    assert set(records) == {"0.tar", "0.tar/0.jpg", "0.tar/1.jpg"}
    assert source.read_image(records["0.tar/1.jpg"]) == jpeg(1)
    for read in (source.read_captions, source.read_image):
        with pytest.raises(RejectedError, match=r"TAR_CUT: .*0\.tar is (cut short|damaged)"):
            read(records["0.tar"])


def test_a_caption_too_large_is_refused_unread(tmp_path):
    tar = write_tar(tmp_path / "0.tar", {"a.jpg": jpeg(), "a.txt": "x" * 70_000})
    source = source_at(tar)

    (record,) = source.records()

    with pytest.raises(RejectedError, match=r"CAP_TOO_LONG: 0\.tar/a\.txt has 70,000 bytes"):
        source.read_captions(record)


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("first", [True, False])
def test_a_header_of_megabytes_is_refused_unread(tmp_path, kind, first):
    with tarfile.open(tmp_path / "0.tar", "w", format=kind) as tar:
        for name in ["x" * 3_000_000, "b"] if first else ["b", "x" * 3_000_000]:
            content = jpeg()
            member = tarfile.TarInfo(f"{name}.jpg")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))

    if first:
        with pytest.raises(ValueError, match=r"a header of 3,\d+,\d+ bytes, at most 1,048,576 are"):
            listed(tmp_path / "0.tar")
    else:
        refused = listed(tmp_path / "0.tar")["0.tar"]
        with pytest.raises(RejectedError, match=r"TAR_CUT: .*a header of 3,\d+,\d+ bytes"):
            source_at(tmp_path / "0.tar").read_image(refused)


def test_an_image_too_large_is_rejected_unread(tmp_path):
    tar = write_tar(tmp_path / "0.tar", {"a.jpg": bytes(MAX_BYTES + 1), "a.txt": "x"})
    source = source_at(tar)

    (record,) = source.records()

    with pytest.raises(RejectedError, match=f"IMG_TOO_LARGE: {MAX_BYTES + 1} bytes, at most"):
        source.read_image(record)


def test_what_is_wrong_with_the_tars_is_said(tmp_path):
    whole = write_tar(tmp_path / "0.tar", {"a.txt": "x"}).read_bytes()
    with pytest.raises(ValueError, match="no tar holds an image"):
        listed(tmp_path)
    write(tmp_path / "0.tar", gzip.compress(whole))
    with pytest.raises(ValueError, match=r"0\.tar is not a tar file that can be read: .*Copy it"):
        listed(tmp_path)
    write(tmp_path / "0.tar", "")
    with pytest.raises(ValueError, match=r"0\.tar is not a tar file that can be read: empty file"):
        listed(tmp_path)
    (tmp_path / "0.tar").rename(tmp_path / "0.tar.gz")
    with pytest.raises(ValueError, match=r"0\.tar\.gz is compressed.*Unpack it to a \.tar"):
        listed(tmp_path)
    with pytest.raises(ValueError, match=r"nowhere does not exist\. Name a file, a folder"):
        listed(tmp_path / "nowhere")


MEMBERS = {
    "plain": (("jpg", "txt"), {}),
    "named": (("in.jpg", "out.txt"), {"image_ending": "in.jpg", "caption_ending": "out.txt"}),
    "captions named": (("jpg", "caption.txt"), {"caption_ending": "caption.txt"}),
    "another image": (("seg.png", "jpg", "txt"), {}),
}


@pytest.mark.parametrize("case", MEMBERS)
def test_endings_of_members_are_recognised(case, tmp_path):
    endings, options = MEMBERS[case]
    is_text = {ending: ending.endswith("txt") for ending in endings}
    members = {f"{n}.{e}": "a cat" if is_text[e] else jpeg(n) for n in range(3) for e in endings}
    write_tar(tmp_path / "a.tar", members)

    (fit,) = WebDatasetSource.recognise(look_at(str(tmp_path), Folder(str(tmp_path))))

    assert fit.options == options
    source = WebDatasetSource(root=str(tmp_path), **fit.options)
    assert [source.read_captions(r) for r in source.records()] == [[b"a cat"]] * 3


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({"caption": "a cat"}, {}),
        ({"width": 3, "meta": {"en": {"text": ["a cat"]}}}, {"caption_key": "meta.en.text"}),
        ({"width": 3, "caption": None}, None),
    ],
)
def test_the_key_of_captions_in_json_is_recognised(content, key, tmp_path):
    write_tar(tmp_path / "a.tar", {"1.jpg": jpeg(), "1.json": json.dumps(content)})

    (found,) = WebDatasetSource.recognise(look_at(str(tmp_path), Folder(str(tmp_path))))

    if key is None:
        assert found == "a.tar has no caption in its .json: name its key with --caption-key"
        return
    source = WebDatasetSource(root=str(tmp_path), **found.options)
    assert found.options == key
    assert [source.read_captions(r) for r in source.records()] == [["a cat"]]


def test_tars_of_different_members_are_recognised_each_in_its_folder(tmp_path):
    write_tar(tmp_path / "x/train-0.tar", {"1.jpg": jpeg(), "1.txt": "a cat"})
    write_tar(tmp_path / "x/val-0.tar", {"1.jpg": jpeg(), "1.txt": "a cat"})
    write_tar(tmp_path / "y/a.tar", {"1.jpg": jpeg(), "1.cap.txt": "a cat"})

    found = list(WebDatasetSource.recognise(look_at(str(tmp_path), Folder(str(tmp_path)))))

    assert [fit.options for fit in found] == [
        {"root": f"{tmp_path}/x", "validation_files": "val*"},
        {"root": f"{tmp_path}/y", "caption_ending": "cap.txt"},
    ]
