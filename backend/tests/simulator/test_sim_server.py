"""The simulator over real sockets: each dialect's form, each fault on the wire, hostile bytes."""

import gzip
import json
import re
import socket
import subprocess
import sys
from http.client import HTTPException, IncompleteRead
from typing import Any

import pytest

GEMINI = "/v1beta/models/m:generateContent"
GEMINI_SSE = "/v1beta/models/m:streamGenerateContent?alt=sse"
VERTEX = "/v1/projects/p/locations/us-central1/publishers/google/models/m"
CHAT = "/v1/chat/completions"
ASK = {"contents": [{"role": "user", "parts": [{"text": "hello there [[out=3]]"}]}]}
ASK_CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello there [[out=3]]"}]}


def events(text: str) -> list[Any]:
    return [json.loads(it[6:]) for it in text.split("\n\n") if it.startswith("data: {")]


def test_gemini_answers_with_candidates_and_usage(sim: Any) -> None:
    status, found = sim.ask("POST", GEMINI, ASK)
    assert status == 200
    candidate = found["candidates"][0]
    assert candidate["content"] == {"role": "model", "parts": [{"text": "the answer is "}]}
    assert candidate["finishReason"] == "STOP"
    usage = found["usageMetadata"]
    assert (usage["promptTokenCount"], usage["candidatesTokenCount"], usage["totalTokenCount"]) == (9, 3, 12)


def test_vertex_answers_on_its_own_path_and_says_its_traffic_type(sim: Any) -> None:
    _, found = sim.ask("POST", f"{VERTEX}:generateContent", ASK)
    assert found["usageMetadata"]["trafficType"] == "ON_DEMAND"
    _, express = sim.ask("POST", "/v1/publishers/google/models/m:generateContent", ASK)
    assert express["candidates"][0]["finishReason"] == "STOP"
    assert sorted(sim.stats()["models"]) == ["global/m", "us-central1/m"]


def test_a_gemini_stream_is_events_whose_last_one_counts(sim: Any) -> None:
    found = events(sim.text(GEMINI_SSE, ASK))
    assert [it["candidates"][0]["content"]["parts"][0]["text"] for it in found] == ["the ", "answer ", "is "]
    assert ["usageMetadata" in it for it in found] == [False, False, True]
    assert found[-1]["candidates"][0]["finishReason"] == "STOP"


def test_a_gemini_stream_without_sse_is_a_json_array(sim: Any) -> None:
    found = json.loads(sim.text("/v1beta/models/m:streamGenerateContent", ASK))
    assert len(found) == 3


def test_count_tokens_is_free(sim: Any) -> None:
    sim.knobs(rpm=1)
    for _ in range(3):
        assert sim.ask("POST", "/v1beta/models/m:countTokens", ASK)[1]["totalTokens"] == 9
    wrapped = {"generateContentRequest": {"model": "models/m", **ASK}}
    assert sim.ask("POST", "/v1beta/models/m:countTokens", wrapped)[1]["totalTokens"] == 9
    assert sim.stats()["accepted"] == 0


def test_embeddings_in_every_dialect_are_the_same_unit_vectors(sim: Any) -> None:
    content = {"content": {"parts": [{"text": "a text"}]}, "outputDimensionality": 8}
    one = sim.ask("POST", "/v1beta/models/e:embedContent", content)[1]["embedding"]["values"]
    batch = sim.ask("POST", "/v1beta/models/e:batchEmbedContents", {"requests": [content] * 2})[1]
    predicted = sim.ask(
        "POST",
        f"{VERTEX}:predict",
        {"instances": [{"content": "a text"}], "parameters": {"outputDimensionality": 8}},
    )[1]
    chat = sim.ask("POST", "/v1/embeddings", {"model": "e", "input": "a text", "dimensions": 8})[1]
    assert len(one) == 8
    assert sum(value * value for value in one) == pytest.approx(1, abs=1e-4)
    assert [it["values"] for it in batch["embeddings"]] == [one, one]
    assert predicted["predictions"][0]["embeddings"]["values"] == one
    assert chat["data"][0]["embedding"] == one


def test_chat_completions_answer_whole_and_streamed(sim: Any) -> None:
    _, found = sim.ask("POST", CHAT, ASK_CHAT)
    assert found["choices"][0]["message"]["content"] == "the answer is "
    assert found["usage"]["completion_tokens"] == 3
    text = sim.text(CHAT, {**ASK_CHAT, "stream": True, "stream_options": {"include_usage": True}})
    assert text.endswith("data: [DONE]\n\n")
    chunks = events(text)
    assert "".join(it["choices"][0]["delta"].get("content", "") for it in chunks[:-1]) == "the answer is "
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"]["total_tokens"] == 12
    assert "usage" not in sim.text(CHAT, {**ASK_CHAT, "stream": True})


def test_models_are_listed_and_described(sim: Any) -> None:
    sim.knobs(models={"flash": {"rpm": 5}}, only_models=True)
    assert sim.ask("GET", "/v1/models")[1]["data"][0]["id"] == "flash"
    assert sim.ask("GET", "/v1beta/models")[1]["models"][0]["name"] == "models/flash"
    assert sim.ask("GET", "/v1beta/models/flash")[1]["displayName"] == "flash"
    assert sim.ask("POST", GEMINI, ASK)[0] == 404


def test_a_spent_quota_is_429_in_the_dialect_that_asked(sim: Any) -> None:
    sim.knobs(rpm=1)
    assert [sim.ask("POST", GEMINI, ASK)[0] for _ in range(2)] == [200, 429]
    response = sim.send("POST", CHAT, ASK_CHAT)  # the same model's one quota
    assert response.status == 429
    assert int(response.headers["retry-after"]) in (60, 61)
    response.connection.close()
    stats = sim.stats()
    assert (stats["accepted"], stats["rejected"], stats["peak_window_use"]) == (1, 2, {"rpm": 1.0})


def test_an_api_key_is_asked_for_when_one_is_set(sim: Any) -> None:
    sim.knobs(api_key="Secret-1")
    assert sim.ask("POST", GEMINI, ASK)[0] == 401
    assert sim.ask("POST", GEMINI, ASK, **{"x-goog-api-key": "Secret-1"})[0] == 200
    assert sim.ask("POST", CHAT, ASK_CHAT, authorization="Bearer Secret-1")[0] == 200


def test_latency_and_pace_are_kept(sim: Any) -> None:
    sim.knobs(latency_ms=60, token_ms=20)
    started = sim.provider._now()
    sim.text(GEMINI_SSE, ASK)
    assert sim.provider._now() - started >= 0.1
    started = sim.provider._now()
    sim.ask("POST", GEMINI, ASK)
    assert sim.provider._now() - started >= 0.1


def test_a_request_is_counted_after_its_transit(sim: Any) -> None:
    sim.knobs(transit_ms=300)
    response = None
    with socket.create_connection(("127.0.0.1", sim.port)) as raw:
        raw.sendall(request(GEMINI, json.dumps(ASK).encode()))
        assert sim.stats()["accepted"] == 0
        response = raw.recv(65536)
    assert response.startswith(b"HTTP/1.1 200")
    assert sim.stats()["accepted"] == 1


def test_a_stream_whose_client_leaves_is_charged_what_it_said(sim: Any) -> None:
    sim.knobs(token_ms=20)
    long = {"contents": [{"parts": [{"text": "[[out=500]]"}]}]}
    with socket.create_connection(("127.0.0.1", sim.port)) as raw:
        raw.sendall(request(GEMINI_SSE, json.dumps(long).encode()))
        while b"answer" not in raw.recv(65536):
            pass
    for _ in range(200):
        said = sim.stats()["models"]["m"]["output_tokens"]
        if said:
            break
    assert 2 <= said < 100


@pytest.mark.parametrize(
    ("fault", "status", "word"),
    [
        ("400", 400, "INVALID_ARGUMENT"),
        ("401", 401, "UNAUTHENTICATED"),
        ("500", 500, "INTERNAL"),
        ("503", 503, "UNAVAILABLE"),
        ("429", 429, "RetryInfo"),
        ("bare_429", 429, "Resource exhausted"),
        ("safety", 200, "blockReason"),
        ("absurd_usage", 200, "1000000000000"),
    ],
)
def test_a_fault_has_its_status_and_its_words(sim: Any, fault: str, status: int, word: str) -> None:
    sim.knobs(faults={fault: 1})
    code, found = sim.ask("POST", GEMINI, ASK)
    assert code == status
    assert word in json.dumps(found)


def test_empty_and_uncounted_answers_lack_what_they_lack(sim: Any) -> None:
    sim.knobs(faults={"empty": 1})
    assert "candidates" not in sim.ask("POST", GEMINI, ASK)[1]
    assert sim.ask("POST", CHAT, ASK_CHAT)[1]["choices"] == []
    sim.knobs(faults={"no_usage": 1})
    assert "usageMetadata" not in sim.ask("POST", GEMINI, ASK)[1]
    assert "usageMetadata" not in sim.text(GEMINI_SSE, ASK)


def test_garbage_is_no_json_and_gzip_is_gzip(sim: Any) -> None:
    sim.knobs(faults={"garbage": 1})
    assert sim.text(GEMINI, ASK) == "<html>garbage</html>"
    assert "{garbage" in sim.text(GEMINI_SSE, ASK)
    sim.knobs(faults={"gzip": 1})
    response = sim.send("POST", GEMINI, ASK)
    assert response.headers["content-encoding"] == "gzip"
    assert "candidates" in json.loads(gzip.decompress(response.read()))
    response.connection.close()


@pytest.mark.parametrize("path", [GEMINI, GEMINI_SSE])
def test_a_cut_answer_ends_in_the_middle(sim: Any, path: str) -> None:
    sim.knobs(faults={"cut": 1})
    response = sim.send("POST", path, ASK)
    with pytest.raises(IncompleteRead):
        response.read()
    response.connection.close()


def test_a_reset_connection_answers_nothing_and_a_hanging_one_waits(sim: Any) -> None:
    sim.knobs(faults={"reset": 1})
    with pytest.raises((HTTPException, ConnectionError)):
        sim.ask("POST", GEMINI, ASK)
    sim.knobs(faults={"hang": 1})
    with socket.create_connection(("127.0.0.1", sim.port)) as raw:
        raw.sendall(request(GEMINI, json.dumps(ASK).encode()))
        raw.settimeout(0.2)
        with pytest.raises(TimeoutError):
            raw.recv(1)


def test_a_429_may_come_inside_a_stream_that_said_200(sim: Any) -> None:
    sim.knobs(faults={"stream_429": 1})
    response = sim.send("POST", GEMINI_SSE, ASK)
    assert response.status == 200
    assert events(response.read().decode())[0]["error"]["code"] == 429
    response.connection.close()
    assert sim.stats()["accepted"] == 0


def request(path: str, body: bytes) -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), len(body), body)


def read(raw: socket.socket, answers: int) -> bytes:
    found = b""
    raw.settimeout(5)
    while found.count(b"HTTP/1.1 ") < answers or not found.endswith(b"}"):
        block = raw.recv(65536)
        if not block:
            break
        found += block
    return found


def test_requests_may_come_in_pieces_and_several_at_once(sim: Any) -> None:
    body = json.dumps(ASK).encode()
    whole = request(GEMINI, body) * 2
    with socket.create_connection(("127.0.0.1", sim.port)) as raw:
        for at in range(0, len(whole), 37):
            raw.sendall(whole[at : at + 37])
        assert len(re.findall(b"HTTP/1.1 200 OK", read(raw, 2))) == 2


def test_a_chunked_body_is_read(sim: Any) -> None:
    body = json.dumps(ASK).encode()
    head = f"POST {GEMINI} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    chunks = b"".join(
        b"%x\r\n%b\r\n" % (len(body[at : at + 20]), body[at : at + 20]) for at in range(0, len(body), 20)
    )
    with socket.create_connection(("127.0.0.1", sim.port)) as raw:
        raw.sendall(head + chunks + b"0\r\n\r\n")
        assert read(raw, 1).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01 hello\r\n\r\n",
        b"GET / HTTP/2\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 999999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"G" * 70_000,
    ],
)
def test_what_is_not_http_is_told_so_and_cut_off(sim: Any, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", sim.port)) as raw:
        raw.sendall(sent)
        raw.settimeout(5)
        found = raw.recv(65536)
        assert found.startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'{"contents": 5}', b'{"contents": [5]}', b'{"contents": [{"parts": [1]}]}', b"{}"]
)
def test_a_body_that_makes_no_sense_is_400(sim: Any, body: bytes) -> None:
    assert sim.ask("POST", GEMINI, body)[0] == 400
    assert sim.ask("POST", CHAT, body)[0] == 400


def test_a_wrong_knob_is_400_and_says_which(sim: Any) -> None:
    status, found = sim.ask("POST", "/_control", {"rpmm": 5})
    assert status == 400
    assert "rpmm" in found["error"]


@pytest.mark.system
def test_the_command_starts_it_says_so_in_one_line_and_ends_on_sigterm() -> None:
    command = [sys.executable, "-m", "knowalledge.cli", "provider-sim", "--bind", "127.0.0.1:0"]
    flags = ["--rpm", "5", "--model", "big:rpm=7,tpm=9", "--fault", "500=0.5", "--bare-429"]
    with subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        port = int(line.strip().rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as raw:
            raw.sendall(b"POST /_control HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}")
            knobs = json.loads(read(raw, 1).partition(b"\r\n\r\n")[2])
        process.terminate()
        assert process.wait(10) == 0
    assert (knobs["rpm"], knobs["bare_429"], knobs["faults"]) == (5, True, {"500": 0.5})
    assert knobs["models"]["big"] == {"rpm": 7, "tpm": 9, "rpd": 0, "tpd": 0}
