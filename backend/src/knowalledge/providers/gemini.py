"""The Gemini API (ai.google.dev/api), by API key or OAuth."""

import msgspec
from msgspec import Struct

from knowalledge.core.errors import ProviderGarbage
from knowalledge.gateway.domain.answer import Embeddings
from knowalledge.gateway.domain.prompt import Prompt
from knowalledge.net.http.client import Http
from knowalledge.providers import google
from knowalledge.providers.google_rest import GoogleRest, Headers, encode

URL = "https://generativelanguage.googleapis.com"


class _Values(Struct):
    values: tuple[float, ...]


class _Embedded(Struct):
    embeddings: tuple[_Values, ...]


_read = msgspec.json.Decoder(_Embedded).decode


class Gemini(GoogleRest):
    """Implements ``Provider``."""

    def __init__(self, http: Http, model: str, headers: Headers) -> None:
        super().__init__(http, f"/v1beta/models/{model}", headers)
        self._name = f"models/{model}"

    def count_tokens(self, prompt: Prompt, timeout: float) -> int:
        body = google.question(prompt)
        if len(body) > 1:  # at its top level this API takes contents alone
            body = {"generateContentRequest": {"model": self._name, **body}}
        return self.counted(body, timeout)

    def embed(self, inputs: tuple[str, ...], dimensions: int | None, timeout: float) -> Embeddings:
        """This API does not say what embeddings cost."""
        extra = {} if dimensions is None else {"outputDimensionality": dimensions}
        requests = [{"model": self._name, "content": {"parts": [{"text": text}]}, **extra} for text in inputs]
        body = self.ask(f"{self._path}:batchEmbedContents", encode({"requests": requests}), timeout)
        try:
            found = _read(body).embeddings
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ProviderGarbage("the provider's embeddings are not vectors") from error
        if len(found) != len(inputs):
            raise ProviderGarbage("the provider answered with another number of embeddings")
        return Embeddings(tuple(it.values for it in found))

    def ping(self, timeout: float) -> None:
        """The model's description: authenticated, and charged to no quota of tokens."""
        reply = self._http.get(self._path, *self._introduced(timeout))
        if reply.status != 200:
            self._refused(reply)
