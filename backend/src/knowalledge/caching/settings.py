"""Settings of the caches: our own, and those in front of us."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from knowalledge.core.parsers import boolean, duration_or_zero, is_http, one_of, size_or_zero, text
from knowalledge.core.settings import REMOVE, Fault, setting, write


@dataclass(frozen=True)
class CacheSettings:
    """``cache.*``"""

    browser_ttl: float = setting(
        duration_or_zero, 300.0, "How long browsers may reuse an answer about a topic."
    )
    cdn_ttl: float = setting(duration_or_zero, 1800.0, "How long a CDN may reuse an answer about a topic.")
    redis_ttl: float = setting(duration_or_zero, 3600.0, "How long an answer in Redis is fresh.")
    redis_bytes: int = setting(
        size_or_zero,
        128 * 1024**2,
        "Memory for all answers in Redis; leave enough for the quota in the same Redis.",
    )
    memory_ttl: float = setting(duration_or_zero, 600.0, "How long an answer in a worker's memory is fresh.")
    memory_bytes: int = setting(size_or_zero, 64 * 1024**2, "Memory for answers in each worker.")
    stale_ttl: float = setting(
        duration_or_zero, 3600.0, "How long after it expired an answer may serve when no model can answer."
    )
    keep_warm: bool = setting(
        boolean,
        True,
        "Whether answers to popular questions are refreshed before they expire, with quota to spare.",
    )


@dataclass(frozen=True)
class CdnSettings:
    """``cdn.*``"""

    kind: str = setting(
        one_of("none", "varnish", "cloudflare", "fastly"),
        "none",
        "The CDN in front, which is purged by tag.",
    )
    url: str = setting(
        text,
        "",
        "Varnish: the address of each, separated by commas; others: an address in place of their API's own.",
    )
    soft: bool = setting(
        boolean,
        False,
        "Varnish, Fastly: purged answers still serve as stale while they are fetched again, or if that fails.",
    )
    zone: str = setting(text, "", "The id of Cloudflare's zone, or of Fastly's service.")
    token: str = setting(text, "", "The token for the CDN's API.", secret=True)

    @property
    def urls(self) -> tuple[str, ...]:
        """The addresses of ``url``."""
        return tuple(part.strip() for part in self.url.split(",") if part.strip())

    def faults(self) -> Iterator[Fault]:
        """What a CDN of this kind lacks."""
        if self.kind == "varnish" and not self.urls:
            steps = write("url: http://varnish:6081")
            yield Fault("cdn.url", "is missing", "name every Varnish, such as http://varnish:6081", steps)
        if not all(map(is_http, self.urls)):
            steps = write("url: http://varnish:6081") if self.kind == "varnish" else REMOVE
            yield Fault("cdn.url", "is not an address", "write http://... or https://...", steps)
        if self.kind in ("cloudflare", "fastly"):
            needed = {"zone": (self.zone, "zone: YOUR_ZONE"), "token": (self.token, 'token: "${CDN_TOKEN}"')}
            missing = {name: pair for name, (value, pair) in needed.items() if not value}
            if missing:
                key = "cdn" if len(missing) > 1 else f"cdn.{next(iter(missing))}"
                wrong = f"{' and '.join(missing)} are missing" if len(missing) > 1 else "is missing"
                yield Fault(key, wrong, f"{self.kind} needs it to purge", write(*missing.values()))
            if not re.fullmatch(r"[A-Za-z0-9_-]*", self.zone):
                yield Fault("cdn.zone", "is odd", "copy it from the CDN's console", write("zone: YOUR_ZONE"))
