"""Where the parts of a transformer are: the only file that knows transformers' module names.

A family is one row of `FAMILIES`. Paths are dotted and relative to the backbone (the model without its task
head) or, inside a block, to the block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from spaces.errors import Infeasible
from spaces.shape import LayerShape, Shape


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
    #: What the attention module calls its numbers of heads, and its width, where it does not take them from its input.
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
    return tuple(name for family in FAMILIES for name in family.model_types)


def family_of(model_type: str) -> Family:
    """The family of a transformers `model_type`. Raises Infeasible, naming the known ones."""
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    known = ", ".join(known_model_types())
    raise Infeasible(
        f"the layout of model family {model_type!r} is not known, so its layers cannot be cut; known: {known}"
    )


@dataclass(frozen=True)
class Anatomy:
    """The parts of one model, by role."""

    backbone: nn.Module
    family: Family

    @property
    def blocks(self) -> nn.ModuleList:
        blocks = self.backbone.get_submodule(self.family.layers)
        assert isinstance(blocks, nn.ModuleList)
        return blocks

    def roles(self) -> dict[str, str]:
        """Path inside a block, by role: query, key, value, output, up (up.0, up.1 when gated), down."""
        family = self.family
        ups = {f"up.{i}" if len(family.up) > 1 else "up": path for i, path in enumerate(family.up)}
        return {
            "query": family.query,
            "key": family.key,
            "value": family.value,
            "output": family.output,
            **ups,
            "down": family.down,
        }

    def linear(self, block: int, role: str) -> nn.Linear:
        found = self.blocks[block].get_submodule(self.roles()[role])
        assert isinstance(found, nn.Linear), f"{role} of block {block} is a {type(found).__name__}"
        return found

    @property
    def embeddings(self) -> tuple[str, ...]:
        """Paths of the embeddings over the hidden size that this model has."""
        return tuple(path for path in self.family.embeddings if _has_weight(self.backbone, path))

    @property
    def outer_norms(self) -> tuple[str, ...]:
        return tuple(path for path in self.family.outer_norms if _has_weight(self.backbone, path))

    def norms(self, block: int) -> tuple[str, ...]:
        """Paths of the norms that this block has, inside it."""
        return tuple(path for path in self.family.norms if _has_weight(self.blocks[block], path))

    @property
    def token_table(self) -> nn.Embedding:
        """The embedding of token ids."""
        found = self.backbone.get_submodule(self.family.embeddings[0])
        assert isinstance(found, nn.Embedding), f"the token embedding is a {type(found).__name__}"
        return found

    def attention(self, block: int) -> nn.Module:
        """The module of a block that multiplies queries with keys."""
        path = self.family.query.rpartition(".")[0]
        return self.blocks[block].get_submodule(path.rpartition(".")[0] if path in self.family.fused else path)

    @property
    def head_dim(self) -> int:
        attention = self.attention(0)
        for name in ("attention_head_size", "head_dim"):
            found = getattr(attention, name, None)
            if isinstance(found, int):
                return found
        raise Infeasible(f"{type(attention).__name__} names no head size")

    @property
    def shape(self) -> Shape:
        head_dim = self.head_dim
        layers = tuple(
            LayerShape(
                heads=self.linear(i, "key").out_features // head_dim,
                neurons=self.linear(i, "down").in_features,
            )
            for i in range(len(self.blocks))
        )
        hidden = self.linear(0, "query").in_features
        return Shape(
            hidden=hidden,
            head_dim=head_dim,
            group=self.linear(0, "query").out_features // self.linear(0, "key").out_features,
            layers=layers,
            prunable_heads=self.family.heads_prunable,
            prunable_hidden=self._hidden_is_one_size(hidden),
        )

    def _hidden_is_one_size(self, hidden: int) -> bool:
        """False where embeddings have a width of their own (ELECTRA small projects them)."""
        tables = [self.backbone.get_submodule(path) for path in self.embeddings]
        return all(isinstance(t, nn.Embedding) and t.embedding_dim == hidden for t in tables)

    def set_heads(self, block: int, groups: int) -> None:
        """Set the number of groups of heads in the attention module of a block."""
        attention, heads = self.attention(block), groups * self.shape.group
        for name in self.family.head_counts:
            setattr(attention, name, heads)
        for name in self.family.head_widths:
            setattr(attention, name, heads * self.head_dim)

    def set_depth(self, kept: list[int]) -> None:
        """Keep the blocks at these positions, in this order, and update the configuration that counts them."""
        blocks = nn.ModuleList(self.blocks[i] for i in kept)
        parent, _, name = self.family.layers.rpartition(".")
        setattr(self.backbone.get_submodule(parent), name, blocks)
        for position, block in enumerate(blocks):
            for module in block.modules():
                if hasattr(module, "layer_idx"):
                    module.layer_idx = position  # type: ignore[assignment]
        config = self.backbone.config
        setattr(config, "num_hidden_layers", len(kept))  # noqa: B010 - mypy: config is an untyped transformers object
        layer_types = getattr(config, "layer_types", None)
        if isinstance(layer_types, list):
            config.layer_types = [layer_types[i] for i in kept]  # type: ignore[union-attr]


def anatomy_of(backbone: nn.Module) -> Anatomy:
    """The anatomy of a transformers base model. Raises Infeasible for an unknown family."""
    model_type = str(getattr(getattr(backbone, "config", None), "model_type", type(backbone).__name__))
    return Anatomy(backbone, family_of(model_type))


def _has_weight(root: nn.Module, path: str) -> bool:
    """Whether there is a module with a weight at `path`: some models of a family leave a part out."""
    return any(name == f"{path}.weight" for name, _ in root.named_parameters())


def replace_module(root: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, module)
