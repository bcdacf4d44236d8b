"""Datasets of Hugging Face, written and read back by its own package."""

import json
import random
import shlex
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.cli.main import parse
from pipeline.preparation.config import PrepareConfig
from pipeline.preparation.decoding.images import RejectedError
from pipeline.preparation.sources.folder import FolderSource
from pipeline.preparation.sources.huggingface import HuggingFaceSource
from pipeline.preparation.sources.huggingface_card import matches
from pipeline.preparation.sources.huggingface_files import find_dataset
from pipeline.preparation.sources.left_aside import counting
from pipeline.preparation.sources.table import TableSource
from pipeline.storage.folder import Folder
from tests.pipeline.preparation.sources.layouts import jpeg, write, write_table

OURS = {"train": "train", "validation": "validation", "test": "validation"}
COUNTS = {"train": 5, "test": 3}
FIRST = {"train": 0, "test": 10, "validation": 20, "extra": 30}


def caption(number):
    return f"picture {number}, größer"


def numbers(split, count):
    return range(FIRST[split], FIRST[split] + count)


@pytest.fixture(scope="module")
def hf(tmp_path_factory):
    """The package `datasets`, without network, and what to write its datasets from."""
    cache = tmp_path_factory.mktemp("hf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(cache))
        patch.setenv("HF_DATASETS_CACHE", str(cache / "datasets"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        import datasets
        import datasets.data_files

        datasets.disable_progress_bars()

        def rows(split, count, column="text", /, **more):
            cells = [{"bytes": jpeg(n), "path": f"{n}.jpg"} for n in numbers(split, count)]
            texts = [caption(n) for n in numbers(split, count)]
            made = datasets.Dataset.from_dict({"image": cells, column: texts, **more})
            return made.cast_column("image", datasets.Image())

        def load(root, *args, **options):
            return datasets.load_dataset(str(root), *args, cache_dir=str(cache / "read"), **options)

        yield SimpleNamespace(datasets=datasets, rows=rows, load=load, cache=cache)


def theirs(hf, loaded, text="text"):
    """Return what `datasets` reads: split → count of images with their captions."""
    found = {}
    for split, rows in loaded.items():
        raw = rows.cast_column("image", hf.datasets.Image(decode=False))
        pairs = found.setdefault(OURS[split], Counter())
        for row in raw:
            content = row["image"]["bytes"] or Path(row["image"]["path"]).read_bytes()
            texts = row[text] if isinstance(row[text], list) else [row[text]]
            pairs[content, tuple(texts)] += 1
    return found


def ours(root, **options):
    source = HuggingFaceSource(root=str(root), **options)
    found = {}
    for record in source.records():
        pairs = found.setdefault(record.split, Counter())
        pairs[source.read_image(record), record.captions] += 1
    return found


def listed(root, **options):
    options = {"validation": 0, **options}
    return list(HuggingFaceSource(root=str(root), **options).records())


def write_images(root, split, count, place=""):
    for n in numbers(split, count):
        write(root / f"{place}{n}.jpg", jpeg(n))


def write_metadata(hf, root, ending, split, count, place="", column="file_name"):
    rows = [{column: f"{place}{n}.jpg", "text": caption(n)} for n in numbers(split, count)]
    table = hf.datasets.Dataset.from_list(rows)
    root.mkdir(parents=True, exist_ok=True)
    write_as = {
        "jsonl": table.to_json,
        "csv": lambda path: table.to_csv(path, index=False),
        "parquet": table.to_parquet,
    }
    write_as[ending](str(root / f"metadata.{ending}"))


def card(root, text):
    write(root / "README.md", f"---\n{text}\n---\n# Birds\n")


def image_folder(ending, column="file_name"):
    def lay(hf, root):
        for split, count in COUNTS.items():
            write_images(root / split, split, count)
            write_metadata(hf, root / split, ending, split, count, column=column)

    return lay


def image_folder_with_card(hf, root):
    for place, split, count in (("a", "train", 5), ("b", "test", 3)):
        write_images(root / place, split, count, "deeper/")
        write_metadata(hf, root / place, "jsonl", split, count, "deeper/")
    files = "[{split: train, path: a/**}, {split: test, path: b/**}]"
    card(root, f"configs: [{{config_name: default, data_files: {files}}}]")


def one_split(hf, root):
    write_images(root, "train", 5, "pics/")
    write_metadata(hf, root, "jsonl", "train", 5, "pics/")


def pushed(hf, root):
    """Write what push_to_hub uploads: numbered parquet and a card."""
    for split, count in COUNTS.items():
        shards = 2 if split == "train" else 1
        for n in range(shards):
            part = hf.rows(split, count).shard(shards, n, contiguous=True)
            path = root / f"data/{split}-{n:05d}-of-{shards:05d}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            part.to_parquet(str(path))
    card(
        root,
        "configs:\n- config_name: default\n  data_files:\n  - split: train\n"
        "    path: data/train-*\n  - split: test\n    path: data/test-*",
    )
    write(root / ".gitattributes", "*.parquet filter=lfs")


def pushed_without_card(hf, root):
    pushed(hf, root)
    (root / "README.md").unlink()


def parquet_in(**places):
    def lay(hf, root):
        for split, place in places.items():
            (root / place).parent.mkdir(parents=True, exist_ok=True)
            hf.rows(split, COUNTS.get(split, 3)).to_parquet(str(root / place))

    return lay


def parquet_of_a_folder(hf, root):
    parquet_in(train="sub/train.parquet", test="sub/test.parquet", validation="x.parquet")(hf, root)
    card(root, "configs: [{config_name: default, data_dir: ./sub}]")


def pushed_with_pictures_of_its_page(hf, root):
    pushed(hf, root)
    write(root / "assets/logo.png", jpeg(80))
    write(root / "assets/metadata.csv", "what,by\nlogo,me\n")


def hub_cache(hf, root):
    pushed(hf, root / "snapshots/0123abcd")
    for n, file in enumerate(sorted(p for p in root.rglob("*") if p.is_file())):
        blob = root / f"blobs/{n:064x}"
        blob.parent.mkdir(exist_ok=True)
        file.rename(blob)
        file.symlink_to(blob)
    write(root / "refs/main", "0123abcd")


LAYOUTS = {
    "metadata.jsonl": image_folder("jsonl"),
    "metadata.csv": image_folder("csv"),
    "metadata.parquet": image_folder("parquet"),
    "image_file_name": image_folder("jsonl", "image_file_name"),
    "image folder, card": image_folder_with_card,
    "image folder, one split": one_split,
    "pushed": pushed,
    "pushed, no card": pushed_without_card,
    "pushed, pictures": pushed_with_pictures_of_its_page,
    "folders": parquet_in(train="data/train/0.parquet", test="data/test/0.parquet"),
    "converted": parquet_in(train="default/train/0000.parquet", test="default/test/0000.parquet"),
    "names": parquet_in(train="birds-train.parquet", test="eval.parquet"),
    "three splits": parquet_in(
        train="train.parquet", validation="dev.parquet", test="test.parquet"
    ),
    "one file": parquet_in(train="birds.parquet"),
    "data_dir": parquet_of_a_folder,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_splits_images_and_captions_are_those_that_datasets_loads(hf, layout, tmp_path):
    LAYOUTS[layout](hf, tmp_path / "birds")

    expected = theirs(hf, hf.load(tmp_path / "birds"))

    share = {"validation": 0} if len(expected) == 1 else {}  # it has no other split to hold out
    assert ours(tmp_path / "birds", **share) == expected
    assert sum(expected["train"].values()) == COUNTS["train"]


WORDS = ("train", "test", "validation", "val", "dev", "eval", "training", "extra", "data", "trains")


def random_name(chance):
    """Return words as names of datasets join them."""
    between = chance.choice(["-", "_", ".", " ", "0", ""])
    return between.join(chance.choice(WORDS) for _ in range(chance.randint(1, 3)))


@pytest.mark.parametrize("seed", range(40))
def test_the_split_of_any_name_is_the_one_that_datasets_reads_in_it(hf, seed, tmp_path):
    chance = random.Random(seed)
    for _ in range(chance.randint(1, 5)):
        folders = [random_name(chance) for _ in range(chance.choice([0, 0, 1, 1, 2]))]
        folder = "/".join(folders) if chance.random() < 0.7 else "data"
        shard = f"-{chance.randint(0, 1):05d}-of-00002" if chance.random() < 0.4 else ""
        write(tmp_path / folder / f"{random_name(chance)}{shard}.parquet", b"")

    found = dict(find_dataset(Folder(str(tmp_path)), None).tables)

    assert found
    files = hf.datasets.data_files
    try:
        patterns = files.get_data_patterns(str(tmp_path))
    except ValueError as error:  # it reads nothing of a dataset with such a name
        assert "Split name should match" in str(error)  # noqa: PT017
        return
    by_split = files.DataFilesDict.from_patterns(
        patterns, base_path=str(tmp_path), allowed_extensions=[".parquet"]
    )
    expected = {}
    for split, names in by_split.items():
        for name in names:
            expected.setdefault(str(Path(name).relative_to(tmp_path)), set()).add(str(split))
    assert found.keys() == expected.keys()
    # Where a name has two words, `datasets` reads the file twice; the first word decides here.
    assert all((split or "train") in expected[name] for name, split in found.items())


def test_a_pattern_of_a_card_matches_the_files_that_datasets_finds(hf, tmp_path):
    chance = random.Random(0)
    names = ("train", "a", "b", "ab", "x-1", "train-0")
    parts = ("*", "**", "a*", "*b", "train-*", "[ab]", "?", "*-?", "train", "x-[0-9]", "{a,b}")
    ends = ("*.parquet", "**", "*", "a.parquet", "train-*", "[ab]*")
    files = set()
    for _ in range(30):
        folders = [chance.choice(names) for _ in range(chance.choice([0, 1, 1, 2]))]
        files.add("/".join([*folders, f"{chance.choice(names)}.parquet"]))
    for file in files:
        write(tmp_path / file, b"")

    for _ in range(200):
        pattern = "/".join([*(chance.choice(parts) for _ in range(chance.randint(0, 2)))])
        pattern = f"{pattern}/{chance.choice(ends)}".lstrip("/")
        try:
            found = hf.datasets.data_files.resolve_pattern(pattern, str(tmp_path))
        except FileNotFoundError:
            found = []
        expected = {str(Path(file).relative_to(tmp_path)) for file in found}
        assert {file for file in files if matches(file, pattern)} == expected, pattern


@pytest.mark.parametrize("place", ["", "snapshots/0123abcd", "snapshots/0123abcd/data"])
def test_a_cache_of_the_hub_is_read_by_its_links(hf, place, tmp_path):
    pushed(hf, tmp_path / "plain")
    hub_cache(hf, tmp_path / "cache")

    with counting() as aside:
        assert ours(tmp_path / "cache" / place) == theirs(hf, hf.load(tmp_path / "plain"))
    beside = {"hidden": 1, "in blobs/": 5, "in refs/": 1}
    assert (beside.items() <= aside.as_plain().get("files", {}).items()) == (place == "")


def test_of_several_snapshots_one_is_named(tmp_path):
    for name in ("blobs/a", "snapshots/x y/train.parquet", "snapshots/z/train.parquet"):
        write(tmp_path / name, b"")

    with pytest.raises(ValueError, match="with 2 snapshots") as error:
        listed(tmp_path)

    assert f"'{tmp_path}/snapshots/x y', {tmp_path}/snapshots/z" in str(error.value)


@pytest.mark.parametrize("splits", [("train", "test"), ("train",), None])
def test_what_save_to_disk_wrote_is_read(hf, splits, tmp_path):
    parts = {split: hf.rows(split, COUNTS[split]) for split in splits or ("train",)}
    if splits is None:
        parts["train"].save_to_disk(str(tmp_path / "disk"), num_shards=2)
    else:
        shards = dict.fromkeys(parts, 2)
        hf.datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "disk"), num_shards=shards)

    loaded = hf.datasets.load_from_disk(str(tmp_path / "disk"))

    expected = theirs(hf, loaded if splits else {"train": loaded})
    assert ours(tmp_path / "disk", **({} if splits and len(splits) > 1 else {"validation": 0})) == (
        expected
    )


def test_the_tables_that_state_json_names_are_read_in_its_order(hf, tmp_path, capsys):
    hf.rows("train", 6).save_to_disk(str(tmp_path), num_shards=3)
    state = json.loads((tmp_path / "state.json").read_text())
    state["_data_files"] = [state["_data_files"][n] for n in (2, 0)]
    (tmp_path / "state.json").write_text(json.dumps(state))
    shutil.copy(tmp_path / "data-00001-of-00003.arrow", tmp_path / "cache-0123456789abcdef.arrow")

    with counting() as aside:
        records = listed(tmp_path)

    assert [r.captions for r in records] == [(caption(n),) for n in (4, 5, 0, 1)]
    said = capsys.readouterr().out
    assert "data-*-of-00003.arrow: 2 of 3 files are there" in said
    assert aside.as_plain() == {"files": {".arrow": 1, "cache-*.arrow": 1}}


def test_the_arrow_files_that_datasets_keeps_are_read(hf, tmp_path):
    pushed(hf, tmp_path / "birds")
    loaded = hf.load(tmp_path / "birds")
    (folder,) = {file["filename"].rpartition("/")[0] for file in loaded["test"].cache_files}

    assert ours(folder) == theirs(hf, loaded)


def test_one_split_of_metadata_at_the_root_has_the_folders_of_its_images(hf, tmp_path):
    for split, count in COUNTS.items():
        write_images(tmp_path / split, split, count)
    rows = [
        {"file_name": f"./{split}/{n}.jpg", "text": caption(n)}
        for split, count in COUNTS.items()
        for n in numbers(split, count)
    ]
    write_table(tmp_path / "metadata.jsonl", rows)

    assert ours(tmp_path) == {
        OURS[s]: Counter({(jpeg(n), (caption(n),)): 1 for n in numbers(s, count)})
        for s, count in COUNTS.items()
    }


def test_the_same_names_in_two_splits_are_two_images(hf, tmp_path):
    for seed, split in enumerate(("train", "test")):
        write(tmp_path / split / "0.png", jpeg(seed))
        write(tmp_path / split / "metadata.csv", f"file_name,text\n0.png,{split}\n")

    assert [(r.id, r.captions) for r in listed(tmp_path)] == [
        ("test/0.png", ("test",)),
        ("train/0.png", ("train",)),
    ]


def test_every_file_is_an_image_a_row_or_counted(hf, tmp_path):
    image_folder("jsonl")(hf, tmp_path)
    write(tmp_path / "train/alone.jpg", jpeg(90))
    (tmp_path / "test/10.jpg").unlink()
    for name in (
        "birds.py",
        "dataset_infos.json",
        ".gitattributes",
        "train/.cache/x",
        "extra/LIST",
    ):
        write(tmp_path / name, "raise SystemExit")
    write(tmp_path / "README.md", "# no front matter")
    write(tmp_path / "extra/9.jpg", jpeg(91))
    source = HuggingFaceSource(root=str(tmp_path))

    with counting() as aside:
        records = {record.id: record for record in source.records()}

    assert (records["train/alone.jpg"].split, records["train/alone.jpg"].captions) == ("train", ())
    with pytest.raises(FileNotFoundError):
        source.read_image(records["test/10.jpg"])
    assert len(records) == 5 + 1 + 3
    assert aside.as_plain() == {
        "files": {
            ".jpg": 1,
            ".json": 1,
            ".md": 1,
            ".py (scripts are never run)": 1,
            "hidden": 2,
            "without an ending": 1,
        }
    }


def test_a_name_on_disk_in_another_form_of_unicode_is_no_second_image(tmp_path):
    write(tmp_path / "cafe\u0301.jpg", jpeg())
    write(tmp_path / "metadata.csv", "file_name,text\ncaf\u00e9.jpg,one\n")
    source = HuggingFaceSource(root=str(tmp_path), validation=0)

    (record,) = source.records()

    assert (record.captions, source.read_image(record)) == (("one",), jpeg())


@pytest.mark.parametrize("form", ["parquet", "disk"])
def test_lists_of_captions_fields_of_records_and_class_names(hf, form, tmp_path):
    datasets = hf.datasets
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "sentences": [{"raw": datasets.Value("string"), "id": datasets.Value("int64")}],
            "captions": datasets.List(datasets.Value("string")),
            "kind": datasets.ClassLabel(names=["bird", "cat"]),
        }
    )
    rows = [
        {
            "image": {"bytes": jpeg(n), "path": None},
            "sentences": [{"raw": f"raw {n}", "id": n}],
            "captions": [f"a {n}", f"b {n}"],
            "kind": kind,
        }
        for n, kind in enumerate((1, 0, -1))
    ]
    made = datasets.Dataset.from_list(rows, features=features)
    if form == "parquet":
        made.to_parquet(str(tmp_path / "x.parquet"))
    else:
        made.save_to_disk(str(tmp_path))

    plain = listed(tmp_path)
    records = listed(tmp_path, caption="sentences.raw", label="kind")

    assert [r.captions for r in plain] == [(f"a {n}", f"b {n}") for n in range(3)]
    assert {r.label for r in plain} == {None}
    assert [r.captions for r in records] == [(f"raw {n}",) for n in range(3)]
    assert [r.label for r in records] == ["cat", "bird", None]


def test_class_names_may_be_in_dataset_info_only(tmp_path):
    table = pa.table({"image": [jpeg(0), jpeg(1)], "text": ["x", "y"], "kind": [1, 7]})
    pq.write_table(table, tmp_path / "x.parquet")
    features = {"kind": {"names": ["bird", "cat"], "_type": "ClassLabel"}}
    write(tmp_path / "dataset_info.json", json.dumps({"features": features}))
    source = HuggingFaceSource(root=str(tmp_path), label="kind", validation=0)

    first, second = sorted(source.records(), key=lambda record: record.location)

    assert first.label == "cat"
    with pytest.raises(RejectedError, match=r"CAP_FORMAT: .* kind is 7, and there are 2 classes"):
        source.read_captions(second)


def test_images_that_parquet_names_by_path_are_read_below_their_folder(hf, tmp_path):
    write_images(tmp_path / "birds", "train", 3, "pics/")
    paths = [str(tmp_path / f"birds/pics/{n}.jpg") for n in range(3)]
    made = hf.datasets.Dataset.from_dict({"image": paths, "text": [caption(n) for n in range(3)]})
    made = made.cast_column("image", hf.datasets.Image())
    made.to_parquet(str(tmp_path / "birds/x.parquet"))  # absolute paths, and no bytes
    (tmp_path / "alone").mkdir()
    shutil.copy(tmp_path / "birds/x.parquet", tmp_path / "alone/x.parquet")

    expected = theirs(hf, {"train": made})

    with counting() as aside:
        assert ours(tmp_path / "birds", validation=0) == expected
    assert aside.as_plain() == {"files": {".jpg (unless cells name them)": 3}}
    assert ours(tmp_path / "alone", validation=0, images=str(tmp_path / "birds")) == expected
    with pytest.raises(RejectedError, match=r"PATH_UNSAFE.*/pics/0\.jpg"):
        ours(tmp_path / "alone", validation=0)


def test_of_several_columns_the_usual_ones_are_taken_and_others_by_option(hf, tmp_path):
    made = hf.rows("train", 2, "prompt", caption=["x", "y"])
    made = made.add_column("mask", [{"bytes": jpeg(50 + n), "path": None} for n in range(2)])
    made.cast_column("mask", hf.datasets.Image()).to_parquet(str(tmp_path / "x.parquet"))

    assert [r.captions for r in listed(tmp_path)] == [("x",), ("y",)]
    assert ours(tmp_path, image="mask", caption="prompt", validation=0) == {
        "train": Counter({(jpeg(50 + n), (caption(n),)): 1 for n in range(2)})
    }


def test_splits_by_option_and_those_that_are_neither(hf, tmp_path, capsys):
    for split in ("train", "test", "extra"):
        parquet_in(**{split: f"data/{split}-00000-of-00001.parquet"})(hf, tmp_path)

    plain = Counter(record.split for record in listed(tmp_path))
    said = capsys.readouterr().out
    other = Counter(
        record.split
        for record in listed(tmp_path, train_values=("train", "EXTRA"), validation_values=("x",))
    )

    assert plain == {"train": 5, "validation": 3}
    assert "splits for training: train\nsplits held out: test\nsplits left out: extra\n" in said
    assert other == {"train": 8}
    with pytest.raises(ValueError, match="has the splits 'extra', 'test', 'train', and none"):
        listed(tmp_path, train_values=("none",))


def test_a_column_can_be_the_split(hf, tmp_path):
    made = hf.rows("test", 3, split=["train", "restval", "val"])
    made.to_parquet(str(tmp_path / "test-00000-of-00001.parquet"))

    assert [r.split for r in listed(tmp_path, split="split")] == ["train", "validation"]


def test_one_config_of_several_is_named(hf, tmp_path):
    lay = parquet_in(train="a/train-00000-of-00001.parquet", test="b/test-00000-of-00001.parquet")
    lay(hf, tmp_path)
    card(tmp_path, "configs: [{config_name: a, data_dir: a}, {config_name: b, data_files: b/*}]")
    lay_converted = parquet_in(train="a/train/0000.parquet", test="b/train/0000.parquet")
    lay_converted(hf, tmp_path / "converted")

    for root in (tmp_path, tmp_path / "converted"):
        with pytest.raises(ValueError, match=r"has 2 configs. Choose one with --config: 'a', 'b'"):
            listed(root)
        with pytest.raises(ValueError, match=r"has no config 'c'. Choose one with --config: '"):
            listed(root, config="c")
        assert len(listed(root, config="a")) == 5
    assert ours(tmp_path, config="b", validation=0) == theirs(hf, hf.load(tmp_path, "b"))
    assert len(listed(tmp_path / "converted", config="b")) == 3


def test_names_of_configs_and_splits_may_be_numbers(hf, tmp_path):
    parquet_in(train="x.parquet")(hf, tmp_path)
    files = "[{split: 2014, path: x.parquet}]"
    card(tmp_path, f"configs: [{{config_name: 2017, data_files: {files}}}, {{config_name: 1}}]")

    assert len(listed(tmp_path, config="2017")) == 5


def saved(hf, root):
    hf.rows("train", 3).save_to_disk(str(root))


def state(**change):
    def lay(hf, root):
        saved(hf, root)
        content = json.loads((root / "state.json").read_text()) | change
        (root / "state.json").write_text(json.dumps(content))

    return lay


def card_of(text):
    def lay(hf, root):
        parquet_in(train="data/train.parquet")(hf, root)
        card(root, text)

    return lay


def config_of(files):
    return card_of(f"configs: [{{config_name: default, data_files: {files}}}]")


def cut_arrow(hf, root):
    saved(hf, root)
    path = root / "data-00000-of-00001.arrow"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def splits(names):
    def lay(hf, root):
        write(root / "dataset_dict.json", json.dumps({"splits": names}))

    return lay


def without(column):
    def lay(hf, root):
        root.mkdir()
        hf.rows("train", 3, "says").remove_columns(column).to_parquet(str(root / "x.parquet"))

    return lay


def sounds(hf, root):
    cells = pa.array([{"bytes": b"x", "path": None}] * 2)
    features = {"sound": {"_type": "Audio"}, "text": {"dtype": "string", "_type": "Value"}}
    table = pa.table({"sound": cells, "text": ["x", "y"]})
    info = json.dumps({"info": {"features": features}})
    root.mkdir()
    pq.write_table(table.replace_schema_metadata({"huggingface": info}), root / "x.parquet")


def two_images(hf, root):
    root.mkdir()
    made = hf.rows("train", 2).rename_column("image", "before")
    made = made.add_column("after", hf.rows("train", 2).with_format("arrow")["image"].to_pylist())
    made.cast_column("after", hf.datasets.Image()).to_parquet(str(root / "x.parquet"))


def other_columns(hf, root):
    hf.rows("train", 3)
    root.mkdir()
    hf.rows("train", 3).to_parquet(str(root / "train.parquet"))
    hf.rows("test", 3, "caption").to_parquet(str(root / "test.parquet"))


def pointer(hf, root):
    write(root / "x.parquet", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def comma(hf, root):
    write(root / "0.jpg", jpeg())
    write(root / "metadata.csv", "name,text\n0.jpg,one\n")


BAD = {
    "a cut arrow": (cut_arrow, r"data-00000-of-00001\.arrow is not parquet or Arrow that can be"),
    "no YAML": (card_of("configs: [\n- {a"), r"README\.md: what stands between .* is not valid"),
    "deep YAML": (card_of("a:\n" + "- " * 5000), "is not valid YAML"),
    "merged YAML": (card_of("a: &a {b: 1}\nc: {<<: *a}"), "merges mappings with '<<'"),
    "a huge card": (card_of("a: " + "x" * 2**20), "front matter has over 1,048,576 bytes"),
    "configs no list": (card_of("configs: 7"), "'configs' must be a list"),
    "no config_name": (card_of("configs: [{data_files: x}]"), "a text as 'config_name'"),
    "a pattern outside": (config_of("../x"), r"config 'default': PATH_UNSAFE: '\.\./x' holds"),
    "an absolute one": (config_of("/etc/*"), r"'/etc/\*' is absolute"),
    "an address": (config_of("https://a.example/x.parquet"), "is an address"),
    "a folder outside": (
        card_of("configs: [{config_name: a, data_dir: ../..}]"),
        r"'\.\./\.\.' holds '\.\.'",
    ),
    "a file of no text": (config_of("[{split: train, path: 7}]"), "names '7' as a file"),
    "no split": (config_of("[{path: x}]"), "needs a text as 'split'"),
    "nothing matches": (config_of("data/test-*"), r"no file matches 'data/test-\*'"),
    "in two splits": (
        config_of("[{split: train, path: data/*}, {split: test, path: '**/*.parquet'}]"),
        r"'data/train\.parquet' is of the splits 'train' and 'test'",
    ),
    "too many patterns": (config_of(json.dumps(["x"] * 1001)), "over 1,000 patterns"),
    "a file outside": (
        state(_data_files=[{"filename": "/etc/passwd"}]),
        r"state\.json: PATH_UNSAFE: '/etc/passwd' is absolute",
    ),
    "a file above": (state(_data_files=[{"filename": "../x.arrow"}]), "holds '..'"),
    "no name": (state(_data_files=[{"filename": 7}]), "PATH_UNSAFE"),
    "no files": (state(_data_files="x"), "no list of files as '_data_files'"),
    "a missing file": (
        state(_data_files=[{"filename": "y.arrow"}]),
        r"state\.json names y\.arrow, which does not exist",
    ),
    "a split outside": (splits([".."]), r"dataset_dict\.json: PATH_UNSAFE"),
    "no splits": (splits("train"), "no list of texts as 'splits'"),
    "a missing split": (splits(["train"]), r"train/state\.json does not exist"),
    "no caption column": (
        without("says"),
        r"no column of captions .*Columns there: 'image'\. Name one with --caption",
    ),
    "an unusual caption column": (
        without([]),
        r"no column of captions .*Columns there: 'image', 'says'\. Name one with --caption",
    ),
    "no image column": (
        without("image"),
        r"no column of images\. Columns there: 'says'\. Name one with --image",
    ),
    "no image but sounds": (sounds, r"no column of images\. Columns there: 'sound', 'text'"),
    "two image columns": (two_images, r"columns of images 'before', 'after'\. Columns there: "),
    "other columns": (other_columns, r"train\.parquet has other columns than the tables before"),
    "no rows": (
        lambda hf, root: (
            write(root / "0.jpg", jpeg()) and write(root / "metadata.csv", "file_name,text")
        ),
        r"metadata\.csv has no rows",
    ),
    "a pointer": (pointer, r"pointer of git-lfs, not the file\. Run git lfs pull"),
    "no file_name": (comma, r"no column of images\. Columns there: 'name', 'text'"),
    "nothing": (lambda hf, root: write(root / "x.csv", "a"), r"It holds x\.csv\. Prepare CSV and"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_with_a_dataset_is_said_in_one_error(hf, case, tmp_path):
    lay, message = BAD[case]
    lay(hf, tmp_path / "birds")

    with pytest.raises(ValueError, match=message):
        listed(tmp_path / "birds")


def test_a_card_without_configs_and_damaged_features_change_nothing(hf, tmp_path):
    table = pa.table({"image": [jpeg()], "text": ["x"]})
    for n, info in enumerate(("[" * 5000, "7", '{"info": 7}', '{"info": {"features": [1]}}')):
        with_info = table.replace_schema_metadata({"huggingface": info})
        pq.write_table(with_info, tmp_path / f"{n}.parquet")
    card(tmp_path, "license: mit\npretty_name: &a Birds\ntitle: *a")

    assert len(listed(tmp_path)) == 4
    with pytest.raises(ValueError, match="has no configs: leave out --config x"):
        listed(tmp_path, config="x")


@pytest.mark.parametrize("source", ["folder", "table"])
@pytest.mark.parametrize("at_root", [False, True])
def test_other_layouts_print_the_command_for_an_image_folder(hf, source, at_root, tmp_path, capsys):
    root = tmp_path / "my birds"
    image_folder("jsonl")(hf, root)
    if at_root:
        (root / "train/metadata.jsonl").rename(root / "metadata.jsonl")
        (root / "test/metadata.jsonl").unlink()

    if source == "folder":
        list(FolderSource(root=str(root)).records())
        said = capsys.readouterr().out.splitlines()[-1]
    else:
        with pytest.raises(ValueError, match="has no column 'image'") as error:
            list(TableSource(root=str(root)).records())
        said = str(error.value)

    command = shlex.split(said[said.index("jobs/prepare.py") :])[1:]
    config = parse(PrepareConfig, [*command, "--output", "x"])
    assert config.source == HuggingFaceSource(root=str(root))
