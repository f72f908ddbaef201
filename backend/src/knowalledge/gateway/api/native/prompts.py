"""A body of the native API as a prompt."""

from knowalledge.core.errors import InvalidRequest
from knowalledge.gateway.api.native.schemas import GenerateBody
from knowalledge.gateway.api.parsing import non_empty
from knowalledge.gateway.domain.prompt import Message, Prompt, Text


def prompt_of(body: GenerateBody) -> Prompt:
    """Raises ``InvalidRequest`` unless there is either a prompt or messages, with some text."""
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequest("give either prompt or messages", param="prompt")
    system = [body.system] if body.system else []
    if body.prompt is not None:
        turns = non_empty((Message("user", (Text(body.prompt),)),), "prompt")
    else:
        messages = body.messages or ()
        system += [it.content for it in messages if it.role == "system"]
        turns = non_empty(
            [Message(it.role, (Text(it.content),)) for it in messages if it.role != "system"], "messages"
        )
    return Prompt(
        turns,
        system="\n".join(system),
        max_output_tokens=body.max_output_tokens,
        temperature=body.temperature,
    )
