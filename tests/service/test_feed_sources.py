"""`freshet feed`: files of rows, as they come."""

import gzip
import io
import sys

import pytest

from service.client.errors import FileError
from service.client.source import open_source


def read(path):
    with open_source(path) as source:
        return list(source)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_of_a_csv_file_is_found(write, delimiter):
    rows = ["a,b;b,label", '1.5,"x,;y",1', "2,z,0"]
    if delimiter != ",":
        rows = [row.replace(";b", "").replace(",;", ";").replace(",", delimiter) for row in rows]
    records = read(write("\n".join(rows)))
    assert [len(record) for record in records] == [3, 3]
    assert [record["label"] for record in records] == ["1", "0"]


def test_a_gzip_file_is_told_by_its_content_not_by_its_name(write):
    assert read(write(gzip.compress(b"a,label\n1,0\n", mtime=0), "rows.csv")) == [{"a": "1", "label": "0"}]


def test_a_byte_order_mark_blank_lines_and_windows_line_ends_are_no_data(write):
    assert read(write("\ufeffa,label\r\n1,0\r\n\r\n2,1\r\n")) == [
        {"a": "1", "label": "0"},
        {"a": "2", "label": "1"},
    ]


def test_standard_input_is_read(monkeypatch):
    monkeypatch.setattr(
        sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(b'{"a": 1, "label": 0}\n')))
    )
    assert read("-") == [{"a": 1, "label": 0}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("1,2,3\n4,5,6\n", "must name the columns"),
        ("a,a,label\n1,2,3\n", "'a' appears twice"),
        ("a,,label\n1,2,3\n", "column 2 has no name"),
        ("a,label\n1,0\n1,0,7\n", "row 2: 3 fields under 2 columns"),
        ('a,label\n1,0\n"1,0\n', "row 2: unexpected end of data"),
        ('{"a": 1}\n{"a": \n', "row 2: not JSON: Expecting value"),
        ('{"a": 1}\n{"a": NaN}\n', "row 2: not JSON: NaN is no JSON number"),
        ('{"a": 1}\n[1, 2]\n', "row 2: not a JSON object"),
        ('[{"a": 1}]\n', "row 1: not a JSON object"),
        (b"a,label\n1,0\n\xff,1\n", "can't decode"),
        (gzip.compress(b"a,label\n1,0\n" * 1000, mtime=0)[:-20], "end-of-stream"),
    ],
)
def test_a_broken_file_is_named_with_its_row(write, text, message):
    with pytest.raises(FileError, match=message):
        read(write(text))


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(FileError, match=r"cannot open nowhere\.csv: No such file"):
        read("nowhere.csv")
