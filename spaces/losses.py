"""Comparisons of heads' outputs: the losses of tasks, and the divergences of two outputs.

Every function takes outputs (B, ...) or (B, L, ...) and the attention mask (B, L). Losses are means over rows in
float32; divergences and certainties are sums over rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

# --- classes: logits (B, C) ---------------------------------------------------------------------------------------


def class_loss(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Cross entropy against labels (B,)."""
    return functional.cross_entropy(logits.float(), labels)


def class_soft_loss(logits: Tensor, taught: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """T^2 KL(taught/T || logits/T) (Hinton et al. 2015, arXiv 1503.02531, section 2)."""
    student = functional.log_softmax(logits.float() / temperature, -1)
    teacher = functional.log_softmax(taught.float() / temperature, -1)
    return functional.kl_div(student, teacher, log_target=True, reduction="batchmean") * temperature**2


def class_divergence(logits: Tensor, other: Tensor, mask: Tensor) -> Tensor:
    """KL(softmax(logits) || softmax(other))."""
    a, b = logits.log_softmax(-1), other.log_softmax(-1)
    return (a.exp() * (a - b)).sum()


def class_certainty(logits: Tensor, mask: Tensor) -> Tensor:
    """Log-probability of the predicted class."""
    return logits.log_softmax(-1).max(-1).values.sum()


# --- spans: logits of start and end (B, L, 2), distributions over the row's real tokens --------------------------


def _positions(span_logits: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probabilities (B, L, 2) over the tokens; padding has a low finite logit, which avoids 0 * inf."""
    scores = (span_logits.float() / temperature).masked_fill(~mask.bool()[..., None], -1e4)
    return scores.log_softmax(1)


def span_loss(span_logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """The mean of the cross entropies of start and end against positions (B, 2) (Devlin et al. 2019, section 4.2)."""
    log_probabilities = _positions(span_logits, mask).gather(1, targets[:, None, :])
    return -log_probabilities.mean()


def span_soft_loss(span_logits: Tensor, taught: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """The mean over start and end of T^2 KL(taught/T || span_logits/T)."""
    student, teacher = (_positions(one, mask, temperature) for one in (span_logits, taught))
    return (teacher.exp() * (teacher - student)).sum(1).mean() * temperature**2


def span_divergence(span_logits: Tensor, other: Tensor, mask: Tensor) -> Tensor:
    """The sum over start and end of KL(softmax(span_logits) || softmax(other))."""
    a, b = _positions(span_logits, mask), _positions(other, mask)
    return (a.exp() * (a - b)).sum()


def span_certainty(span_logits: Tensor, mask: Tensor) -> Tensor:
    """Log-probability of the likeliest start and end."""
    return _positions(span_logits, mask).max(1).values.sum()


# --- embeddings (B, D) --------------------------------------------------------------------------------------------


def embedding_loss(embeddings: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """The projection of each row on a random direction of its own.

    The second moment of its gradients is the Gauss-Newton matrix of a squared error (Martens 2020, arXiv 1412.1193,
    section 8): there are no labels to compute a loss from.
    """
    return (embeddings.float() * torch.randn_like(embeddings.float())).sum() / len(embeddings)


def embedding_soft_loss(embeddings: Tensor, taught: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """1 - cosine to the teacher's, and the squared difference of the pairwise cosines within the batch.

    For embeddings of different sizes only the pairwise part is computed. The pairs are those of relational distillation
    (Park et al. 2019, arXiv 1904.05068); `temperature` has no meaning here.
    """
    ours, theirs = (functional.normalize(one.float(), dim=-1) for one in (embeddings, taught))
    pairs = (ours @ ours.T - theirs @ theirs.T).square().mean()
    if ours.shape[-1] != theirs.shape[-1]:
        return 10 * pairs
    return (1 - (ours * theirs).sum(-1)).mean() + 10 * pairs


def embedding_divergence(embeddings: Tensor, other: Tensor, mask: Tensor) -> Tensor:
    """1 - cosine."""
    return (1 - functional.cosine_similarity(embeddings.float(), other.float(), dim=-1)).sum()


def embedding_certainty(embeddings: Tensor, mask: Tensor) -> Tensor:
    """The projection on one random direction, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(embeddings.shape[-1], generator=generator)
    return (embeddings.float() @ direction.to(embeddings.device)).sum()


# --- label sets: logits (B, C), a distribution of yes and no each -------------------------------------------------


def _odds(label_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probabilities (B, C, 2) of yes and no."""
    scaled = label_logits.float() / temperature
    return torch.stack([functional.logsigmoid(scaled), functional.logsigmoid(-scaled)], dim=-1)


def set_loss(label_logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Binary cross entropy against 0 and 1 (B, C), averaged over labels."""
    return functional.binary_cross_entropy_with_logits(label_logits.float(), targets.float())


def set_soft_loss(label_logits: Tensor, taught: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """T^2 times the KL of each label's Bernoulli distribution at temperature T, averaged over labels."""
    student, teacher = (_odds(one, temperature) for one in (label_logits, taught))
    return (teacher.exp() * (teacher - student)).sum(-1).mean() * temperature**2


def set_divergence(label_logits: Tensor, other: Tensor, mask: Tensor) -> Tensor:
    """The KL of each label's Bernoulli distribution, summed over labels."""
    a, b = _odds(label_logits), _odds(other)
    return (a.exp() * (a - b)).sum()


def set_certainty(label_logits: Tensor, mask: Tensor) -> Tensor:
    """Log-probability of the predicted label set."""
    return _odds(label_logits).max(-1).values.sum()


# --- numbers (B, 1), counted in a scale ---------------------------------------------------------------------------


def number_loss(output: Tensor, targets: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Mean squared difference to numbers (B, 1)."""
    return ((output.float() - targets.float()) / scale).square().mean()


def number_divergence(output: Tensor, other: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Half the squared difference: KL of two normal distributions with this standard deviation."""
    return ((output.float() - other.float()) / scale).square().sum() / 2


# --- log-likelihoods of tokens (B, L), 0 at the first token of a row and at padding -------------------------------


def likelihood_loss(likelihoods: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Minus the mean log-likelihood of the tokens from position `targets` (B,) of each row on: its log
    perplexity. Those before are context only."""
    position = torch.arange(mask.shape[1], device=mask.device)
    counted = (mask.bool() & (position >= targets[:, None].clamp(min=1))).float()
    return -(likelihoods.float() * counted).sum() / counted.sum().clamp(min=1)


def likelihood_soft_loss(likelihoods: Tensor, taught: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """Half the mean squared difference to the teacher's log-likelihoods; `temperature` has no meaning here.

    Near the teacher it is the KL divergence in expectation over tokens that the teacher draws (Schulman's estimator
    "k2"; both have the same gradient there), without the distributions over the vocabulary.
    """
    difference = (likelihoods.float() - taught.float()).square()
    return difference.sum() / (2 * _predicted(mask).sum())


def likelihood_divergence(likelihoods: Tensor, other: Tensor, mask: Tensor) -> Tensor:
    """The mean loss of log-likelihood per token of a row, in nats: the rise of the reported log perplexity.

    The squared difference would count a token that became more likely as a loss. In expectation over tokens that the
    model draws this is the KL divergence; on real ones it may be below 0.
    """
    lost = (likelihoods.float() - other.float()).sum(1)
    return (lost / _predicted(mask)).sum()


def likelihood_certainty(likelihoods: Tensor, mask: Tensor) -> Tensor:
    """Log-likelihood of the rows."""
    return likelihoods.float().sum()


def _predicted(mask: Tensor) -> Tensor:
    """(B,): the number of tokens of each row that follow another one."""
    return (mask.sum(1) - 1).clamp(min=1).float()


@dataclass(frozen=True)
class Losses:
    """The losses, divergence and certainty of one kind of output."""

    loss: Callable[[Tensor, Tensor, Tensor], Tensor]
    soft_loss: Callable[[Tensor, Tensor, Tensor, float], Tensor]
    divergence: Callable[[Tensor, Tensor, Tensor], Tensor]
    certainty: Callable[[Tensor, Tensor], Tensor]


CLASS_LOSSES = Losses(class_loss, class_soft_loss, class_divergence, class_certainty)
LABEL_SET_LOSSES = Losses(set_loss, set_soft_loss, set_divergence, set_certainty)
SPAN_LOSSES = Losses(span_loss, span_soft_loss, span_divergence, span_certainty)
EMBEDDING_LOSSES = Losses(embedding_loss, embedding_soft_loss, embedding_divergence, embedding_certainty)
LIKELIHOOD_LOSSES = Losses(likelihood_loss, likelihood_soft_loss, likelihood_divergence, likelihood_certainty)
