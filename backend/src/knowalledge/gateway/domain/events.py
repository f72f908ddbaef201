"""The events of a streamed answer, in their order: queue positions, started, deltas, done.

Replicas share them through Redis, so a tag keeps its name while its class may get another.
"""

from msgspec import Struct

from knowalledge.core.limits import Allowance
from knowalledge.gateway.domain.answer import Answer, CacheInfo
from knowalledge.gateway.domain.passthrough import Verbatim
from knowalledge.gateway.domain.prompt import ToolCall


class QueuePosition(Struct, frozen=True, tag="Queued"):
    """The request waits: its position from 1, and the estimated seconds until its grant."""

    position: int
    eta_s: float


class Started(Struct, frozen=True, tag=True):
    """The answer begins: who gives it, why that target, and what is left of its quota."""

    model: str
    target: str
    allowances: tuple[Allowance, ...] = ()
    degraded: bool = False
    reason: str = ""  # why this target
    cache: CacheInfo = CacheInfo()


class Delta(Struct, frozen=True, tag=True, omit_defaults=True):
    """The next piece of the answer; ``verbatim`` is the same in the provider's own words."""

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    verbatim: Verbatim | None = None


class Done(Struct, frozen=True, tag=True):
    """The answer is complete."""

    answer: Answer


Event = QueuePosition | Started | Delta | Done
