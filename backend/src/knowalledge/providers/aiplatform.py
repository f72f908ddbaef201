"""Vertex AI through Google's own client: ``PredictionServiceClient`` over gRPC, for whoever has to use it.

``client: aiplatform`` on a target selects it; it needs the extra ``knowalledge[aiplatform]`` (200 MB resident, several
times the CPU of REST). It asks and is answered in the same messages as ``vertex.py``, in their other encoding, so they
are made and read by the same functions. Calls share one connection, on which Google allows some 100 at a time; more
wait for each other, within their deadlines.
"""

from collections.abc import Callable, Generator
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from knowalledge.core.clock import Clock
from knowalledge.core.errors import ProviderAuth, ProviderGarbage, ProviderRejected
from knowalledge.gateway.domain.answer import Chunk, Completion, Embeddings
from knowalledge.gateway.domain.prompt import Prompt
from knowalledge.net.http.client import Reply
from knowalledge.net.http.connection import MAX_ANSWER
from knowalledge.providers import google
from knowalledge.providers.google_rest import Headers, encode, follow

_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_ANSWER),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_retries", 0),  # retries belong to the service
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.keepalive_time_ms", 60_000),
)


@cache
def _wait_in_the_hub() -> None:
    """Without this every greenlet stands still while one of them waits for gRPC."""
    from grpc.experimental.gevent import init_gevent  # noqa: PLC0415 - the extra

    init_gevent()


class AiPlatform:
    """Implements ``Provider``. ``url`` is the endpoint, over TLS unless it says http. Needs the extra."""

    def __init__(self, url: str, resource: str, headers: Headers, clock: Clock, proxy: str = "") -> None:
        # The extra, which only its targets pay for.
        import google.cloud.aiplatform_v1 as api  # noqa: PLC0415
        import grpc  # noqa: PLC0415
        from google.api_core.exceptions import GoogleAPICallError  # noqa: PLC0415
        from google.cloud.aiplatform_v1.services.llm_utility_service import transports as llm  # noqa: PLC0415
        from google.cloud.aiplatform_v1.services.prediction_service import transports  # noqa: PLC0415
        from google.protobuf import json_format  # noqa: PLC0415

        _wait_in_the_hub()
        parts = urlsplit(url)
        options = (*_OPTIONS, ("grpc.http_proxy", proxy) if proxy else ("grpc.enable_http_proxy", 0))
        if parts.scheme == "https":
            target = f"{parts.hostname}:{parts.port or 443}"
            self._channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(), options)
        else:
            self._channel = grpc.insecure_channel(f"{parts.hostname}:{parts.port or 80}", options)
        transport = transports.PredictionServiceGrpcTransport(channel=self._channel)
        # Else asking for a stream would already wait for its first message, with nothing in hand to cancel it by.
        transport.stream_generate_content._prefetch_first_result_ = False
        self._predictions = api.PredictionServiceClient(transport=transport)
        self._utility = api.LlmUtilityServiceClient(
            transport=llm.LlmUtilityServiceGrpcTransport(channel=self._channel)
        )
        self._api: Any = api
        self._json: Any = json_format
        self._failure: type[Exception] = GoogleAPICallError
        self._resource = resource
        self._headers = headers
        self._clock = clock

    def complete(self, prompt: Prompt, timeout: float) -> Completion:
        request = self._request(self._api.GenerateContentRequest, "model", google.request_body(prompt))
        return google.read_completion(
            self._document(self._ask(self._predictions.generate_content, request, timeout))
        )

    def stream(self, prompt: Prompt, timeout: float) -> Generator[list[Chunk], None, None]:
        return follow(lambda: self._messages(prompt, timeout), self._refused)

    def embed(self, inputs: tuple[str, ...], dimensions: int | None, timeout: float) -> Embeddings:
        body = encode(google.embed_body(inputs, dimensions))
        request = self._request(self._api.PredictRequest, "endpoint", body)
        answer = self._ask(self._predictions.predict, request, timeout)
        return google.read_embeddings(self._document(answer), len(inputs))

    def count_tokens(self, prompt: Prompt, timeout: float) -> int:
        body = encode(google.question(prompt))
        request = self._request(self._api.CountTokensRequest, "endpoint", body)
        return google.read_count(self._document(self._ask(self._utility.count_tokens, request, timeout)))

    def ping(self, timeout: float) -> None:
        """As ``vertex.py``: a count needs the same rights and model as a real call."""
        self.count_tokens(google.PING, timeout)

    def close(self) -> None:
        self._channel.close()

    def _request(self, kind: Any, name: str, body: bytes) -> Any:
        """The JSON of the REST dialect as the message of this one; ``name`` is the field of the resource."""
        request = kind()
        try:
            self._json.Parse(body, kind.pb(request))
        except self._json.ParseError as error:
            raise ProviderRejected("the request cannot be put into Google's message") from error
        setattr(request, name, self._resource)
        return request

    def _document(self, message: Any) -> bytes:
        found: str = self._json.MessageToJson(type(message).pb(message), indent=None)
        return found.encode()

    def _ask(self, method: Callable[..., Any], request: Any, timeout: float) -> Any:
        began = self._clock.monotonic()
        lines = self._headers.lines(timeout).decode().splitlines()
        metadata = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
        left = timeout - (self._clock.monotonic() - began)
        try:
            return method(
                request=request,
                retry=None,
                timeout=max(left, 0.0),
                metadata=[pair for pair in metadata if pair[0] != "content-type"],
            )
        except self._failure as error:
            self._refused(error)

    def _messages(self, prompt: Prompt, timeout: float) -> Generator[list[bytes], None, None]:
        request = self._request(self._api.GenerateContentRequest, "model", google.request_body(prompt))
        call = self._ask(self._predictions.stream_generate_content, request, timeout)
        seen = 0
        try:
            for message in call:
                data = self._document(message)
                seen += len(data)
                if seen > MAX_ANSWER:
                    raise ProviderGarbage("the provider's stream does not end")
                yield [data]
        except self._failure as error:
            self._refused(error)
        finally:
            call.cancel()

    def _refused(self, error: Any) -> None:
        """A gRPC error as the REST error that it would have been."""
        details = [
            {"@type": it.DESCRIPTOR.full_name, **self._json.MessageToDict(it)}
            for it in error.details
            if hasattr(it, "DESCRIPTOR")
        ]
        status = getattr(error.grpc_status_code, "name", "UNKNOWN")
        code = int(error.code or 500)
        try:
            google.raise_error(Reply(code, {}, encode({"error": {"status": status, "details": details}})))
        except ProviderAuth:
            if code == 401:
                self._headers.refused()
            raise
