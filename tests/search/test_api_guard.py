"""What stands before the API: wrong and hostile input, limits, keys, security headers and logs."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from services import is_problem, talk

from search.serve.guard import FILES, HEADERS, Guarding, Rate
from search.serve.service import Service

HOSTILE: list[Any] = [
    {},
    {"question": ""},
    {"question": "  \n "},
    {"question": None},
    {"question": ["q"]},
    {"question": "q" * 2001},
    {"question": "q", "context": ""},
    {"question": "q", "context": "c" * 50_001},
    {"question": "q", "other": 1},
    {"question": "q", "within_ms": 0},
    {"question": "q", "within_ms": -5},
    {"question": "q", "within_ms": "soon"},
    [],
    "text",
    None,
    17,
]


@pytest.mark.parametrize("body", HOSTILE, ids=lambda body: json.dumps(body)[:30])
def test_a_wrong_body_is_a_problem_that_says_where(extracting: Service, body: Any) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        content = is_problem(await client.post("/v1/answer", json=body), 422)
        assert content["errors"] and "body" in content["detail"]

    talk(extracting, conversation)


@pytest.mark.parametrize(
    "content", [b"{", b"\xff\xfe", b'{"question": "\\ud800"}', b'{"question": "a\\u0000b"}', b"NaN"]
)
def test_broken_json_and_broken_text_fail_no_service(extracting: Service, content: bytes) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        headers = {"content-type": "application/json"}
        response = await client.post("/v1/answer", content=content, headers=headers)
        assert response.status_code in (404, 422), response.text
        is_problem(response, response.status_code)

    talk(extracting, conversation)


@pytest.mark.parametrize(
    "text",
    ["<script>alert(1)</script> fellow", "\u202eright-to-left override", "a\u0000bcdefg", "😀" * 40, "\x1b[31mescape"],
)
def test_hostile_text_is_answered_and_given_back_as_text(extracting: Service, text: str) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        response = await client.post("/v1/answer", json={"question": text, "context": text})
        assert response.status_code == 200, response.text
        assert response.json()["context"] == text and response.headers["content-type"] == "application/json"

    talk(extracting, conversation)


@pytest.mark.parametrize("path", ["/nothing", "/v1/passages/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd"])
def test_no_path_leads_out(served: Service, path: str) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        response = await client.get(path)
        assert response.status_code in (404, 405)
        assert "root:" not in response.text

    talk(served, conversation)


def test_a_large_body_is_refused_whatever_it_declares(served: Service) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        is_problem(await client.post("/v1/passages", content=b"x" * 5000), 413)
        for digits in (21, 5000):  # more than a number may have
            headers = {"content-length": "9" * digits}
            is_problem(await client.post("/v1/passages", content=b"x", headers=headers), 413)

        async def pieces() -> Any:
            for _ in range(50):
                yield b"x" * 100

        is_problem(await client.post("/v1/passages", content=pieces()), 413)

    talk(served, conversation, Guarding(max_body=1000))


def test_any_number_of_wrong_keys_is_one_error(served: Service) -> None:
    """An error for each would keep the event loop from all others."""

    async def conversation(client: httpx.AsyncClient) -> None:
        wrong = dict.fromkeys(map(str, range(51)), 1)
        for path, body in (("answer", wrong), ("classify", {"texts": [wrong]}), ("completions", wrong)):
            content = is_problem(await client.post(f"/v1/{path}", json=body), 422)
            assert "an object has at most 50 keys, got 51" in content["detail"] and len(content["errors"]) <= 2

    talk(served, conversation)


def test_one_client_has_a_bounded_rate(served: Service) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        answers = [await client.get("/v1/passages") for _ in range(6)]
        assert [a.status_code for a in answers] == [200] * 3 + [429] * 3
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert (await client.get("/healthz")).status_code == 200

    talk(served, conversation, Guarding(rate=0.01, burst=3))


def test_a_rate_is_per_client_and_fills_again() -> None:
    now = [0.0]
    rate = Rate(2.0, 2.0, lambda: now[0])
    assert [rate.wait_s("a") for _ in range(3)] == [0, 0, pytest.approx(0.5)]
    assert rate.wait_s("b") == 0
    now[0] = 0.5
    assert rate.wait_s("a") == 0 and rate.wait_s("a") > 0


def test_with_keys_only_the_page_and_health_are_open(served: Service) -> None:
    key = served.archive.make_key("me").result(5)

    async def conversation(client: httpx.AsyncClient) -> None:
        for path in ("/", "/page.js", "/page.css", "/healthz", "/readyz"):
            assert (await client.get(path)).status_code == 200, path
        for path in ("/v1/passages", "/v1/history", "/metrics", "/openapi.json", "/v1/status"):
            assert is_problem(await client.get(path), 401) and (await client.get(path)).headers["www-authenticate"]
        for wrong in ("Bearer", "Bearer x", f"Basic {key}", f"Bearer {key}x"):
            is_problem(await client.get("/v1/passages", headers={"authorization": wrong}), 401)
        assert (await client.get("/v1/passages", headers={"authorization": f"bearer {key}"})).status_code == 200

    talk(served, conversation, Guarding(keys=True, rate=1e6, burst=1e6))


def test_each_key_has_a_rate_of_its_own(served: Service) -> None:
    keys = [served.archive.make_key(name).result(5) for name in ("one", "other")]

    async def conversation(client: httpx.AsyncClient) -> None:
        for key in keys:  # of the same address
            headers = {"authorization": f"Bearer {key}"}
            statuses = [(await client.get("/v1/passages", headers=headers)).status_code for _ in range(3)]
            assert statuses == [200, 200, 429]

    talk(served, conversation, Guarding(keys=True, rate=0.01, burst=2))


def test_wrong_keys_are_slowed_down(served: Service) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        statuses = [(await client.get("/v1/passages")).status_code for _ in range(4)]
        assert statuses == [401, 401, 429, 429]

    talk(served, conversation, Guarding(keys=True, rate=0.01, burst=2))


@pytest.mark.parametrize(
    ("host", "origin", "local", "refused"),
    [
        ("localhost:8000", None, True, False),
        ("127.0.0.1", "http://127.0.0.1", True, False),
        ("[::1]:8000", "http://[::1]:8000", True, False),
        ("evil.example:8000", None, True, True),
        ("127.0.0.1.evil.example", None, True, True),
        ("localhost:8000", "http://evil.example", True, True),
        ("localhost:8000", "null", True, True),
        ("localhost:8000", "http://localhost:9000", True, True),
        ("service.example", "https://service.example", False, False),
        ("service.example", "https://evil.example", False, True),
    ],
)
def test_pages_of_others_reach_no_service_without_keys(
    served: Service, host: str, origin: str | None, local: bool, refused: bool
) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        headers = {"host": host} | ({} if origin is None else {"origin": origin})
        response = await client.delete("/v1/passages/1", headers=headers)
        is_problem(response, 403 if refused else 404)

    talk(served, conversation, Guarding(local=local))


def test_keys_that_cannot_be_looked_up_are_a_problem(served: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(key: str) -> int | None:
        raise RuntimeError("inner detail")

    monkeypatch.setattr(served.archive, "key_id", fails)

    async def conversation(client: httpx.AsyncClient) -> None:
        response = await client.get("/v1/passages", headers={"authorization": "Bearer x"})
        assert "inner detail" not in json.dumps(is_problem(response, 503)) and "x-request-id" in response.headers

    talk(served, conversation, Guarding(keys=True))


def test_every_response_has_the_security_headers_and_an_id(served: Service) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        for path in ("/", "/nothing", "/v1/passages?limit=0", "/healthz"):
            headers = (await client.get(path)).headers
            assert "default-src 'none'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff" and len(headers["x-request-id"]) == 16
            assert "access-control-allow-origin" not in headers
        response = await client.get("/healthz", headers={"x-request-id": "mine-1"})
        assert response.headers["x-request-id"] == "mine-1"
        other = await client.get("/healthz", headers={"x-request-id": "no spaces"})
        assert other.headers["x-request-id"] != "no spaces"
        asked = {"origin": "http://evil.example", "access-control-request-method": "POST"}
        preflight = await client.options("/v1/answer", headers=asked)
        assert preflight.status_code == 405 and not any("access-control" in name for name in preflight.headers)

    talk(served, conversation)


def test_refusals_of_the_guard_and_files_of_the_page_have_them_too(served: Service) -> None:
    def secured(response: httpx.Response, status: int) -> None:
        assert response.status_code == status
        headers = {name.lower(): value for name, value in HEADERS.items()}
        assert {name: response.headers.get(name) for name in headers} == headers
        assert len(response.headers["x-request-id"]) == 16

    async def conversation(client: httpx.AsyncClient) -> None:
        for path in FILES:
            secured(await client.get(path), 200)
        secured(await client.get("/v1/history"), 401)
        secured(await client.post("/v1/passages", content=b"x" * 5000, headers={"content-length": "9" * 30}), 413)
        for _ in range(60):
            response = await client.get("/v1/history")
        secured(response, 429)

    talk(served, conversation, Guarding(keys=True, max_body=1000, rate=0.01, burst=50))


def test_neither_questions_nor_keys_are_logged(extracting: Service, caplog: pytest.LogCaptureFixture) -> None:
    key = extracting.archive.make_key("me").result(5)

    async def conversation(client: httpx.AsyncClient) -> None:
        headers = {"authorization": f"Bearer {key}"}
        await client.post(
            "/v1/answer", json={"question": "secret-question", "context": "secret-context"}, headers=headers
        )
        await client.get("/v1/secret-path", headers=headers)

    with caplog.at_level("INFO"):
        talk(extracting, conversation, Guarding(keys=True))
    log = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("search"))
    assert "/v1/answer 200" in log and "secret" not in log and key not in log


def test_a_fault_of_the_program_is_a_problem_without_its_details(
    served: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: Any) -> Any:
        raise RuntimeError("inner detail")

    monkeypatch.setattr(served.archive, "history", fails)

    async def conversation(client: httpx.AsyncClient) -> None:
        content = is_problem(await client.get("/v1/history"), 500)
        assert "inner detail" not in json.dumps(content)

    talk(served, conversation)
