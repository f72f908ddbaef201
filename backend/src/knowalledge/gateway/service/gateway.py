"""What the gateway does, over ports: one whole answer, an answer as it comes, vectors, a count."""

from collections.abc import Generator

from knowalledge.core.context import RequestContext
from knowalledge.core.errors import InvalidRequest
from knowalledge.gateway.domain.answer import Answer, Completion, Embeddings, Finish
from knowalledge.gateway.domain.events import Done, Event
from knowalledge.gateway.domain.prompt import Message, Prompt, Text
from knowalledge.gateway.domain.request import Request
from knowalledge.gateway.service.execution import Dispatcher, RequestExecution, result_of


class QuotaGateway:
    """The use cases behind every dialect. Each raises ``KnowalledgeError`` subclasses only."""

    def __init__(self, deck: Dispatcher) -> None:
        self._deck = deck

    def complete(self, context: RequestContext, request: Request) -> Answer:
        """One whole answer."""
        with RequestExecution(self._deck, context, request) as run:
            while True:
                grant, timeout = result_of(run.acquire())
                try:
                    completion = grant.route.provider.complete(request.prompt, timeout)
                except BaseException as error:  # noqa: BLE001 - however it ends, its reservation ends too
                    run.lost(error)
                else:
                    return run.answered(completion)

    def stream(self, context: RequestContext, request: Request) -> Generator[list[Event], None, None]:
        """Its place in the waiting room, then the answer as it comes: the events that have come together.

        Closing the iterator cancels the provider's call and settles what it took.
        """
        with RequestExecution(self._deck, context, request) as run:
            while True:
                grant, timeout = yield from run.acquire()
                try:
                    completion = yield from run.follow(grant, timeout)
                except BaseException as error:  # noqa: BLE001 - however it ends, its reservation ends too
                    run.lost(error)
                else:
                    yield [Done(run.answered(completion))]
                    return

    def embed(
        self, context: RequestContext, model: str, inputs: tuple[str, ...], dimensions: int | None
    ) -> tuple[Embeddings, str]:
        """Vectors for texts, and the name of the target that made them."""
        if not inputs:
            raise InvalidRequest("no input to embed", param="input")
        prompt = Prompt((Message("user", tuple(map(Text, inputs))),), max_output_tokens=0)
        request = Request(model, prompt)
        with RequestExecution(self._deck, context, request, "embeddings") as run:
            while True:
                grant, timeout = result_of(run.acquire())
                try:
                    found = grant.route.provider.embed(inputs, dimensions, timeout)
                except BaseException as error:  # noqa: BLE001 - however it ends, its reservation ends too
                    run.lost(error)
                else:
                    run.answered(Completion((), Finish.STOP, found.usage))
                    return found, grant.route.name

    def count_tokens(self, context: RequestContext, request: Request) -> int:
        """Input tokens as the provider counts them. Google does not charge for it, so no quota is spent."""
        route = self._deck.plan(request.model).routes[0]
        return route.provider.count_tokens(request.prompt, context.timeout_s or self._deck.timeout_s)

    def models(self) -> tuple[str, ...]:
        """Every model that clients may name, in the order of the configuration."""
        return tuple(self._deck.plans)

    def model(self, name: str) -> str:
        """A model's own name; raises ``UnknownModel``."""
        return self._deck.plan(name).name
