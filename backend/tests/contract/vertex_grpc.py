"""A fake Vertex AI over gRPC, in a process of its own: prints its port and exits with its parent.

The first text of a request selects the behaviour; ``stats`` answers with the counters and the last request, as JSON.
"""

import json
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import google.cloud.aiplatform_v1 as api
import grpc
from google.protobuf import any_pb2, duration_pb2, json_format, struct_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

STATS: dict[str, Any] = {"calls": 0, "cancelled": 0, "metadata": {}, "request": {}}
USAGE = {
    "promptTokenCount": 10,
    "candidatesTokenCount": 4,
    "thoughtsTokenCount": 3,
    "cachedContentTokenCount": 2,
}
CODES = {
    "internal": 13,
    "unavailable": 14,
    "denied": 7,
    "stranger": 16,
    "invalid": 3,
    "late": 4,
    "missing": 5,
}


def _message(**document: Any) -> Any:
    message = api.GenerateContentResponse()
    json_format.ParseDict(document, api.GenerateContentResponse.pb(message))
    return message


def _answer(text: str, finish: str | None = "STOP", usage: Any = USAGE, parts: Any = None) -> Any:
    thought = [{"text": "I think", "thought": True}, {"text": text}]
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": thought if parts is None else parts}}
    if finish:
        candidate["finishReason"] = finish
    more = {"usageMetadata": usage} if usage else {}
    return _message(candidates=[candidate], modelVersion="m-001", **more)


def _abort(context: Any, code: int, *details: Any) -> None:
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    status = status_pb2.Status(code=code, message="the secret prompt", details=packed)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    kind = next(it for it in grpc.StatusCode if it.value[0] == code)
    context.abort(kind, "the secret prompt")


def _limited(context: Any, detailed: bool) -> None:
    failure = error_details_pb2.QuotaFailure()
    failure.violations.add(subject="s", quota_id="TokensPerMinute", quota_metric="m")
    retry = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=33))
    _abort(context, code_pb2.RESOURCE_EXHAUSTED, *((failure, retry) if detailed else ()))


def _hang(context: Any) -> None:
    cancelled = threading.Event()
    context.add_callback(cancelled.set)
    cancelled.wait(30)
    STATS["cancelled"] += 1


class Predictions:
    """The methods of both services."""

    def generate(self, request: Any, context: Any) -> Any:
        word = _record_word(request, context)
        match word:
            case "stats":
                return _answer(json.dumps(STATS))
            case "tools":
                call = {"functionCall": {"name": "f", "args": {"b": 1}}, "thoughtSignature": "c2ln"}
                return _answer("", parts=[call])
            case "long" | "safe":
                return _answer("some", {"long": "MAX_TOKENS", "safe": "SAFETY"}[word])
            case "silent":
                return _answer("", usage=None)
            case "absurd":
                return _answer("hello", usage={**USAGE, "candidatesTokenCount": -7})
            case "empty":
                return _answer("", parts=[])
            case "nobody":
                return _message(usageMetadata=USAGE)
            case "blocked":
                return _message(promptFeedback={"blockReason": "PROHIBITED_CONTENT"})
            case "limited" | "bare":
                return _limited(context, word == "limited")
            case "hang":
                return _hang(context)
            case "large":
                return _answer("x" * 6_000_000)
            case _ if word in CODES:
                return _abort(context, CODES[word])
        time.sleep(0.001)
        return _answer("héllo")

    def stream(self, request: Any, context: Any) -> Iterator[Any]:
        word = _record_word(request, context)
        if word in ("hello", "cut", "midway", "hang after", "endless"):
            yield _answer("hé", None, None)
            match word:
                case "midway":
                    _limited(context, True)
                case "cut":
                    return
                case "hang after":
                    _hang(context)
                    return
                case "endless":
                    for _ in range(100):
                        yield _answer("x" * 1_000_000, None, None)
            yield _answer("llo", None, None)
            yield _answer(" world")
            return
        STATS["calls"] -= 1
        yield self.generate(request, context)

    def predict(self, request: Any, context: Any) -> Any:
        _record(request, context)
        answer = api.PredictResponse()
        for values, count in (([0.5, 1.0], 3), ([2.0, 3.0], 4)):
            value = struct_pb2.Value()
            json_format.ParseDict(
                {"embeddings": {"values": values, "statistics": {"token_count": count}}}, value
            )
            api.PredictResponse.pb(answer).predictions.append(value)
        return answer

    def count(self, request: Any, context: Any) -> Any:
        if _record_word(request, context) in CODES:
            _abort(context, CODES[_record_word(request, context)])
        return api.CountTokensResponse(total_tokens=31, total_billable_characters=9)


def _record(request: Any, context: Any) -> None:
    STATS["calls"] += 1
    STATS["metadata"] = dict(context.invocation_metadata())
    STATS["request"] = json_format.MessageToDict(type(request).pb(request))


def _record_word(request: Any, context: Any) -> str:
    word: str = request.contents[0].parts[0].text
    if word != "stats":
        _record(request, context)
    return word


def _handlers(predictions: Predictions) -> list[Any]:
    def unary(method: Any, request: Any, response: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(method, request.deserialize, response.serialize)

    answers = api.GenerateContentResponse
    prediction = {
        "GenerateContent": unary(predictions.generate, api.GenerateContentRequest, answers),
        "StreamGenerateContent": grpc.unary_stream_rpc_method_handler(
            predictions.stream, api.GenerateContentRequest.deserialize, answers.serialize
        ),
        "Predict": unary(predictions.predict, api.PredictRequest, api.PredictResponse),
    }
    utility = {"CountTokens": unary(predictions.count, api.CountTokensRequest, api.CountTokensResponse)}
    root = "google.cloud.aiplatform.v1"
    return [
        grpc.method_handlers_generic_handler(f"{root}.PredictionService", prediction),
        grpc.method_handlers_generic_handler(f"{root}.LlmUtilityService", utility),
    ]


def main() -> None:
    server = grpc.server(ThreadPoolExecutor(64), options=(("grpc.max_send_message_length", -1),))
    server.add_generic_rpc_handlers(_handlers(Predictions()))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    sys.stdin.read()
    server.stop(0)


if __name__ == "__main__":
    main()
