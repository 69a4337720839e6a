"""Tables of captions as people have them: each row is packed, merged or counted, and none is taken for a part of another."""

import csv
import json
import os

import pytest
from PIL import Image

from ldm.data.decode import Broken
from ldm.data.pack.captions import find_tables
from ldm.data.pack.plan import make_plan, rows_of
from ldm.data.pack.row import Row
from ldm.data.pack.tables import read_csv
from tests.data.packing import contents, encoded, images, pack, reasons, table, written


def captions_of(out):
    return {key: json.loads(files["json"])["caption"] for key, files in contents(out).items()}


def test_rows_of_one_image_become_one_sample(tmp_path):
    folder = images(tmp_path / "images", 3)
    rows = [(f"{n:03d}.png", f"{word} {n}", word) for word in ("first", "second", "third") for n in range(3)]
    rows += [
        ("./001.png", "fourth 1", ""),
        ("002.png", "second 2", "again"),
        ("002.png", " ", ""),
        ("003.png", "x", ""),
    ]
    path = table(tmp_path / "c.csv", rows, ("file", "caption", "who"))
    summary = pack(tmp_path / "out", images=folder, captions=path)
    assert captions_of(tmp_path / "out") == {
        "000_png": ["first 0", "second 0", "third 0"],
        "001_png": ["first 1", "second 1", "third 1", "fourth 1"],
        "002_png": ["first 2", "second 2", "third 2"],
    }
    for files in contents(tmp_path / "out").values():
        assert json.loads(files["json"])["who"] == "first", "other columns are those of the first row"
        assert files["txt"].startswith(b"first")
    assert reasons(summary) == {"no caption": 1, "missing file": 1}
    assert (summary.rows, summary.merged) == (13, 8)
    assert summary.rows == 3 + summary.merged + summary.skipped.broken
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["merged"] == 8
    assert "8 merged into the sample of a row before" in summary.table()
    assert summary.next_command().endswith(" 'data.caption.fields={caption:1}'"), "training takes all captions"


def test_merging_is_the_same_for_any_number_of_workers_and_after_a_stop(tmp_path):
    folder = images(tmp_path / "images", 12)
    path = table(tmp_path / "c.csv", [(f"{n:03d}.png", f"{word} {n}") for word in "abcde" for n in range(12)])
    options = {"images": folder, "captions": path, "samples_per_shard": 4}
    for workers in (1, 2):
        pack(tmp_path / str(workers), workers=workers, **options)
    assert all(len(captions) == 5 for captions in captions_of(tmp_path / "1").values())
    whole = written(tmp_path / "1")
    assert written(tmp_path / "2") == whole
    (tmp_path / "2" / "train-000001.tar").unlink()
    pack(tmp_path / "2", **options)
    assert written(tmp_path / "2") == whole
    rows = path.read_text().splitlines()
    rows[1], rows[13] = rows[13], rows[1]
    path.write_text("\n".join(rows))
    with pytest.raises(ValueError, match=r"captions: 60 rows, \w+ -> 60 rows, \w+"):
        pack(tmp_path / "2", **options)


def test_a_doubled_row_is_one_caption(tmp_path):
    folder = images(tmp_path / "images", 1)
    summary = pack(tmp_path / "out", images=folder, captions=table(tmp_path / "c.csv", [("000.png", "a")] * 3))
    assert captions_of(tmp_path / "out") == {"000_png": "a"}
    assert summary.merged == 2


def test_images_inside_a_table_are_merged_only_where_their_bytes_are_equal(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    held = [{"bytes": encoded(color=color), "path": "a.png"} for color in ("red", "red", "blue")]
    parquet.write_table(pyarrow.table({"image": held, "caption": ["one", "two", "three"]}), tmp_path / "c.parquet")
    summary = pack(tmp_path / "out", captions=tmp_path / "c.parquet")
    assert captions_of(tmp_path / "out") == {"a_png": ["one", "two"]}
    assert reasons(summary) == {"duplicate key": 1}
    assert summary.merged == 1


def test_two_files_of_one_key_are_not_merged(tmp_path):
    folder = images(tmp_path / "images", 0)
    for name in ("a.b.jpg", "a_b.jpg"):
        (folder / name).write_bytes(encoded(form="jpeg"))
    rows = [("a.b.jpg", "one"), ("a_b.jpg", "two"), ("a.b.jpg", "three")]
    summary = pack(tmp_path / "out", images=folder, captions=table(tmp_path / "c.csv", rows))
    assert captions_of(tmp_path / "out") == {"a_b_jpg": ["one", "three"]}
    assert reasons(summary) == {"duplicate key": 1}


def test_many_rows_of_five_captions_an_image_are_merged(tmp_path):
    rows = ((str(n), Row(f"{n % 4000}.jpg", [f"caption {n}"], {"id": n})) for n in range(20_000))
    plan = make_plan(rows, tmp_path / "rows", val_fraction=0.1, val_max=100, samples_per_shard=1000)
    assert (plan.rows, plan.merged) == (20_000, 16_000)
    assert [shard.rows for shard in plan.shards] == [1000, 1000, 1000, 900, 100]
    for row in rows_of(plan.shards[-1], tmp_path / "rows"):
        first = row.record["id"]
        assert row.captions == [f"caption {n}" for n in range(first, 20_000, 4000)]


MANY = "".join(f"{n:03d}.png,plain {n}\n" for n in range(3, 9))

UNCLOSED = {
    "to the end": 'file,caption\n000.png,fine\n001.png,"a ruler of 12\n002.png,pipe\n' + MANY,
    "the last line": 'file,caption\n000.png,fine\n001.png,"a ruler of 12',
    "to a quoted row": 'file,caption\n000.png,fine\n001.png,"a ruler of 12\n002.png,"a pipe, long"\n' + MANY,
    "to an inch": 'file,caption\n000.png,fine\n001.png,"a ruler of 12\n002.png,a pipe of 5"\n' + MANY,
    "to an inch in a later row": 'file,caption\n000.png,fine\n001.png,"a ruler\n002.png,pipe\n003.png,5"\n' + MANY,
    "to a quote in a row": 'file,caption\n000.png,fine\n001.png,"a ruler\n002.png,he said "yes" to it\n' + MANY,
    "with the caption first": 'caption,file\nfine,000.png\n"a ruler of 12,001.png\na pipe of 5",002.png\n',
    "with more columns": 'file,caption,id\n000.png,fine,1\n001.png,"a ruler of 12,2\n002.png,a pipe of 5",3\n',
    "over an empty field": 'file,caption\n000.png,fine\n001.png,"a ruler\n002.png,""\n003.png,pipe\n',
    "with Windows' line ends": 'file,caption\r\n000.png,fine\r\n001.png,"a ruler\r\n002.png,pipe\r\n',
    "in a .tsv": 'file\tcaption\n000.png\tfine\n001.png\t"a ruler\n002.png\ta pipe of 5"\n',
}


@pytest.mark.parametrize("kind", UNCLOSED)
def test_an_unclosed_quote_is_an_error_with_its_line(tmp_path, kind):
    path = tmp_path / ("c.tsv" if "tsv" in kind else "c.csv")
    path.write_text(UNCLOSED[kind], newline="")
    folder = images(tmp_path / "images", 9)
    with pytest.raises(
        ValueError, match=r"c\.[ct]sv, line 3: a quote is opened in this row and takes the following rows"
    ):
        pack(tmp_path / "out", images=folder, captions=path)
    assert not list(tmp_path.glob("out/*.tar"))


@pytest.mark.parametrize(
    "caption",
    [
        "one line",
        "two\nlines",
        "two\r\nlines",
        'with "quotes", commas,\nand more, lines\n\nand "an end"',
        "Title: a cat\nby me, 2020\nphoto, film",
        "ends in a line end\n",
        '"quoted from start to end"',
        "like 001.png, but red",
        'a list:\n- "red"\n- blue, green\n- ""',
        "001.png",
        "form\ffeed, next\x85line, line\u2028and paragraph\u2029separators, vertical\x0btab",
    ],
)
@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_captions_with_quotes_and_line_ends_are_read_as_csv_says(tmp_path, caption, ending):
    path = tmp_path / f"c.{ending}"
    rows = [("file", "caption", "id"), ("000.png", caption, "1"), ("001.png", "x", "2"), ("002.png", caption, "3")]
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t" if ending == "tsv" else ",").writerows(rows)
    assert [fields for _, fields in read_csv(path)] == [dict(zip(rows[0], row)) for row in rows[1:]]


def test_quotes_that_stay_in_their_line_are_read_leniently(tmp_path):
    lines = [
        "file,caption",
        '000.png, "spaced" ',
        '001.png,"the" sign',
        '002.png,5" pipe',
        '003.png,"a" or "b, c"',
        "",
        "004.png,x",
    ]
    (tmp_path / "c.csv").write_text("\n".join(lines))
    found = list(read_csv(tmp_path / "c.csv"))
    assert [number for number, _ in found] == [2, 3, 4, 5, 7]
    captions = [fields if isinstance(fields, Broken) else fields["caption"].strip() for _, fields in found]
    assert captions[:3] == ["spaced", "the sign", '5" pipe']
    assert captions[3].reason == "more fields than columns"
    assert captions[4] == "x"


STRANGE = "form\ffeed next\x85line line\u2028and paragraph\u2029separators vertical\x0btab"


def test_only_line_ends_end_lines(tmp_path):
    folder = images(tmp_path / "images", 2)
    (folder / "000.txt").write_text(f"{STRANGE}\n")
    (folder / "001.json").write_text(json.dumps({"caption": STRANGE, "note": STRANGE}, ensure_ascii=False))
    pack(tmp_path / "side", images=folder)
    rows = [{"file": f"{n:03d}.png", "caption": STRANGE, "note": STRANGE} for n in range(2)]
    (tmp_path / "c.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    for ending, delimiter in (("csv", ","), ("tsv", "\t")):
        text = "\n".join(delimiter.join(row) for row in [rows[0], *(row.values() for row in rows)])
        (tmp_path / f"c.{ending}").write_text(text)
    for ending in ("csv", "tsv", "jsonl"):
        summary = pack(tmp_path / ending, images=folder, captions=tmp_path / f"c.{ending}")
        assert summary.rows == 2
    for out in ("side", "csv", "tsv", "jsonl"):
        assert captions_of(tmp_path / out) == {"000_png": STRANGE, "001_png": STRANGE}
        assert json.loads(contents(tmp_path / out)["001_png"]["json"])["note"] == STRANGE


def test_columns_of_one_name_are_refused(tmp_path):
    path = table(tmp_path / "c.csv", [("000.png", "a", "b")], ("file", "caption", "caption"))
    with pytest.raises(ValueError, match="more than one column 'caption'; give each a name of its own"):
        pack(tmp_path / "out", captions=path)


def test_paths_of_windows(tmp_path):
    folder = tmp_path / "images"
    images(folder / "sub", 2)
    (folder / "sub\\literal.png").write_bytes(encoded())
    Image.new("RGB", (9, 9)).save(tmp_path / "outside.png")
    names = [
        "sub\\000.png",
        ".\\sub\\001.png",
        "sub\\literal.png",
        "..\\outside.png",
        "C:\\images\\000.png",
        "\\\\host\\a.png",
    ]
    rows = [(name, name) for name in names]
    summary = pack(tmp_path / "out", images=folder, captions=table(tmp_path / "c.csv", rows))
    assert captions_of(tmp_path / "out") == {
        "sub/000_png": names[0],
        "sub/001_png": names[1],
        "sub\\literal_png": names[2],
    }
    assert reasons(summary) == {"path outside the folder": 3}


def test_formats_that_are_not_read_are_said_so_in_a_table_too(tmp_path):
    folder = images(tmp_path / "images", 1)
    (folder / "a.NEF").write_bytes(encoded(form="tiff"))
    rows = [("000.png", "x"), ("a.NEF", "x")]
    summary = pack(tmp_path / "out", images=folder, captions=table(tmp_path / "c.csv", rows))
    assert reasons(summary) == {"image format that is not read": 1}


@pytest.mark.parametrize("name", ["my [2023]", "{a,b} (1)", "*"])
def test_tables_in_folders_of_any_name(tmp_path, name):
    for folder in (tmp_path / name, tmp_path / "2", tmp_path / "a (1)"):
        (folder / "deep").mkdir(parents=True)
        for file in ("a.csv", "b.csv", "deep/c.csv", "[x].csv", "x.csv"):
            (folder / file).write_text("file,caption\n")

    def found(pattern):
        return [os.path.relpath(path, tmp_path / name) for path in find_tables(f"{tmp_path}/{name}/{pattern}")]

    assert found("a.csv") == ["a.csv"]
    assert found("[ab].csv") == ["a.csv", "b.csv"]
    assert found("d*/c.csv") == ["deep/c.csv"]
    assert found("[x].csv") == ["[x].csv"]
    assert found("[[]x].csv") == ["[x].csv"]


def test_a_deeply_nested_row_is_counted(tmp_path):
    folder = images(tmp_path / "images", 2)
    lines = [{"file": "000.png", "caption": "x"}, {"file": "001.png", "caption": "x", "deep": 1}]
    text = "\n".join(json.dumps(line) for line in lines).replace('"deep": 1', '"deep": ' + "[" * 600 + "]" * 600)
    (tmp_path / "c.jsonl").write_text(text)
    summary = pack(tmp_path / "out", images=folder, captions=tmp_path / "c.jsonl")
    assert reasons(summary) == {"unreadable row": 1}


def test_images_that_a_table_does_not_name_are_counted(tmp_path):
    folder = images(tmp_path / "images", 6)
    (folder / "more").mkdir()
    images(folder / "more", 2)
    (folder / "000.seg.png").write_bytes(encoded(mode="L"))
    (folder / "notes.txt").write_text("x")
    images(tmp_path / "images" / "out" / "pictures", 1)
    rows = [
        ("000.png", "a"),
        ("./001.png", "b"),
        ("more/000.png", "c"),
        (str(folder / "002.png"), "d"),
        ("003.png", ""),
    ]
    path = table(folder / "captions.csv", rows)
    summary = pack(folder / "out" / "shards", images=folder, captions=path)
    unnamed = {"count": 4, "first": ["004.png", "005.png", "more/001.png"]}
    assert summary.others.skipped == {"image that the table does not name": unnamed}
    assert reasons(summary) == {"no caption": 1}, "which is a row"
    assert "4 other files, which are no rows" in summary.table()
    saved = json.loads((folder / "out" / "shards" / "summary.json").read_text())
    assert saved["other_files"] == summary.others.skipped
    assert summary.rows == 5


def test_a_table_that_is_elsewhere_or_forgotten_is_named(tmp_path):
    folder = images(tmp_path / "my images", 2)
    path = table(folder / "captions.csv", [("000.png", "a"), ("001.png", "b")])
    with pytest.raises(
        FileNotFoundError, match="no captions at 'captions.csv'; did you mean captions=.*/my images/captions.csv"
    ):
        pack(tmp_path / "out", images=folder, captions="captions.csv")
    with pytest.raises(ValueError, match="; captions='.*/my images/captions.csv' takes captions from that table"):
        pack(tmp_path / "out", images=folder)
    assert pack(tmp_path / "out", images=folder, captions=path).splits["train"].samples == 2
