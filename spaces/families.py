"""The module paths of transformers' architecture families: the only file that knows transformers' module names.

A family is one row of `FAMILIES`. Paths are dotted and relative to the backbone (the model without its task head) or,
inside a block, to the block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from spaces.errors import Infeasible


@dataclass(frozen=True, slots=True)
class Family:
    """Module names of one architecture family."""

    model_types: tuple[str, ...]
    layers: str
    query: str
    key: str
    value: str
    output: str
    up: tuple[str, ...]  # one matrix, or gate and up
    down: str
    norms: tuple[str, ...]  # in each block, over the hidden size
    embeddings: tuple[str, ...]  # nn.Embedding over the hidden size
    outer_norms: tuple[str, ...]
    pooler: str | None = None
    heads_prunable: bool = True
    #: In a block, matrices of several roles in one, and the names of their parts (`spaces.fused` takes them apart).
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: Attributes of the attention module with its number of heads, and its width, where these do not follow its input.
    head_counts: tuple[str, ...] = ()
    head_widths: tuple[str, ...] = ()


_BERT_LAYER = {
    "layers": "encoder.layer",
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "up": ("intermediate.dense",),
    "down": "output.dense",
    "norms": ("attention.output.LayerNorm", "output.LayerNorm"),
}
_BERT_EMBEDDINGS = (
    "embeddings.word_embeddings",
    "embeddings.position_embeddings",
    "embeddings.token_type_embeddings",
)

FAMILIES: tuple[Family, ...] = (
    Family(
        model_types=("bert", "roberta", "xlm-roberta", "camembert", "electra"),
        **_BERT_LAYER,  # type: ignore[arg-type]
        embeddings=_BERT_EMBEDDINGS,
        outer_norms=("embeddings.LayerNorm",),
        pooler="pooler.dense",
    ),
    Family(
        model_types=("distilbert",),
        layers="transformer.layer",
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        output="attention.out_lin",
        up=("ffn.lin1",),
        down="ffn.lin2",
        norms=("sa_layer_norm", "output_layer_norm"),
        embeddings=("embeddings.word_embeddings", "embeddings.position_embeddings"),
        outer_norms=("embeddings.LayerNorm",),
    ),
    Family(
        model_types=("mpnet",),
        layers="encoder.layer",
        query="attention.attn.q",
        key="attention.attn.k",
        value="attention.attn.v",
        output="attention.attn.o",
        up=("intermediate.dense",),
        down="output.dense",
        norms=("attention.LayerNorm", "output.LayerNorm"),
        embeddings=("embeddings.word_embeddings", "embeddings.position_embeddings"),
        outer_norms=("embeddings.LayerNorm",),
        pooler="pooler.dense",
        # Its relative position bias holds one value a head, shared by all layers: heads cannot differ by layer.
        heads_prunable=False,
    ),
    Family(
        model_types=("llama", "mistral", "qwen2", "qwen3"),
        layers="layers",
        query="self_attn.q_proj",
        key="self_attn.k_proj",
        value="self_attn.v_proj",
        output="self_attn.o_proj",
        up=("mlp.gate_proj", "mlp.up_proj"),
        down="mlp.down_proj",
        norms=("input_layernorm", "post_attention_layernorm"),
        embeddings=("embed_tokens",),
        outer_norms=("norm",),
    ),
    Family(
        # Where positions have matrices of their own (share_att_key: false), see `_check_block`.
        model_types=("deberta-v2",),
        **{  # type: ignore[arg-type]
            **_BERT_LAYER,
            "query": "attention.self.query_proj",
            "key": "attention.self.key_proj",
            "value": "attention.self.value_proj",
        },
        embeddings=(*_BERT_EMBEDDINGS, "encoder.rel_embeddings"),
        outer_norms=("embeddings.LayerNorm", "encoder.LayerNorm"),
        head_counts=("num_attention_heads",),
    ),
    Family(
        model_types=("modernbert",),
        layers="layers",
        query="attn.Wqkv.query",
        key="attn.Wqkv.key",
        value="attn.Wqkv.value",
        output="attn.Wo",
        up=("mlp.Wi.input", "mlp.Wi.gate"),
        down="mlp.Wo",
        norms=("mlp_norm", "attn_norm"),  # the first block has no norm before its attention
        embeddings=("embeddings.tok_embeddings",),
        outer_norms=("embeddings.norm", "final_norm"),
        fused={"attn.Wqkv": ("query", "key", "value"), "mlp.Wi": ("input", "gate")},
    ),
    Family(
        model_types=("gpt2",),
        layers="h",
        query="attn.c_attn.query",
        key="attn.c_attn.key",
        value="attn.c_attn.value",
        output="attn.c_proj",
        up=("mlp.c_fc",),
        down="mlp.c_proj",
        norms=("ln_1", "ln_2"),
        embeddings=("wte", "wpe"),
        outer_norms=("ln_f",),
        fused={"attn.c_attn": ("query", "key", "value")},
        head_widths=("split_size",),
    ),
)


def known_model_types() -> tuple[str, ...]:
    """The transformers `model_type`s of all known families."""
    return tuple(name for family in FAMILIES for name in family.model_types)


def family_of(model_type: str) -> Family:
    """The family of a transformers `model_type`. Raises Infeasible, naming the known ones."""
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    types = ", ".join(known_model_types())
    raise Infeasible(
        f"the layout of model family {model_type!r} is not known, so its layers cannot be cut; known: {types}"
    )
