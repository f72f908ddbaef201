"""Everything that can be set, at the start by flags and at any time by ``POST /_control``."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from knowalledge_simulator.window import Limits

Natural = Annotated[int, Meta(ge=0)]
Amount = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Span = Annotated[float, Meta(gt=0)]
Fault = Literal[
    "400",
    "401",
    "500",
    "503",
    "429",
    "bare_429",
    "stream_429",
    "hang",
    "reset",
    "cut",
    "garbage",
    "empty",
    "safety",
    "gzip",
    "no_usage",
    "absurd_usage",
]
FAULTS: dict[str, str] = {
    "400": "refuses the request as invalid",
    "401": "refuses the credentials",
    "500": "fails; the request stays charged",
    "503": "is overloaded; the request stays charged",
    "429": "refuses although there is room",
    "bare_429": "the same, naming neither quota nor time",
    "stream_429": "answers a stream with 200, then with an error event before any text",
    "hang": "never answers",
    "reset": "closes the connection without an answer",
    "cut": "closes the connection in the middle of the answer",
    "garbage": "answers 200 with what is not JSON",
    "empty": "answers without a candidate",
    "safety": "blocks the answer",
    "gzip": "answers compressed",
    "no_usage": "answers without counting tokens",
    "absurd_usage": "counts negative and impossible numbers of tokens",
}


class Knobs(Struct, frozen=True, forbid_unknown_fields=True):
    """How the provider behaves. Times in milliseconds are medians; sigma 0 makes them fixed."""

    rpm: Natural = 0
    tpm: Natural = 0
    rpd: Natural = 0
    tpd: Natural = 0
    window_s: Span = 60.0
    day_s: Span = 86_400.0
    count: Literal["total", "input"] = "total"  # what tpm and tpd count
    models: dict[str, Limits] = {}  # in place of the limits above; also "location/model" for Vertex
    only_models: bool = False  # any other model is 404
    bare_429: bool = False  # refusals name neither the quota nor the time
    api_key: str = ""  # what callers must show; empty: anything
    latency_ms: Amount = 0.0  # until the first token
    latency_sigma: Amount = 0.0  # of the logarithm
    tail_p: Share = 0.0  # this share of requests ...
    tail_x: Amount = 10.0  # ... takes this many times as long
    token_ms: Amount = 0.0  # from one output token to the next
    transit_ms: Amount = 0.0  # from a request's arrival to its being counted
    transit_sigma: Amount = 0.0
    output_tokens: Natural = 16  # the median
    output_sigma: Amount = 0.0  # of the logarithm
    max_output: Natural = 65_536
    marker: bool = True  # [[out=N]] in a prompt sets the length of its answer
    chunk_tokens: Annotated[int, Meta(ge=1)] = 1  # tokens an event of a stream
    thinking: Natural = 0  # thinking tokens of each answer, counted as output
    faults: dict[Fault, Share] = {}  # share of requests by fault; at most one fault a request

    def limits(self, key: str, model: str) -> Limits:
        """The limits of a model, under its own key or its plain name."""
        return (
            self.models.get(key)
            or self.models.get(model)
            or Limits(rpm=self.rpm, tpm=self.tpm, rpd=self.rpd, tpd=self.tpd)
        )


def moved(knobs: Knobs, patch: dict[str, Any]) -> Knobs:
    """The knobs with some of them changed. Raises ``msgspec.ValidationError`` naming what is wrong."""
    return msgspec.convert(msgspec.to_builtins(knobs) | patch, Knobs, strict=False)
