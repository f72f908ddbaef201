"""Vertex AI through Google's own client library: ``PredictionServiceClient`` over gRPC.

``client: aiplatform`` on a target selects it. It needs the extra ``knowalledge[aiplatform]``: 200 MB resident, several
times the CPU of REST. The messages are those of ``vertex.py`` in protobuf, so both convert them by the same functions.
All calls share one HTTP/2 connection. Google allows some 100 concurrent streams on it; further calls wait within their
deadlines.
"""

from collections.abc import Callable, Generator
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from knowalledge.core.clock import Clock
from knowalledge.core.errors import ProviderAuth, ProviderGarbage, ProviderRejected
from knowalledge.gateway.domain.answer import Chunk, Completion, Embeddings
from knowalledge.gateway.domain.prompt import Prompt
from knowalledge.net.http.client import Response
from knowalledge.net.http.connection import MAX_BODY
from knowalledge.providers import google
from knowalledge.providers.google_rest import AuthHeaders, encode, stream_chunks

_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_BODY),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_retries", 0),  # the gateway retries, within its quota
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.keepalive_time_ms", 60_000),
)


@cache
def _use_gevent() -> None:
    """Make gRPC wait in gevent's hub. Without it a call would block every greenlet of the process."""
    from grpc.experimental.gevent import init_gevent  # noqa: PLC0415 - optional extra

    init_gevent()


class AiPlatform:
    """Implements ``Provider``.

    ``url``: the endpoint, with TLS unless its scheme is http. ``resource``: the model's resource name. Raises
    ImportError without the extra.
    """

    def __init__(self, url: str, resource: str, headers: AuthHeaders, clock: Clock, proxy: str = "") -> None:
        # An optional extra: only processes with such a target load it.
        import google.cloud.aiplatform_v1 as api  # noqa: PLC0415
        import grpc  # noqa: PLC0415
        from google.api_core.exceptions import GoogleAPICallError  # noqa: PLC0415
        from google.cloud.aiplatform_v1.services.llm_utility_service import transports as llm  # noqa: PLC0415
        from google.cloud.aiplatform_v1.services.prediction_service import transports  # noqa: PLC0415
        from google.protobuf import json_format  # noqa: PLC0415

        _use_gevent()
        parts = urlsplit(url)
        options = (*_OPTIONS, ("grpc.http_proxy", proxy) if proxy else ("grpc.enable_http_proxy", 0))
        if parts.scheme == "https":
            target = f"{parts.hostname}:{parts.port or 443}"
            self._channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(), options)
        else:
            self._channel = grpc.insecure_channel(f"{parts.hostname}:{parts.port or 80}", options)
        transport = transports.PredictionServiceGrpcTransport(channel=self._channel)
        # Otherwise opening a stream waits for its first message, and meanwhile there is no call to cancel.
        transport.stream_generate_content._prefetch_first_result_ = False
        self._predictions = api.PredictionServiceClient(transport=transport)
        self._utility = api.LlmUtilityServiceClient(
            transport=llm.LlmUtilityServiceGrpcTransport(channel=self._channel)
        )
        self._api: Any = api
        self._json: Any = json_format
        self._error: type[Exception] = GoogleAPICallError
        self._resource = resource
        self._headers = headers
        self._clock = clock

    def complete(self, prompt: Prompt, timeout: float) -> Completion:
        request = self._request(self._api.GenerateContentRequest, "model", google.request_body(prompt))
        return google.read_completion(
            self._to_json(self._call(self._predictions.generate_content, request, timeout))
        )

    def stream(self, prompt: Prompt, timeout: float) -> Generator[list[Chunk], None, None]:
        return stream_chunks(lambda: self._messages(prompt, timeout), self._raise_status)

    def embed(self, inputs: tuple[str, ...], dimensions: int | None, timeout: float) -> Embeddings:
        body = encode(google.predict_body(inputs, dimensions))
        request = self._request(self._api.PredictRequest, "endpoint", body)
        answer = self._call(self._predictions.predict, request, timeout)
        return google.read_embeddings(self._to_json(answer), len(inputs))

    def count_tokens(self, prompt: Prompt, timeout: float) -> int:
        body = encode(google.input_fields(prompt))
        request = self._request(self._api.CountTokensRequest, "endpoint", body)
        return google.read_count(self._to_json(self._call(self._utility.count_tokens, request, timeout)))

    def ping(self, timeout: float) -> None:
        """Count the tokens of one word, as ``vertex.py`` does."""
        self.count_tokens(google.PING, timeout)

    def close(self) -> None:
        self._channel.close()

    def _request(self, kind: Any, resource_field: str, body: bytes) -> Any:
        """The JSON body of a REST request as the protobuf message ``kind``, with the resource name in its field."""
        request = kind()
        try:
            self._json.Parse(body, kind.pb(request))
        except self._json.ParseError as error:
            raise ProviderRejected("the request cannot be encoded as Google's message") from error
        setattr(request, resource_field, self._resource)
        return request

    def _to_json(self, message: Any) -> bytes:
        text: str = self._json.MessageToJson(type(message).pb(message), indent=None)
        return text.encode()

    def _call(self, method: Callable[..., Any], request: Any, timeout: float) -> Any:
        started = self._clock.monotonic()
        lines = self._headers.lines(timeout).decode().splitlines()
        metadata = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
        remaining = timeout - (self._clock.monotonic() - started)
        try:
            return method(
                request=request,
                retry=None,
                timeout=max(remaining, 0.0),
                metadata=[pair for pair in metadata if pair[0] != "content-type"],
            )
        except self._error as error:
            self._raise_status(error)

    def _messages(self, prompt: Prompt, timeout: float) -> Generator[list[bytes], None, None]:
        request = self._request(self._api.GenerateContentRequest, "model", google.request_body(prompt))
        call = self._call(self._predictions.stream_generate_content, request, timeout)
        size = 0
        try:
            for message in call:
                data = self._to_json(message)
                size += len(data)
                if size > MAX_BODY:
                    raise ProviderGarbage("the provider's stream is too large")
                yield [data]
        except self._error as error:
            self._raise_status(error)
        finally:
            call.cancel()

    def _raise_status(self, error: Any) -> None:
        """Raise the typed error of a gRPC status, as that of the equivalent REST response."""
        details = [
            {"@type": it.DESCRIPTOR.full_name, **self._json.MessageToDict(it)}
            for it in error.details
            if hasattr(it, "DESCRIPTOR")
        ]
        status = getattr(error.grpc_status_code, "name", "UNKNOWN")
        code = int(error.code or 500)
        try:
            document = {"status": status, "message": error.message, "details": details}
            google.raise_error(Response(code, {}, encode({"error": document})))
        except ProviderAuth:
            if code == 401:
                self._headers.invalidate()
            raise
