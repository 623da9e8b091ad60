"""Tiny random models of many transformers families, each with a tokenizer that frames texts as that family does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tiny

MARKS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
END = "<|endoftext|>"
WORDS = (*MARKS, *tiny.POSITIVE, *tiny.NEGATIVE, *tiny.NEUTRAL)
#: (around a text, around a pair), as `tokenizers` writes templates.
FRAMES: Mapping[str, tuple[str, str]] = {
    "bert": ("<s> $A </s>", "<s> $A </s> $B:1 </s>:1"),
    "roberta": ("<s> $A </s>", "<s> $A </s> </s> $B </s>"),
    "end": ("$A </s>", "$A </s> $B </s>"),
    "start": ("<s> $A", "<s> $A <s> $B"),
    "none": ("$A", "$A $B"),
    "xlnet": ("$A </s> <s>:2", "$A </s> $B:1 </s>:1 <s>:2"),
}
_ENCODER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_DECODER = {**_ENCODER, "num_key_value_heads": 2, "max_position_embeddings": 64}
_DISTIL = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 64, "pad_token_id": 1}
_BART = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
_T5 = {
    "d_model": 32,
    "decoder_start_token_id": 1,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 1,
    "num_heads": 4,
    "pad_token_id": 1,
    "eos_token_id": 2,
}
_BIASED = {"max_position_embeddings": 64, "pad_token_id": 1}


@dataclass(frozen=True)
class Kind:
    """A model type, its sizes, how its tokenizer frames texts, and whether that gives token types."""

    model_type: str
    frame: str
    sizes: Mapping[str, Any] = field(default_factory=dict)
    types: bool = False
    pads: bool = True  # the tokenizer names a padding token
    positions: int | None = 64


KINDS: Mapping[str, Kind] = {
    "bert": Kind("bert", "bert", {**_ENCODER, **_BIASED}, types=True),
    "bert-untyped": Kind("bert", "bert", {**_ENCODER, **_BIASED}),
    "roberta": Kind("roberta", "roberta", {**_ENCODER, **_BIASED, "type_vocab_size": 1}, positions=62),
    "xlm-roberta": Kind("xlm-roberta", "roberta", {**_ENCODER, **_BIASED, "type_vocab_size": 1}, positions=62),
    "distilbert": Kind("distilbert", "bert", _DISTIL, types=True),
    "electra": Kind("electra", "bert", {**_ENCODER, **_BIASED, "embedding_size": 16}, types=True),
    "mpnet": Kind("mpnet", "roberta", {**_ENCODER, **_BIASED}, positions=62),
    "albert": Kind("albert", "bert", {**_ENCODER, **_BIASED, "embedding_size": 16}, types=True),
    "deberta-v2": Kind(
        "deberta-v2",
        "bert",
        {**_ENCODER, **_BIASED, "relative_attention": True, "position_biased_input": False, "type_vocab_size": 0},
        types=True,
        positions=None,
    ),
    "deberta-v2-positions": Kind("deberta-v2", "bert", {**_ENCODER, **_BIASED, "type_vocab_size": 2}, types=True),
    "modernbert": Kind(
        "modernbert",
        "bert",
        {**_ENCODER, **_BIASED, "cls_token_id": 0, "sep_token_id": 2, "bos_token_id": 0, "eos_token_id": 2},
        positions=None,
    ),
    "gpt2": Kind(
        "gpt2",
        "none",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 0, "eos_token_id": 0},
        pads=False,
    ),
    "llama": Kind("llama", "start", {**_DECODER, "bos_token_id": 0, "eos_token_id": 2}, pads=False, positions=None),
    "qwen2": Kind("qwen2", "none", {**_DECODER, "bos_token_id": 0, "eos_token_id": 0}, positions=None),
    "mistral": Kind("mistral", "start", {**_DECODER, "bos_token_id": 0, "eos_token_id": 2}, positions=None),
    "opt": Kind(
        "opt",
        "start",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 64,
            "word_embed_proj_dim": 32,
            **_BIASED,
        },
    ),
    "bart": Kind("bart", "roberta", _BART),
    "t5": Kind("t5", "end", _T5, positions=None),
}


def word_tokenizer(frame: str, types: bool = False, pads: bool = True, longest: int | None = None) -> Any:
    """Words to ids, framed by one of `FRAMES`."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    numbers = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(WordLevel(numbers, unk_token="<unk>"))
    tokenizer.pre_tokenizer = BertPreTokenizer()
    single, pair = FRAMES[frame]
    tokenizer.post_processor = TemplateProcessing(
        single=single, pair=pair, special_tokens=[("<s>", numbers["<s>"]), ("</s>", numbers["</s>"])]
    )
    names = ["input_ids", *(["token_type_ids"] if types else []), "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        eos_token="</s>",
        mask_token="<mask>",
        model_input_names=names,
        **({"bos_token": "<s>"} if frame != "none" else {}),
        **({"pad_token": "<pad>"} if pads else {}),
        **({} if longest is None else {"model_max_length": longest}),
    )


def byte_tokenizer(maker: str, longest: int | None = None) -> Any:
    """Bytes to ids, as GPT-2 and Qwen2 have them; they put nothing around a text, and "" has no tokens."""
    import transformers
    from tokenizers.pre_tokenizers import ByteLevel

    numbers = {letter: number for number, letter in enumerate([END, *sorted(ByteLevel.alphabet())])}
    limit = {} if longest is None else {"model_max_length": longest}
    return getattr(transformers, maker)(vocab=numbers, merges=[], **limit)


def tokenizer_of(kind: str, longest: int | None = None) -> Any:
    named = KINDS[kind]
    if named.frame == "none":
        return byte_tokenizer({"gpt2": "GPT2Tokenizer", "qwen2": "Qwen2Tokenizer"}[named.model_type], longest)
    return word_tokenizer(named.frame, named.types, named.pads, longest)


def config_of(kind: str, **changes: Any) -> Any:
    from transformers import AutoConfig

    named = KINDS[kind]
    tokens = 257 if named.frame == "none" else len(WORDS)
    return AutoConfig.for_model(named.model_type, **{"vocab_size": tokens, **named.sizes, **changes})


def save(folder: Path, kind: str, classes: int | None = 2, longest: int | None = None, **changes: Any) -> Path:
    """A random model of a family; with a classification head of so many labels, or bare (None)."""
    import torch
    from transformers import AutoModel, AutoModelForSequenceClassification

    if classes is not None:
        names = {i: f"label {i}" for i in range(classes)}
        changes = {"id2label": names, "label2id": {name: i for i, name in names.items()}, **changes}
    maker = AutoModel if classes is None else AutoModelForSequenceClassification
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = maker.from_config(config_of(kind, **changes))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape) * 0.1)
        model.save_pretrained(folder)
    tokenizer_of(kind, longest).save_pretrained(folder)
    return folder
