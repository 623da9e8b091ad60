"""The parts of one model by role, at the paths that its family has in `spaces.families`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from spaces.errors import Infeasible
from spaces.families import Family, family_of
from spaces.shape import LayerShape, Shape


@dataclass(frozen=True)
class Anatomy:
    """The parts of one model, by role."""

    backbone: nn.Module
    family: Family

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks, first to last."""
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
        """The matrix of a role (`roles`) in a block, which must be an `nn.Linear`."""
        module = self.blocks[block].get_submodule(self.roles()[role])
        assert isinstance(module, nn.Linear), f"{role} of block {block} is a {type(module).__name__}"
        return module

    @property
    def embeddings(self) -> tuple[str, ...]:
        """Paths of this model's embedding tables over the hidden size."""
        return tuple(path for path in self.family.embeddings if _has_weights(self.backbone, path))

    @property
    def outer_norms(self) -> tuple[str, ...]:
        """Paths of this model's norms over the hidden size outside the blocks."""
        return tuple(path for path in self.family.outer_norms if _has_weights(self.backbone, path))

    def norms(self, block: int) -> tuple[str, ...]:
        """Paths of the norms of a block, relative to the block."""
        return tuple(path for path in self.family.norms if _has_weights(self.blocks[block], path))

    @property
    def token_table(self) -> nn.Embedding:
        """The embedding of token ids."""
        module = self.backbone.get_submodule(self.family.embeddings[0])
        assert isinstance(module, nn.Embedding), f"the token embedding is a {type(module).__name__}"
        return module

    def attention(self, block: int) -> nn.Module:
        """The module of a block that multiplies queries with keys."""
        path = self.family.query.rpartition(".")[0]
        return self.blocks[block].get_submodule(path.rpartition(".")[0] if path in self.family.fused else path)

    @property
    def head_dim(self) -> int:
        """Channels of one attention head. Raises Infeasible where the attention module does not name them."""
        attention = self.attention(0)
        for name in ("attention_head_size", "head_dim"):
            value = getattr(attention, name, None)
            if isinstance(value, int):
                return value
        raise Infeasible(f"{type(attention).__name__} names no head size")

    @property
    def shape(self) -> Shape:
        """The sizes of the model, read from its first block's matrices and from each block's heads and neurons."""
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
        """False where embeddings have a width of their own (ELECTRA small projects them), or a convolution reads it."""
        if any(isinstance(module, nn.Conv1d) for module in self.backbone.modules()):
            return False
        tables = [self.backbone.get_submodule(path) for path in self.embeddings]
        return all(isinstance(t, nn.Embedding) and t.embedding_dim == hidden for t in tables)

    def set_heads(self, block: int, groups: int) -> None:
        """Set the number of groups of heads in the attention module of a block."""
        attention, heads = self.attention(block), groups * self.shape.group
        for name in self.family.head_counts:
            setattr(attention, name, heads)
        for name in self.family.head_widths:
            setattr(attention, name, heads * self.head_dim)

    def set_depth(self, indices: list[int]) -> None:
        """Keep the blocks at these indices, in this order, and update the configuration that counts them."""
        blocks = nn.ModuleList(self.blocks[i] for i in indices)
        parent, _, name = self.family.layers.rpartition(".")
        setattr(self.backbone.get_submodule(parent), name, blocks)
        for position, block in enumerate(blocks):
            for module in block.modules():
                if hasattr(module, "layer_idx"):
                    module.layer_idx = position  # type: ignore[assignment]
        config = self.backbone.config
        setattr(config, "num_hidden_layers", len(indices))  # noqa: B010 - mypy: config is an untyped transformers object
        layer_types = getattr(config, "layer_types", None)
        if isinstance(layer_types, list):
            config.layer_types = [layer_types[i] for i in indices]  # type: ignore[union-attr]


def anatomy_of(backbone: nn.Module) -> Anatomy:
    """The anatomy of a transformers base model.

    Raises:
        Infeasible: an unknown family, or matrices in a block that its family does not have.
    """
    model_type = str(getattr(getattr(backbone, "config", None), "model_type", type(backbone).__name__))
    anatomy = Anatomy(backbone, family_of(model_type))
    _check_block(anatomy, model_type)
    return anatomy


def _check_block(anatomy: Anatomy, model_type: str) -> None:
    """Raise Infeasible where the first block has matrices of unknown roles: cross attention, positions of DeBERTa."""
    paths = (*anatomy.roles().values(), *anatomy.family.fused)
    linears = [path for path, module in anatomy.blocks[0].named_modules() if isinstance(module, nn.Linear)]
    other = [path for path in linears if not any(f"{path}.".startswith(f"{role}.") for role in paths)]
    if other:
        raise Infeasible(
            f"the layers of this {model_type} model hold matrices of no known role ({', '.join(other)}), so they "
            "cannot be cut"
        )


def _has_weights(root: nn.Module, path: str) -> bool:
    """Whether there is a module with weights at `path`: some models of a family leave a part out."""
    return any(name.startswith(f"{path}.") for name, _ in root.named_parameters())


def replace_module(root: nn.Module, path: str, module: nn.Module) -> None:
    """Put `module` in the place of the submodule of `root` at the dotted `path`."""
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, module)
