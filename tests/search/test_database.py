"""The service's database, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from services import WORDS, embed, fleet, talk
from sqlalchemy import Engine, event, insert, select
from sqlalchemy.orm import Session
from statements import before_each

from search.serve.database.archive import (
    ANSWER_ROWS,
    KEY_PREFIX,
    QUESTION_ROWS,
    Archive,
    NewAnswer,
    NewPassage,
    hash_of,
)
from search.serve.database.mapped_write import mapped
from search.serve.database.row_insert import RowInsert
from search.serve.database.tables import ApiKey, Feedback, now
from search.serve.database.writer import CHECKPOINT, Writer, WriterFullError
from search.serve.fleet import EMBEDDING_TASK
from search.serve.passage_index import Index
from search.serve.service import Service

ANSWER = NewAnswer("r1", "who?", None, "she", 0.5, 3, 6, None, "trial 7", {"model": 4.5})


def test_an_answer_is_in_the_history_with_its_newest_feedback(archive: Archive) -> None:
    first = archive.answered(ANSWER).result(5)
    second = archive.answered(replace(ANSWER, question="where?", context="here", text="here")).result(5)
    assert archive.give_feedback(first, False, None).result(5)
    assert archive.give_feedback(first, True, "yes\0").result(5)
    assert not archive.give_feedback(10**6, True, None).result(5)
    newest, oldest = archive.history()
    assert (newest["id"], newest["question"], newest["context"], newest["feedback"]) == (second, "where?", "here", None)
    assert oldest["feedback"] == {"helpful": True, "comment": "yes"}
    assert oldest["milliseconds"] == {"model": 4.5} and oldest["asked_at"].endswith("+00:00")
    assert [one["id"] for one in archive.history(before=second)] == [first]


def test_the_history_reads_the_newest_opinion_of_an_answer_alone(archive: Archive) -> None:
    number, read = archive.answered(ANSWER).result(5), list[Feedback]()
    for helpful in (False, False, False, True):
        archive.give_feedback(number, helpful, None).result(5)

    def reads(one: Feedback, _: Any) -> None:
        read.append(one)

    event.listen(Feedback, "load", reads)
    try:
        [stored] = archive.history()
    finally:
        event.remove(Feedback, "load", reads)
    assert stored["feedback"] == {"helpful": True, "comment": None} and len(read) == 1


def test_many_passages_and_embeddings_are_stored_in_few_statements(archive: Archive, engine: Engine) -> None:
    """An answer waits for what the only writer stores before it."""
    passages, statements = [NewPassage("s", i, f"text {i % 1900}") for i in range(2000)], list[str]()
    with before_each(engine, statements.append):
        numbers = archive.add_passages(passages).result(30)
        assert archive.add_passages(passages[500:]).result(30) == numbers[500:]
        vectors = {number: np.full(2, float(number)) for number in numbers}
        digests = {number: passage.digest for number, passage in zip(numbers, passages, strict=True)}
        for _ in range(2):  # the second time they replace those of the first
            assert archive.embed("m", vectors, digests).result(30) == numbers[:1900]
    assert len(statements) < 60
    assert numbers[1900:] == numbers[:100] and numbers[:1900] == sorted(set(numbers))
    stored = [(passage.id, passage.text, passage.position) for passage in archive.passages(0, 3000)]
    assert stored == [(numbers[i], f"text {i}", i) for i in range(1900)]
    assert {number: vector.tolist() for number, vector in archive.embeddings("m")} == {
        number: [number, number] for number in numbers[:1900]
    }


def test_a_passage_is_kept_once_and_leaves_with_its_embeddings_but_not_its_answers(archive: Archive) -> None:
    passages = [NewPassage("a", 0, "one"), NewPassage("a", 1, "two"), NewPassage("a", 0, "one")]
    one, two, again = archive.add_passages(passages).result(5)
    assert one == again != two
    digests = {one: passages[0].digest, two: passages[1].digest, 10**6: "gone"}
    vectors = {one: np.ones(3), two: np.zeros(3), 10**6: np.ones(3)}
    assert archive.embed("m", vectors, {**digests, one: "of an earlier passage"}).result(5) == [two]
    assert archive.embed("m", vectors, digests).result(5) == [one, two]
    assert [(n, v.tolist()) for n, v in archive.embeddings("m")] == [(one, [1, 1, 1]), (two, [0, 0, 0])]
    assert archive.not_embedded("m") == [] and [p.id for p in archive.not_embedded("other")] == [one, two]
    answer = archive.answered(replace(ANSWER, passage_id=one)).result(5)
    assert archive.remove_passage(one).result(5) and not archive.remove_passage(one).result(5)
    assert [n for n, _ in archive.embeddings("m")] == [two]
    assert archive.passage(one) is None and [p.text for p in archive.passages()] == ["two"]
    [stored] = archive.history()
    assert stored["id"] == answer and stored["passage"] is None


def test_an_answer_from_a_passage_that_is_gone_is_stored_without_it(archive: Archive) -> None:
    [number] = archive.add_passages([NewPassage("a", 0, "one")]).result(5)
    archive.remove_passage(number).result(5)
    stored = archive.answered(replace(ANSWER, passage_id=number)).result(5)
    assert [(one["id"], one["passage"]) for one in archive.history()] == [(stored, None)]


def test_a_key_is_valid_until_it_is_revoked_and_only_its_hash_is_kept(archive: Archive, engine: Engine) -> None:
    key = archive.make_key("me").result(5)
    assert key.startswith(KEY_PREFIX) and archive.key_id(key) is not None
    with Session(engine) as session:
        [row] = session.query(ApiKey).all()
        assert row.digest == hash_of(key) and key not in str(vars(row))
    assert archive.key_id(key + "x") is None and archive.key_id("\ud800") is None
    assert archive.revoke_key("me").result(5) == 1 and archive.revoke_key("me").result(5) == 0
    assert archive.key_id(key) is None


@pytest.mark.parametrize("text", ["\0", "\ud800", "'; drop table answers; --", "<script>", "é\u202e" * 5000])
def test_hostile_text_is_kept_and_hurts_nothing(archive: Archive, text: str) -> None:
    archive.answered(replace(ANSWER, question=f"a{text}b", text=text, context=text)).result(5)
    archive.add_passages([NewPassage(text, 0, text)]).result(5)
    [stored] = archive.history()
    assert stored["question"].startswith("a") and stored["question"].endswith("b")


def test_switches_are_kept_in_order(archive: Archive) -> None:
    for name in ("b", "c"):
        archive.switched([{"before": "a", "after": name, "reason": "load"}]).result(5)
    assert [one["to"] for one in archive.switches()] == ["c", "b"]


def test_one_bad_write_spoils_no_other(archive: Archive) -> None:
    good = [archive.answered(ANSWER) for _ in range(20)]
    bad = archive.answered(replace(ANSWER, key_id=10**6))  # there is no such key
    good += [archive.answered(ANSWER) for _ in range(20)]
    numbers = [one.result(10) for one in good]
    assert len(set(numbers)) == 40 == len(archive.history(limit=100))
    with pytest.raises(Exception, match=r"(?i)foreign key") as caught:
        bad.result(5)
    assert "who?" not in str(caught.value)  # errors are logged, questions are not


def test_a_compiled_insert_stores_what_an_insert_of_sqlalchemy_stores(engine: Engine) -> None:
    question = {"request": "r", "task": "t", "text": "% :a ? é", "context": None, "key_id": None, "asked_at": now()}
    answer = {"text": "'", "score": 0.1, "start": -1, "end": 2**31 - 1, "passage_id": None, "variant": "v"}
    answer |= {"milliseconds": {"é": 0.1, "total": 1e-9}, "answered_at": now().replace(microsecond=0)}
    with engine.begin() as connection:
        numbers = [RowInsert(QUESTION_ROWS, engine.dialect)(connection, question) for _ in range(2)]
        answers = [RowInsert(ANSWER_ROWS, engine.dialect)(connection, {**answer, "question_id": numbers[0]})]
        for table, row, own in ((QUESTION_ROWS, question, numbers), (ANSWER_ROWS, answer, answers)):
            given = row if table is QUESTION_ROWS else {**row, "question_id": numbers[0]}
            key = connection.execute(insert(table), given).inserted_primary_key
            assert key is not None and key[0] == own[-1] + 1
            stored = [dict(one) for one in connection.execute(select(table).order_by(table.c.id)).mappings()]
            assert [one.pop("id") for one in stored] == [*own, own[-1] + 1]
            assert all(one == given for one in stored)


def test_writes_to_a_file_share_a_connection(archive: Archive, engine: Engine) -> None:
    taken = list[Any]()
    event.listen(engine.pool, "checkout", lambda *connection: taken.append(connection))
    for _ in range(3):
        archive.answered(ANSWER).result(5)
    assert len(taken) == (1 if engine.dialect.name == "sqlite" else 3)


def test_the_log_of_a_file_is_written_into_it_between_transactions(archive: Archive, engine: Engine) -> None:
    statements = list[str]()
    with before_each(engine, statements.append):
        for _ in range(CHECKPOINT + 1):
            archive.answered(ANSWER).result(5)
    written = [at for at, statement in enumerate(statements) if "wal_checkpoint" in statement]
    assert written == ([2 * CHECKPOINT] if engine.dialect.name == "sqlite" else [])  # after two inserts of each


def test_a_write_of_mapped_objects_that_fails_stores_nothing_and_spoils_no_other(engine: Engine) -> None:
    writer, held = Writer(engine), threading.Event()

    def fails(session: Session) -> None:
        session.add(ApiKey(name="bad", digest="b"))
        session.flush()
        raise RuntimeError("a fault")

    writer.put(lambda connection: held.wait(10))
    first = writer.put(mapped(lambda session: session.add(ApiKey(name="first", digest="f"))))
    bad = writer.put(mapped(fails))
    last = writer.put(mapped(lambda session: session.add(ApiKey(name="last", digest="l"))))
    held.set()
    assert (first.result(5), last.result(5)) == (None, None)
    with pytest.raises(RuntimeError, match="a fault"):
        bad.result(5)
    writer.close()
    with Session(engine) as session:
        assert sorted(session.scalars(select(ApiKey.name))) == ["first", "last"]


def test_the_queue_is_bounded_and_putting_never_waits(engine: Engine) -> None:
    writer = Writer(engine, bound=200)
    held = threading.Event()
    first = writer.put(lambda connection: held.wait(10))
    deadline = time.monotonic() + 5
    while writer.waiting and time.monotonic() < deadline:
        time.sleep(0.01)
    others, seconds = [], []
    for _ in range(200):
        began = time.perf_counter()
        others.append(writer.put(lambda connection: 1))
        seconds.append(time.perf_counter() - began)
    assert sorted(seconds)[150] < 1e-3
    with pytest.raises(WriterFullError, match="200 writes wait"):
        writer.put(lambda connection: 1)
    held.set()
    assert first.result(5) is True and [one.result(5) for one in others] == [1] * 200
    writer.close()
    with pytest.raises(WriterFullError, match="closed"):
        writer.put(lambda connection: 1)


def test_closing_waits_no_longer_than_it_may_for_a_database_that_does_not_answer(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    writer, answers = Writer(engine, bound=1), threading.Event()
    writer.put(lambda connection: answers.wait(10))
    deadline = time.monotonic() + 5
    while writer.waiting and time.monotonic() < deadline:
        time.sleep(0.01)
    writer.put(lambda connection: 1)  # the queue is full
    closing = threading.Thread(target=writer.close, args=(0.2,))
    closing.start()
    closing.join(5)
    ended = not closing.is_alive()
    answers.set()
    assert ended and "the database did not take 1 writes" in caplog.text


def test_what_is_queued_is_committed_before_the_writer_is_closed(engine: Engine) -> None:
    writer = Writer(engine)
    archive = Archive(engine, writer)
    futures = [archive.answered(ANSWER) for _ in range(500)]
    writer.close()
    assert all(one.done() for one in futures) and len(archive.history(limit=1000)) == 500


KILLED = """
import sys
from search.serve.database.archive import Archive, NewAnswer
from search.serve.database.engine import open_engine
from search.serve.database.writer import Writer
engine = open_engine(sys.argv[1])
archive = Archive(engine, Writer(engine))
while True:
    answer = NewAnswer("r", "q", None, "a", 0.5, 0, 1, None, "v", {})
    futures = [archive.answered(answer) for _ in range(8)]
    for one in futures:
        print(one.result(), flush=True)
"""


def test_every_answer_that_was_stored_survives_kill_9(engine: Engine, database_url: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, database_url], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    sent = [int(process.stdout.readline()) for _ in range(100)]
    os.kill(process.pid, signal.SIGKILL)
    sent += [int(line) for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    process.wait()
    writer = Writer(engine)
    stored = {one["id"] for one in Archive(engine, writer).history(limit=10**6)}
    writer.close()
    assert set(sent) <= stored


def test_a_key_is_revoked_by_the_name_that_it_was_made_with(archive: Archive) -> None:
    for name in ("n" * 300, "a\0b", "\ud800"):
        archive.make_key(name).result(5)
        assert archive.revoke_key(name).result(5) == 1


def test_a_service_answers_over_each_database(archive: Archive, tmp_path: Path) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        body = {"text": "Herons stand in water. Some nest in trees.", "source": "birds"}
        [number] = (await client.post("/v1/passages", json=body)).json()["ids"]
        reply = (await client.post("/v1/answer", json={"question": "Where do herons stand?"})).json()
        assert (reply["passage"], reply["answer"]) == (number, "Herons stand in water.")
        opinion = {"helpful": True, "comment": "yes 😀"}
        assert (await client.post(f"/v1/answers/{reply['id']}/feedback", json=opinion)).status_code == 204
        assert (await client.delete(f"/v1/passages/{number}")).status_code == 204
        [stored] = (await client.get("/v1/history")).json()["answers"]
        assert (stored["id"], stored["passage"], stored["feedback"]) == (reply["id"], None, opinion)
        assert (await client.get("/v1/passages")).json() == {"passages": [], "total": 0}

    fleets = {EMBEDDING_TASK: fleet(EMBEDDING_TASK, embed)}
    backend = Service(archive, Index(tmp_path / "embeddings", WORDS), "words", fleets)
    try:
        talk(backend, conversation)
    finally:
        backend.close()
