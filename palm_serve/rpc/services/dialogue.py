"""The service DialogueUnderstanding."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from palm_serve.config import Limits
from palm_serve.errors import InvalidRequest, PalmServeError
from palm_serve.rpc.call_handling import Call, Send, decode, request_id
from palm_serve.rpc.lifecycle import Lifecycle
from palm_serve.rpc.messages.requests import Asked, parse_request
from palm_serve.rpc.messages.responses import parse_response
from palm_serve.rpc.messages.status import failure
from palm_serve.rpc.streams import answer_each, breathe
from palm_serve.types import Prediction
from palm_serve.v1 import palm_pb2 as pb

if TYPE_CHECKING:
    from palm_serve.registry import LoadedModel, Registry


class Dialogue:
    """Parse, ParseBatch and ParseStream over the models of a registry."""

    def __init__(self, registry: "Registry", limits: Limits, lifecycle: Lifecycle) -> None:
        self._registry = registry
        self._limits = limits
        self._lifecycle = lifecycle

    async def parse(self, message: pb.ParseRequest, call: Call) -> pb.ParseResponse:
        """One utterance."""
        return await self._answer(message, call.request_id, call)

    async def parse_batch(self, message: pb.ParseBatchRequest, call: Call) -> pb.ParseBatchResponse:
        """Many utterances, answered in their order; a bad one is answered with its error."""
        count, limit = len(message.requests), self._limits.batch_items
        if count > limit:
            raise InvalidRequest(
                f"the batch has {count:,} requests; the limit is {limit:,}: send several batches", "requests"
            )
        call.holds(count)
        items: list[pb.ParseItem | None] = [None] * count
        groups: dict[LoadedModel, _Group] = {}
        with ExitStack() as held:
            for position, request in enumerate(message.requests):
                await breathe(position)
                try:
                    name = request_id(request.request_id)
                    model = self._registry.route(request.model, request.version, call.key(request.request_id))
                    asked = parse_request(request, model.manifest, self._limits, call.deadline)
                except PalmServeError as error:
                    items[position] = error_item(error, request.request_id or call.request_id)
                    continue
                if model not in groups:
                    groups[held.enter_context(model)] = _Group(model)
                groups[model].add(position, name, asked)
            async with asyncio.TaskGroup() as running:
                for group in groups.values():
                    running.create_task(group.fill(items, call))
        return pb.ParseBatchResponse(items=[item for item in items if item is not None])

    async def parse_stream(self, messages: AsyncIterator[bytes], call: Call, send: Send) -> None:
        """Many utterances, answered as they are ready. With `stream_items` in flight the stream is not read."""
        await answer_each(
            messages, lambda data: self._item(data, call), send, self._limits.stream_items, self._lifecycle
        )

    async def _item(self, data: bytes, call: Call) -> pb.ParseItem:
        name = call.request_id
        try:
            message = decode(pb.ParseRequest, data)
            name = request_id(message.request_id)
            return pb.ParseItem(request_id=name, response=await self._answer(message, name, call))
        except Exception as error:
            return error_item(error, name)

    async def _answer(self, message: pb.ParseRequest, name: str, call: Call) -> pb.ParseResponse:
        with self._registry.route(message.model, message.version, call.key(message.request_id)) as model:
            asked = parse_request(message, model.manifest, self._limits, call.deadline)
            answer = await model.predict(asked.request)
            call.answered_by(model, answer)
            return parse_response(name, model, asked, answer)


class _Group:
    """The requests of a batch that one model answers, and their positions in it."""

    def __init__(self, model: "LoadedModel") -> None:
        self._model = model
        self._members: list[tuple[int, str, Asked]] = []

    def add(self, position: int, name: str, asked: Asked) -> None:
        """Takes one more request."""
        self._members.append((position, name, asked))

    async def fill(self, items: list[pb.ParseItem | None], call: Call) -> None:
        """Answers the members and puts each answer in its place."""
        outcomes: Sequence[Prediction | PalmServeError]
        try:
            outcomes = await self._model.predict_many([asked.request for _, _, asked in self._members])
        except PalmServeError as error:
            outcomes = [error] * len(self._members)
        for number, ((position, name, asked), outcome) in enumerate(zip(self._members, outcomes, strict=True)):
            await breathe(number)
            if isinstance(outcome, Prediction):
                call.answered_by(self._model, outcome)
                items[position] = pb.ParseItem(
                    request_id=name, response=parse_response(name, self._model, asked, outcome)
                )
            else:
                items[position] = error_item(outcome, name)


def error_item(error: Exception, name: str) -> pb.ParseItem:
    """The item that stands for a request that failed."""
    failed = failure(error, name)
    told = pb.ItemError(code=failed.number, message=failed.message, retry_after_ms=failed.retry_after_ms)
    return pb.ParseItem(request_id=name, error=told)
