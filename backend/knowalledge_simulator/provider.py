"""The provider's mind: what it admits, how long it takes, what goes wrong, and what it has seen. No IO, no clock."""

from collections.abc import Callable
from math import exp
from random import Random
from typing import Any

from msgspec import Struct

from knowalledge_simulator import text as words
from knowalledge_simulator.call import Call, Failure
from knowalledge_simulator.knobs import Knobs, moved
from knowalledge_simulator.window import Limits, Quota, Refusal

# More models than this have no quota of their own: the names come from callers.
MAX_MODELS = 1000
# Seconds of history by the second.
MAX_SECONDS = 100_000


class Ticket(Struct, frozen=True):
    """An admitted call: how it will go."""

    call: Call
    output: int  # tokens of text that it will produce ...
    thinking: int  # ... after this many of thought
    finish: str
    first_s: float  # until the first token
    token_s: float  # from one token to the next
    fault: str = ""


class Seen:
    """What one model has been asked."""

    def __init__(self, quota: Quota) -> None:
        self.quota = quota
        self.accepted = 0
        self.rejected = 0
        self.input = 0
        self.output = 0
        self.by_window: dict[str, int] = {}
        self.moves: list[tuple[float, Limits]] = []  # the limits, and since when
        self.seconds: dict[int, list[int]] = {}  # accepted, rejected, input, output

    def second(self, elapsed: float) -> list[int]:
        found = self.seconds.get(int(elapsed))
        if found is None:
            if len(self.seconds) >= MAX_SECONDS:
                return [0, 0, 0, 0]
            found = self.seconds[int(elapsed)] = [0, 0, 0, 0]
        return found


class Provider:
    """Decides; the server carries it out."""

    def __init__(self, knobs: Knobs, now: Callable[[], float], seed: int = 0) -> None:
        """``now`` gives seconds on a clock that never steps back."""
        self.knobs = knobs
        self._now = now
        self._seed = seed
        self.reset()

    def reset(self) -> None:
        """Forget everything but the knobs; the dice start again from the seed."""
        self._dice = Random(self._seed)
        self._began = self._now()
        self._models: dict[str, Seen] = {}
        self.faults: dict[str, int] = {}

    def control(self, patch: dict[str, Any]) -> None:
        """Change knobs while running. Windows keep what was charged; new limits hold from now on."""
        knobs = self.knobs = moved(self.knobs, patch)
        for key, seen in self._models.items():
            limits = knobs.limits(key, key.rpartition("/")[2])
            seen.quota.output_counts = knobs.count == "total"
            for name, window in seen.quota.windows.items():
                window.span_s = knobs.day_s if name.endswith("d") else knobs.window_s
            if limits != seen.quota.limits:
                seen.quota.limits = limits
                seen.moves.append((self._now() - self._began, limits))

    def transit(self) -> float:
        """Seconds that a request takes from its arrival until it is counted."""
        return self._drawn(self.knobs.transit_ms, self.knobs.transit_sigma) / 1000

    def known(self, model: str) -> bool:
        return not self.knobs.only_models or model in self.knobs.models

    def admit(self, call: Call) -> Ticket | Failure:
        """Charge a call, and decide how it will go; or refuse it."""
        knobs = self.knobs
        fault = self._fault()
        if fault in ("400", "401"):
            return call.dialect.failure(int(fault), "the simulator was told to refuse")
        seen = self._seen(call)
        now = self._now()
        if fault in ("429", "bare_429"):
            refusal: Refusal | None = Refusal("rpm", seen.quota.limits.rpm, 0, 1.0)
        elif fault == "stream_429" and call.stream:
            seen.rejected += 1  # nothing is charged, although the status says 200
            seen.second(now - self._began)[1] += 1
            return self._ticket(call, fault)
        else:
            refusal = seen.quota.admit(now, call.tokens)
        tally = seen.second(now - self._began)
        if refusal is not None:
            seen.rejected += 1
            tally[1] += 1
            seen.by_window[refusal.window] = seen.by_window.get(refusal.window, 0) + 1
            bare = knobs.bare_429 or fault == "bare_429"
            return call.dialect.refusal(call, None if bare else refusal)
        seen.accepted += 1
        seen.input += call.tokens
        tally[0] += 1
        tally[2] += call.tokens
        if fault in ("500", "503"):
            return call.dialect.failure(int(fault), "the simulator was told to fail")
        return self._ticket(call, fault)

    def _ticket(self, call: Call, fault: str) -> Ticket:
        knobs = self.knobs
        if call.kind == "embed":
            output, thinking = 0, 0
        else:
            wanted = words.count(call.said) if call.said else call.wanted if knobs.marker else None
            if wanted is None:
                wanted = round(self._drawn(knobs.output_tokens, knobs.output_sigma))
            output, thinking = min(wanted, knobs.max_output), knobs.thinking
        finish = "stop"
        if call.most is not None and output > call.most:
            output, finish = call.most, "length"
        if fault == "safety":
            output, finish = 0, "safety"
        elif fault == "empty":
            output, finish = 0, ""
        first = self._drawn(knobs.latency_ms, knobs.latency_sigma)
        if knobs.tail_p and self._dice.random() < knobs.tail_p:
            first *= knobs.tail_x
        return Ticket(call, output, thinking, finish, first / 1000, knobs.token_ms / 1000, fault)

    def complete(self, ticket: Ticket, output: int) -> None:
        """Charge what an answer took, at its end."""
        tokens = output + ticket.thinking
        now = self._now()
        seen = self._seen(ticket.call)
        seen.quota.complete(now, tokens)
        seen.output += tokens
        seen.second(now - self._began)[3] += tokens

    def _drawn(self, median: float, sigma: float) -> float:
        return median * exp(self._dice.gauss(0, sigma)) if sigma else median

    def _fault(self) -> str:
        faults = self.knobs.faults
        if not faults:
            return ""
        at = self._dice.random()
        for name, share in faults.items():
            at -= share
            if at < 0:
                self.faults[name] = self.faults.get(name, 0) + 1
                return name
        return ""

    def _seen(self, call: Call) -> Seen:
        seen = self._models.get(call.key)
        if seen is None:
            knobs = self.knobs
            key = call.key if len(self._models) < MAX_MODELS else "others"
            limits = knobs.limits(key, call.model)
            seen = Seen(Quota(limits, knobs.window_s, knobs.day_s, knobs.count == "total"))
            seen.moves.append((0.0, limits))
            seen = self._models.setdefault(key, seen)
        return seen

    def models(self) -> list[str]:
        """Every model that was configured or asked for."""
        return sorted({*self.knobs.models, *(key.rpartition("/")[2] for key in self._models)})

    def stats(self, since: float = 0.0, until: float | None = None, timeline: bool = False) -> dict[str, Any]:
        """What was seen. ``utilisation`` is over [since, until) seconds after the start or the last reset."""
        elapsed = self._now() - self._began
        until = elapsed if until is None else min(until, elapsed)
        models = {key: self._told(seen, since, until, timeline) for key, seen in self._models.items()}
        peaks = {
            window: max(it["windows"].get(window, {}).get("peak_share", 0.0) for it in models.values())
            for window in ("rpm", "tpm", "rpd", "tpd")
            if any(window in it["windows"] for it in models.values())
        }
        return {
            "accepted": sum(seen.accepted for seen in self._models.values()),
            "rejected": sum(seen.rejected for seen in self._models.values()),
            "tokens": sum(seen.input + seen.output for seen in self._models.values()),
            "peak_window_use": peaks,  # of the limit; 1.0 is all of it
            "elapsed_s": elapsed,
            "faults": self.faults,
            "models": models,
        }

    def _told(self, seen: Seen, since: float, until: float, timeline: bool) -> dict[str, Any]:
        windows = {}
        for name, window in seen.quota.windows.items():
            if not any(getattr(limits, name) for _, limits in seen.moves):
                continue
            allowed = self._allowed(seen, name, since, until) / window.span_s
            counts = (0,) if name[0] == "r" else (2, 3) if seen.quota.output_counts else (2,)
            used = sum(
                tally[place]
                for second, tally in seen.seconds.items()
                if since <= second < until
                for place in counts
            )
            windows[name] = {
                "limit": getattr(seen.quota.limits, name),
                "used": window.used(self._now()),
                "peak": window.peak,
                "peak_share": round(window.peak_share, 6),
                "utilisation": round(used / allowed, 6) if allowed else 0.0,
                "rejected": seen.by_window.get(name, 0),
            }
        found: dict[str, Any] = {
            "accepted": seen.accepted,
            "rejected": seen.rejected,
            "input_tokens": seen.input,
            "output_tokens": seen.output,
            "windows": windows,
        }
        if timeline:
            found["limits"] = [(at, limits) for at, limits in seen.moves]
            found["timeline"] = sorted((second, *tally) for second, tally in seen.seconds.items())
        return found

    def _allowed(self, seen: Seen, name: str, since: float, until: float) -> float:
        """The integral of a limit over a stretch of time."""
        ends = [at for at, _ in seen.moves[1:]] + [until]
        found: float = sum(
            getattr(limits, name) * max(0.0, min(end, until) - max(at, since))
            for (at, limits), end in zip(seen.moves, ends, strict=True)
        )
        return found
