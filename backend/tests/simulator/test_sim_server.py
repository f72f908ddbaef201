"""The simulator over real sockets: each dialect's format, each fault, malformed requests."""

import gzip
import json
import re
import socket
import subprocess
import sys
from http.client import HTTPException, IncompleteRead
from typing import Any

import pytest

from tests.simulator.conftest import SimulatorClient

GEMINI = "/v1beta/models/m:generateContent"
GEMINI_SSE = "/v1beta/models/m:streamGenerateContent?alt=sse"
VERTEX = "/v1/projects/p/locations/us-central1/publishers/google/models/m"
CHAT = "/v1/chat/completions"
BODY = {"contents": [{"role": "user", "parts": [{"text": "hello there [[out=3]]"}]}]}
CHAT_BODY = {"model": "m", "messages": [{"role": "user", "content": "hello there [[out=3]]"}]}


def events(text: str) -> list[Any]:
    return [json.loads(it[6:]) for it in text.split("\n\n") if it.startswith("data: {")]


def test_gemini_answers_with_candidates_and_usage(sim: SimulatorClient) -> None:
    status, response = sim.request("POST", GEMINI, BODY)
    assert status == 200
    candidate = response["candidates"][0]
    assert candidate["content"] == {"role": "model", "parts": [{"text": "this text is "}]}
    assert candidate["finishReason"] == "STOP"
    usage = response["usageMetadata"]
    assert (usage["promptTokenCount"], usage["candidatesTokenCount"], usage["totalTokenCount"]) == (9, 3, 12)


def test_vertex_answers_on_its_own_path_with_its_traffic_type(sim: SimulatorClient) -> None:
    _, response = sim.request("POST", f"{VERTEX}:generateContent", BODY)
    assert response["usageMetadata"]["trafficType"] == "ON_DEMAND"
    _, express = sim.request("POST", "/v1/publishers/google/models/m:generateContent", BODY)
    assert express["candidates"][0]["finishReason"] == "STOP"
    assert sorted(sim.stats()["models"]) == ["global/m", "us-central1/m"]


def test_a_gemini_stream_is_a_sequence_of_events_whose_last_has_the_usage(sim: SimulatorClient) -> None:
    chunks = events(sim.text(GEMINI_SSE, BODY))
    assert [it["candidates"][0]["content"]["parts"][0]["text"] for it in chunks] == [
        "this ",
        "text ",
        "is ",
    ]
    assert ["usageMetadata" in it for it in chunks] == [False, False, True]
    assert chunks[-1]["candidates"][0]["finishReason"] == "STOP"


def test_a_gemini_stream_without_sse_is_a_json_array(sim: SimulatorClient) -> None:
    chunks = json.loads(sim.text("/v1beta/models/m:streamGenerateContent", BODY))
    assert len(chunks) == 3


def test_counting_tokens_uses_no_quota(sim: SimulatorClient) -> None:
    sim.set_knobs(rpm=1)
    for _ in range(3):
        assert sim.request("POST", "/v1beta/models/m:countTokens", BODY)[1]["totalTokens"] == 9
    wrapped = {"generateContentRequest": {"model": "models/m", **BODY}}
    assert sim.request("POST", "/v1beta/models/m:countTokens", wrapped)[1]["totalTokens"] == 9
    assert sim.stats()["accepted"] == 0


def test_embeddings_in_every_dialect_are_the_same_unit_vectors(sim: SimulatorClient) -> None:
    content = {"content": {"parts": [{"text": "a text"}]}, "outputDimensionality": 8}
    one = sim.request("POST", "/v1beta/models/e:embedContent", content)[1]["embedding"]["values"]
    batch = sim.request("POST", "/v1beta/models/e:batchEmbedContents", {"requests": [content] * 2})[1]
    predicted = sim.request(
        "POST",
        f"{VERTEX}:predict",
        {"instances": [{"content": "a text"}], "parameters": {"outputDimensionality": 8}},
    )[1]
    chat = sim.request("POST", "/v1/embeddings", {"model": "e", "input": "a text", "dimensions": 8})[1]
    assert len(one) == 8
    assert sum(value * value for value in one) == pytest.approx(1, abs=1e-4)
    assert [it["values"] for it in batch["embeddings"]] == [one, one]
    assert predicted["predictions"][0]["embeddings"]["values"] == one
    assert chat["data"][0]["embedding"] == one


def test_chat_completions_answer_unary_and_streamed(sim: SimulatorClient) -> None:
    _, response = sim.request("POST", CHAT, CHAT_BODY)
    assert response["choices"][0]["message"]["content"] == "this text is "
    assert response["usage"]["completion_tokens"] == 3
    text = sim.text(CHAT, {**CHAT_BODY, "stream": True, "stream_options": {"include_usage": True}})
    assert text.endswith("data: [DONE]\n\n")
    chunks = events(text)
    assert "".join(it["choices"][0]["delta"].get("content", "") for it in chunks[:-1]) == "this text is "
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"]["total_tokens"] == 12
    assert "usage" not in sim.text(CHAT, {**CHAT_BODY, "stream": True})


def test_models_are_listed_and_described(sim: SimulatorClient) -> None:
    sim.set_knobs(models={"flash": {"rpm": 5}}, only_models=True)
    assert sim.request("GET", "/v1/models")[1]["data"][0]["id"] == "flash"
    assert sim.request("GET", "/v1beta/models")[1]["models"][0]["name"] == "models/flash"
    assert sim.request("GET", "/v1beta/models/flash")[1]["displayName"] == "flash"
    assert sim.request("POST", GEMINI, BODY)[0] == 404


def test_an_exhausted_quota_is_429_in_the_callers_dialect(sim: SimulatorClient) -> None:
    sim.set_knobs(rpm=1)
    assert [sim.request("POST", GEMINI, BODY)[0] for _ in range(2)] == [200, 429]
    with sim.open("POST", CHAT, CHAT_BODY) as response:  # both dialects share the model's quota
        assert response.status == 429
        assert int(response.headers["retry-after"]) in (60, 61)
    stats = sim.stats()
    assert (stats["accepted"], stats["rejected"], stats["peak_window_use"]) == (1, 2, {"rpm": 1.0})


def test_a_configured_api_key_is_required(sim: SimulatorClient) -> None:
    sim.set_knobs(api_key="Secret-1")
    assert sim.request("POST", GEMINI, BODY)[0] == 401
    assert sim.request("POST", GEMINI, BODY, **{"x-goog-api-key": "Secret-1"})[0] == 200
    assert sim.request("POST", CHAT, CHAT_BODY, authorization="Bearer Secret-1")[0] == 200


def test_latency_and_token_interval_are_applied(sim: SimulatorClient) -> None:
    sim.set_knobs(latency_ms=60, token_ms=20)
    started = sim.provider._now()
    sim.text(GEMINI_SSE, BODY)
    assert sim.provider._now() - started >= 0.1
    started = sim.provider._now()
    sim.request("POST", GEMINI, BODY)
    assert sim.provider._now() - started >= 0.1


def test_a_request_is_counted_after_its_transit(sim: SimulatorClient) -> None:
    sim.set_knobs(transit_ms=300)
    response = None
    with socket.create_connection(("127.0.0.1", sim.port)) as raw:
        raw.sendall(raw_request(GEMINI, json.dumps(BODY).encode()))
        assert sim.stats()["accepted"] == 0
        response = raw.recv(65536)
    assert response.startswith(b"HTTP/1.1 200")
    assert sim.stats()["accepted"] == 1


def test_a_stream_whose_client_disconnects_is_charged_what_was_sent(sim: SimulatorClient) -> None:
    sim.set_knobs(token_ms=20)
    long = {"contents": [{"parts": [{"text": "[[out=500]]"}]}]}
    with socket.create_connection(("127.0.0.1", sim.port)) as raw:
        raw.sendall(raw_request(GEMINI_SSE, json.dumps(long).encode()))
        while b"answer" not in raw.recv(65536):
            pass
    for _ in range(200):
        charged = sim.stats()["models"]["m"]["output_tokens"]
        if charged:
            break
    assert 2 <= charged < 100


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
def test_a_fault_has_its_status_and_message(sim: SimulatorClient, fault: str, status: int, word: str) -> None:
    sim.set_knobs(faults={fault: 1})
    code, response = sim.request("POST", GEMINI, BODY)
    assert code == status
    assert word in json.dumps(response)


def test_empty_answers_have_no_candidate_and_uncounted_ones_no_usage(sim: SimulatorClient) -> None:
    sim.set_knobs(faults={"empty": 1})
    assert "candidates" not in sim.request("POST", GEMINI, BODY)[1]
    assert sim.request("POST", CHAT, CHAT_BODY)[1]["choices"] == []
    sim.set_knobs(faults={"no_usage": 1})
    assert "usageMetadata" not in sim.request("POST", GEMINI, BODY)[1]
    assert "usageMetadata" not in sim.text(GEMINI_SSE, BODY)


def test_garbage_is_not_json_and_gzip_is_compressed(sim: SimulatorClient) -> None:
    sim.set_knobs(faults={"garbage": 1})
    assert sim.text(GEMINI, BODY) == "<html>garbage</html>"
    assert "{garbage" in sim.text(GEMINI_SSE, BODY)
    sim.set_knobs(faults={"gzip": 1})
    with sim.open("POST", GEMINI, BODY) as response:
        assert response.headers["content-encoding"] == "gzip"
        assert "candidates" in json.loads(gzip.decompress(response.read()))


@pytest.mark.parametrize("path", [GEMINI, GEMINI_SSE])
def test_a_cut_response_ends_in_the_middle(sim: SimulatorClient, path: str) -> None:
    sim.set_knobs(faults={"cut": 1})
    with sim.open("POST", path, BODY) as response, pytest.raises(IncompleteRead):
        response.read()


def test_a_reset_connection_has_no_response_and_a_hanging_one_stays_open(sim: SimulatorClient) -> None:
    sim.set_knobs(faults={"reset": 1})
    with pytest.raises((HTTPException, ConnectionError)):
        sim.request("POST", GEMINI, BODY)
    sim.set_knobs(faults={"hang": 1})
    with socket.create_connection(("127.0.0.1", sim.port)) as raw:
        raw.sendall(raw_request(GEMINI, json.dumps(BODY).encode()))
        raw.settimeout(0.2)
        with pytest.raises(TimeoutError):
            raw.recv(1)


def test_a_429_may_arrive_inside_a_stream_of_status_200(sim: SimulatorClient) -> None:
    sim.set_knobs(faults={"stream_429": 1})
    with sim.open("POST", GEMINI_SSE, BODY) as response:
        assert response.status == 200
        assert events(response.read().decode())[0]["error"]["code"] == 429
    assert sim.stats()["accepted"] == 0


def raw_request(path: str, body: bytes) -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), len(body), body)


def read(raw: socket.socket, responses: int) -> bytes:
    received = b""
    raw.settimeout(5)
    while received.count(b"HTTP/1.1 ") < responses or not received.endswith(b"}"):
        block = raw.recv(65536)
        if not block:
            break
        received += block
    return received


def test_requests_may_arrive_in_parts_and_pipelined(sim: SimulatorClient) -> None:
    body = json.dumps(BODY).encode()
    whole = raw_request(GEMINI, body) * 2
    with socket.create_connection(("127.0.0.1", sim.port)) as raw:
        for at in range(0, len(whole), 37):
            raw.sendall(whole[at : at + 37])
        assert len(re.findall(b"HTTP/1.1 200 OK", read(raw, 2))) == 2


def test_a_chunked_body_is_read(sim: SimulatorClient) -> None:
    body = json.dumps(BODY).encode()
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
def test_what_is_not_http_is_answered_by_400(sim: SimulatorClient, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", sim.port)) as raw:
        raw.sendall(sent)
        raw.settimeout(5)
        response = raw.recv(65536)
        assert response.startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'{"contents": 5}', b'{"contents": [5]}', b'{"contents": [{"parts": [1]}]}', b"{}"]
)
def test_an_invalid_body_is_400(sim: SimulatorClient, body: bytes) -> None:
    assert sim.request("POST", GEMINI, body)[0] == 400
    assert sim.request("POST", CHAT, body)[0] == 400


def test_an_unknown_knob_is_400_and_named(sim: SimulatorClient) -> None:
    status, response = sim.request("POST", "/_control", {"rpmm": 5})
    assert status == 400
    assert "rpmm" in response["error"]


@pytest.mark.system
def test_the_command_prints_one_line_when_ready_and_exits_on_sigterm() -> None:
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
