"""The simulator's settings: flags at the start, ``POST /_control`` at any time."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from knowalledge_simulator.window import Limits

NonNegative = Annotated[int, Meta(ge=0)]
NonNegativeFloat = Annotated[float, Meta(ge=0)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Positive = Annotated[float, Meta(gt=0)]
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
    "400": "rejects the request as invalid",
    "401": "rejects the credentials",
    "500": "fails with an internal error; the request stays charged",
    "503": "is overloaded; the request stays charged",
    "429": "rejects the request although the quota is not exhausted",
    "bare_429": "the same, naming neither a quota nor a time",
    "stream_429": "answers a stream with 200, then with an error event before any text",
    "hang": "never answers",
    "reset": "closes the connection without a response",
    "cut": "closes the connection in the middle of the response",
    "garbage": "answers 200 with a body that is not JSON",
    "empty": "answers without a candidate",
    "safety": "blocks the answer",
    "gzip": "compresses the response",
    "no_usage": "answers without token counts",
    "absurd_usage": "reports negative and impossible token counts",
}

# What each knob sets, in the help.
KNOBS: dict[str, str] = {
    "rpm": "Requests a minute of every model that has no limits of its own; 0: unlimited.",
    "tpm": "Tokens a minute; 0: unlimited.",
    "rpd": "Requests a day; 0: unlimited.",
    "tpd": "Tokens a day; 0: unlimited.",
    "window_s": "The length of a minute, in seconds.",
    "day_s": "The length of a day, in seconds.",
    "count": "What tpm and tpd count: total or input tokens.",
    "models": "Limits by model, or by location/model.",
    "only_models": "Answer 404 for models that have no limits of their own.",
    "bare_429": "Name neither a quota nor a time in a 429.",
    "api_key": "The key that callers must send; empty: any.",
    "latency_ms": "The time until the first token, in milliseconds: the median.",
    "latency_sigma": "How much it varies: sigma of its logarithm.",
    "tail_p": "The share of requests that wait longer for the first token ...",
    "tail_x": "... and how many times as long.",
    "token_ms": "The time between two output tokens, in milliseconds.",
    "transit_ms": "The time from a request's arrival until it is counted, in milliseconds.",
    "transit_sigma": "How much it varies: sigma of its logarithm.",
    "output_tokens": "Tokens of an answer: the median.",
    "output_sigma": "How much they vary: sigma of their logarithm.",
    "max_output": "The most tokens of an answer.",
    "marker": "Let [[out=N]] in a prompt set the length of its answer.",
    "chunk_tokens": "Tokens in one event of a stream.",
    "thinking": "Thinking tokens of each answer, counted as output.",
    "faults": "The share of requests by fault.",
}


class Knobs(Struct, frozen=True, forbid_unknown_fields=True):
    """How the provider behaves. Latencies and lengths are medians of a log-normal distribution; sigma 0 fixes them."""

    rpm: NonNegative = 0
    tpm: NonNegative = 0
    rpd: NonNegative = 0
    tpd: NonNegative = 0
    window_s: Positive = 60.0
    day_s: Positive = 86_400.0
    count: Literal["total", "input"] = "total"  # what tpm and tpd count
    models: dict[str, Limits] = {}  # instead of the limits above, by model or, for Vertex, "location/model"
    only_models: bool = False  # other models are answered by 404
    bare_429: bool = False  # 429 responses name neither a quota nor a time
    api_key: str = ""  # that callers must send; empty: any
    latency_ms: NonNegativeFloat = 0.0  # until the first token
    latency_sigma: NonNegativeFloat = 0.0  # of the logarithm
    tail_p: Fraction = 0.0  # a share of requests ...
    tail_x: NonNegativeFloat = 10.0  # ... takes this many times as long to the first token
    token_ms: NonNegativeFloat = 0.0  # between two output tokens
    transit_ms: NonNegativeFloat = 0.0  # from a request's arrival until it is counted
    transit_sigma: NonNegativeFloat = 0.0
    output_tokens: NonNegative = 16  # the median
    output_sigma: NonNegativeFloat = 0.0  # of the logarithm
    max_output: NonNegative = 65_536
    marker: bool = True  # [[out=N]] in a prompt sets the length of its answer
    chunk_tokens: Annotated[int, Meta(ge=1)] = 1  # tokens in one event of a stream
    thinking: NonNegative = 0  # thinking tokens of each answer, counted as output
    faults: dict[Fault, Fraction] = {}  # share of requests by fault; at most one fault per request

    def limits(self, key: str, model: str) -> Limits:
        """The limits of a model: under its quota's key, else its name, else the common ones."""
        return (
            self.models.get(key)
            or self.models.get(model)
            or Limits(rpm=self.rpm, tpm=self.tpm, rpd=self.rpd, tpd=self.tpd)
        )


def patched(knobs: Knobs, patch: dict[str, Any]) -> Knobs:
    """A copy with some knobs changed. Raises ``msgspec.ValidationError`` naming the invalid one."""
    return msgspec.convert(msgspec.to_builtins(knobs) | patch, Knobs, strict=False)
