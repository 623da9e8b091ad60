"""`search.load`: an exported model answers as transformers does; and transformers alone refuses to open its folder."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tiny
from conftest import STUDY, Finished
from services import service, talk, with_each_member

import search
from search.deliver.best_config import read_best_config
from search.serve.batching import Limits
from search.serve.server import ServiceSettings, load_fleets

TEXTS = [row["text"] for row in tiny.sentences(12, seed=9)]
#: By how much scores differ: rows that are padded differently are quantised differently.
ROUNDED = 0.05


def positive(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """The probability of the label "positive" in each reply."""
    return [abs((one["label"] != "positive") - one["score"]) for one in rows]


@pytest.fixture(scope="module")
def folder(finished: Finished) -> Path:
    """The most accurate exported model."""
    return finished.exports / "models" / str(read_best_config(finished.exports / "most-accurate.yaml").number)


def test_a_loaded_model_answers_as_a_pipeline_does(folder: Path) -> None:
    model = search.load(folder)
    replies = model(TEXTS)
    assert len(replies) == len(TEXTS) and all(set(reply) == {"label", "score"} for reply in replies)
    assert {reply["label"] for reply in replies} <= {"negative", "positive"} == set(model.labels)
    assert all(0.5 <= reply["score"] <= 1 for reply in replies)
    assert model(TEXTS[0]) == [replies[0]] and model([]) == []


def test_a_loaded_model_has_learned_the_task(folder: Path) -> None:
    rows = tiny.sentences(200, seed=10)
    replies = search.load(folder)([row["text"] for row in rows])
    assert np.mean([reply["label"] == row["label"] for reply, row in zip(replies, rows, strict=True)]) > 0.75


def test_every_member_gives_the_logits_of_its_record(finished: Finished) -> None:
    from search.deliver.verify import REFERENCE, probe
    from search.tasks import recorded_task
    from spaces import build

    for member in finished.models():
        recorded = read_best_config(member / "recipe.yaml")
        precision, rule = build.precision_of(recorded.recipe)["precision"], recorded_task(recorded.config).parity
        outputs = np.concatenate([search.load(member).output(batch) for batch in probe(member)])
        with np.load(member / REFERENCE) as record:
            assert rule.between(outputs, record["probe"]) <= rule.allowed(str(precision), elsewhere=False)


def test_every_member_gives_the_logits_of_its_weights_under_eager_pytorch(finished: Finished) -> None:
    """int8 members round: what they differ by is small beside what rows differ by."""
    import torch

    from search.tasks.parity_rule import SAME_DEVICE_TOLERANCE
    from spaces import build

    batch = dict(tiny.word_tokenizer()(TEXTS, padding=True, return_tensors="np"))
    ids = {name: batch[name].astype(np.int64) for name in ("input_ids", "attention_mask")}
    for member in finished.models():
        record = read_best_config(member / "recipe.yaml")
        precision = build.precision_of(record.recipe)["precision"]
        with torch.inference_mode():
            wanted = build.load_model(member)(
                **{name: torch.from_numpy(values) for name, values in ids.items()}
            ).numpy()
        allowed = SAME_DEVICE_TOLERANCE["fp32"] if precision == "fp32" else wanted.std(0).min() / 2
        np.testing.assert_allclose(search.load(member).output(ids), wanted, atol=allowed)


def test_threads_share_a_model_and_load_models_at_once(folder: Path) -> None:
    model = search.load(folder)
    alone = [model(text)[0] for text in TEXTS]
    with ThreadPoolExecutor(4) as pool:
        shared = list(pool.map(lambda text: model(text)[0], 4 * TEXTS))
        loaded = list(pool.map(lambda _: search.load(folder)(TEXTS[0])[0], range(4)))
    for reply, wanted in zip([*shared, *loaded], [*(4 * alone), *(4 * alone[:1])], strict=True):
        assert reply["label"] == wanted["label"] and reply["score"] == pytest.approx(wanted["score"], abs=1e-5)


def test_a_row_that_is_no_text_is_refused(folder: Path) -> None:
    with pytest.raises(TypeError, match="must be a string or a pair of strings, got 3"):
        search.load(folder)([3])  # type: ignore[list-item]


@pytest.mark.parametrize(
    "kind",
    ["AutoModel", "AutoModelForSequenceClassification", "BertModel", "BertForSequenceClassification"],
)
def test_transformers_refuses_a_compressed_folder_and_names_search_load(folder: Path, kind: str) -> None:
    import transformers

    with pytest.raises(ValueError, match=r"open this folder with search\.load\(DIR\)"):
        getattr(transformers, kind).from_pretrained(folder)


def test_the_tokenizer_of_a_compressed_folder_is_a_plain_one(folder: Path) -> None:
    import transformers

    loaded = transformers.AutoTokenizer.from_pretrained(folder)
    assert loaded(TEXTS)["input_ids"] == tiny.word_tokenizer()(TEXTS)["input_ids"]


def test_a_service_classifies_by_each_exported_member(finished: Finished, tmp_path: Path) -> None:
    async def converse(client: httpx.AsyncClient, number: int) -> None:
        wanted = search.load(finished.exports / "models" / str(number))(TEXTS)
        results = (await client.post("/v1/classify", json={"texts": TEXTS})).json()["results"]
        assert {one["variant"] for one in results} == {f"{STUDY}/{number}"}
        np.testing.assert_allclose(positive(results), positive(wanted), atol=ROUNDED)

    with_each_member(finished.exports, tmp_path, converse)


def test_a_member_in_a_process_of_its_own_answers_again_after_that_is_killed(
    finished: Finished, tmp_path: Path
) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        async def asked() -> httpx.Response:
            return await client.post("/v1/classify", json={"texts": TEXTS})

        number, pid = next(iter(workers.pids.items()))
        wanted = positive(search.load(finished.exports / "models" / str(number))(TEXTS))
        np.testing.assert_allclose(positive((await asked()).json()["results"]), wanted, atol=ROUNDED)
        os.kill(pid, signal.SIGKILL)
        until = time.monotonic() + 60
        while (response := await asked()).status_code != 200 or not workers.restarts:
            assert response.status_code in (200, 503) and time.monotonic() < until
            await asyncio.sleep(0.1)
        np.testing.assert_allclose(positive((await asked()).json()["results"]), wanted, atol=ROUNDED)
        assert workers.pids[number] != pid and workers.restarts == 1

    # With hardly any memory one member is loaded, alone.
    settings = ServiceSettings((finished.exports,), tmp_path, workers="process", memory_mb=0.001)
    [front] = load_fleets(settings, Limits(slo_s=30.0)).values()
    workers = front.workers
    assert workers is not None and len(workers.pids) == 1
    with service(tmp_path, front) as backend:
        talk(backend, conversation)
