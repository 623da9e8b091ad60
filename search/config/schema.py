"""RunConfig, the configuration of one search, and its sections: keys, types, rules and defaults; frozen.

Nothing heavy is imported here: the command line reads it before anything else.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Predicate
from pydantic import Field, InstanceOf, SerializeAsAny, SkipValidation, TypeAdapter
from pydantic.dataclasses import dataclass
from pydantic.json_schema import SkipJsonSchema

from search.config.parse import (
    SECTION,
    Count,
    Flag,
    Fraction,
    Name,
    NonNegative,
    Number,
    Positive,
    Section,
    Text,
    Whole,
)
from search.config.source import Source, portable
from search.config.space_section import SpaceSection
from search.config.text_files import Delimiter, Encoding
from search.errors import Where

#: The samplers, the default first; `search.propose.samplers` makes them.
SAMPLER_NAMES = ("known-latency", "tpe", "nsga2", "gp", "random")
#: Version of a study's records; increased when the format of recipes changes, so that old ones no longer match.
RECORD_FORMAT = 2
STUDY_RULE = "made of letters, digits, '.', '_' and '-' (at most 200)"


def study_name(text: str) -> str:
    """`text` as the name of a study, which is also the name of a folder."""
    return re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII).strip(".-")[:200].rstrip(".-") or "study"


def is_study_name(text: str) -> bool:
    return study_name(text) == text


StudyName = Annotated[Text, Predicate(is_study_name), Field(description=STUDY_RULE)]
Seed = Annotated[Whole, Field(ge=0, le=2**32 - 1)]
Tokens = Annotated[Whole, Field(ge=4)]
#: Bounded, so that no product with rows or tokens is infinite.
Epochs = Annotated[Number, Field(ge=0, le=10**6)]
BatchSize = Annotated[Whole, Field(ge=1, le=2**16)]
LearningRate = Annotated[Number, Field(gt=0, le=1e30)]  # what fits a 32-bit float


ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]


@dataclass(frozen=True, config=SECTION)
class ModelConfig:
    """The model to compress: a local folder, a hub name, or `package:<module>/<folder>`."""

    name: Name
    revision: Name = "main"
    gguf_file: Name | None = None  # a file of that folder with a causal language model; it is dequantised first
    head: Literal["auto", "mean"] = "auto"  # auto: the model's own head if it has one, else mean-pooled
    problem_type: ProblemType | None = None  # of classification; `from_mapping` fills in what follows where it is None


@dataclass(frozen=True, config=SECTION)
class DataConfig:
    """Rows of a task: files (csv, tsv, json, jsonl, parquet; txt: one text), folders of tables, or splits of the hub
    data set `name`.

    These are the keys of every task. One with more of them, such as the names of its columns, derives a class, which
    `Task.keys` names.
    """

    #: Of the keys: those that name a file beside the rows, that decide which rows are scored, and how.
    files: ClassVar[tuple[str, ...]] = ()
    chooses_rows: ClassVar[tuple[str, ...]] = ()
    scores_rows: ClassVar[tuple[str, ...]] = ()

    train: Name
    validation: Name | None = None  # None: cut from train
    test: Name | None = None  # None: cut from train
    name: Name | None = None  # a hub name; train, validation, test are then names of splits
    config: Name | None = None  # the hub data set's configuration
    max_length: Tokens = 128
    doc_stride: Count = 128  # tokens that two windows of a long text share; a quarter of shorter windows
    limit: Count | None = None  # rows of each split
    encoding: Encoding | None = None  # of text files; None: by their byte order mark, else UTF-8
    delimiter: Delimiter | None = None  # of csv and tsv files; None: a comma, a tab

    @property
    def splits(self) -> dict[str, str]:
        """The file or split of each part that is given."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: value for name, value in parts.items() if value is not None}

    @property
    def beside(self) -> dict[str, str]:
        """The files beside the rows, by key."""
        return {key: path for key in self.files if (path := getattr(self, key)) is not None}

    @property
    def scoring(self) -> dict[str, Any]:
        """The values that decide how rows are scored, by key."""
        return {key: getattr(self, key) for key in self.scores_rows}

    @property
    def choosing(self) -> dict[str, Any]:
        """The values that decide which rows are scored, by key."""
        return {key: getattr(self, key) for key in self.chooses_rows}

    @property
    def problem_type(self) -> str | None:
        """The problem type that follows from the keys alone; None where none does."""
        return None

    def check(self, where: Where, problem_type: str | None) -> None:
        """Raise UserError for keys that do not go together, or not with this `model.problem_type`."""


@dataclass(frozen=True, config=SECTION)
class TeacherConfig:
    """Fine-tuning of the uncompressed model; with 0 epochs it is used unchanged."""

    epochs: Epochs = 2.0
    batch: BatchSize = 32
    learning_rate: LearningRate = 1e-4
    head_learning_rate: LearningRate = 1e-3
    freeze_embeddings: Flag = True
    warmup: Fraction = 0.06  # of the steps
    dropout: Flag = True  # the model's own; off: none
    bf16: Flag = True  # matrix products in bf16, where the device has instructions for them; off: fp32
    early_stopping: Count | None = None  # evaluations, 1/4 epoch apart, without a lower held-out loss


@dataclass(frozen=True, config=SECTION)
class RecoverConfig:
    """Distillation from the teacher that repairs a candidate."""

    epochs: Epochs = 1.0
    batch: BatchSize = 32
    learning_rate: LearningRate = 2e-4
    temperature: Positive = 2.0
    task_weight: NonNegative = 0.3
    soft_weight: NonNegative = 1.0
    hidden_weight: NonNegative = 1.0  # the last hidden state
    block_weight: NonNegative = 0.0  # the output of every block, against the teacher's block that it came from
    relation_weight: NonNegative = 0.0  # how tokens resemble each other in the last attention (MiniLMv2)
    dropout: Flag = False  # the model's own
    bf16: Flag = True  # matrix products in bf16, where the device has instructions for them; off: fp32
    early_stopping: Count | None = None  # evaluations, 1/4 epoch apart, without a lower held-out loss
    rows: Count | None = None  # of the training split
    tokens: Count | None = None  # most tokens that are trained on, whatever the epochs say
    top_k: Annotated[Whole, Field(ge=0)] | None = (
        None  # of causal-lm: tokens of the teacher's distributions (None: 64); 0: likelihoods alone
    )


@dataclass(frozen=True, config=SECTION)
class LimitsConfig:
    """Constraints that a candidate must meet to be on the front."""

    max_latency_ms: Positive | None = None  # median
    max_loss: NonNegative | None = None  # against the uncompressed model: points of the metric, or % of an error
    min_accuracy: Fraction | None = None  # of the task's metric, where higher is better
    max_size_mb: Positive | None = None
    max_memory_mb: Positive | None = None  # peak
    max_ttft_ms: Positive | None = None  # of a task that generates: median time to the first token
    max_tpot_ms: Positive | None = None  # and of each later one
    #: Bounds by the name of any objective: the most of what is better lower, the least of what is better higher.
    others: Mapping[Text, Number] = field(default_factory=dict)


@dataclass(frozen=True, config=SECTION)
class WorkloadConfig:
    """The inputs of timed calls."""

    batch: BatchSize = 1
    length: Tokens | Literal["data"] = 32
    prompt: Count | None = None  # tokens of a prompt; of a task that generates, where it is the length
    new_tokens: Count | None = None  # that follow it in a call
    threads: Annotated[Whole, Field(ge=1, le=1024)] | None = None  # of a model that is timed; None: one a CPU


@dataclass(frozen=True, config=SECTION)
class BudgetConfig:
    trials: Count = 40  # the study's total
    timeout: Positive | None = None  # seconds, export included
    trial_timeout: Positive = 1800.0  # seconds
    least_gain: NonNegative = 0.0  # stop when the next trial is expected to add less, as a share of the hypervolume


@dataclass(frozen=True, config=SECTION)
class MeasureConfig:
    """How long each candidate is timed."""

    quick_s: Positive = 1.5
    final_s: Positive = 2.4  # of blocks of one model in the final campaign, over its three sets of fresh processes
    reuse: Flag = True  # what an earlier search measured here under the same conditions; finalists are timed again
    validation_rows: Count | None = None  # rows that choose; None: all


@dataclass(frozen=True, config=SECTION)
class EconomyConfig:
    """What training is spent on."""

    keep: Fraction = 0.85  # of the metric above that of the most frequent class; what keeps less is not looked for


@dataclass(frozen=True, config=SECTION)
class CacheConfig:
    """The cache of stage results for later trials and searches, in `<mlruns>/cache`."""

    max_gb: Positive | None = 10.0  # above it, what was used longest ago is removed; None: no limit

    @property
    def bytes(self) -> int | None:
        return None if self.max_gb is None else int(min(self.max_gb * 1e9, sys.maxsize))


@dataclass(frozen=True, config=SECTION)
class RunConfig:
    """One search. Paths are absolute and names exist; ranges of knobs are checked later (`narrow`)."""

    model: Section[ModelConfig]
    task: Name
    data: Section[SerializeAsAny[DataConfig]]  # of its task's class
    study: StudyName = "study"
    seed: Seed = 0
    teacher: Section[TeacherConfig] = TeacherConfig()
    recover: Section[RecoverConfig] = RecoverConfig()
    space: SkipValidation[SpaceSection] = field(default_factory=dict)  # by `check_space`, which knows the axes
    objectives: tuple[Name, ...] = ("metric", "latency_p50_ms")  # "metric" stands for the task's metric
    metric: Text = ""  # `from_mapping` fills in the first of the registry, and knows which there are
    limits: Section[LimitsConfig] = LimitsConfig()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workload: Section[WorkloadConfig] = WorkloadConfig()
    sampler: Text = ""
    budget: Section[BudgetConfig] = BudgetConfig()
    economy: Section[EconomyConfig] = EconomyConfig()
    measure: Section[MeasureConfig] = MeasureConfig()
    cache: Section[CacheConfig] = CacheConfig()
    mlruns: Name = "mlruns"
    source: SkipJsonSchema[InstanceOf[Source]] = field(default_factory=Source, repr=False, compare=False)

    def where(self, key: str) -> str:
        """The place where `key` was written, which begins a message about it."""
        return self.source.where(key)

    def named_objectives(self) -> Iterator[tuple[str, str]]:
        """(key, name) of every objective that is optimised, or bounded in `limits.others`."""
        yield from (("objectives", name) for name in self.objectives)
        yield from ((f"limits.others.{name}", name) for name in self.limits.others if name not in self.objectives)

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON types; `from_mapping` gives the same configuration back.

        Paths are absolute, but for the embedded data, which every installation has.
        """
        mapping: dict[str, Any] = RUN.dump_python(self, mode="json", exclude={"source"})
        mapping["space"] = {axis: "off" if knobs is None else knobs for axis, knobs in mapping["space"].items()}
        mapping["data"] |= {split: portable(path) for split, path in self.data.splits.items()}
        return mapping

    def teacher_parts(self, model: str, train: str) -> dict[str, Any]:
        """What determines the teacher's weights, given the digests of model folder and training split."""
        return {
            "model": model,
            "head": self.model.head,
            "task": self.task,
            "problem_type": self.model.problem_type,
            "train": train,
            "max_length": self.data.max_length,
            "doc_stride": self.data.doc_stride,
            "teacher": self.to_mapping()["teacher"],
            "seed": self.seed,
        }

    def study_parts(self, model: str, data: str) -> dict[str, Any]:
        """What all trials of one study share, given the digests of model folder and data.

        A study that was made with other parts cannot be resumed; budget, sampler and timing may change.
        """
        mapping, scored = self.to_mapping(), {**self.data.scoring, **self.data.choosing}
        return {
            "format": RECORD_FORMAT,
            "model": {"digest": model, "head": self.model.head},
            "data": {"digest": data, **{name: mapping["data"][name] for name in ENCODING}, **scored},
            **{name: mapping[name] for name in SHARED},
            "validation_rows": self.measure.validation_rows,
        }


#: Keys of all data that decide how rows are tokenised.
ENCODING = ("max_length", "doc_stride")
#: Sections and keys that all trials of a study share.
SHARED = ("task", "seed", "teacher", "recover", "space", "objectives", "metric", "limits", "device", "workload")
RUN = TypeAdapter(RunConfig)
