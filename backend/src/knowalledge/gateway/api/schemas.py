"""Bounds and field types that the bodies of all dialects share."""

from typing import Annotated

from msgspec import Meta, Raw

MAX_MESSAGES = 1000
MAX_OUTPUT = 65_536
MAX_STOPS = 16
MAX_TOOLS = 512

ModelName = Annotated[str, Meta(max_length=200)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
OutputTokens = Annotated[int, Meta(ge=1, le=MAX_OUTPUT)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Dimensions = Annotated[int, Meta(ge=1, le=65_536)]

# A JSON object that the gateway carries as text, without reading what is in it.
JsonObject = Annotated[Raw, Meta(extra_json_schema={"type": "object"})]
