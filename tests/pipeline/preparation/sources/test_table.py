"""Tables of images and captions, in each format, and what they hold in practice."""

import gzip
import json
import pickle
import unicodedata

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.preparation.config import PrepareConfig
from pipeline.preparation.decoding.captions import MAX_BYTES
from pipeline.preparation.decoding.images import RejectedError
from pipeline.preparation.sources.left_aside import counting
from pipeline.preparation.sources.table import TableSource
from pipeline.preparation.sources.table_rows import NOTHING
from tests.pipeline.preparation.sources.layouts import jpeg, outcome, write, write_table

ROWS = [
    {"image": "pics/b.jpg", "caption": "a bird"},
    {"image": "pics/a.jpg", "caption": "a cat"},
    {"image": "pics/b.jpg", "caption": "ein Vogel, grün"},
]


def source_at(root, **options):
    return TableSource(root=str(root), **{"validation": 0, **options})


def listed(root, **options):
    return {r.id: r for r in source_at(root, **options).records()}


def captions(root, **options):
    return {name: r.captions for name, r in listed(root, **options).items()}


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_rows_of_the_same_image_are_joined(tmp_path, ending):
    table = write_table(tmp_path / f"rows.{ending}", ROWS)
    for name in "ab":
        write(tmp_path / f"pics/{name}.jpg", jpeg())

    records = listed(table)

    assert {n: r.captions for n, r in records.items()} == {
        "pics/a.jpg": ("a cat",),
        "pics/b.jpg": ("a bird", "ein Vogel, grün"),
    }
    for record in records.values():
        assert outcome(source_at(table), record)[1] == jpeg()


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_row_can_hold_several_captions(tmp_path, ending):
    table = write_table(tmp_path / f"rows.{ending}", [{"image": "a.jpg", "caption": ["x", "y "]}])

    assert captions(table) == {"a.jpg": ("x", "y ")}


def test_a_text_can_hold_several_captions(tmp_path):
    table = write_table(tmp_path / "rows.csv", [{"image": "a.jpg", "caption": "x|y| "}])

    assert captions(table, separator="|") == {"a.jpg": ("x", "y")}


def test_columns_have_the_names_that_the_user_says(tmp_path):
    rows = [
        {"file": "1.jpg", "n": 7, "says": "one", "part": "TRAIN", "kind": "bird"},
        {"file": "2.jpg", "n": 8, "says": "two", "part": "test", "kind": "cat"},
        {"file": "3.jpg", "n": 9, "says": "three", "part": "restval", "kind": "cat"},
    ]
    names = {"image": "file", "caption": "says", "id": "n", "split": "part", "label": "kind"}
    for ending in ("csv", "jsonl", "parquet"):
        table = write_table(tmp_path / f"rows.{ending}", rows)

        records = listed(table, **names, images=str(tmp_path / "pics"))

        assert {n: (r.split, r.label, r.location) for n, r in records.items()} == {
            "7": ("train", "bird", "1.jpg"),
            "8": ("validation", "cat", "2.jpg"),
        }
        more = listed(table, **names, train_values=("train", "restval"))
        assert {n: r.split for n, r in more.items()}["9"] == "train"


def test_rows_of_other_splits_are_counted(tmp_path):
    rows = [{"image": f"{s}.jpg", "caption": "x", "split": s} for s in ("train", "other", "")]
    table = write_table(tmp_path / "rows.csv", rows)

    with counting() as aside:
        assert list(listed(table, split="split")) == ["train.jpg"]

    assert aside.as_plain() == {"rows": {"of split 'other'": 1, "of split None": 1}}


def test_one_image_in_two_splits_is_refused_with_its_row(tmp_path):
    rows = [{"image": "a.jpg", "caption": "x", "split": s} for s in ("train", "val")]
    table = write_table(tmp_path / "rows.csv", rows)

    with pytest.raises(
        ValueError, match=r"rows\.csv, row 3: image 'a\.jpg' occurs twice, as split"
    ):
        listed(table, split="split")


def test_one_name_for_two_images_is_refused(tmp_path):
    rows = [{"image": f"{i}.jpg", "caption": "x", "id": "same"} for i in range(2)]
    table = write_table(tmp_path / "rows.csv", rows)

    with pytest.raises(ValueError, match=r"'same' names two images, '0\.jpg' and '1\.jpg'"):
        listed(table, id="id")


def test_the_folder_of_the_images_may_be_another_and_is_resolved_at_once(tmp_path, monkeypatch):
    table = write_table(tmp_path / "tables/rows.csv", [{"image": "a.jpg", "caption": "x"}])
    write(tmp_path / "pics/a.jpg", jpeg())
    monkeypatch.chdir(tmp_path)
    source = source_at(table, images="pics")
    monkeypatch.chdir("/")  # workers run elsewhere

    (record,) = source.records()

    assert source.read_image(record) == jpeg()


@pytest.mark.parametrize("struct", [False, True])
def test_parquet_can_hold_the_images_themselves(tmp_path, struct):
    cells = [{"bytes": jpeg(i), "path": f"{i}.jpg"} if struct else jpeg(i) for i in range(5)]
    rows = [{"image": cell, "caption": f"cell {i}"} for i, cell in enumerate(cells)]
    table = write_table(tmp_path / "rows.parquet", rows)  # two rows in a group
    source = source_at(table)

    records = list(source.records())

    assert [outcome(source, r) for r in records] == [([f"cell {i}"], jpeg(i)) for i in range(5)]
    assert [r.location for r in records][2:4] == ["rows.parquet#1.0", "rows.parquet#1.1"]


def test_images_in_a_table_keep_the_order_of_its_rows_whatever_their_names(tmp_path):
    rows = [{"image": jpeg(i), "caption": "x", "id": name} for i, name in enumerate("zma")]
    table = write_table(tmp_path / "rows.parquet", rows)

    assert list(listed(table, id="id")) == ["z", "m", "a"]


def test_a_cell_without_bytes_names_its_file_or_is_rejected(tmp_path):
    image = pa.array(
        [{"bytes": None, "path": "a.jpg"}, {"bytes": None, "path": None}, None],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    table = pa.table({"image": image, "caption": ["x", "y", "z"]})
    pq.write_table(table, tmp_path / "rows.parquet")
    write(tmp_path / "a.jpg", jpeg())
    source = source_at(tmp_path / "rows.parquet")

    first, *others = source.records()

    assert source.read_image(first) == jpeg()
    for record in others:
        with pytest.raises(RejectedError, match="IMG_MISSING"):
            source.read_image(record)


def test_a_damaged_group_of_images_costs_its_own_rows(tmp_path):
    rows = [{"image": jpeg(i), "caption": f"{i}"} for i in range(4)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet", row_group_size=2)
    chunk = pq.ParquetFile(tmp_path / "rows.parquet").metadata.row_group(0).column(0)
    content = bytearray((tmp_path / "rows.parquet").read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content[start : start + chunk.total_compressed_size] = b"x" * chunk.total_compressed_size
    (tmp_path / "rows.parquet").write_bytes(content)
    source = source_at(tmp_path / "rows.parquet")

    records = list(source.records())

    for record in records[:2]:
        with pytest.raises(RejectedError, match=r"IMG_CORRUPT: rows\.parquet, row group 0: "):
            source.read_image(record)
    assert [source.read_image(r) for r in records[2:]] == [jpeg(2), jpeg(3)]


def test_columns_of_other_types_that_hold_text_are_read(tmp_path):
    table = pa.table(
        {
            "image": pa.array(["a.jpg", "b.jpg"]).dictionary_encode(),
            "caption": pa.array([["x"], ["y"]], pa.large_list(pa.large_string())),
            "label": pa.array([3, None], pa.int8()),
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet")

    records = listed(tmp_path / "rows.parquet", label="label")

    assert [(r.captions, r.label) for r in records.values()] == [(("x",), "3"), (("y",), None)]


def test_several_tables_and_the_held_out_ones(tmp_path):
    for name in ("train-0", "train-1", "test-0"):
        write_table(tmp_path / f"data/{name}.csv", [{"image": f"{name}.jpg", "caption": "x"}])
    write_table(tmp_path / "other/x.csv", [{"image": "x.jpg", "caption": "x"}])

    records = listed(tmp_path / "data", validation_files="test-*")

    assert {n: r.split for n, r in records.items()} == {
        "test-0.jpg": "validation",
        "train-0.jpg": "train",
        "train-1.jpg": "train",
    }
    assert len(listed(tmp_path / "data/train-*.csv")) == 2
    assert len(listed(f"{tmp_path}/data/train-{{0..1}}.csv")) == 2
    assert len(listed(tmp_path)) == 4
    assert {r.location for r in listed(tmp_path).values()} > {"data/train-0.jpg", "other/x.jpg"}


def test_pattern_that_matches_nothing_or_misses_a_file_is_said(tmp_path):
    write_table(tmp_path / "0.csv", [{"image": "a.jpg", "caption": "x"}])

    with pytest.raises(ValueError, match=r"1 of 2 files of '\{0\.\.1\}\.csv' do not exist, 1\.csv"):
        listed(f"{tmp_path}/{{0..1}}.csv")
    with pytest.raises(ValueError, match=r"holds nothing that matches 'x\*\.csv'"):
        listed(tmp_path / "x*.csv")
    with pytest.raises(ValueError, match=r"nowhere does not exist\. Name a file, a folder"):
        listed(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"'val-.' matches 0 of 1 files, 0\.csv for exam"):
        listed(tmp_path / "0.csv", validation_files="val-*")


def test_rows_that_lack_something_are_listed_so_that_they_are_counted(tmp_path):
    write(
        tmp_path / "rows.csv",
        "image,caption\na.jpg,\n,alone\nb.jpg\nc.jpg,x,too many\n\nd.jpg,fine\n",
    )
    source = source_at(tmp_path / "rows.csv")

    records = {r.id: r for r in source.records()}

    assert records["a.jpg"].captions == ()
    assert records["rows.csv#000000000003"].location == ""
    assert records["d.jpg"].captions == ("fine",)
    for line, found in ((4, 1), (5, 3)):
        with pytest.raises(RejectedError, match=f"CAP_FORMAT: rows.csv, row {line}: {found} field"):
            source.read_captions(records[f"rows.csv#{line:012d}"])
    assert len(records) == 5


def test_bytes_that_are_not_text_cost_their_own_row(tmp_path):
    write(tmp_path / "rows.csv", b"\xef\xbb\xbfimage,caption\na.jpg,caf\xe9\nb.jpg,a\0b\n")
    text = pa.array([b"caf\xe9", b"fine"], pa.binary()).view(pa.string())
    table = pa.table({"image": ["a.jpg", "b.jpg"], "caption": text})
    pq.write_table(table, tmp_path / "rows.parquet")

    assert captions(tmp_path / "rows.csv") == {"a.jpg": ("caf\udce9",), "b.jpg": ("a\0b",)}
    assert captions(tmp_path / "rows.parquet") == {"a.jpg": ("caf\udce9",), "b.jpg": ("fine",)}


def test_long_fields_quotes_and_line_breaks_are_read(tmp_path):
    long = "x" * 1_000_000
    write(tmp_path / "rows.csv", f'image,caption\na.jpg,"{long}"\nb.jpg,"a ""big""\ndog, red"\n')

    assert captions(tmp_path / "rows.csv") == {
        "a.jpg": (long[: MAX_BYTES + 1],),
        "b.jpg": ('a "big"\ndog, red',),
    }


def test_a_line_of_csv_without_an_end_is_refused(tmp_path):
    write(tmp_path / "rows.csv", "image,caption\na.jpg,x\n" + "y," * 9_000_000)

    with pytest.raises(ValueError, match=r"rows\.csv, line 3 has over 16,777,216 characters"):
        listed(tmp_path / "rows.csv")


def test_another_delimiter_with_blanks_is_read(tmp_path):
    write(tmp_path / "rows.csv", "image_name| n| comment\n1.jpg| 0| a dog\n1.jpg| 1| runs\n")

    read = captions(tmp_path / "rows.csv", delimiter="|", image="image_name", caption="comment")

    assert read == {"1.jpg": (" a dog", " runs")}


def test_json_lines_of_another_shape_cost_their_own_row(tmp_path):
    lines = [
        '{"image": "a.jpg", "caption": "fine"}',
        "{cut",
        "[1]",
        '{"image": 3.5, "caption": "x"}',
        '{"image": "b.jpg", "caption": {"en": "x"}}',
        '{"image": "c.jpg", "caption": "half \\ud800"}',
        '{"caption": "alone"}',
    ]
    write(tmp_path / "rows.jsonl", "\n".join(lines))
    source = source_at(tmp_path / "rows.jsonl")

    refused = {}
    for record in source.records():
        try:
            source.read_captions(record)
        except RejectedError as problem:
            refused[record.id[-1]] = str(problem)

    assert list(refused) == ["2", "3", "4", "5"]
    assert refused["2"].startswith("CAP_FORMAT: rows.jsonl, row 2: not valid JSON")
    assert refused["3"].endswith("row 3: a JSON list, not an object")
    assert refused["4"].endswith("row 4: image is '3.5', not a text or a number")
    assert refused["5"].endswith("caption is \"{'en': 'x'}\", not a text or a list of such")
    assert len(list(source.records())) == 7


def test_an_address_is_never_fetched_and_its_password_never_kept(tmp_path):
    rows = [{"image": "https://user:secret@h/x.jpg", "caption": "x"}]
    source = source_at(write_table(tmp_path / "rows.csv", rows))

    (record,) = source.records()

    assert record.id == record.location == "https://h/x.jpg"
    with pytest.raises(RejectedError, match=r"PATH_UNSAFE: .*download the images first"):
        source.read_image(record)


def test_a_list_that_is_written_into_a_text_is_read_as_several_captions(tmp_path):
    texts = {
        "json.jpg": json.dumps(["a", 'b "c"']),
        "python.jpg": str(["it's", "b"]),
        "numpy.jpg": "['a' 'b'\n 'c']",
        "text.jpg": "[a sign] in the rain]",
        "code.jpg": "[print(1)]",
        "tuple.jpg": str(("a", "b")),
        "gaps.jpg": "[nan, 'a', None]",
        "json gaps.jpg": '[NaN, "a", null]',
        "aside.jpg": "(a bird)",
        "code 2.jpg": "[__import__('os').getcwd()]",
        "deep.jpg": "[" * 5000 + "]" * 5000,
        "numbers.jpg": "[1, 2]",
    }
    rows = [{"image": name, "caption": text} for name, text in texts.items()]

    for ending in ("csv", "parquet"):
        read = captions(write_table(tmp_path / f"rows.{ending}", rows))

        assert read.pop("json.jpg") == ("a", 'b "c"')
        assert read.pop("python.jpg") == ("it's", "b")
        assert read.pop("numpy.jpg") == ("a", "b", "c")
        assert read.pop("tuple.jpg") == ("a", "b")
        assert read.pop("gaps.jpg") == read.pop("json gaps.jpg") == ("a",)
        kept = ("text.jpg", "code.jpg", "aside.jpg", "code 2.jpg", "deep.jpg", "numbers.jpg")
        assert read == {name: (texts[name],) for name in kept}


def test_records_in_a_text_are_fields_or_rejected_and_never_a_caption(tmp_path):
    records = [{"raw": "it's a", "n": 1}, {"raw": None}, {"raw": "b"}]
    cells = {"json.jpg": json.dumps(records), "python.jpg": str(records), "one.jpg": "{'raw': 'a'}"}
    rows = [{"image": name, "caption": text} for name, text in cells.items()]
    broken = {"image": "broken.jpg", "caption": "[{'raw': 'a', 'tokens': array(['a'])}]"}

    for ending in ("csv", "jsonl"):
        table = write_table(tmp_path / f"rows.{ending}", rows)
        assert captions(table, caption="caption.raw") == {
            "json.jpg": ("it's a", "b"),
            "one.jpg": ("a",),
            "python.jpg": ("it's a", "b"),
        }
        source = source_at(write_table(tmp_path / f"all.{ending}", [*rows, broken]))
        for record in source.records():
            with pytest.raises(RejectedError, match=rf"CAP_FORMAT: all\.{ending}, row \d: .*raw"):
                source.read_captions(record)


def test_rows_that_spell_the_name_of_one_image_in_several_ways_are_joined(tmp_path):
    forms = [unicodedata.normalize(form, "café.jpg") for form in ("NFD", "NFC")]
    write(tmp_path / forms[1], jpeg())
    rows = [
        {"image": name, "caption": str(number)}
        for number, name in enumerate((*forms, f"./{forms[0]}", f".//{forms[1]}"))
    ]
    source = source_at(write_table(tmp_path / "t.csv", rows))

    (record,) = source.records()

    assert (record.id, record.captions) == (forms[0], ("0", "1", "2", "3"))
    assert source.read_image(record) == jpeg()
    rows = [{"image": name, "caption": name} for name in ("a.jpg", "/a.jpg", "//a.jpg")]
    assert len(listed(write_table(tmp_path / "t.csv", rows))) == 3  # these lead elsewhere


def test_an_absolute_path_and_a_relative_one_are_read_where_each_leads(tmp_path):
    for place in ("a.png", "sub/a.png", "x/a.png", "sub/x/a.png"):
        write(tmp_path / place, jpeg(len(place)))
    pairs = (
        ("./x/a.png", f"{tmp_path}/x/a.png"),
        (f"{tmp_path}/sub/a.png", f"{tmp_path}/sub//a.png"),
    )
    for number, (first, second) in enumerate(pairs):
        rows = [{"image": name, "caption": name} for name in (first, second)]
        write_table(tmp_path / "sub/t.csv", rows)
        source = TableSource(root=f"{tmp_path}/*/t.csv")

        records = list(source.records())

        read = {text: source.read_image(r) for r in records for text in r.captions}
        expected = [("sub/x/a.png", "x/a.png"), ("sub/a.png", "sub/a.png")][number]
        assert read == {
            name: jpeg(len(place)) for name, place in zip((first, second), expected, strict=True)
        }


@pytest.mark.parametrize("nothing", sorted(NOTHING))
def test_a_word_for_nothing_is_an_empty_cell_of_csv_and_a_word_in_a_sentence(tmp_path, nothing):
    text = f"image,caption\na.jpg, {nothing} \nb.jpg,there is {nothing} here\n"

    read = captions(write(tmp_path / "rows.csv", text))

    assert read == {"a.jpg": (), "b.jpg": (f"there is {nothing} here",)}


@pytest.mark.parametrize("value", [3, 0.5, True, {"a": 1}, ["a", 3]])
def test_a_caption_that_is_no_text_costs_its_row_with_its_line(tmp_path, value):
    rows = [{"image": "a.jpg", "caption": "x"}, {"image": "b.jpg", "caption": value}]
    source = source_at(write_table(tmp_path / "rows.jsonl", rows))

    _, record = source.records()

    with pytest.raises(RejectedError, match=r"CAP_FORMAT: rows\.jsonl, row 2: caption is "):
        source.read_captions(record)


def test_json_may_start_with_a_mark_and_windows_ends_its_lines(tmp_path):
    row = {"image": "a.jpg", "caption": "ein Käfig", "part": 1.0}
    for ending, text in (("json", json.dumps([row])), ("jsonl", json.dumps(row) + "\r\n")):
        table = write(tmp_path / f"rows.{ending}", text.encode("utf-8-sig"))

        read = listed(table, split="part", train_values=("1",))

        assert read["a.jpg"].captions == ("ein Käfig",)


def test_an_image_with_too_many_captions_is_said_with_the_folder_and_not_the_last_row(tmp_path):
    rows = [{"image": "a.jpg", "caption": f"{n} {'x' * 60_000}"} for n in range(300)]
    table = write_table(tmp_path / "rows.jsonl", [*rows, {"image": "b.jpg", "caption": "b"}])

    with pytest.raises(ValueError, match=rf"^{tmp_path}: image 'a\.jpg' has over"):
        listed(table)


def test_quotation_marks_in_tsv_are_text_unless_an_option_says_other(tmp_path, capsys):
    table = write(
        tmp_path / "rows.tsv",
        'image\tcaption\n1.jpg\t"a sign\n2.jpg\t"big" dog\n3.jpg\ta tv of 40"\n4.jpg\t"whole"\n',
    )

    assert captions(table) == {
        "1.jpg": ('"a sign',),
        "2.jpg": ('"big" dog',),
        "3.jpg": ('a tv of 40"',),
        "4.jpg": ('"whole"',),
    }
    assert "1 rows have fields in quotation marks" in capsys.readouterr().out
    quoted = write(tmp_path / "quoted.tsv", 'image\tcaption\n1.jpg\t"a ""big"" dog"\n')
    assert captions(quoted, quoting="csv") == {"1.jpg": ('a "big" dog',)}
    plain = write(tmp_path / "plain.csv", 'image,caption\n1.jpg,"a sign\n2.jpg,b\n')
    assert captions(plain, quoting="none") == {"1.jpg": ('"a sign',), "2.jpg": ("b",)}


def test_each_format_is_known_by_its_content(tmp_path):
    rows = [{"image": "a.jpg", "caption": "x"}, {"image": "b.jpg", "caption": "y"}]
    expected = {"a.jpg": ("x",), "b.jpg": ("y",)}
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    text = "image,caption\na.jpg,x\nb.jpg,y\n"
    for name, content in {
        "list.json": json.dumps(rows),
        "list.jsonl": json.dumps(rows),
        "lines.json": lines,
        "lines.jsonl.gz": gzip.compress(lines.encode()),
        "rows.csv.gz": gzip.compress(text.encode()),
        "semicolons.csv": text.replace(",", ";"),
        "split.json": json.dumps({"dataset": "mine", "images": rows}),
    }.items():
        assert captions(write(tmp_path / name, content)) == expected, name
    assert captions(write(tmp_path / "rows.txt", text), format="csv") == expected
    parquet = write_table(tmp_path / "rows.parquet", rows)
    assert captions(parquet.rename(tmp_path / "0123abcd")) == expected


@pytest.mark.parametrize("kind", ["stream", "file", "stream with dictionaries"])
def test_arrow_is_read_with_its_images(tmp_path, kind):
    cells = [{"bytes": jpeg(i), "path": f"{i}.jpg"} for i in range(5)]
    texts = pa.array([f"cell {i}" for i in range(5)])
    texts = texts.dictionary_encode() if "dictionaries" in kind else texts
    table = pa.table({"image": cells, "caption": texts})
    new = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
    with new(str(tmp_path / "data-00000-of-00001.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    source = source_at(tmp_path)  # a folder, as `datasets` saves it

    read = [outcome(source, record) for record in reversed(list(source.records()))]

    assert read[::-1] == [([f"cell {i}"], jpeg(i)) for i in range(5)]


def test_a_copy_beside_a_table_is_not_read_too_but_counted(tmp_path):
    write(tmp_path / "rows.csv", "image,caption\na.jpg,x\n")
    write(tmp_path / "rows.csv.gz", gzip.compress(b"image,caption\na.jpg,x\n"))

    with counting() as aside:
        assert captions(tmp_path) == {"a.jpg": ("x",)}

    assert aside.as_plain() == {"files": {".gz": 1}}


def test_names_of_images_as_windows_and_absolute_paths_below_the_root(tmp_path):
    write(tmp_path / "disk/images/a.jpg", jpeg())
    (tmp_path / "data").symlink_to(tmp_path / "disk")
    for name in ("images\\a.jpg", f"{tmp_path}/disk/images/a.jpg", f"{tmp_path}/data/images/a.jpg"):
        table = write_table(tmp_path / "disk/rows.csv", [{"image": name, "caption": "x"}])
        source = source_at(table)

        (record,) = source.records()

        assert (record.id, record.location) == ("images/a.jpg", "images/a.jpg")
        assert source.read_image(record) == jpeg()
    write_table(tmp_path / "disk/t/rows.csv", [{"image": name, "caption": "x"}])
    source = source_at(tmp_path / "disk/t/rows.csv", images=str(tmp_path / "disk"))
    assert [source.read_image(r) for r in source.records()] == [jpeg()]


def test_a_path_that_exists_is_a_path_before_it_is_a_pattern(tmp_path):
    for name in ("my data [v2]", "curly {a,b}", "what?", "all*"):
        table = write_table(tmp_path / name / "t.csv", [{"image": "a.jpg", "caption": name}])

        for root in (table, table.parent, table.parent / "*.csv", table.parent / "{t,t}.csv"):
            assert captions(root) == {"a.jpg": (name,)}, root
    assert len(listed(tmp_path / "*" / "t.csv")) == 4


def test_the_same_name_in_two_folders_is_two_images(tmp_path):
    for part in ("train", "test"):
        write(tmp_path / part / "1.jpg", jpeg(len(part)))
        write_table(tmp_path / part / "metadata.csv", [{"image": "1.jpg", "caption": part}])
    source = source_at(tmp_path)

    read = {r.id: outcome(source, r) for r in source.records()}

    assert read == {f"{p}/1.jpg": ([p], jpeg(len(p))) for p in ("train", "test")}


def test_names_are_the_same_in_composed_and_decomposed_unicode(tmp_path):
    disk, table = (unicodedata.normalize(form, "café.jpg") for form in ("NFD", "NFC"))
    for there, named in ((disk, table), (table, disk)):
        root = tmp_path / str(len(there))
        write(root / there, jpeg())
        source = source_at(write_table(root / "t.csv", [{"image": named, "caption": "x"}]))

        assert [source.read_image(r) for r in source.records()] == [jpeg()]


def test_views_of_text_and_bytes_are_read(tmp_path):
    texts, view = ["x", "y"], pa.string_view()
    for number, image in enumerate(
        [pa.array(["a", "b"], view), pa.array([b"1", b"2"], pa.binary_view())]
    ):
        lists = pa.array([[text] for text in texts], pa.list_(view))
        for caption in (pa.array(texts, view), lists):
            pq.write_table(
                pa.table({"image": image, "caption": caption}), tmp_path / "rows.parquet"
            )
            source = source_at(tmp_path / "rows.parquet")

            records = list(source.records())

            assert [r.captions for r in records] == [("x",), ("y",)]
            assert number == 0 or [source.read_image(r) for r in records] == [b"1", b"2"]


def test_whole_floats_are_labels_and_ids_and_nan_is_an_empty_cell(tmp_path):
    nan = float("nan")
    rows = [
        {"image": "a.jpg", "caption": "x", "n": 1.0, "kind": 3.0},
        {"image": "b.jpg", "caption": "y", "n": 2.0, "kind": nan},
    ]

    for ending in ("parquet", "jsonl"):
        table = write_table(tmp_path / f"rows.{ending}", rows)
        read = listed(table, id="n", label="kind")
        assert {n: r.label for n, r in read.items()} == {"1": "3", "2": None}
    text = "image,caption,kind\na.jpg,x,nan\na.jpg,None,nan\nb.jpg,null,NaN\n"
    read = listed(write(tmp_path / "rows.csv", text), label="kind")
    assert {n: (r.captions, r.label) for n, r in read.items()} == {
        "a.jpg": (("x",), None),
        "b.jpg": ((), None),
    }


def test_fields_of_records_are_named_with_a_dot(tmp_path):
    row = {
        "image": "a.jpg",
        "said": [{"raw": "x", "n": 1}, {"raw": "y", "n": 2}],
        "one": {"raw": "z"},
    }
    for ending in ("parquet", "jsonl"):
        table = write_table(tmp_path / f"rows.{ending}", [row])

        assert captions(table, caption="said.raw") == {"a.jpg": ("x", "y")}
        assert captions(table, caption="one.raw") == {"a.jpg": ("z",)}
    parquet = tmp_path / "rows.parquet"
    with pytest.raises(
        ValueError, match=r"'said' holds records with the fields raw, n\. .*said\.raw"
    ):
        captions(parquet, caption="said")
    with pytest.raises(ValueError, match=r"column 'one' is struct.* has no field 'text'"):
        captions(parquet, caption="one.text")


def test_options_that_are_newer_than_a_dataset_leave_its_record_as_it_was(tmp_path):
    config = PrepareConfig(source=source_at(tmp_path), output=str(tmp_path / "out"))

    assert not {"quoting", "format"} & config.recorded_source().keys()
    named = PrepareConfig(source=source_at(tmp_path, quoting="csv"), output=str(tmp_path / "out"))
    assert named.recorded_source()["quoting"] == "csv"


BROKEN = {
    "no such column": ("rows.csv", "file,text\n", r"has no column 'image'.*there: 'file', 'text'"),
    "a column twice": ("rows.csv", "image,caption,image\n", "has two columns 'image'"),
    "no header": ("rows.csv", "\n", r"has no column 'image'\. Columns there: none"),
    "no rows": ("rows.csv", "image,caption\n", "holds no rows"),
    "an open quote": (
        "rows.csv",
        'image,caption\na.jpg,x\nb.jpg,"open\nc.jpg,y\n',
        r"rows\.csv, line 4: unexpected end of data\. Is a quotation mark not",
    ),
    "an endless field": (
        "rows.csv",
        'image,caption\na.jpg,"' + "x" * (17 * 2**20),
        r"line 2 has over 16,777,216 characters",
    ),
    "UTF-16": ("rows.csv", "image,caption\n".encode("utf-16"), "is UTF-16. Save it as UTF-8"),
    "lists": ("rows.jsonl", '["a", "b"]', "is not JSON lines: line 1 is a JSON list"),
    "not JSON": ("rows.jsonl", "image,caption\n", "line 1 is not valid JSON"),
    "other keys": ("rows.jsonl", json.dumps({"file": 1}), "has no column 'image'.*there: 'file'"),
    "an endless line": ("rows.jsonl", "x" * (17 * 2**20), "line 1 has over 16,777,216 bytes"),
    "a web page": ("rows.parquet", "<html>404</html>", "is a web page. Open the link in a browser"),
    "an empty file": ("rows.parquet", "", "is an empty file. Copy it again"),
    "text in parquet": ("rows.parquet", "image,caption\n", "is not parquet that can be read"),
    "zstd": ("rows.csv", b"\x28\xb5\x2f\xfd123", "is compressed with zstd. Unpack it"),
    "a zip": (
        "rows.csv",
        b"PK\x03\x04123",
        "is a zip archive. Unpack it; if it is a spreadsheet",
    ),
    "UTF-16 unmarked": ("rows.csv", "image,caption\n".encode("utf-16-le"), "is UTF-16. Save it"),
    "a pickle": ("rows.csv", pickle.dumps([1]), "is a pickle. It can run code: save the rows"),
    "a pointer": ("rows.csv", "version https://git-lfs.github.com/spec/v1\n", "Run git lfs pull"),
    "an image": ("rows.csv", b"\xff\xd8\xff\xe0", r"is an image \(JPEG\)"),
    "damaged gzip": (
        "rows.csv.gz",
        gzip.compress(b"image,caption\n" * 99)[:-9],
        "gzip that is dam",
    ),
    "text": ("rows.txt", "image\tcaption\n", "is text in an unknown format.*--format csv"),
    "captions of COCO": ("rows.json", '{"images": [], "annotations": []}', "prepare.py coco"),
    "cut JSON": (
        "rows.json",
        '[{"image": "a", "caption": "b"}, {',
        "is not valid JSON, after row 1:",
    ),
    "swallowed rows": (
        "rows.csv",
        'image,caption\n1.jpg,"a sign\n2.jpg,two\n3.jpg,a tv of 40"\n',
        "line 4: a field holds whole rows.*--quoting none",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_with_a_table_is_said(case, tmp_path):
    name, content, message = BROKEN[case]
    write(tmp_path / name, content)

    with pytest.raises(ValueError, match=f"(?s){message}"):
        listed(tmp_path / name)


def test_a_cut_parquet_and_a_column_of_numbers_are_said(tmp_path):
    table = write_table(tmp_path / "rows.parquet", [{"image": 3, "caption": "x"}])

    with pytest.raises(ValueError, match=r"column 'image' is int64\. Images are paths"):
        listed(table)
    content = table.read_bytes()
    for cut in (content[: len(content) // 2], content[:-1], content[:-8], b"PAR1"):
        table.write_bytes(cut)
        with pytest.raises(
            ValueError, match=r"rows\.parquet is not parquet or Arrow that can be read"
        ):
            listed(table)


def test_a_row_of_neither_image_nor_caption_is_counted(tmp_path):
    table = write(tmp_path / "rows.csv", b"image,caption,n\na.jpg,a cat,1\n,,2\n\n")

    (row,) = [record for name, record in listed(table).items() if name != "a.jpg"]

    with pytest.raises(RejectedError, match=r"CAP_EMPTY.*neither an image nor a caption"):
        outcome(source_at(table), row)
