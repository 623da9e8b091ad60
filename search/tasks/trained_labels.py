"""The labels of a head that is already trained, and how the data's labels map to them (rule 5 of `labels`)."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search.errors import UserError, Where, listed, show, wrong

Label = int | str


@dataclass(frozen=True)
class TrainedLabels:
    """The labels of a head that is already trained."""

    labels: tuple[str, ...]  # of output 0, 1, ...
    trained_on: bool = True  # it is trained further on the data

    @property
    def bare(self) -> bool:
        """Whether the names are transformers' placeholders LABEL_0, LABEL_1, ..."""
        return self.labels == tuple(f"LABEL_{i}" for i in range(len(self.labels)))


@dataclass(frozen=True)
class Listed:
    """The order of labels that data.label_names determines."""

    names: Mapping[Label, str]  # of each label of the data
    order: tuple[str, ...]  # label 0 first
    named: bool  # bare numbers were given names (rule 3), so that the order is theirs and not the model's


def fold(name: str) -> str:
    """The name without differences of case, spaces and Unicode form, as a key for comparison."""
    return " ".join(unicodedata.normalize("NFC", name).casefold().split())


@dataclass(frozen=True)
class Matching:
    """Rule 5 of `search.tasks.labels`: the labels of the data matched to those of a trained head."""

    trained: TrainedLabels
    names: Mapping[Label, str]  # of each label of the data
    listing: Listed | None
    carried: Sequence[str] | None  # names of a ClassLabel
    classes: Sequence[Label]  # the labels of train
    where: Where

    def numbered(self) -> tuple[dict[Label, int], tuple[str, ...], list[str]]:
        """({label of the data: number}, the name of each number, notes)."""
        labels, bare = self.trained.labels, self.trained.bare
        if len(self.classes) > len(labels):
            has = f"the model has {len(labels)} labels ({listed(labels, 10)})"
            raise UserError(
                f"{self.where('model.head')}: {has}, and the data have {len(self.classes)} "
                f"({listed(self.classes, 10)}); set model.head: mean for a new head"
            )
        indices = {label: index_of(name, labels) for label, name in self.names.items()}
        matched = {label: index for label, index in indices.items() if index is not None}
        if len(matched) == len(indices):
            return matched, labels, self._by_name(matched)
        if self.listing is not None:
            return self._by_list(self.listing)
        numbers = _whole_numbers(self.names)
        if not matched and numbers is not None and all(0 <= k < len(labels) for k in numbers.values()):
            which = listed((f"{name} is {labels[numbers[label]]}" for label, name in self.names.items()), 10)
            return numbers, labels, [] if bare else [f"the data's labels are the model's numbers: {which}"]
        if not matched and bare:
            return self._bare()
        raise self._refusal(next(label for label, index in indices.items() if index is None))

    def _by_name(self, matched: Mapping[Label, int]) -> list[str]:
        labels = self.trained.labels
        if len(set(matched.values())) < len(matched):
            raise self._refusal(next(label for label in matched if self.names[label] not in labels))
        listing = self.listing
        if listing is not None and not listing.named:
            other = [
                i
                for i, name in enumerate(listing.order)
                if len(listing.order) == len(labels) and index_of(name, labels) != i
            ]
            if other:
                raise wrong(
                    self.where("data.label_names"),
                    f"left out or in the order of the model's own labels ({listed(labels, 10)})",
                    list(listing.order),
                )
        changed = [f"{self.names[k]} is {labels[i]}" for k, i in matched.items() if self.names[k] != labels[i]]
        return [f"labels are matched with the model's regardless of case and spaces: {listed(changed, 10)}"] * bool(
            changed
        )

    def _by_list(self, listing: Listed) -> tuple[dict[Label, int], tuple[str, ...], list[str]]:
        labels = self.trained.labels
        if len(listing.order) != len(labels):
            rule = f"{len(labels)} names, one for each label of the model ({listed(labels, 10)})"
            raise wrong(self.where("data.label_names"), rule, list(listing.order))
        for label, name in self.names.items():
            if name not in listing.order:
                raise self._refusal(label)
        numbers = {label: listing.order.index(name) for label, name in self.names.items()}
        if self.trained.bare:
            return numbers, listing.order, []
        which = listed((f"{name} is {label}" for name, label in zip(listing.order, labels, strict=True)), 10)
        return numbers, labels, [f"data.label_names gives the order of the model's labels: {which}"]

    def _bare(self) -> tuple[dict[Label, int], tuple[str, ...], list[str]]:
        count, trained_on = len(self.trained.labels), self.trained.trained_on
        words = list(self.names.values())
        if self.carried is not None and len(self.carried) == count and set(words) <= set(self.carried):
            order = tuple(self.carried)
            note = f"the model's labels have no names; they are numbered as in the data: {listed(order, 10)}"
        elif trained_on and len(words) == count == len(self.classes):
            order = tuple(words)
            note = (
                f"the model's labels have no names; as it is trained further, they are {listed(order, 10)} from now on"
            )
        elif trained_on:
            strange = [label for label in self.names if label not in self.classes]
            raise self._refusal((*strange, *self.names)[0])
        else:
            raise UserError(
                f"{self.where('data.label_names')}: missing: the model names its {count} labels LABEL_0 to "
                f"LABEL_{count - 1}, so without training it cannot be known which is which of {listed(words, 10)}; "
                "list the data's labels here, that of LABEL_0 first"
            )
        return {label: order.index(name) for label, name in self.names.items()}, order, [note]

    def _refusal(self, label: Label) -> UserError:
        return UserError(
            f"{self.where('model.head')}: the model was trained on {listed(self.trained.labels, 10)}, and the data "
            f"have {show(str(label))}; list the data's {len(self.trained.labels)} labels in the model's order in "
            "data.label_names, or set model.head: mean for a new head"
        )


def index_of(name: str, names: Sequence[str]) -> int | None:
    """The index of `name` in `names`: an exact match, else the only match regardless of case and spaces."""
    if name in names:
        return list(names).index(name)
    alike = [i for i, other in enumerate(names) if fold(other) == fold(name)]
    return alike[0] if len(alike) == 1 else None


def _whole_numbers(names: Mapping[Label, str]) -> dict[Label, int] | None:
    """The number of each label where all are whole numbers, or false and true; else None."""
    if all(isinstance(label, int) for label in names):
        return {label: label for label in names if isinstance(label, int)}
    truth = {"false": 0, "true": 1}
    if all(fold(name) in truth for name in names.values()):
        return {label: truth[fold(name)] for label, name in names.items()}
    return None


def head_labels(described: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """The names of a model's labels by their number, from the content of its config.json. `where` begins a message.

    Raises:
        UserError: the numbers have gaps, a name is invalid or repeated, or config.json is inconsistent.
    """
    at = f"{where}: id2label in config.json"
    id2label, count = described.get("id2label"), described.get("num_labels")
    if id2label is None:  # transformers does not write what is its default
        return tuple(f"LABEL_{i}" for i in range(2 if count is None else count))
    if not isinstance(id2label, Mapping) or sorted(id2label) != sorted(map(str, range(len(id2label)))):
        raise wrong(at, "a mapping of the label numbers 0, 1, ... to names", id2label)
    if count not in (None, len(id2label)):
        raise UserError(
            f"{where}: config.json disagrees with itself: num_labels is {show(count)}, id2label {show(id2label)}"
        )
    names = [_name(id2label[str(i)], at) for i in range(len(id2label))]
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise UserError(f"{at} has {show(twice[0])} twice, so its labels cannot be told apart")
    for name, other in (described.get("label2id") or {}).items():
        number = names.index(name) if name in names else other
        if number != other:
            disagreement = f"{show(name)} is {number} in id2label and {show(other)} in label2id"
            raise UserError(f"{where}: config.json disagrees with itself: {disagreement}")
    return tuple(names)


def _name(value: Any, at: str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, int | float) or (isinstance(value, str) and value.strip()):
        return str(value)
    raise wrong(at, "names", value)
