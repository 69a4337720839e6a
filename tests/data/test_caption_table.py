"""Tables of captions: what the module csv writes is read again, and what is wrong is named by its line."""

import csv
import re

import pytest

from ldm.data.caption_table import CaptionRow, read_caption_table

CAPTIONS = [
    "A man riding a wave.",
    'A sign that says "stop" twice',
    'He said "go"',
    "a tab\tin it",
    "two\nlines",
    "Ein Bär, naïve",
    "it's 5' tall",
    "",
]


def table(tmp_path, text, name="captions.tsv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8", newline="")
    return path


@pytest.mark.parametrize(("name", "dialect"), [("a.tsv", "excel-tab"), ("a.csv", "excel")])
@pytest.mark.parametrize("columns", [["id", "image_id", "caption"], ["caption", "url", "image_id", "id"]])
def test_what_was_written_is_read_again(tmp_path, name, dialect, columns):
    expected = [CaptionRow(f"{7 * number:03d}", str(number), caption) for number, caption in enumerate(CAPTIONS)]
    with open(tmp_path / name, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, dialect)
        writer.writerow(columns)
        for row in expected:
            values = {"id": row.key, "image_id": row.image, "caption": row.caption, "url": "x"}
            writer.writerow([values[column] for column in columns])
    found = read_caption_table(tmp_path / name)
    assert found == expected


def test_columns_can_have_other_names(tmp_path):
    path = table(tmp_path, "k\tname\ttext\n1\ta.jpg\tA cat\n")
    assert read_caption_table(path, key="k", image="name", caption="text") == [CaptionRow("1", "a.jpg", "A cat")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no captions"),
        ("id\timage_id\tcaption\n", "has no captions"),
        ("id\timage\tcaption\n1\t2\ta\n", "has no column 'image_id', but 'id', 'image', 'caption'"),
        ("id\timage_id\tcaption\n1\t2\ta\n2\t \ta\n", "line 3: the field 'image_id' is empty"),
        ("id\timage_id\tcaption\n1\t2\n", "line 2: the row ends before its 'caption'"),
        ("id\timage_id\tcaption\n\t2\ta\n", "line 2: the field 'id' is empty"),
        ("id\timage_id\tcaption\n1\t2\ta\tb\n", "line 2: more fields than columns"),
        ("id\timage_id\tcaption\n1\t2\ta\n3\t2\tb\n1\t4\tc\n", "line 4: the id '1' is that of line 2 already"),
        ('id\timage_id\tcaption\n1\t2\t"a\n2\t3\tb\n', "line 2: a quote is opened in this row"),
        ("id\tid\tcaption\n1\t2\ta\n", "more than one column 'id'"),
    ],
)
def test_what_is_wrong_is_named_by_its_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        read_caption_table(table(tmp_path, text))


def test_a_table_that_is_not_there_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="no table of captions at .*give a .tsv with the columns id, image_id, caption"
    ):
        read_caption_table(tmp_path / "none.tsv")
