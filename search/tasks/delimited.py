"""CSV and TSV text becomes rows of fields, each as it stands in the file; no row is skipped or repaired silently.

The rules:

- The first line is the header. Every row must have as many fields as the header; another number is an error.
- Blank lines are skipped. An empty field is a missing value.
- In CSV a field that begins with a quote is quoted: a quote inside it is doubled, and it may hold line breaks.
- TSV is defined without quotes, but many programs write them. Quotes are ordinary characters of the text,
  unless the file only makes sense with quoted fields: lines do not have the header's number of fields otherwise, or
  the fields with a quote in them are all written as a program that quotes writes them, doubled quotes included.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from search.errors import UserError, show

POSSIBLE_DELIMITERS = (",", ";", "\t", "|")
QUOTED = re.compile(r'"(?:[^"]|"")*"')  # a field as a program that quotes writes it


@dataclass(frozen=True)
class ParsedFile:
    """A parsed file; `problem` is the first inconsistency of the parse, or ""."""

    header: list[str]
    rows: list[list[str]]
    lines: int  # that the rows take in the file
    broken: str = ""  # where the first row that takes several is
    problem: str = ""


def parse_table(text: str, delimiter: str, at: str) -> tuple[list[str], list[list[str]], tuple[str, ...]]:
    """(header, rows, notes) of the text of a file. `at` begins a message.

    Raises:
        UserError: a row has more or fewer fields than the header, or a quote is not closed.
    """
    _check_delimiter(text, delimiter, at)
    content = _read(text, delimiter, csv.QUOTE_MINIMAL)
    notes = []
    if delimiter == "\t" and re.search(r'(^|[\t\r\n])"', text):
        quoted, plain = content, _read(text, delimiter, csv.QUOTE_NONE)
        if any(QUOTED.fullmatch(name) for name in plain.header) or not (
            quoted.problem or (not plain.problem and not _written_quoted(plain, quoted))
        ):
            notes.append("its fields are quoted; the quotes around them are removed")
        else:
            content = plain
            notes.append("quotes are read as characters of the texts, since its fields are not quoted")
    if content.problem:
        raise UserError(f"{at}: {content.problem}")
    if content.lines > len(content.rows):
        notes.append(
            f"{len(content.rows)} rows in {content.lines} lines: quoted fields hold line breaks, first in "
            f"{content.broken}"
        )
    return content.header, content.rows, tuple(notes)


def _check_delimiter(text: str, delimiter: str, at: str) -> None:
    """Raise UserError where the first line has none, but another that files are delimited by."""
    header = re.split(r"[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]
    if delimiter not in header:
        other = next((mark for mark in POSSIBLE_DELIMITERS if mark in header), None)
        if other is not None:
            raise UserError(
                f"{at}: its header {show(header)} has no {show(delimiter)}; "
                f"if its columns are separated by {show(other)}, set data.delimiter: {show(other)}"
            )


def _read(text: str, delimiter: str, quoting: Literal[0, 3]) -> ParsedFile:
    """All rows, or those before the first that has a problem."""
    header: list[str] = []
    rows: list[list[str]] = []
    lines, broken = 0, ""
    with _long_fields():
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
        while True:
            before = reader.line_num
            where = f"row {len(rows) + 1} (line {before + 1})" if header else f"the header (line {before + 1})"
            try:
                fields = next(reader)
            except StopIteration:
                return ParsedFile(header, rows, lines, broken)
            except csv.Error as error:
                return ParsedFile(header, rows, lines, broken, f"{where}: {_plain(error)}")
            if _blank(fields, header):
                continue
            if not header:
                header = fields
                continue
            if len(fields) != len(header):
                counts = f"has {len(fields)} fields, and the header has {len(header)}"
                return ParsedFile(header, rows, lines, broken, f"{where} {counts}")
            rows.append(fields)
            if reader.line_num > before + 1:
                broken = broken or where
            lines += reader.line_num - before


def _blank(fields: Sequence[str], header: Sequence[str]) -> bool:
    """Whether a line is blank. (In a file of one column, spaces are a value.)"""
    return not fields or (len(fields) == 1 and len(header) != 1 and not fields[0].strip())


def _plain(error: csv.Error) -> str:
    if "unexpected end" in str(error):
        return "a quote is opened and never closed"
    if "expected after" in str(error):
        return "text follows a closing quote (a quote inside a quoted field must be doubled)"
    return str(error)


def _written_quoted(plain: ParsedFile, quoted: ParsedFile) -> bool:
    """Whether a file whose lines make sense either way was written with quoted fields.

    A program that quotes puts every field with a quote in it into quotes, and doubles the quotes inside; it also may
    quote a whole column. Texts that only happen to begin or end with a quote fit neither.
    """
    if len(plain.rows) != len(quoted.rows):  # quoted fields would join lines that are whole rows each
        return False
    fields = [field for row in plain.rows for field in row if '"' in field]
    if not all(QUOTED.fullmatch(field) for field in fields):
        return False
    columns = zip(*plain.rows, strict=True)
    return any('""' in field[1:-1] for field in fields) or any(
        all(QUOTED.fullmatch(value) for value in column) for column in columns
    )


@contextmanager
def _long_fields() -> Iterator[None]:
    """Lifts the csv module's limit of 128 KiB a field meanwhile."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)
