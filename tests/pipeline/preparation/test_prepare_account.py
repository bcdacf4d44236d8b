"""Whole preparations of random originals: each file, row and caption is written, rejected or said.

A preparation runs in this process, without Ray: the functions that Ray calls, one after another.
"""

import io
import json
import os
import tempfile
import unicodedata
import uuid
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from pipeline.cli.inspect_data import InspectConfig, inspect
from pipeline.data.manifest import MANIFEST, Shard
from pipeline.preparation.config import PrepareConfig
from pipeline.preparation.decoding.isolated_decoder import Decoder
from pipeline.preparation.duplicates import DropRepeats, find_repeats
from pipeline.preparation.listing import list_originals, read_part
from pipeline.preparation.prepare import prepare
from pipeline.preparation.shards import MakeShard, Recipe, read_rejects
from pipeline.preparation.sources.coco import CocoSource
from pipeline.preparation.sources.cub import CubSource
from pipeline.preparation.sources.folder import FolderSource
from pipeline.preparation.sources.table import TableSource
from pipeline.preparation.sources.webdataset import WebDatasetSource
from pipeline.preparation.text_encoders import EncoderRef
from pipeline.storage.folder import Folder
from tests.conftest import REAL_DATA, encoded, photo
from tests.pipeline.preparation.sources.layouts import write, write_tar

SIZE = 20  # pixels of the prepared images
PICTURES = [encoded(photo(20, 20, seed=n), kind) for n, kind in enumerate(("JPEG", "PNG", "WEBP"))]
PICTURES += [encoded(photo(20, 20, seed=9), "GIF"), PICTURES[0][:200], b"", b"no picture"]
FORMS = {form: unicodedata.normalize(form, "é") for form in ("NFC", "NFD")}
# Without a search for the smallest example, which takes minutes.
PHASES = (Phase.explicit, Phase.generate)
MANY = settings(max_examples=50, deadline=None, derandomize=True, database=None, phases=PHASES)


@pytest.fixture(scope="module")
def decoder():
    return Decoder(SIZE, 90)


class Prepared:
    """What a preparation has written, rejected and left aside."""

    def __init__(self, source, decoder):
        folder = Folder(f"memory://account-{uuid.uuid4().hex}")  # a disk takes longer to be safe
        self.listing = list_originals(source, 4, None, folder)
        parts = self.listing.parts
        self.records = {r.id: r for part in parts for r in read_part(folder, part)}
        recipe = Recipe(
            source=source,
            folder=folder,
            encoder=EncoderRef("minilm"),
            cache_size=SIZE,
            quality=90,
            row_group_rows=4,
            digest="",
            fingerprint=self.listing.fingerprint,
        )
        make = MakeShard(recipe)
        make._decoder = decoder  # its child process takes longer to start than all else together
        shards = [Shard.model_validate_json(make(asdict(part))["shard"]) for part in parts]
        for each in find_repeats(folder, parts, across=True) if parts else ():
            shard = Shard.model_validate_json(DropRepeats(recipe)(each.as_item())["shard"])
            shards = [shard if old.file == shard.file else old for old in shards]
        tables = [pq.read_table(io.BytesIO(folder.read(shard.file))) for shard in shards]
        self.written = [row for table in tables for row in table.to_pylist()]
        self.rejects = [row for part in parts for row in read_rejects(folder, part)]
        self.aside = self.listing.left_aside
        self.seen = sum(shard.seen for shard in shards)
        folder.remove()

    def captions(self):
        return Counter(text for row in self.written for text in row["captions"])

    def check(self):
        """What holds for every preparation."""
        rejected = [row["id"] for row in self.rejects if row["kind"] == "image"]
        written = [row["id"] for row in self.written]
        assert self.seen == self.listing.rows == len(written) + len(rejected)
        assert sorted(written + rejected) == sorted(self.records)  # once each
        assert len({row["digest"] for row in self.written}) == len(self.written)
        assert all(row["reason"] and row["detail"] for row in self.rejects)


def caption(number, line):
    return f"caption {number} of line {line}"


def content(kind, number):
    """What a caption file holds, and the captions in it that can be used."""
    good = [caption(number, 0), caption(number, 1)]
    return {
        "lines": ("\r\n".join(good).encode("utf-8-sig"), good),
        "blank": (b"\n \n", []),
        "one bad": (f"{good[0]}\n".encode() + b"caf\xe9\n...\n", good[:1]),
        "utf-16": ("\n".join(good).encode("utf-16"), []),
        "utf-16, no mark": ("\n".join(good).encode("utf-16-le"), []),
        "hidden": (f"{good[0][:3]}\u200b{good[0][3:]}\u202e".encode(), good[:1]),
        "list": (json.dumps([good[0], None, "", good[1]]).encode(), good),
        "object": (json.dumps({"caption": None, "text": good[0]}).encode(), good[:1]),
        "number": (json.dumps({"caption": 3}).encode(), []),
    }[kind]


TEXTS = ["lines", "blank", "one bad", "utf-16", "utf-16, no mark", "hidden"]
JSONS = ["list", "object", "number"]
ENDINGS = [".jpg", ".PNG", ".webp", ".gif", "", ".raw", ".npy", ".md", ".txt", ".caption", ".json"]
NAMES = st.tuples(
    st.lists(st.sampled_from(["train", "val", "a", *FORMS.values(), ".git"]), max_size=2),
    st.sampled_from(["a", "b", *FORMS.values(), "a.jpg", "._a"]),
    st.sampled_from(ENDINGS),
).map(lambda parts: "/".join([*parts[0], parts[1] + parts[2]]))
TREES = st.dictionaries(NAMES, st.integers(0, 30), min_size=2, max_size=14)
LINKS = st.lists(
    st.tuples(NAMES, st.sampled_from(["..", ".", "nowhere", "a", "a/a.jpg"])), max_size=3
)


def lay_out(root: Path, tree, links) -> dict[str, list[str]]:
    """Write a tree; return the usable captions of each caption file by its real path."""
    usable = {}
    for number, (name, seed) in enumerate(tree.items()):
        if (root / name).is_dir() or any((root / p).is_file() for p in Path(name).parents):
            continue
        ending = os.path.splitext(name)[1]
        if ending in (".txt", ".caption", ".json"):
            kinds = JSONS if ending == ".json" else TEXTS
            data, captions = content(kinds[seed % len(kinds)], number)
            usable[str(write(root / name, data))] = captions
        else:
            write(root / name, PICTURES[seed % len(PICTURES)])
    for name, target in links:
        link = root / name
        if not os.path.lexists(link) and link.parent.is_dir():
            link.symlink_to(root / target if target[0] == "a" else target)
    return usable


def files_below(folder: Path, around=()) -> list[Path]:
    """Find all files, through links too, unless they lead back."""
    found = []
    around = (*around, os.path.realpath(folder))
    for path in sorted(folder.iterdir()):
        if not path.is_dir():
            found.append(path)
        elif not any(f"{each}/".startswith(f"{os.path.realpath(path)}/") for each in around):
            found += files_below(path, around)
    return found


@MANY
@given(TREES, LINKS)
@example({"a/a.jpg": 0, "a/b.jpg": 0, "a/a.txt": 0, "a/b.txt": 0}, [("a/x", ".."), ("y.md", "a")])
@example({f"{FORMS['NFD']}.jpg": 1, f"{FORMS['NFC']}.txt": 0, "a.json": 0, "a.txt": 1}, [])
def test_a_folder_is_accounted_for_file_by_file(decoder, tree, links):
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "root"
        root.mkdir()
        usable = lay_out(root, tree, links)
        files = {str(path.relative_to(root)): path for path in files_below(root)}
        try:
            done = Prepared(FolderSource(root=str(root)), decoder)
        except ValueError as error:
            if "holds no images" not in str(error):
                raise
            return

        done.check()
        images = [r.location for r in done.records.values() if r.location]
        texts = {text for r in done.records.values() for text in r.texts}
        assert len(images) == len(set(images))
        assert {*images, *texts} <= set(files)
        aside = done.aside.get("files", {})
        assert len(files) == len(images) + len(texts) + sum(aside.values()), aside
        for row in done.written:
            names = done.records[row["id"]].texts
            read = {n: usable[os.path.realpath(files[n])] for n in names}
            plain = [c for n, captions in read.items() if not n.endswith(".json") for c in captions]
            every = [c for captions in read.values() for c in captions]
            assert sorted(row["captions"]) == sorted(plain or every)


IMAGES = [
    "0.jpg",
    "1.png",
    "2.webp",
    "3.gif",
    "4.jpg",
    f"{FORMS['NFC']}.jpg",
    f"{FORMS['NFD']}.jpg",
]
IMAGES += ["./0.jpg", "sub/../0.jpg", "gone.jpg", "", "nan", "https://a.example/1.jpg"]
SPLITS = ["train", "VAL", " test ", "odd", ""]
WAYS = ["text", "list", "python", "numpy", "nan list", "quoted", "broken", "nan", "N/A", "", "..."]
ROWS = st.lists(
    st.tuples(st.sampled_from(IMAGES), st.sampled_from(WAYS), st.sampled_from(SPLITS)),
    min_size=1,
    max_size=10,
)


def cell(way, number):
    """What a cell of captions holds, and the captions in it."""
    one, two = caption(number, 0), caption(number, 1)
    return {
        "text": (one, [one]),
        "list": (json.dumps([one, None, two]), [one, two]),
        "python": (repr((one, two)), [one, two]),
        "numpy": (f"['{one}'\n '{two}']", [one, two]),
        "nan list": (f"[nan, '{one}']", [one]),
        "quoted": (f'"{one}", she said\n{two}', [f'"{one}", she said {two}']),
        "broken": (f"[{{'raw': '{one}', 'tokens': array(1)}}]", []),
    }.get(way, (way, []))


def write_rows(path: Path, rows) -> Path:
    """Write rows as the ending says; a word for nothing is nothing where there is such a thing."""
    columns = list(rows[0])
    if path.suffix in (".csv", ".tsv"):
        mark, line = ("\t", "\n") if path.suffix == ".tsv" else (",", "\r\n")

        def field(text):
            if path.suffix == ".tsv":
                return text.replace("\n", " ")
            return '"' + text.replace('"', '""') + '"' if set(text) & set('",\n') else text

        lines = [mark.join(columns)] + [mark.join(map(field, r.values())) for r in rows]
        return write(path, line.join(lines).encode("utf-8-sig"))
    rows = [{k: None if v in ("nan", "N/A") else v for k, v in row.items()} for row in rows]
    if path.suffix == ".jsonl":
        return write(path, "\n".join(map(json.dumps, rows)))
    pq.write_table(pa.Table.from_pylist(rows, pa.schema([(c, pa.string()) for c in columns])), path)
    return path


@MANY
@given(ROWS, st.sampled_from([".csv", ".tsv", ".jsonl", ".parquet"]), st.booleans())
@example([("0.jpg", "text", "train"), ("./0.jpg", "list", "train")], ".csv", False)
@example([(n, "text", "") for n in IMAGES[5:7]], ".parquet", False)
def test_a_table_is_accounted_for_row_by_row(decoder, rows, ending, by_split):
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "root"
        for number, name in enumerate(IMAGES[:6]):
            write(root / name, PICTURES[number % 5])
        write(root / "unnamed.jpg", PICTURES[0])
        cells = [cell(way, number) for number, (_, way, _) in enumerate(rows)]
        values = [
            {"image": image, "caption": text, "part": split}
            for (image, _, split), (text, _) in zip(rows, cells, strict=True)
        ]
        write_rows(root / f"rows{ending}", values)
        options = {"split": "part"} if by_split else {}
        try:
            done = Prepared(TableSource(root=str(root), **options), decoder)
        except ValueError as error:
            if "occurs twice, as split" not in str(error):
                raise
            return  # its rows say two splits

        def is_refused(image, text):
            nothing = ("", "nan", "N/A")
            return "array(1)" in text or (image in nothing and text in nothing)

        rows = [
            (image, text, captions, is_refused(image, text), by_split and split in ("odd", ""))
            for (image, _, split), (text, captions) in zip(rows, cells, strict=True)
        ]
        skipped = [odd and not refused for *_, refused, odd in rows]
        named = {
            plain(row[0]) for row, skip in zip(rows, skipped, strict=True) if not (skip or row[3])
        }
        said = [
            " ".join(one.split())
            for row, skip in zip(rows, skipped, strict=True)
            for one in row[2]
            if not skip
        ]
        done.check()
        locations = [plain(r.location) for r in done.records.values() if r.location]
        assert len(locations) == len(set(locations))  # rows of one image are joined
        unnamed = {*IMAGES[:6], "unnamed.jpg"} - named
        assert sum(done.aside.get("files", {}).values()) == len(unnamed)
        assert sum(done.aside.get("rows", {}).values()) == sum(skipped)
        rejected = [row["id"] for row in done.rejects if row["kind"] == "image"]
        lost = {" ".join(c.split()) for name in rejected for c in done.records[name].captions}
        assert set(done.captions()) == set(said) - lost
        assert lost <= set(said) | {"..."}


def plain(name):
    return unicodedata.normalize("NFC", name.removeprefix("./"))


PARTS = st.sampled_from(["", "a/", f"{FORMS['NFC']}/", f"{FORMS['NFD']}/"])
KINDS = ["jpg", "PNG", "webp", "gif", "seg.png", "txt", "caption", "json", "cls", "input.jpg"]
MEMBERS = st.dictionaries(
    st.builds(
        "{}{}.{}".format,
        PARTS,
        st.sampled_from(["0", "1", *FORMS.values(), "._0"]),
        st.sampled_from(KINDS),
    ),
    st.integers(0, 30),
    min_size=2,
    max_size=12,
)


@MANY
@given(MEMBERS, st.integers(0, 3))
@example({f"{FORMS['NFC']}.jpg": 0, f"{FORMS['NFD']}.txt": 0, "0.jpg": 1, "0.json": 0}, 0)
def test_a_tar_is_accounted_for_member_by_member(decoder, members, cut):
    with tempfile.TemporaryDirectory() as place:
        usable, held = {}, {}
        for number, (name, seed) in enumerate(members.items()):
            ending = name.rpartition(".")[2]
            if ending in ("txt", "caption", "json"):
                kinds = JSONS if ending == "json" else TEXTS
                held[name], usable[name] = content(kinds[seed % len(kinds)], number)
            else:
                held[name] = PICTURES[seed % len(PICTURES)]
        tar = write_tar(Path(place) / "in/0.tar", held)
        whole = tar.read_bytes()
        if cut == 1:  # in the last header, which is all that is lost: see TAR_CUT
            tar.write_bytes(whole.rstrip(b"\0")[:-700])
        write(tar.parent / "0_stats.json", "{}")
        try:
            done = Prepared(WebDatasetSource(root=str(tar.parent)), decoder)
        except ValueError as error:
            if "no tar holds an image" not in str(error) and "not a tar file" not in str(error):
                raise
            return

        done.check()
        assert done.aside["files"] == {".json": 1}
        is_cut = [row for row in done.rejects if row["reason"] == "TAR_CUT"]
        records = [r for r in done.records.values() if r.id != "0.tar"]
        used = sum(bool(r.location) for r in records) + len({t for r in records for t in r.texts})
        aside = sum(done.aside.get("members", {}).values())
        assert len(is_cut) == (cut == 1)
        assert used + aside <= len(members) if is_cut else used + aside == len(members)
        assert set(done.captions()) <= {c for captions in usable.values() for c in captions}
        for row in done.written:
            stem = composed_stem(row["id"].removeprefix("0.tar/"))
            beside = [n for n in usable if composed_stem(n) == stem]
            options = []
            for form in {n.rpartition(".")[0] for n in beside}:  # each is a sample of its own
                names = [n for n in beside if n.rpartition(".")[0] == form]
                texts = [c for n in names if not n.endswith(".json") for c in usable[n]]
                options.append(sorted(texts or [c for n in names for c in usable[n]]))
            assert is_cut or sorted(row["captions"]) in options


def composed_stem(name):
    parent, _, base = plain(name).rpartition("/")
    return parent, base.partition(".")[0]


READ = {"coco": 2, "cub/birds": 4, "emoji": 0, "emojitwo": 0}  # lists, not images and captions
BESIDE = {"coco": 1, "cub/birds": 6, "emoji": 2, "emojitwo": 0}


@pytest.mark.rest
@pytest.mark.skipif(not (REAL_DATA / "coco").is_dir(), reason="the real images are not here")
@pytest.mark.parametrize("name", READ)
def test_real_originals_are_accounted_for_file_by_file(decoder, name):
    root = REAL_DATA / name
    source = {
        "coco": CocoSource(root=str(root)),
        "cub/birds": CubSource(root=str(root)),
        "emoji": FolderSource(root=str(root), images="images", captions="text"),
        "emojitwo": FolderSource(root=str(root)),
    }[name]

    done = Prepared(source, decoder)

    done.check()
    files = sum(len(names) for _, _, names in os.walk(root))
    images = sum(bool(record.location) for record in done.records.values())
    texts = len({text for record in done.records.values() for text in record.texts})
    beside = done.aside.get("files and folders", {}).get("beside what is read", 0)
    assert beside == BESIDE[name]
    assert files == images + texts + READ[name] + beside + sum(done.aside.get("files", {}).values())
    assert Counter(row["reason"] for row in done.rejects) == (
        Counter(ORPHAN_IMAGE=2023, ORPHAN_CAPTION=1) if name == "emojitwo" else Counter()
    )


@pytest.mark.slow
@pytest.mark.rest
def test_the_whole_preparation_says_and_records_what_is_left_aside(ray_session, tmp_path, capsys):
    root, output = tmp_path / "root", tmp_path / "out"
    for number in range(6):
        write(root / f"a/{number}.png", encoded(photo(20, 20, seed=number), "PNG"))
        write(root / f"a/{number}.txt", f"picture {number}\nthe {number}th of them")
    write(root / "a/6.png", encoded(photo(20, 20, seed=6), "PNG"))
    write(root / "a/6.txt", " \n")
    for name in ("README.md", ".DS_Store", "a/0.json", "cut.jpg"):
        write(root / name, PICTURES[4])
    (root / "a/again").symlink_to("..")
    options = {"image_size": 16, "margin": 1, "sentence_dim": 2, "max_rejects": "50%"}
    source = FolderSource(root=str(root), validation=0)
    config = PrepareConfig(source=source, output=str(output), **options)

    manifest = prepare(config)

    expected = {
        "caption files": {".json beside a text, read only if that is empty": 1},
        "files": {".md": 1, "hidden": 1},
        "files and folders": {"links that lead back": 1},
    }
    assert manifest.left_aside == expected
    assert (
        "seen 8 = written 6 + rejected 2 (CAP_EMPTY 1, ORPHAN_IMAGE 1); left aside: "
        in capsys.readouterr().out
    )
    report = inspect(InspectConfig(data=str(output), output=str(tmp_path / "report")))
    assert report["left_aside"] == expected
    assert "2 files (.md 1, hidden 1)" in capsys.readouterr().out

    # A dataset that was prepared before this was counted is complete, and a repair leaves it so.
    older = json.loads((output / MANIFEST).read_text())
    del older["left_aside"]
    (output / MANIFEST).write_text(json.dumps(older))
    write(root / "more.md", "")
    assert prepare(config) == manifest.model_copy(update={"left_aside": None})
    prepare(config.model_copy(update={"repair": True}))
    assert json.loads((output / MANIFEST).read_text()) == older
    assert "left aside: not counted" in capsys.readouterr().out
