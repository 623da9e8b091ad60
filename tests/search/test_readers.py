"""Files are read as they are written: literal paths, their own encoding, no guessed types, no swallowed rows."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from search.errors import UserError
from search.tasks.files import READERS, FileContent, TextFormat, read_file

WANTED = ("text", "label")
#: Words that a reader which guesses types would change.
TEXTS = [
    "0012",
    "1e5",
    "1.0",
    "NA",
    "null",
    "None",
    "nan",
    "true",
    "2020-01-01",
    " padded ",
    "#5",
    "a;b|c",
    "-",
    "=1+1",
]


def read(file: Path, encoding: str | None = None, delimiter: str | None = None) -> FileContent:
    return read_file(file, WANTED, TextFormat(encoding, delimiter), "c.yaml: data.train")


def written(folder: Path, name: str, content: str | bytes) -> Path:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def refusal(file: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(file, **options)
    message = str(caught.value)
    assert message.startswith(f"c.yaml: data.train: {file}") and "\n" not in message
    return message


# --- encodings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-8"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_a_byte_order_mark_and_any_line_ending_just_work(tmp_path: Path, encoding: str, ending: str, kind: str) -> None:
    mark = {"csv": ",", "tsv": "\t"}[kind]
    lines = [f"text{mark}label", f"señor \u2028 x{mark}1", f"¡qué!\x85{mark}0", ""]
    table = read(written(tmp_path, f"rows.{kind}", ending.join(lines).encode(encoding)))
    assert table.columns == {"text": ["señor \u2028 x", "¡qué!\x85"], "label": ["1", "0"]}
    assert table.names == WANTED


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_json_has_byte_order_marks_too(tmp_path: Path, encoding: str, kind: str) -> None:
    content = json.dumps({"text": "señor", "label": "x"}, ensure_ascii=False)
    assert read(written(tmp_path, f"rows.{kind}", content.encode(encoding))).columns["text"] == ["señor"]


SENTENCES = {
    "cp1252": "Una película de España, el año pasado: ¡qué sueño! Está muy bien",
    "cp1251": "Этот фильм просто ужасен, не смотрите его никогда",
    "koi8_r": "Этот фильм просто ужасен, не смотрите его никогда",
    "cp1253": "Η ταινία ήταν πολύ καλή και μου άρεσε",
    "cp1255": "הסרט הזה היה נהדר ואהבתי אותו",
    "cp932": "この映画はとても面白かったです。また見たい",
    "gb18030": "这部电影非常好看,我很喜欢它的故事",
    "big5": "這部電影非常好看,我很喜歡它的故事",
    "cp949": "이 영화는 정말 재미있었습니다",
}


@pytest.mark.parametrize("encoding", SENTENCES)
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_another_encoding_is_named_with_its_place_and_is_read_when_it_is_given(
    tmp_path: Path, encoding: str, kind: str
) -> None:
    texts = [f"plain {i}" for i in range(3)] + [f"{SENTENCES[encoding]} {i}" for i in range(20)]
    if kind == "jsonl":
        lines = [json.dumps({"text": text, "label": "1"}, ensure_ascii=False) for text in texts]
    else:
        mark = {"csv": ",", "tsv": "\t"}[kind]
        lines = [f"text{mark}label", *(f"{text.replace(',', ' ')}{mark}1" for text in texts)]
    content = "\n".join(lines).encode(encoding)
    file = written(tmp_path, f"rows.{kind}", content)
    message = refusal(file)
    first = 4 if kind == "jsonl" else 5  # line of the first such text
    assert f"(line {first}) is not UTF-8" in message
    assert message.endswith(f"it is likely {encoding}: set data.encoding: {encoding}")
    assert read(file, encoding=encoding).columns["text"][-1].startswith(SENTENCES[encoding][:8])


def test_a_wrong_data_encoding_is_told_with_the_likely_one(tmp_path: Path) -> None:
    file = written(tmp_path, "rows.csv", f"text,label\n{SENTENCES['cp1251'].replace(',', '')},1\n".encode("cp1251"))
    assert "is not ascii, which data.encoding says; it is likely cp1251" in refusal(file, encoding="ascii")
    marked = written(tmp_path, "marked.csv", "text,label\nx,1\n".encode("utf-16"))
    assert "byte 0xff at 0 (line 1) is not UTF-8, which data.encoding says; it is likely utf_16" in refusal(
        marked, encoding="utf-8"
    )


def test_a_broken_place_in_utf_8_is_no_other_encoding(tmp_path: Path) -> None:
    content = ("text,label\n" + "señor año,1\n" * 20).encode() + b"x\xff,1\n"
    message = refusal(written(tmp_path, "rows.csv", content))
    assert message.endswith(
        "byte 0xff at 292 (line 22) is not UTF-8; the rest is: 1 such place is to be mended in the file"
    )


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_its_mark_is_recognised(tmp_path: Path, encoding: str) -> None:
    file = written(tmp_path, "rows.csv", "text,label\na film,1\n".encode(encoding))
    assert f"set data.encoding: {encoding}" in refusal(file)
    assert read(file, encoding=encoding).columns["text"] == ["a film"]


def test_utf_8_read_as_something_else_is_noted(tmp_path: Path) -> None:
    file = written(tmp_path, "rows.csv", "text,label\nseñor,1\n")
    assert read(file, encoding="cp1252").notes == ("read as cp1252, which data.encoding says; it is valid UTF-8 too",)
    assert read(file, encoding="UTF8").notes == read(file).notes == ()


@pytest.mark.parametrize(
    ("start", "what"), [(b"PAR1", "Parquet"), (b"PK\x03\x04", "xlsx"), (b"\x1f\x8b\x08", "compressed with gzip")]
)
def test_a_file_that_is_no_text_is_told_for_what_it_is(tmp_path: Path, start: bytes, what: str) -> None:
    assert what in refusal(written(tmp_path, "rows.csv", start + bytes(range(256))))


# --- paths --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize(
    "name", ["train[2]", "train*", "train?", "-train", "a b", "50%20off", "día", "{a,b}", "#1", "a::b", "~x", "$HOME"]
)
def test_paths_are_literal(tmp_path: Path, name: str, kind: str) -> None:
    import pyarrow
    from pyarrow import parquet

    for stem, text in ((name, "mine"), ("train2", "other"), ("train", "other"), ("a", "other"), ("trainx", "other")):
        file = tmp_path / f"{stem}{kind}"
        if kind == ".parquet":
            parquet.write_table(pyarrow.table({"text": [text], "label": ["x"]}), file)
        elif kind.startswith(".json"):
            file.write_text(json.dumps({"text": text, "label": "x"}))
        elif kind == ".txt":  # the whole file is one text
            file.write_text(text)
        else:
            mark = "\t" if kind == ".tsv" else ","
            file.write_text(f"text{mark}label\n{text}{mark}x\n")
    assert read(tmp_path / f"{name}{kind}").columns["text"] == ["mine"]


def test_a_folder_that_looks_like_a_partition_adds_no_column(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    (tmp_path / "label=7").mkdir()
    parquet.write_table(pyarrow.table({"text": ["x"]}), tmp_path / "label=7" / "a.parquet")
    assert read(tmp_path / "label=7" / "a.parquet").names == ("text",)


# --- CSV and TSV --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_cells_are_the_text_that_is_written(tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"rows.{kind}"
    with file.open("w", newline="") as stream:
        csv.writer(stream, delimiter={"csv": ",", "tsv": "\t"}[kind]).writerows([WANTED, *((t, "01") for t in TEXTS)])
    table = read(file)
    assert table.columns == {"text": TEXTS, "label": ["01"] * len(TEXTS)}
    assert table.notes == ()


def test_digits_for_ten_thousand_rows_and_then_words_are_texts(tmp_path: Path) -> None:
    texts = [*map(str, range(10_050)), "words"]
    file = written(tmp_path, "rows.csv", "text,label\n" + "".join(f"{text},1\n" for text in texts))
    assert read(file).columns["text"] == texts


def test_quotes_at_the_beginning_of_texts_swallow_no_row_of_a_tsv(tmp_path: Path) -> None:
    texts = ['"Great" film', "plain", '"Unclosed', "between", 'closed"', '"all of it"', 'an "inner" one', '"']
    file = written(tmp_path, "rows.tsv", "text\tlabel\n" + "".join(f"{text}\t1\n" for text in texts))
    table = read(file)
    assert table.columns["text"] == texts
    assert table.notes == ("quotes are read as characters of the texts, since its fields are not quoted",)


@pytest.mark.parametrize("texts", [['"a', 'b"'] * 3, ['"a" b'], ['a "b"'], ['"a', "b", 'c"'], ['"a" "b"', '"c"']])
def test_any_mix_of_quotes_in_a_plain_tsv_keeps_every_row(tmp_path: Path, texts: list[str]) -> None:
    file = written(tmp_path, "rows.tsv", "text\tlabel\n" + "".join(f"{text}\t1\n" for text in texts))
    assert read(file).columns["text"] == texts


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize(
    "texts",
    [
        ["with\ttab", "plain"],
        ["two\nlines", '"quoted"', "plain"],
        ['He said "hi"', "plain"],
        ["plain", "other"],
        ['"', "x"],
        ['a\t"b"', "x"],
    ],
)
def test_a_tsv_that_was_written_with_quotes_is_read_back(tmp_path: Path, quoting: Any, texts: list[str]) -> None:
    file = tmp_path / "rows.tsv"
    with file.open("w", newline="") as stream:
        csv.writer(stream, delimiter="\t", quoting=quoting).writerows([WANTED, *((text, "x") for text in texts)])
    assert read(file).columns == {"text": texts, "label": ["x"] * len(texts)}


@pytest.mark.parametrize("kind", ["csv", "tsv"])
@pytest.mark.parametrize(("fields", "count"), [(["y"], 1), (["y", "1", "2"], 3), (["y", "1", ""], 3)])
def test_a_row_with_more_or_fewer_fields_is_named(tmp_path: Path, kind: str, fields: list[str], count: int) -> None:
    mark = {"csv": ",", "tsv": "\t"}[kind]
    rows = [["text", "label"], ["x", "1"], [], fields, ["z", "0"]]
    file = written(tmp_path, f"rows.{kind}", "\n".join(map(mark.join, rows)))
    assert f"row 2 (line 4) has {count} fields, and the header has 2" in refusal(file)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('"Great" film,1', "text follows a closing quote"),
        ('"he said \\"hi\\"",1', "text follows a closing quote"),
        ('"never closed,1', "a quote is opened and never closed"),
    ],
)
def test_a_broken_quote_in_a_csv_is_named_with_its_row(tmp_path: Path, line: str, words: str) -> None:
    message = refusal(written(tmp_path, "rows.csv", f"text,label\nx,1\n{line}\ny,0\n"))
    assert "row 2 (line 3)" in message and words in message


def test_line_breaks_in_quotes_are_kept_and_counted(tmp_path: Path) -> None:
    table = read(written(tmp_path, "rows.csv", 'text,label\n"two\r\nlines",1\n\nx,0\n'))
    assert table.columns["text"] == ["two\r\nlines", "x"]
    assert table.notes == ("2 rows in 3 lines: quoted fields hold line breaks, first in row 1 (line 2)",)


def test_empty_fields_are_missing_and_blank_lines_are_no_rows(tmp_path: Path) -> None:
    table = read(written(tmp_path, "rows.csv", "\n\ntext,label\n\n  \nx,\n,1\n\n"))
    assert table.columns == {"text": ["x", None], "label": [None, "1"]}


@pytest.mark.parametrize("mark", [";", "|", "\t"])
def test_another_delimiter_is_told_and_is_read_when_it_is_given(tmp_path: Path, mark: str) -> None:
    file = written(tmp_path, "rows.csv", f"text{mark}label\na, b{mark}1\n")
    assert f"set data.delimiter: {json.dumps(mark)}" in refusal(file)
    assert read(file, delimiter=mark).columns == {"text": ["a, b"], "label": ["1"]}


def test_a_column_that_is_there_twice_is_refused_and_others_may_be(tmp_path: Path) -> None:
    assert 'has 2 columns of the name "text"' in refusal(written(tmp_path, "a.csv", "text,label,text\nx,1,y\n"))
    assert read(written(tmp_path, "b.csv", "x,text,label,x\n1,a,b,2\n")).columns["text"] == ["a"]
    twice = '{"text": "x", "label": 1, "text": "y"}'
    assert 'the key "text" is there twice' in refusal(written(tmp_path, "c.jsonl", twice))


def test_a_text_longer_than_the_csv_module_expects_is_read(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    assert len(read(written(tmp_path, "a.csv", f"text,label\n{'x' * 200_000},1\n")).columns["text"][0]) == 200_000
    assert csv.field_size_limit() == before
