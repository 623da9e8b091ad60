"""lm-evaluation-harness asks a loaded model what it asks transformers' own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import families
import numpy as np
import pytest
import torch

from objectives.quality import score
from search.serve.generator import Generator
from search.tasks.choice_rows import choice_rows
from search.tasks.multiple_choice import ChoiceQuestions
from spaces.base import load_base, write_folder
from spaces.recipe import Recipe, Step
from spaces.runtime import Context

ASKED = [
    {"context": f"{number} and {number % 7}", "choices": [f"is {number}", "was it", "or"], "answer": number % 3}
    for number in range(12)
]
CHOICE = """
task: choose
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}, cache_dir: {cache}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{context}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list: [{{metric: acc_norm, aggregation: mean, higher_is_better: true}}]
"""
ROLLING = """
task: read
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}, cache_dir: {cache}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{context}}}}"
metric_list: [{{metric: word_perplexity}}]
"""
RECIPE = Recipe("base", "causal-lm", "teacher", (), {}, Step("eager"))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama over bytes."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("llama")
    families.byte_tokenizer("GPT2Tokenizer").save_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "num_attention_heads": 4}
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "max_position_embeddings": 64}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", vocab_size=257, **sizes, **special))
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * parameter.shape[-1] ** -0.5)
        model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def generator(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator:
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("compressed")
    model, base = load_base(original, "tiny", "main", "causal", (), {"pad": 0})
    write_folder(folder, model, base, {})
    AutoTokenizer.from_pretrained(original).save_pretrained(folder)
    record: Any = SimpleNamespace(recipe=RECIPE, config={"workload": {"batch": 1}})
    return Generator.opened(folder, record, Context(threads=1))


def test_tasks_with_local_data_have_the_figures_of_transformers_own_model(
    original: Path, generator: Generator, tmp_path: Path
) -> None:
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = tmp_path / "asked.jsonl"
    file.write_text("\n".join(map(json.dumps, ASKED)), encoding="utf-8")
    for name, text in (("choose", CHOICE), ("read", ROLLING)):
        (tmp_path / f"{name}.yaml").write_text(text.format(file=file, cache=tmp_path / "cache"), encoding="utf-8")
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    tokenizer = AutoTokenizer.from_pretrained(original)
    theirs = HFLM(pretrained=AutoModelForCausalLM.from_pretrained(original).eval(), tokenizer=tokenizer, device="cpu")
    ours, wanted = (
        lm_eval.simple_evaluate(model=lm, tasks=["choose", "read"], task_manager=manager, bootstrap_iters=0)["results"]
        for lm in (generator.harness(), theirs)
    )
    assert ours["choose"]["acc_norm,none"] == wanted["choose"]["acc_norm,none"]
    perplexity = "word_perplexity,none"
    assert ours["read"][perplexity] == pytest.approx(wanted["read"][perplexity], rel=1e-3)
    columns: Any = zip(*((row["context"], tuple(row["choices"]), row["answer"]) for row in ASKED), strict=True)
    rows = choice_rows(tokenizer, ChoiceQuestions(*columns, "asked", 10**6), 64)
    output = np.concatenate([generator.output(rows.encoded.batch(np.array([i])))[0] for i in range(len(rows.encoded))])
    accuracy = score("accuracy", rows.predictions("accuracy", output), rows.references, rows.classes)
    assert accuracy == pytest.approx(wanted["choose"]["acc_norm,none"]), "data.choices are scored alike"


def test_a_text_longer_than_the_context_is_read_in_windows(original: Path, generator: Generator) -> None:
    pytest.importorskip("lm_eval")
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(original).eval(), AutoTokenizer.from_pretrained(original)
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, device="cpu", max_length=63)
    asked = [SimpleNamespace(args=(text,)) for text in ("x" * 64, " ".join(f"{n} and {n % 7}" for n in range(40)))]
    ours = generator.harness().loglikelihood_rolling(asked)
    assert ours == pytest.approx(theirs.loglikelihood_rolling(asked), rel=1e-4)
    with pytest.raises(ValueError, match="an answer must have at most 63 tokens, got 64"):
        generator.harness().loglikelihood([SimpleNamespace(args=("Once", "x" * 64))])


def test_greedy_answers_are_known_as_such_and_generated(generator: Generator) -> None:
    pytest.importorskip("lm_eval")
    loaded = generator.harness()
    [reply] = generator("Once", max_new_tokens=6, return_full_text=False)
    [answer] = loaded.generate_until([SimpleNamespace(args=("Once", {"until": ["never"], "max_gen_toks": 6}))])
    assert answer == reply["generated_text"]
    long = loaded.generate_until([SimpleNamespace(args=("x" * 200, {"max_gen_toks": 4}))])
    assert len(long) == 1
    prompts = [f"Once {a}{b}" for a in "abcdefgh" for b in "abcdefgh"]
    replies = generator(prompts, batch_size=64, max_new_tokens=3, return_full_text=False)
    texts = [reply["generated_text"] for [reply] in replies]
    # The tokenizer reads ASCII back as it was generated; other bytes may be parts of characters.
    prompt, greedy = next(pair for pair in zip(prompts, texts, strict=True) if pair[1].isascii() and len(pair[1]) == 3)
    other = greedy[:-1] + ("b" if greedy[-1] == "a" else "a")
    first, second = loaded.loglikelihood([SimpleNamespace(args=(prompt, text)) for text in (greedy, other)])
    assert (first[1], second[1]) == (True, False) and first[0] > second[0]


def test_without_lm_eval_the_command_that_installs_it_is_named(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    with pytest.raises(ModuleNotFoundError, match=r'lm-eval is not installed: pip install -e "\.\[lm-eval\]"'):
        generator.harness()
