"""SIEVE, bounded by bytes: entries that are used again stay, entries used once are evicted.

Zhang et al., "SIEVE is Simpler than LRU" (NSDI 2024). One queue in order of arrival and a hand that walks from the
oldest to the newest: an entry used since the hand last passed is spared once, and the first one that was not is
evicted. A hit sets one bit and moves nothing. Chosen by replaying traces: see ``docs/adr/0004-cache-eviction.md``.
"""

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class _Node(Generic[K, V]):
    __slots__ = ("key", "newer", "older", "size", "used", "value")

    def __init__(self, key: K, value: V, size: int) -> None:
        self.key, self.value, self.size = key, value, size
        self.used = False
        self.newer: _Node[K, V] | None = None
        self.older: _Node[K, V] | None = None


class Sieve(Generic[K, V]):
    """A mapping of at most ``max_bytes``, by the sizes given to ``put``."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self.evictions = 0
        self._nodes: dict[K, _Node[K, V]] = {}
        self._newest: _Node[K, V] | None = None
        self._oldest: _Node[K, V] | None = None
        self._hand: _Node[K, V] | None = None

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[tuple[K, V]]:
        """A snapshot; not counted as a use."""
        return iter([(node.key, node.value) for node in self._nodes.values()])

    def get(self, key: K) -> V | None:
        node = self._nodes.get(key)
        if node is None:
            return None
        node.used = True
        return node.value

    def put(self, key: K, value: V, size: int) -> bool:
        """Store a value; False if it is larger than ``max_bytes``."""
        used = False
        if key in self._nodes:
            used = self._nodes[key].used
            self.pop(key)
        if size > self.max_bytes:
            return False
        while self.bytes + size > self.max_bytes:
            self._evict()
        node = self._nodes[key] = _Node(key, value, size)
        node.used = used
        node.older = self._newest
        if self._newest is not None:
            self._newest.newer = node
        self._newest = node
        if self._oldest is None:
            self._oldest = node
        self.bytes += size
        return True

    def pop(self, key: K) -> V | None:
        node = self._nodes.pop(key, None)
        if node is None:
            return None
        self._unlink(node)
        return node.value

    def clear(self) -> None:
        self._nodes.clear()
        self._newest = self._oldest = self._hand = None
        self.bytes = 0

    def _evict(self) -> None:
        node = self._hand or self._oldest
        while node is not None and node.used:
            node.used = False
            node = node.newer or self._oldest
        if node is None:
            raise AssertionError("nothing is left to evict, and the size bound is still exceeded")
        self._hand = node
        del self._nodes[node.key]
        self._unlink(node)
        self.evictions += 1

    def _unlink(self, node: _Node[K, V]) -> None:
        if self._hand is node:
            self._hand = node.newer
        if node.newer is not None:
            node.newer.older = node.older
        else:
            self._newest = node.older
        if node.older is not None:
            node.older.newer = node.newer
        else:
            self._oldest = node.newer
        self.bytes -= node.size
