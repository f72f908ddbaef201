"""The simulated provider: quota, latencies, faults and statistics. No IO; the clock is an argument."""

from collections.abc import Callable
from math import exp
from random import Random
from typing import Any

from msgspec import Struct

from knowalledge_simulator import text as words
from knowalledge_simulator.call import Call, ErrorResponse
from knowalledge_simulator.knobs import Knobs, patched
from knowalledge_simulator.window import Limits, Quota, Rejection

# Further models share one quota: their names come from callers.
MAX_MODELS = 1000
# The longest history of statistics per second.
MAX_SECONDS = 100_000


class ResponsePlan(Struct, frozen=True):
    """How an admitted call will be answered."""

    call: Call
    output: int  # tokens of text
    thinking: int  # tokens, ahead of the text
    finish: str
    first_s: float  # seconds until the first token
    token_s: float  # seconds between two tokens
    fault: str = ""


class ModelStats:
    """The quota of one model, and what it has counted."""

    def __init__(self, quota: Quota) -> None:
        self.quota = quota
        self.accepted = 0
        self.rejected = 0
        self.input = 0
        self.output = 0
        self.rejected_by: dict[str, int] = {}  # by window
        self.limits_since: list[tuple[float, Limits]] = []  # (seconds, limits), by time
        self.per_second: dict[int, list[int]] = {}  # accepted, rejected, input tokens, output tokens

    def tally(self, elapsed: float) -> list[int]:
        """The counters of one second, to be incremented."""
        counters = self.per_second.get(int(elapsed))
        if counters is None:
            if len(self.per_second) >= MAX_SECONDS:
                return [0, 0, 0, 0]
            counters = self.per_second[int(elapsed)] = [0, 0, 0, 0]
        return counters


class Provider:
    """Decides how each call is answered; ``server.py`` sends the responses."""

    def __init__(self, knobs: Knobs, now: Callable[[], float], seed: int = 0) -> None:
        """``now``: seconds on a monotonic clock. ``seed``: of latencies, lengths and faults."""
        self.knobs = knobs
        self._now = now
        self._seed = seed
        self.reset()

    def reset(self) -> None:
        """Clear everything but the knobs; random numbers start again from the seed."""
        self._random = Random(self._seed)
        self._started = self._now()
        self._models: dict[str, ModelStats] = {}
        self.faults: dict[str, int] = {}

    def control(self, patch: dict[str, Any]) -> None:
        """Change knobs at run time. Windows keep their charges; new limits apply from now on."""
        knobs = self.knobs = patched(self.knobs, patch)
        for key, stats in self._models.items():
            limits = knobs.limits(key, key.rpartition("/")[2])
            stats.quota.output_counts = knobs.count == "total"
            for name, window in stats.quota.windows.items():
                window.span_s = knobs.day_s if name.endswith("d") else knobs.window_s
            if limits != stats.quota.limits:
                stats.quota.limits = limits
                stats.limits_since.append((self._now() - self._started, limits))

    def transit(self) -> float:
        """Seconds from a request's arrival until it is counted, drawn anew for each."""
        return self._lognormal(self.knobs.transit_ms, self.knobs.transit_sigma) / 1000

    def serves(self, model: str) -> bool:
        return not self.knobs.only_models or model in self.knobs.models

    def admit(self, call: Call) -> ResponsePlan | ErrorResponse:
        """Charge a call and plan its response; or reject it."""
        knobs = self.knobs
        fault = self._fault()
        if fault in ("400", "401"):
            return call.dialect.error(int(fault), "the simulator was told to reject this request")
        stats = self._stats_of(call)
        now = self._now()
        if fault in ("429", "bare_429"):
            rejection: Rejection | None = Rejection("rpm", stats.quota.limits.rpm, 0, 1.0)
        elif fault == "stream_429" and call.stream:
            stats.rejected += 1  # nothing is charged, although the status is 200
            stats.tally(now - self._started)[1] += 1
            return self._plan(call, fault)
        else:
            rejection = stats.quota.admit(now, call.tokens)
        tally = stats.tally(now - self._started)
        if rejection is not None:
            stats.rejected += 1
            tally[1] += 1
            stats.rejected_by[rejection.window] = stats.rejected_by.get(rejection.window, 0) + 1
            bare = knobs.bare_429 or fault == "bare_429"
            return call.dialect.quota_error(call, None if bare else rejection)
        stats.accepted += 1
        stats.input += call.tokens
        tally[0] += 1
        tally[2] += call.tokens
        if fault in ("500", "503"):
            return call.dialect.error(int(fault), "the simulator was told to fail")
        return self._plan(call, fault)

    def _plan(self, call: Call, fault: str) -> ResponsePlan:
        knobs = self.knobs
        if call.kind == "embed":
            output, thinking = 0, 0
        else:
            marked = call.marked_tokens if knobs.marker else None
            length = words.count_tokens(call.schema_text) if call.schema_text else marked
            if length is None:
                length = round(self._lognormal(knobs.output_tokens, knobs.output_sigma))
            output, thinking = min(length, knobs.max_output), knobs.thinking
        finish = "stop"
        if call.max_tokens is not None and output > call.max_tokens:
            output, finish = call.max_tokens, "length"
        if fault == "safety":
            output, finish = 0, "safety"
        elif fault == "empty":
            output, finish = 0, ""
        first = self._lognormal(knobs.latency_ms, knobs.latency_sigma)
        if knobs.tail_p and self._random.random() < knobs.tail_p:
            first *= knobs.tail_x
        return ResponsePlan(call, output, thinking, finish, first / 1000, knobs.token_ms / 1000, fault)

    def complete(self, plan: ResponsePlan, output: int) -> None:
        """Charge ``output`` tokens and the thinking tokens, at the end of an answer."""
        tokens = output + plan.thinking
        now = self._now()
        stats = self._stats_of(plan.call)
        stats.quota.complete(now, tokens)
        stats.output += tokens
        stats.tally(now - self._started)[3] += tokens

    def _lognormal(self, median: float, sigma: float) -> float:
        return median * exp(self._random.gauss(0, sigma)) if sigma else median

    def _fault(self) -> str:
        faults = self.knobs.faults
        if not faults:
            return ""
        draw = self._random.random()
        for name, share in faults.items():
            draw -= share
            if draw < 0:
                self.faults[name] = self.faults.get(name, 0) + 1
                return name
        return ""

    def _stats_of(self, call: Call) -> ModelStats:
        stats = self._models.get(call.key)
        if stats is None:
            knobs = self.knobs
            key = call.key if len(self._models) < MAX_MODELS else "others"
            limits = knobs.limits(key, call.model)
            stats = ModelStats(Quota(limits, knobs.window_s, knobs.day_s, knobs.count == "total"))
            stats.limits_since.append((0.0, limits))
            stats = self._models.setdefault(key, stats)
        return stats

    def models(self) -> list[str]:
        """Every model that is configured or has been called."""
        return sorted({*self.knobs.models, *(key.rpartition("/")[2] for key in self._models)})

    def stats(self, since: float = 0.0, until: float | None = None, timeline: bool = False) -> dict[str, Any]:
        """Totals and, per model and window, use and peak. Source of ``GET /_stats``.

        ``utilisation`` is over [since, until), in seconds after the start or the last reset.
        """
        elapsed = self._now() - self._started
        until = elapsed if until is None else min(until, elapsed)
        models = {
            key: self._model_stats(stats, since, until, timeline) for key, stats in self._models.items()
        }
        peaks = {
            window: max(it["windows"].get(window, {}).get("peak_share", 0.0) for it in models.values())
            for window in ("rpm", "tpm", "rpd", "tpd")
            if any(window in it["windows"] for it in models.values())
        }
        return {
            "accepted": sum(it.accepted for it in self._models.values()),
            "rejected": sum(it.rejected for it in self._models.values()),
            "tokens": sum(it.input + it.output for it in self._models.values()),
            "peak_window_use": peaks,  # shares of the limits
            "elapsed_s": elapsed,
            "faults": self.faults,
            "models": models,
        }

    def _model_stats(self, stats: ModelStats, since: float, until: float, timeline: bool) -> dict[str, Any]:
        windows = {}
        for name, window in stats.quota.windows.items():
            if not any(getattr(limits, name) for _, limits in stats.limits_since):
                continue
            allowed = self._allowed(stats, name, since, until) / window.span_s
            columns = (0,) if name[0] == "r" else (2, 3) if stats.quota.output_counts else (2,)
            used = sum(
                tally[column]
                for second, tally in stats.per_second.items()
                if since <= second < until
                for column in columns
            )
            windows[name] = {
                "limit": getattr(stats.quota.limits, name),
                "used": window.used(self._now()),
                "peak": window.peak,
                "peak_share": round(window.peak_share, 6),
                "utilisation": round(used / allowed, 6) if allowed else 0.0,
                "rejected": stats.rejected_by.get(name, 0),
            }
        result: dict[str, Any] = {
            "accepted": stats.accepted,
            "rejected": stats.rejected,
            "input_tokens": stats.input,
            "output_tokens": stats.output,
            "windows": windows,
        }
        if timeline:
            result["limits"] = [(at, limits) for at, limits in stats.limits_since]
            result["timeline"] = sorted((second, *tally) for second, tally in stats.per_second.items())
        return result

    def _allowed(self, stats: ModelStats, name: str, since: float, until: float) -> float:
        """The integral of a window's limit over [since, until)."""
        ends = [at for at, _ in stats.limits_since[1:]] + [until]
        allowed: float = sum(
            getattr(limits, name) * max(0.0, min(end, until) - max(at, since))
            for (at, limits), end in zip(stats.limits_since, ends, strict=True)
        )
        return allowed
