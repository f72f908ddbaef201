"""Google's models over REST: the Gemini API and Vertex AI differ in address and credentials alone."""

from collections.abc import Callable, Generator

from knowalledge.adapters.providers import google
from knowalledge.adapters.providers.http import Http, Reply
from knowalledge.domain.errors import ProviderGarbage
from knowalledge.domain.model import Chunk, Completion, Embeddings, Prompt

Headers = Callable[[], dict[str, str]]


class GoogleRest:
    """Implements ``Provider``. ``path`` is the model's resource, e.g. ``/v1beta/models/gemini-2.5-flash``."""

    def __init__(self, http: Http, path: str, model: str, headers: Headers) -> None:
        self._http = http
        self._path = path
        self._model = model
        self._headers = headers

    def complete(self, prompt: Prompt, timeout: float) -> Completion:
        return google.read_completion(self._post("generateContent", google.request_body(prompt), timeout))

    def stream(self, prompt: Prompt, timeout: float) -> Generator[Chunk, None, None]:
        events = self._http.events(
            f"{self._path}:streamGenerateContent?alt=sse",
            google.request_body(prompt),
            self._headers(),
            timeout,
        )
        finished = False
        try:
            while True:
                try:
                    data = next(events)
                except StopIteration as end:
                    reply: Reply | None = end.value
                    break
                chunk = google.read_chunk(data)
                finished = finished or chunk.finish is not None
                yield chunk
        finally:
            events.close()
        if reply is not None:
            google.raise_error(reply.status, reply.headers, reply.body)
        if not finished:
            raise ProviderGarbage("the provider's stream ended in the middle")

    def embed(self, inputs: tuple[str, ...], dimensions: int | None, timeout: float) -> Embeddings:
        body = google.embed_body(self._model, inputs, dimensions)
        return google.read_embeddings(self._post("batchEmbedContents", body, timeout))

    def count_tokens(self, prompt: Prompt, timeout: float) -> int:
        return google.read_count(self._post("countTokens", google.count_body(prompt), timeout))

    def ping(self, timeout: float) -> None:
        """The model's description: authenticated, and charged to no quota of tokens."""
        reply = self._http.get(self._path, self._headers(), timeout)
        # Vertex does not describe publisher models under this path; that it answers is enough.
        if reply.status not in (200, 404, 405):
            google.raise_error(reply.status, reply.headers, reply.body)

    def close(self) -> None:
        self._http.close()

    def _post(self, method: str, body: bytes, timeout: float) -> bytes:
        reply = self._http.post(f"{self._path}:{method}", body, self._headers(), timeout)
        if reply.status != 200:
            google.raise_error(reply.status, reply.headers, reply.body)
        return reply.body
