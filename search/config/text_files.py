"""Types of the keys that say how text files are written."""

from __future__ import annotations

import codecs
from typing import Annotated

from annotated_types import Predicate
from pydantic import Field

from search.config.parse import Name, Text


def _is_encoding(name: str) -> bool:
    try:
        codecs.lookup(name)
        b"x".decode(name)
    except UnicodeError:  # that byte alone is none of its characters
        return True
    except (LookupError, ValueError):  # LookupError too where it is a codec between bytes, such as base64
        return False
    return True


def _is_delimiter(text: str) -> bool:
    return len(text) == 1 and text not in '"\r\n\0'


Encoding = Annotated[
    Name, Predicate(_is_encoding), Field(description="an encoding that Python knows, as utf-8, cp1252 or utf-16")
]
Delimiter = Annotated[
    Text, Predicate(_is_delimiter), Field(description='one character that parts fields, as ";" or "\\t"')
]
