"""Numbering of the data's labels, also to match a trained model's. The rules, in order of application:

1. A label is a name. Whole numbers and booleans are names too, however a file writes them: 1, 1.0 and "1" are the
   name 1 where all labels of the data are numbers; true is the name true.
2. Labels that differ only in case or in spaces are one class, called by its most frequent spelling in train (without
   the spaces around it), and a note says so. Where data.label_names (or the trained model) has several of the
   spellings, they stay apart.
3. data.label_names lists the data's own labels, label 0 first: an order, and never a renaming. Where the data's labels
   are bare whole numbers and none of them is in the list, it names them: number k is its entry k; or where the numbers
   do not begin at 0, the smallest number is its first entry.
4. Without a trained head, the order of the numbers is that of data.label_names; else that in which the data set
   numbers its names (ClassLabel); else rising, numerically or by the alphabet.
5. With a trained head, names decide: each label of the data is the model's label of the same name, exactly or else
   regardless of case and spaces where only one fits. All must match. Where not all do:
   a. data.label_names, with as many entries as the model has labels, is the order;
   b. where none matches and all are whole numbers (or false and true, which are 0 and 1), they are the model's numbers;
   c. a model with bare names (LABEL_0, LABEL_1, ...) takes the order of ClassLabel; where it is trained further,
      that of rule 4, and a note says so. Without training the order cannot be known, and the run is refused.
   Everything else is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from search.errors import UserError, Where, listed, show, wrong
from search.tasks.trained_labels import Label, Listed, Matching, TrainedLabels, fold, index_of


@dataclass(frozen=True)
class SplitLabels:
    """The labels of one split, row by row."""

    origin: str  # the file or split, for messages
    labels: Sequence[Label]
    rows: Sequence[int] | None = None  # of each label, where a row may have several; None: one a row

    def row(self, index: int) -> int:
        """The row of the label at `index`."""
        return index if self.rows is None else self.rows[index]


@dataclass(frozen=True)
class Numbering:
    """The number of each label of the data."""

    numbers: Mapping[Label, int]
    names: tuple[str, ...]  # of number 0, 1, ...
    notes: tuple[str, ...]


def number_labels(
    parts: Mapping[str, SplitLabels],
    wanted: Sequence[str] | None,
    carried: Sequence[str] | None,
    trained: TrainedLabels | None,
    where: Where,
) -> Numbering:
    """The numbers of all labels in `parts` ("train" among them; all whole numbers or all text), by the rules above.

    `wanted` is data.label_names, `carried` the names of a ClassLabel, `trained` the labels of a head already trained.

    Raises:
        UserError: train has fewer than two classes or far too many, another split has labels that train, names and
            head lack, or the number of a label cannot be determined.
    """
    named = [*(wanted or ()), *(() if trained is None or trained.bare else trained.labels)]
    spelled, notes = _spellings(parts, named)
    classes = _classes(parts["train"], spelled, where)
    everything = sorted(set(spelled.values()))
    listing = None if wanted is None else _listed(tuple(wanted), everything, classes, where)
    names = {label: str(label) for label in everything} if listing is None else listing.names
    if trained is None:
        _refuse_strange(parts, spelled, classes, where)
        order = listing.order if listing else tuple(names[label] for label in _natural(classes, carried))
        if len(order) != len(classes):
            rule = f"{len(classes)} different names, for {listed(classes, 10)}"
            raise wrong(where("data.label_names"), rule, list(order))
        numbers = {label: order.index(names[label]) for label in classes}
    else:
        numbers, order, more = Matching(trained, names, listing, carried, classes, where).numbered()
        notes += more
    return Numbering({raw: numbers[label] for raw, label in spelled.items()}, order, tuple(notes))


def _spellings(parts: Mapping[str, SplitLabels], names: Sequence[str]) -> tuple[dict[Label, Label], list[str]]:
    """({spelling of a label: its class}, notes), by rule 2."""
    counts = Counter(parts["train"].labels)
    alike: dict[str, list[Label]] = {}
    for label in sorted({label for part in parts.values() for label in part.labels}, key=str):
        alike.setdefault(fold(str(label)), []).append(label)
    spelled: dict[Label, Label] = {}
    notes = []
    for group in alike.values():
        listed_too = [label for label in group if label in names]
        if len(listed_too) > 1:
            spelled |= {label: label for label in group}
            continue
        best = listed_too[0] if listed_too else _trimmed(max(group, key=lambda label: counts[label]))
        spelled |= dict.fromkeys(group, best)
        if len(group) == 1:
            continue
        notes.append(
            f"labels {listed(map(show, group), 8)} are one class, {show(best)}: they differ only in case or spaces "
            "(data.label_names keeps apart what it lists)"
        )
    return spelled, notes


def _trimmed(label: Label) -> Label:
    return label if isinstance(label, int) else label.strip()


def _classes(train: SplitLabels, spelled: Mapping[Label, Label], where: Where) -> list[Label]:
    """The distinct labels of train, sorted."""
    classes = {spelled[label] for label in train.labels}
    at, rows = where("data.label"), len(train.labels)
    if len(classes) < 2:
        raise UserError(
            f"{at}: must have at least two classes, got only {show(*classes)} in all {rows} rows of {train.origin}"
        )
    if len(classes) > max(10, rows / 2):
        numbers = all(isinstance(one, int) for one in classes)
        hint = "; for a number a text set model.problem_type: regression" if numbers else ""
        raise UserError(
            f"{at}: must hold classes, got {len(classes)} different values in {rows} rows of {train.origin}{hint}"
        )
    return sorted(classes)


def _listed(wanted: tuple[str, ...], everything: Sequence[Label], classes: Sequence[Label], where: Where) -> Listed:
    """The order by data.label_names: rule 3."""
    at = where("data.label_names")
    if len(set(wanted)) < len(wanted):
        raise wrong(at, f"{len(classes)} different names, for {listed(classes, 10)}", list(wanted))
    indices = {label: index_of(str(label), wanted) for label in everything}
    if all(indices[label] is not None for label in classes):
        names = {label: str(label) if index is None else wanted[index] for label, index in indices.items()}
        return Listed(names, wanted, named=False)
    numbers = [label for label in everything if isinstance(label, int)]
    if len(numbers) == len(everything) and all(index is None for index in indices.values()):
        if all(0 <= label < len(wanted) for label in numbers):
            return Listed({label: wanted[label] for label in numbers}, wanted, named=True)
        if len(classes) == len(wanted):
            name_of = dict(zip(classes, wanted, strict=True))
            return Listed({label: name_of.get(label, str(label)) for label in everything}, wanted, named=True)
        raise wrong(at, f"{len(classes)} different names, for {listed(classes, 10)}", list(wanted))
    raise wrong(at, f"the data's own labels in their order ({listed(map(show, classes), 10)})", list(wanted))


def _natural(classes: Sequence[Label], carried: Sequence[str] | None) -> list[Label]:
    """The order without data.label_names: rule 4."""
    if carried is not None and set(classes) <= set(carried):
        return [name for name in carried if name in classes]
    return list(classes)


def _refuse_strange(
    parts: Mapping[str, SplitLabels], spelled: Mapping[Label, Label], classes: Sequence[Label], where: Where
) -> None:
    for split, part in parts.items():
        strange = sorted({spelled[label] for label in part.labels} - set(classes), key=str)
        if strange:
            raise UserError(
                f"{where('data.label')}: {split} has labels that train has not: "
                f"{listed(map(show, strange), 5)} (train has {listed(map(show, classes), 10)})"
            )
