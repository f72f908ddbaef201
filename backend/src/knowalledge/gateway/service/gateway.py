"""The use cases of the gateway over its ports: a whole answer, a streamed one, embeddings, a token count."""

from collections.abc import Generator

from knowalledge.core.context import RequestContext
from knowalledge.core.errors import InvalidRequest
from knowalledge.gateway.domain.answer import Answer, Completion, Embeddings, Finish
from knowalledge.gateway.domain.events import Done, Event
from knowalledge.gateway.domain.passthrough import DialectName
from knowalledge.gateway.domain.prompt import Message, Prompt, Text
from knowalledge.gateway.domain.request import Request
from knowalledge.gateway.service.dispatcher import Dispatcher
from knowalledge.gateway.service.execution import RequestExecution, result_of
from knowalledge.gateway.service.streaming import StreamedCall


class QuotaGateway:
    """Implements ``Gateway`` without caches: every request waits for quota, then calls a provider."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def complete(self, context: RequestContext, request: Request) -> Answer:
        """One whole answer."""
        with RequestExecution(self._dispatcher, context, request) as execution:
            while True:
                call = result_of(execution.acquire())
                try:
                    target = call.target
                    completion = target.provider.complete(target.prompt_for(request.prompt), call.timeout_s)
                except BaseException as error:  # noqa: BLE001 - however the call ends, its reservation ends too
                    execution.handle_failure(call, error)
                else:
                    return execution.succeed(call, completion)

    def stream(self, context: RequestContext, request: Request) -> Generator[list[Event], None, None]:
        """Positions in the queue, then the answer as it comes: the events that have come together in one list.

        Closing the generator cancels the provider's call and settles what it used.
        """
        with RequestExecution(self._dispatcher, context, request) as execution:
            while True:
                call = yield from execution.acquire()
                stream = StreamedCall(call, self._dispatcher.clock, execution.started)
                try:
                    yield from stream.events(request.prompt)
                except BaseException as error:  # noqa: BLE001 - however the call ends, its reservation ends too
                    execution.handle_failure(call, error, stream.progress())
                else:
                    yield [Done(execution.succeed(call, stream.completion(), stream.first_token_at))]
                    return

    def embed(
        self, context: RequestContext, model: str, inputs: tuple[str, ...], dimensions: int | None
    ) -> tuple[Embeddings, str]:
        """One vector for each text, and the name of the target that made them."""
        if not inputs:
            raise InvalidRequest("no input to embed", param="input")
        prompt = Prompt((Message("user", tuple(map(Text, inputs))),), max_output_tokens=0)
        with RequestExecution(self._dispatcher, context, Request(model, prompt), "embeddings") as execution:
            while True:
                call = result_of(execution.acquire())
                try:
                    embeddings = call.target.provider.embed(inputs, dimensions, call.timeout_s)
                except BaseException as error:  # noqa: BLE001 - however the call ends, its reservation ends too
                    execution.handle_failure(call, error)
                else:
                    execution.succeed(call, Completion((), Finish.STOP, embeddings.usage))
                    return embeddings, call.target.name

    def count_tokens(self, context: RequestContext, request: Request) -> int:
        """Input tokens as the provider counts them. Google does not charge for it, so no quota is spent."""
        target = self._dispatcher.catalog.resolve(request.model).targets[0]
        prompt = target.prompt_for(request.prompt)
        return target.provider.count_tokens(prompt, context.timeout_s or self._dispatcher.timeout_s)

    def models(self) -> tuple[str, ...]:
        """The names of all models, in the order of the configuration."""
        return tuple(self._dispatcher.catalog.models)

    def speaks(self, name: str, dialect: DialectName) -> bool:
        """Whether a body of this dialect may go on to a target of this model as it came."""
        return self._dispatcher.catalog.speaks(name, dialect)

    def model(self, name: str) -> str:
        """A model's own name. Raises ``UnknownModel``."""
        return self._dispatcher.catalog.resolve(name).name
