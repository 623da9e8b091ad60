"""The files of sentence-transformers in an exported model folder, where its library can give the same embeddings.

`DIR/sentence-transformers` is a complete folder of that library, and `DIR/modules.json` refers to it, so that
`SentenceTransformer(DIR)` opens it. Without these files the library reads `DIR/config.json`, whose error names
`search.load`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from spaces import build
from spaces.base import read_config
from spaces.errors import Infeasible
from spaces.heads import PooledEncoder, head_named
from spaces.pooling import MODULES, write_sentence_transformers
from spaces.recipe import Recipe
from spaces.transformers_folder import write_plain

SENTENCE_FOLDER = "sentence-transformers"
#: The files that a tokenizer may be read from.
TOKENIZER = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)


def write_sentence_folder(folder: Path, recipe: Recipe, max_length: int) -> bool:
    """Add those files to the model folder of this recipe; False where the library would give other embeddings.

    The embeddings are equal for an embedding model in fp32 whose shapes a transformers configuration can express.
    `max_length` is the number of tokens at which texts are cut.
    """
    head = head_named(read_config(folder)[0].head)
    if not head.embeds or build.precision_of(recipe) != {"precision": "fp32"}:
        return False
    model = build.load_model(folder)
    assert isinstance(model, PooledEncoder)
    inner = folder / SENTENCE_FOLDER
    try:
        write_plain(model, inner)
    except Infeasible:
        return False
    for name in TOKENIZER:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, inner / name)
    hidden = int(model.backbone.config.hidden_size)  # type: ignore[union-attr,arg-type]
    write_sentence_transformers(inner, model.pooled.pooling, model.pooled.state_dict(), max_length, hidden)
    modules = json.loads((inner / MODULES).read_text(encoding="utf-8"))
    led = [{**module, "path": f"{SENTENCE_FOLDER}/{module['path']}".rstrip("/")} for module in modules]
    (folder / MODULES).write_text(json.dumps(led, indent=2) + "\n", encoding="utf-8")
    return True
