"""Decoding of data files: UTF-8, the encoding of a byte order mark, or the encoding that the user names."""

from __future__ import annotations

import codecs

from search.errors import UserError

#: The longer marks first: that of UTF-32 begins with that of UTF-16.
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
#: First bytes of binary formats, refused whatever the file's name.
BINARY = (
    (b"PAR1", "a Parquet file"),
    (b"PK\x03\x04", "a zip archive or a spreadsheet (xlsx)"),
    (b"\x1f\x8b", "compressed with gzip"),
    (b"ARROW1", "an Arrow file"),
    (b"\xd0\xcf\x11\xe0", "a spreadsheet (xls)"),
)
SAMPLE_BYTES = 100_000  # bytes from which the encoding is guessed


def decode(content: bytes, encoding: str | None, at: str) -> tuple[str, str]:
    """(the text without a byte order mark, a note about the encoding or "").

    `encoding` is data.encoding; None: that of the byte order mark, else UTF-8. `at` begins a message.

    Raises:
        UserError: the bytes are not of that encoding; the message says where, and which encoding is likely.
    """
    for start, what in BINARY:
        if content.startswith(start):
            raise UserError(f"{at}: it is {what}")
    name = encoding or next((name for mark, name in MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(name).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UserError(_refusal(content, error.start, name, encoding, at)) from None
    except UnicodeError as error:  # of codecs that say no place, such as idna
        raise UserError(f"{at}: it is not {name}, which data.encoding says: {error}") from None
    if encoding is None and name == "utf-8" and text.count("\0") * 5 > len(text):
        wide = "utf-16-be" if content[:1] == b"\0" else "utf-16-le"
        raise UserError(f"{at}: it is full of zero bytes; it is likely {wide}: set data.encoding: {wide}")
    return text, _note(content, name, encoding)


def _note(content: bytes, name: str, encoding: str | None) -> str:
    if encoding is None:
        return "" if name == "utf-8" else f"read as {name}, by its byte order mark"
    if codecs.lookup(encoding).name in ("utf-8", "utf-8-sig", "ascii") or content.isascii():
        return ""
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return ""
    return f"read as {encoding}, which data.encoding says; it is valid UTF-8 too"


def _refusal(content: bytes, start: int, name: str, encoding: str | None, at: str) -> str:
    line = content.count(b"\n", 0, start) + 1
    origin = ", which data.encoding says" if encoding else ""
    broken = _broken(content) if name == "utf-8" else 0
    if broken:
        advice = f"the rest is: {broken} such place{'s are' if broken > 1 else ' is'} to be mended in the file"
    else:
        likely = likely_encoding(content, start)
        advice = (
            f"it is likely {likely}: set data.encoding: {likely}" if likely else "name its encoding in data.encoding"
        )
    encoding_name = "UTF-8" if name == "utf-8" else name
    return f"{at}: byte 0x{content[start]:02x} at {start} (line {line}) is not {encoding_name}{origin}; {advice}"


def _broken(content: bytes) -> int:
    """The number of invalid places of a file whose non-ASCII text is mostly UTF-8; 0 for another encoding."""
    text = content.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    return broken if sum(mark > "\x7f" for mark in text) > 3 * broken else 0


def likely_encoding(content: bytes, start: int) -> str | None:
    """The likeliest encoding by the bytes around `start`, where decoding failed; None where none decodes the file."""
    from charset_normalizer import from_bytes

    first = max(0, start - SAMPLE_BYTES // 2)
    matches = from_bytes(content[first : first + SAMPLE_BYTES])
    best = matches.best()
    if best is None:
        return None
    # Western text with few accents fits several code pages equally well: then the most usual one is meant.
    equal = [m for m in matches if m.chaos <= best.chaos and m.coherence >= best.coherence]
    names = ["cp1252"] if any("cp1252" in (m.encoding, *m.could_be_from_charset) for m in equal) else []
    for name in (*names, best.encoding, *(m.encoding for m in matches)):
        try:
            content.decode(name)
        except UnicodeError:
            continue
        return name
    return None
