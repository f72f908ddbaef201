"""What the bodies of all dialects share: bounds, reading, and the rule that there must be a question."""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from knowalledge.domain.errors import InvalidRequest
from knowalledge.domain.model import Message, Text

MAX_MESSAGES = 1000
MAX_OUTPUT = 65_536
MAX_STOPS = 16
MAX_TOOLS = 512

ModelName = Annotated[str, Meta(max_length=200)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
Share = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Output = Annotated[int, Meta(ge=1, le=MAX_OUTPUT)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Dimensions = Annotated[int, Meta(ge=1, le=65_536)]

_object = msgspec.json.Decoder(dict[str, Any])


def decode(decoder: "msgspec.json.Decoder[Any]", body: bytes) -> Any:
    """A body as its type; a fault is an ``InvalidRequest`` that names the field, never the value."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        text = str(error)
        where = text.rsplit("`", 2)[1] if text.endswith("`") else ""
        raise InvalidRequest(text, param=where.removeprefix("$.").removeprefix("$")) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest("the body is not JSON") from error
    except RecursionError as error:
        raise InvalidRequest("the body is nested too deeply") from error


def json_object(text: bytes | str | msgspec.Raw, where: str) -> str:
    """JSON text that the gateway only carries, unchanged. Raises ``InvalidRequest`` unless it is one JSON object:
    what is not could break out of the place that it is put into on the way to the provider."""
    try:
        _object.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest("this must be a JSON object", param=where) from error
    return text if isinstance(text, str) else bytes(text).decode()


def with_question(turns: Sequence[Message], param: str) -> tuple[Message, ...]:
    """The turns without what is empty. Raises ``InvalidRequest`` if nothing is left to answer."""
    found = []
    for turn in turns:
        parts = tuple(part for part in turn.parts if not isinstance(part, Text) or part.text.strip())
        if parts:
            found.append(turn if len(parts) == len(turn.parts) else Message(turn.role, parts))
    if not found:
        raise InvalidRequest("there is no question: the prompt is empty", param=param)
    return tuple(found)
