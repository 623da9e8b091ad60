"""A search of the task question-answering, from its data to an answer, and transformers' own model and pipeline."""

from __future__ import annotations

import json
from pathlib import Path

import command
import httpx
import numpy as np
import pytest
import tiny
from services import with_each_member

import search

from . import written_task
from .test_question_answering import DATA, encoded, facts, questions
from .test_spans import by_loops


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished search over a tiny encoder and `facts`."""
    folder = tmp_path_factory.mktemp("questions")
    tiny.bert(folder / "model")
    for seed, (name, count) in enumerate((("train", 400), ("validation", 60), ("test", 60))):
        lines = [json.dumps(row) for row in facts(count, seed)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    splits = {name: f"{name}.jsonl" for name in ("train", "validation", "test")}
    config = command.write_config(
        folder / "config.yaml",
        study="facts",
        task="question-answering",
        model={"name": "model"},
        data={**splits, "max_length": 12, "doc_stride": 3},
        teacher={"epochs": 10},
        workload={"length": "data"},
    )
    command.search("run", config, cwd=folder).succeeded()
    return folder


def members(folder: Path) -> list[Path]:
    return sorted((folder / "mlruns" / "exports" / "facts" / "models").iterdir())


def test_a_timed_call_is_a_question_with_all_its_windows(searched: Path) -> None:
    front = json.loads((searched / "mlruns" / "exports" / "facts" / "front.json").read_text())
    call = "a question with all windows of its context"
    assert front["workload"]["call"] == call
    timed = front["members"][0]["measurements"]["latency_p50_ms"]["conditions"]
    assert (timed["call"], timed["batch"]) == (call, 1)
    page = (searched / "mlruns" / "exports" / "facts" / "front.html").read_text()
    assert f"batch 1 ({call}), lengths of the data" in page
    rows = encoded()
    assert rows.calls.sum() == len(rows.encoded) and set(rows.calls.tolist()) == {1, 2}


def test_a_search_ends_with_models_that_answer(searched: Path) -> None:
    front = json.loads((searched / "mlruns" / "exports" / "facts" / "front.json").read_text())
    best = max(member["measurements"]["squad_f1"]["value"] for member in front["members"])
    assert best > 0.6, "it has learnt which word is asked for"
    rows = facts(60, 1)
    for folder in members(searched):
        model = search.load(folder)
        answers = model([row["question"] for row in rows], [row["context"] for row in rows])
        assert all(
            row["context"][one["start"] : one["end"]] == one["answer"] for row, one in zip(rows, answers, strict=True)
        )
        scores = [float(one["answer"] in row["answers"]["text"]) for row, one in zip(rows, answers, strict=True)]
        record = model.record.measurements["squad_f1"].value
        assert np.mean(scores) == pytest.approx(record, abs=0.1), "what its record says of these rows"
        alone = model(rows[0]["question"], rows[0]["context"])
        assert sorted(alone) == ["answer", "end", "score", "start"] and alone["answer"] == answers[0]["answer"]
        table = [{"question": row["question"], "context": row["context"]} for row in rows[:3]]
        assert model.answers(table) == answers[:3], "a row of a table each, as MLflow serves it"
        several = model(rows[0]["question"], rows[0]["context"], top_k=3)
        assert several[0] == alone and len(several) == 3
        one_token = model(rows[0]["question"], rows[0]["context"], max_answer_len=1, n_best=1, top_k=2)
        assert all(" " not in one["answer"] for one in one_token)
        with pytest.raises(ValueError, match="max_answer_len must be a whole number of 1 or more, got 0"):
            model(rows[0]["question"], rows[0]["context"], max_answer_len=0)
        with pytest.raises(ValueError, match="batch_size must be a whole number of 1 or more, got 0"):
            model(rows[0]["question"], rows[0]["context"], batch_size=0)
        with pytest.raises(ValueError, match="a context must not be empty"):
            model("dull film", " ")
        with pytest.raises(ValueError, match="as many contexts as questions"):
            model(["a", "b"], ["c"])


def test_what_the_search_leaves_says_which_task_it_was(searched: Path) -> None:
    written_task.check(searched / "mlruns", "facts", "question-answering", "squad_f1")


def test_an_exported_answerer_does_what_its_record_says(searched: Path) -> None:
    output = command.search("check", members(searched)[0], cwd=searched).succeeded().out
    assert "squad_f1 on the validation split" in output and "its record says" in output


@pytest.fixture(scope="module")
def uncompressed(searched: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "uncompressed"
    command.search("export", "facts", "--pick", "0", "--to", folder, cwd=searched).succeeded()
    return folder


def test_the_uncompressed_model_answers_as_transformers_own_model_does(uncompressed: Path) -> None:
    """Start and end logits, by transformers' question-answering class over the same weights."""
    import torch
    from transformers import AutoConfig, AutoModelForQuestionAnswering

    from spaces import build
    from spaces.base import read_config

    base, _ = read_config(uncompressed)
    data = dict(base.config)
    named = AutoModelForQuestionAnswering.from_config(AutoConfig.for_model(data.pop("model_type"), **data)).eval()
    model = build.load_model(uncompressed)
    named.load_state_dict({key.removeprefix("model."): value for key, value in model.state_dict().items()})
    batch = encoded().encoded.batch(np.arange(4))
    inputs = {name: torch.from_numpy(batch[name]) for name in base.inputs}
    with torch.no_grad():
        theirs, ours = named(**inputs), model(**inputs)
    torch.testing.assert_close(ours[..., 0], theirs.start_logits)
    torch.testing.assert_close(ours[..., 1], theirs.end_logits)


@pytest.mark.parametrize(("n_best", "longest"), [(20, 30), (1, 15)], ids=["of the search", "of the pipeline"])
def test_a_loaded_model_answers_as_the_pipeline_of_transformers_does(
    uncompressed: Path, n_best: int, longest: int
) -> None:
    """From texts to answers: windows of the tokenizer's own call, logits of the weights, and the pipeline's choice."""
    import torch
    from transformers import AutoTokenizer

    from spaces import build
    from spaces.base import read_config

    asked = questions(facts(60, 1))
    batch = AutoTokenizer.from_pretrained(uncompressed)(
        list(asked.questions),
        list(asked.contexts),
        truncation="only_second",
        max_length=DATA.max_length,
        stride=DATA.doc_stride,
        padding=True,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_tensors="np",
    )
    of_context = (np.array(batch.sequence_ids(i), dtype=object)[:, None] == 1 for i in range(len(batch["input_ids"])))
    offsets = [np.where(here, places, -1) for here, places in zip(of_context, batch["offset_mapping"], strict=True)]
    inputs = {name: torch.from_numpy(batch[name]) for name in read_config(uncompressed)[0].inputs}
    with torch.no_grad():
        start, end = build.load_model(uncompressed)(**inputs).numpy().transpose(2, 0, 1)
    number = batch["overflow_to_sample_mapping"]
    assert len(number) > len(asked), "some contexts take two windows"
    wanted = by_loops(list(start), list(end), offsets, number, asked.contexts, n_best, longest)
    model = search.load(uncompressed)
    answers = model(list(asked.questions), list(asked.contexts), n_best=n_best, max_answer_len=longest)
    assert [(one["answer"], one["start"], one["end"]) for one in answers] == [answer[:3] for answer in wanted]
    np.testing.assert_allclose([one["score"] for one in answers], [answer[3] for answer in wanted], rtol=1e-4)


def test_a_service_answers_with_the_spans_of_each_exported_member(searched: Path, tmp_path: Path) -> None:
    async def converse(client: httpx.AsyncClient, number: int) -> None:
        model = search.load(exports / "models" / str(number))
        for row in facts(10, 1):
            reply = (await client.post("/v1/answer", json={name: row[name] for name in ("question", "context")})).json()
            wanted = model(row["question"], row["context"])
            assert {name: reply[name] for name in ("answer", "start", "end")} == {
                name: wanted[name] for name in ("answer", "start", "end")
            }
            assert reply["score"] == pytest.approx(wanted["score"], rel=1e-3) and reply["variant"] == f"facts/{number}"

    exports = searched / "mlruns" / "exports" / "facts"
    with_each_member(exports, tmp_path, converse)
