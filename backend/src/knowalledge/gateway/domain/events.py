"""The events of a streamed answer."""

from msgspec import Struct

from knowalledge.core.limits import Allowance
from knowalledge.gateway.domain.answer import Answer, CacheInfo
from knowalledge.gateway.domain.prompt import ToolCall


class QueuePosition(Struct, frozen=True, tag="Queued"):
    position: int
    eta_s: float


class Started(Struct, frozen=True, tag=True):
    model: str
    target: str
    allowances: tuple[Allowance, ...] = ()
    degraded: bool = False
    reason: str = ""  # why this target
    cache: CacheInfo = CacheInfo()


class Delta(Struct, frozen=True, tag=True):
    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()


class Done(Struct, frozen=True, tag=True):
    answer: Answer


Event = QueuePosition | Started | Delta | Done
