"""Compares eviction algorithms for the memory layer: the same traces through each, bounded by bytes.

``python -m bench.eviction`` prints hit rates and the time of one operation. Belady's clairvoyant choice is the upper
bound; it ignores sizes, so it is exact for equal sizes and close to the bound here.
"""

import csv
import random
import sys
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import accumulate
from pathlib import Path
from typing import Protocol

from cachetools import LRUCache

from knowalledge.caching.eviction import Sieve

Access = tuple[Hashable, int]  # a key and its size in bytes


class Policy(Protocol):
    def hit(self, key: Hashable, size: int) -> bool:
        """Whether the key is cached. If not, it is added, unless the policy does not admit it."""
        ...


class Lru:
    """cachetools' LRUCache."""

    def __init__(self, capacity: int) -> None:
        self._cache: LRUCache[Hashable, int] = LRUCache(capacity, getsizeof=lambda size: size)

    def hit(self, key: Hashable, size: int) -> bool:
        if self._cache.get(key) is not None:
            return True
        if size <= self._cache.maxsize:
            self._cache[key] = size
        return False


class OurSieve:
    """The memory layer's SIEVE."""

    def __init__(self, capacity: int) -> None:
        self._sieve: Sieve[Hashable, int] = Sieve(capacity)

    def hit(self, key: Hashable, size: int) -> bool:
        if self._sieve.get(key) is not None:
            return True
        self._sieve.put(key, size, size)
        return False


class S3Fifo:
    """Yang et al., SOSP 2023: a small queue (10%) as a filter, a main queue, and a ghost queue of keys."""

    def __init__(self, capacity: int) -> None:
        self._small_capacity, self._main_capacity = capacity // 10, capacity - capacity // 10
        self._small: OrderedDict[Hashable, int] = OrderedDict()
        self._main: OrderedDict[Hashable, int] = OrderedDict()
        self._ghost: OrderedDict[Hashable, int] = OrderedDict()
        self._used = [0, 0, 0]  # small, main, ghost
        self._uses: dict[Hashable, int] = {}

    def hit(self, key: Hashable, size: int) -> bool:
        uses = self._uses.get(key)
        if uses is not None:
            self._uses[key] = min(uses + 1, 3)
            return True
        if key in self._ghost:
            self._used[2] -= self._ghost.pop(key)
            self._main[key] = size
            self._used[1] += size
        else:
            self._small[key] = size
            self._used[0] += size
        self._uses[key] = 0
        while self._used[0] + self._used[1] > self._small_capacity + self._main_capacity:
            if self._used[0] > self._small_capacity or not self._main:
                self._evict_small()
            else:
                self._evict_main()
        return False

    def _evict_small(self) -> None:
        key, size = self._small.popitem(last=False)
        self._used[0] -= size
        if self._uses[key] > 1:
            self._main[key] = size
            self._used[1] += size
            self._uses[key] = 0
            return
        del self._uses[key]
        self._ghost[key] = size
        self._used[2] += size
        while self._used[2] > self._main_capacity:
            self._used[2] -= self._ghost.popitem(last=False)[1]

    def _evict_main(self) -> None:
        while True:
            key, size = self._main.popitem(last=False)
            if self._uses[key] > 0:
                self._uses[key] -= 1
                self._main[key] = size
                continue
            self._used[1] -= size
            del self._uses[key]
            return


class WTinyLfu:
    """Einziger et al., TOS 2017: a window of 1%, a segmented LRU, admission by an aged frequency count."""

    def __init__(self, capacity: int) -> None:
        self._window_capacity, self._main_capacity = max(1, capacity // 100), capacity - capacity // 100
        self._window: OrderedDict[Hashable, int] = OrderedDict()
        self._probation: OrderedDict[Hashable, int] = OrderedDict()
        self._protected: OrderedDict[Hashable, int] = OrderedDict()
        self._used = [0, 0, 0]
        self._frequency: Counter[Hashable] = (
            Counter()
        )  # exact; the paper's sketch is approximate, so this favours it
        self._sample = 0

    def hit(self, key: Hashable, size: int) -> bool:
        self._count(key)
        if key in self._window:
            self._window.move_to_end(key)
            return True
        if key in self._protected:
            self._protected.move_to_end(key)
            return True
        if key in self._probation:
            self._used[1] -= self._probation[key]
            self._used[2] += self._probation[key]
            self._protected[key] = self._probation.pop(key)
            while self._used[2] > 0.8 * self._main_capacity:
                old, old_size = self._protected.popitem(last=False)
                self._used[2] -= old_size
                self._used[1] += old_size
                self._probation[old] = old_size
            return True
        self._window[key] = size
        self._used[0] += size
        while self._used[0] > self._window_capacity and self._window:
            old, old_size = self._window.popitem(last=False)
            self._used[0] -= old_size
            self._admit(old, old_size)
        return False

    def _count(self, key: Hashable) -> None:
        self._frequency[key] += 1
        self._sample += 1
        if self._sample > 20_000:
            self._sample = 0
            self._frequency = Counter({name: n // 2 for name, n in self._frequency.items() if n > 1})

    def _admit(self, key: Hashable, size: int) -> None:
        victims: list[Hashable] = []
        free = self._main_capacity - self._used[1] - self._used[2]
        queue = iter(self._probation.items())
        while free < size:
            candidate = next(queue, None)
            if candidate is None or self._frequency[candidate[0]] >= self._frequency[key]:
                return
            victims.append(candidate[0])
            free += candidate[1]
        for victim in victims:
            self._used[1] -= self._probation.pop(victim)
        self._probation[key] = size
        self._used[1] += size


def clairvoyant(trace: Sequence[Access], capacity: int) -> float:
    """The hit rate of Belady's algorithm, which evicts, or does not admit, the key whose next use is latest."""
    latest: dict[Hashable, int] = {}
    next_use = [0] * len(trace)
    for index in range(len(trace) - 1, -1, -1):
        key = trace[index][0]
        next_use[index] = latest.get(key, len(trace))
        latest[key] = index
    cached: dict[Hashable, tuple[int, int]] = {}
    heap: list[tuple[int, int, Hashable]] = []
    used = hits = 0
    for index, (key, size) in enumerate(trace):
        if key in cached:
            hits += 1
            used -= cached[key][1]
        cached[key] = (next_use[index], size)
        used += size
        heappush(heap, (-next_use[index], index, key))
        while used > capacity:
            due, _, last = heappop(heap)
            if last in cached and cached[last][0] == -due:
                used -= cached.pop(last)[1]
    return hits / len(trace)


# -- traces ------------------------------------------------------------------------------------------------------------


def size_of(key: Hashable) -> int:
    """The size of a topic's document, 1 to 12 KiB, mostly small; always the same for a topic."""
    return int(min(12_288, 1024 + random.Random(str(key)).expovariate(1 / 2500)))


def ranks(seed: int, topics: int, exponent: float = 1.0) -> Iterator[int]:
    """Ranks of topics drawn by Zipf's law; 0 is the most popular."""
    rng = random.Random(seed)
    weights = list(accumulate((rank + 1) ** -exponent for rank in range(topics)))
    numbers = range(topics)
    while True:
        yield from rng.choices(numbers, cum_weights=weights, k=10_000)


def zipf(length: int, topics: int = 10_000, seed: int = 7) -> list[tuple[int, int]]:
    sizes = [size_of(topic) for topic in range(topics)]
    source = ranks(seed, topics)
    return [(topic, sizes[topic]) for topic, _ in zip(source, range(length), strict=False)]


def crawled(length: int) -> list[Access]:
    """The same, but every fourth access is a crawler's, to a topic that is never read again."""
    return [
        access if index % 4 else (f"crawl-{index}", 3000)
        for index, access in enumerate(zipf(length, seed=11))
    ]


def drifting(length: int) -> list[Access]:
    """Popularity changes: in each tenth of the trace other topics lead."""
    step = length // 10
    return [
        ((topic + index // step * 997) % 10_000, size) for index, (topic, size) in enumerate(zipf(length))
    ]


def recorded(path: Path) -> list[Access]:
    """The prompts of the published LLM trace; an answer takes four bytes per token."""
    with path.open() as file:
        return [(row["prompt_id"], 64 + 4 * int(row["output_tokens"])) for row in csv.DictReader(file)]


POLICIES: tuple[tuple[str, Callable[[int], Policy]], ...] = (
    ("LRU (cachetools)", Lru),
    ("SIEVE", OurSieve),
    ("S3-FIFO", S3Fifo),
    ("W-TinyLFU", WTinyLfu),
)


def replay(policy: Policy, trace: Sequence[Access]) -> tuple[float, float]:
    """Hit rate, and microseconds per operation."""
    started = time.perf_counter()
    hits = sum(policy.hit(key, size) for key, size in trace)
    return hits / len(trace), (time.perf_counter() - started) / len(trace) * 1e6


def main(path: str = "") -> None:
    length = 200_000
    total = sum(size_of(topic) for topic in range(10_000))
    cases: list[tuple[str, Sequence[Access], int]] = [
        ("zipf, capacity 1%", zipf(length), total // 100),
        ("zipf, capacity 10%", zipf(length), total // 10),
        ("zipf + crawler, capacity 1%", crawled(length), total // 100),
        ("zipf + crawler, capacity 10%", crawled(length), total // 10),
        ("drifting zipf, capacity 1%", drifting(length), total // 100),
    ]
    if path:
        recording = recorded(Path(path))
        capacity = sum(size for _, size in dict(recording).items()) // 10
        cases.append(("recorded LLM prompts, capacity 10%", recording, capacity))
    print("| trace | " + " | ".join(name for name, _ in POLICIES) + " | clairvoyant |")
    print("| --- |" + " ---: |" * (len(POLICIES) + 1))
    for name, trace, capacity in cases:
        cells = []
        for _, make in POLICIES:
            rate, cost = replay(make(capacity), trace)
            cells.append(f"{rate:.1%} ({cost:.2f} us)")
        print(f"| {name} | " + " | ".join(cells) + f" | {clairvoyant(trace, capacity):.1%} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
