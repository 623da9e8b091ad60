"""Heads: modules that compute a task's output, one named tensor, from a backbone's hidden states.

A new head is a class here and an entry in `HEADS`; one of transformers' is a subclass of `WithOwnHead`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spaces.fused import take_apart
from spaces.loading import reading
from spaces.losses import CLASS_LOSSES, EMBEDDING_LOSSES, LIKELIHOOD_LOSSES, SPAN_LOSSES, Losses
from spaces.pooling import Pooled, Pooling


class TaskModel(nn.Module):
    """A backbone with a head: from token ids (B, L) to the head's output (B, ...), or (B, L, ...) for one per token."""

    @property
    def backbone(self) -> nn.Module:
        raise NotImplementedError

    #: Modules outside the backbone that read the hidden state, by path from the task model.
    def hidden_readers(self) -> tuple[str, ...]:
        raise NotImplementedError

    def hidden_norms(self) -> tuple[str, ...]:
        """Norms over the hidden size outside the backbone."""
        return ()

    @property
    def tied(self) -> bool:
        """Whether the token embeddings and the output projection share one matrix."""
        return False

    def tie(self) -> None:
        """Share the matrix again where the configuration ties the two and one of them was replaced."""


class MeanPooled(TaskModel):
    """Mean over the tokens without padding, then one linear layer (Reimers & Gurevych 2019, section 3)."""

    def __init__(self, encoder: nn.Module, hidden: int, classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden, classes)

    @property
    def backbone(self) -> nn.Module:
        return self.encoder

    def hidden_readers(self) -> tuple[str, ...]:
        return ("classifier",)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **types).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(hidden.dtype)  # (B, L, 1)
        pooled = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
        return self.classifier(self.dropout(pooled))  # type: ignore[no-any-return]


class WithOwnHead(TaskModel):
    """A transformers model with a head of its own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @property
    def backbone(self) -> nn.Module:
        base = self.model.base_model
        assert isinstance(base, nn.Module)
        return base

    @classmethod
    def wrap(cls, model: nn.Module, outputs: int, name: str, settings: Mapping[str, Any]) -> TaskModel:
        """As `Head.wrap`: fused matrices are split, and tied matrices are tied again."""
        wrapped = cls(model)
        take_apart(wrapped.backbone)
        wrapped.tie()
        return wrapped


class Native(WithOwnHead):
    """A transformers model with its own sequence-classification head."""

    def hidden_readers(self) -> tuple[str, ...]:
        names = (
            "classifier",
            "classifier.dense",
            "pooler.dense",
            "head.dense",
            "pre_classifier",
            "score",
            "qa_outputs",
        )
        modules = [(f"model.{n}", m) for n, m in self.model.named_modules() if n in names]
        return tuple(path for path, module in modules if isinstance(module, nn.Linear))

    def hidden_norms(self) -> tuple[str, ...]:
        return tuple(f"model.{name}" for name, _ in self.model.named_modules() if name == "head.norm")

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        return self.model(input_ids=input_ids, attention_mask=attention_mask, **types).logits  # type: ignore[no-any-return]


class Spans(Native):
    """A transformers model with its question-answering head: logits of an answer's start and end, (B, L, 2)."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        output = self.model(input_ids=input_ids, attention_mask=attention_mask, **types)
        return torch.stack([output.start_logits, output.end_logits], dim=-1)


class PooledEncoder(TaskModel):
    """An encoder with the pooling of its hidden states to an embedding (B, D) (`spaces.pooling`)."""

    def __init__(self, encoder: nn.Module, pooling: Pooling) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooled = Pooled(pooling)

    @property
    def backbone(self) -> nn.Module:
        return self.encoder

    def hidden_readers(self) -> tuple[str, ...]:
        return ("pooled.dense.0",) if len(self.pooled.dense) else ()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **types).last_hidden_state
        return self.pooled(hidden, attention_mask)  # type: ignore[no-any-return]


class Causal(WithOwnHead):
    """A transformers causal language model that gives the likelihood of a text.

    Gives the log-likelihood (B, L) float32 of each token given those before it, in nats: 0 for the first token of a row
    and for padding, which is at the right. Logits over the vocabulary are kept only in generation.
    """

    @property
    def tied(self) -> bool:
        return self._output().weight is self._table().weight

    def hidden_readers(self) -> tuple[str, ...]:
        output = self._output()
        return tuple(f"model.{name}" for name, module in self.model.named_modules() if module is output)

    def tie(self) -> None:
        if getattr(self.model.config, "tie_word_embeddings", False):
            self._output().weight = self._table().weight

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        output = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        logits = output.logits[:, :-1].float()  # (B, L - 1, V)
        chosen = logits.gather(-1, input_ids[:, 1:, None])[..., 0] - logits.logsumexp(-1)
        return nn.functional.pad(chosen, (1, 0)) * attention_mask.to(chosen.dtype)

    def _output(self) -> nn.Module:
        module = self.model.get_output_embeddings()  # type: ignore[operator]
        assert isinstance(module, nn.Module)
        return module

    def _table(self) -> nn.Module:
        module = self.model.get_input_embeddings()  # type: ignore[operator]
        assert isinstance(module, nn.Module)
        return module


@dataclass(frozen=True)
class Head:
    """One kind of head.

    output: the name of its output. per_token: whether that has a row per token. losses: by which outputs are compared,
    unless the task says otherwise. loader: the transformers class that
    builds the model. ending: of the architectures that come with such a head, which `mapping` of transformers' auto
    classes lists by model type. fresh: parameters that may be missing in
    a checkpoint, because they belong to a new head, by the beginning of their name.
    """

    name: str
    output: str
    per_token: bool
    losses: Losses
    loader: str
    ending: str | tuple[str, ...]
    wrap: Callable[[nn.Module, int, str, Mapping[str, Any]], TaskModel]
    fresh: tuple[str, ...] = ()
    mapping: str = ""
    called: str = ""  # a model that brings it along: "classifier"
    embeds: bool = False  # whether its output is an embedding, whose pooling the model's folder describes
    outputs: int = 2  # numbers of a row, or a token, where the data name none: a span has a start and an end
    finds_end: bool = False  # whether a decoder's head reads a row's last token, which it knows by the padding token

    def transformers(self) -> Any:
        """The class that loads and builds the model."""
        import transformers

        return getattr(transformers, self.loader)

    def architectures(self) -> frozenset[str]:
        """The transformers classes that have such a head."""
        from transformers.models.auto import modeling_auto

        return frozenset(getattr(modeling_auto, self.mapping).values()) if self.mapping else frozenset()

    def is_own(self, config: Any) -> bool:
        """Whether a transformers configuration is that of a model with such a head."""
        return bool(self.ending) and any(a.endswith(self.ending) for a in (config.architectures or ()))


def _mean_pooled(model: nn.Module, outputs: int, name: str, settings: Mapping[str, Any]) -> TaskModel:
    take_apart(model)
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # type: ignore[assignment] # the mean is taken instead; half a million unused weights
    with reading(f"the model {name!r} has no hidden size that a head could read"):
        hidden = int(model.config.get_text_config().hidden_size)  # type: ignore[union-attr,operator]
    return MeanPooled(model, hidden, outputs)


def _embedder(model: nn.Module, outputs: int, name: str, settings: Mapping[str, Any]) -> TaskModel:
    take_apart(model)
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # type: ignore[assignment] # sentence-transformers does not use it either
    return PooledEncoder(model, Pooling.from_json(settings))


HEADS: tuple[Head, ...] = (
    Head(
        "native",
        "logits",
        False,
        CLASS_LOSSES,
        "AutoModelForSequenceClassification",
        "ForSequenceClassification",
        Native.wrap,
        mapping="MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
        called="classifier",
        finds_end=True,
    ),
    Head("mean", "logits", False, CLASS_LOSSES, "AutoModel", "", _mean_pooled),
    Head(
        "span",
        "span_logits",
        True,
        SPAN_LOSSES,
        "AutoModelForQuestionAnswering",
        "ForQuestionAnswering",
        Spans.wrap,
        ("qa_outputs.", "head.", "classifier."),
        mapping="MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
        called="question-answering model",
    ),
    Head("embedding", "sentence_embedding", False, EMBEDDING_LOSSES, "AutoModel", "", _embedder, embeds=True),
    Head(
        "causal",
        "log_likelihood",
        True,
        LIKELIHOOD_LOSSES,
        "AutoModelForCausalLM",
        ("ForCausalLM", "LMHeadModel"),
        Causal.wrap,
        mapping="MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
        called="causal language model",
    ),
)


def head_named(name: str) -> Head:
    """The registered head of that name. Raises ValueError where there is none."""
    for head in HEADS:
        if head.name == name:
            return head
    raise ValueError(f"head must be one of {', '.join(head.name for head in HEADS)}, got {name}")
