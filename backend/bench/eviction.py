"""Which eviction algorithm the memory layer should use: the same traces through each, bounded by bytes.

``python -m bench.eviction`` prints hit rates and the cost of one operation. Belady's clairvoyant choice is the bound
(by the next use over all that is held, so it is a bound for equal sizes and near it here).
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
        """Whether the key is held; if not, it is now (or was refused)."""
        ...


class Lru:
    """cachetools' LRUCache."""

    def __init__(self, room: int) -> None:
        self._cache: LRUCache[Hashable, int] = LRUCache(room, getsizeof=lambda size: size)

    def hit(self, key: Hashable, size: int) -> bool:
        if self._cache.get(key) is not None:
            return True
        if size <= self._cache.maxsize:
            self._cache[key] = size
        return False


class OurSieve:
    """The memory layer's own."""

    def __init__(self, room: int) -> None:
        self._sieve: Sieve[Hashable, int] = Sieve(room)

    def hit(self, key: Hashable, size: int) -> bool:
        if self._sieve.get(key) is not None:
            return True
        self._sieve.put(key, size, size)
        return False


class S3Fifo:
    """Yang et al., SOSP 2023: a small queue (10%) that filters, a main queue, and a ghost queue of names."""

    def __init__(self, room: int) -> None:
        self._small_room, self._main_room = room // 10, room - room // 10
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
        while self._used[0] + self._used[1] > self._small_room + self._main_room:
            if self._used[0] > self._small_room or not self._main:
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
        while self._used[2] > self._main_room:
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
    """Einziger et al.: a window of 1%, a segmented LRU, admission by an aged frequency count."""

    def __init__(self, room: int) -> None:
        self._window_room, self._main_room = max(1, room // 100), room - room // 100
        self._window: OrderedDict[Hashable, int] = OrderedDict()
        self._probation: OrderedDict[Hashable, int] = OrderedDict()
        self._protected: OrderedDict[Hashable, int] = OrderedDict()
        self._used = [0, 0, 0]
        self._seen: Counter[Hashable] = Counter()  # exact where the paper has a sketch: kind to it
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
            while self._used[2] > 0.8 * self._main_room:
                old, much = self._protected.popitem(last=False)
                self._used[2] -= much
                self._used[1] += much
                self._probation[old] = much
            return True
        self._window[key] = size
        self._used[0] += size
        while self._used[0] > self._window_room and self._window:
            old, much = self._window.popitem(last=False)
            self._used[0] -= much
            self._admit(old, much)
        return False

    def _count(self, key: Hashable) -> None:
        self._seen[key] += 1
        self._sample += 1
        if self._sample > 20_000:
            self._sample = 0
            self._seen = Counter({name: n // 2 for name, n in self._seen.items() if n > 1})

    def _admit(self, key: Hashable, size: int) -> None:
        victims: list[Hashable] = []
        room = self._main_room - self._used[1] - self._used[2]
        queue = iter(self._probation.items())
        while room < size:
            found = next(queue, None)
            if found is None or self._seen[found[0]] >= self._seen[key]:
                return
            victims.append(found[0])
            room += found[1]
        for victim in victims:
            self._used[1] -= self._probation.pop(victim)
        self._probation[key] = size
        self._used[1] += size


def clairvoyant(trace: Sequence[Access], room: int) -> float:
    """The hit rate of one who knows the future (Belady): what is used last goes first, or does not come in."""
    after: dict[Hashable, int] = {}
    upcoming = [0] * len(trace)
    for index in range(len(trace) - 1, -1, -1):
        key = trace[index][0]
        upcoming[index] = after.get(key, len(trace))
        after[key] = index
    held: dict[Hashable, tuple[int, int]] = {}
    heap: list[tuple[int, int, Hashable]] = []
    used = hits = 0
    for index, (key, size) in enumerate(trace):
        if key in held:
            hits += 1
            used -= held[key][1]
        held[key] = (upcoming[index], size)
        used += size
        heappush(heap, (-upcoming[index], index, key))
        while used > room:
            due, _, last = heappop(heap)
            if last in held and held[last][0] == -due:
                used -= held.pop(last)[1]
    return hits / len(trace)


# -- traces ------------------------------------------------------------------------------------------


def size_of(key: Hashable) -> int:
    """Documents of 1-12 KiB, most of them small; the same topic, the same size."""
    return int(min(12_288, 1024 + random.Random(str(key)).expovariate(1 / 2500)))


def ranks(seed: int, topics: int, exponent: float = 1.0) -> Iterator[int]:
    """Topics drawn by Zipf's law, the most popular is 0."""
    draw = random.Random(seed)
    weights = list(accumulate((rank + 1) ** -exponent for rank in range(topics)))
    numbers = range(topics)
    while True:
        yield from draw.choices(numbers, cum_weights=weights, k=10_000)


def zipf(length: int, topics: int = 10_000, seed: int = 7) -> list[tuple[int, int]]:
    sizes = [size_of(topic) for topic in range(topics)]
    source = ranks(seed, topics)
    return [(topic, sizes[topic]) for topic, _ in zip(source, range(length), strict=False)]


def crawled(length: int) -> list[Access]:
    """The same, while a crawler reads every fourth: each topic once, never again."""
    return [
        access if index % 4 else (f"crawl-{index}", 3000)
        for index, access in enumerate(zipf(length, seed=11))
    ]


def drifting(length: int) -> list[Access]:
    """What is popular changes: every tenth of the trace other topics lead."""
    step = length // 10
    return [
        ((topic + index // step * 997) % 10_000, size) for index, (topic, size) in enumerate(zipf(length))
    ]


def recorded(path: Path) -> list[Access]:
    """Prompts of the published LLM trace, each answer four bytes a token."""
    with path.open() as file:
        return [(row["prompt_id"], 64 + 4 * int(row["output_tokens"])) for row in csv.DictReader(file)]


POLICIES: tuple[tuple[str, Callable[[int], Policy]], ...] = (
    ("LRU (cachetools)", Lru),
    ("SIEVE", OurSieve),
    ("S3-FIFO", S3Fifo),
    ("W-TinyLFU", WTinyLfu),
)


def replay(policy: Policy, trace: Sequence[Access]) -> tuple[float, float]:
    """Hit rate, and microseconds an operation."""
    began = time.perf_counter()
    hits = sum(policy.hit(key, size) for key, size in trace)
    return hits / len(trace), (time.perf_counter() - began) / len(trace) * 1e6


def main(path: str = "") -> None:
    length = 200_000
    whole = sum(size_of(topic) for topic in range(10_000))
    cases: list[tuple[str, Sequence[Access], int]] = [
        ("zipf, room 1%", zipf(length), whole // 100),
        ("zipf, room 10%", zipf(length), whole // 10),
        ("zipf + crawler, room 1%", crawled(length), whole // 100),
        ("zipf + crawler, room 10%", crawled(length), whole // 10),
        ("drifting zipf, room 1%", drifting(length), whole // 100),
    ]
    if path:
        found = recorded(Path(path))
        room = sum(size for _, size in dict(found).items()) // 10
        cases.append(("recorded LLM prompts, room 10%", found, room))
    print("| trace | " + " | ".join(name for name, _ in POLICIES) + " | clairvoyant |")
    print("| --- |" + " ---: |" * (len(POLICIES) + 1))
    for name, trace, room in cases:
        cells = []
        for _, make in POLICIES:
            rate, cost = replay(make(room), trace)
            cells.append(f"{rate:.1%} ({cost:.2f} us)")
        print(f"| {name} | " + " | ".join(cells) + f" | {clairvoyant(trace, room):.1%} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
