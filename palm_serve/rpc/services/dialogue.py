"""The service palm_serve.v1.DialogueUnderstanding."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from palm_serve.config import Limits
from palm_serve.errors import InvalidRequest, PalmServeError
from palm_serve.rpc.call_handling import Call, Send, request_id
from palm_serve.rpc.lifecycle import Lifecycle
from palm_serve.rpc.messages.answer_size import check_answer, check_answer_size, fit_items, max_answer_bytes
from palm_serve.rpc.messages.requests import CheckedRequest, check_parse_request
from palm_serve.rpc.messages.responses import parse_response
from palm_serve.rpc.messages.status import failure
from palm_serve.rpc.messages.wire import decode
from palm_serve.rpc.streams import answer_each, yield_to_event_loop
from palm_serve.types import Prediction
from palm_serve.v1 import palm_pb2 as pb

if TYPE_CHECKING:
    from palm_serve.registry import LoadedModel, Registry


class DialogueService:
    """Answers Parse, ParseBatch and ParseStream with the models of a registry."""

    def __init__(self, registry: "Registry", limits: Limits, lifecycle: Lifecycle) -> None:
        self._registry = registry
        self._limits = limits
        self._lifecycle = lifecycle
        self._max_answer = max_answer_bytes(limits)

    async def parse(self, message: pb.ParseRequest, call: Call) -> pb.ParseResponse:
        """Answer one utterance."""
        return await self._answer(message, call.request_id, call)

    async def parse_batch(self, message: pb.ParseBatchRequest, call: Call) -> pb.ParseBatchResponse:
        """Answer several utterances in order. An invalid one is answered with its error."""
        count, limit = len(message.requests), self._limits.batch_items
        if count > limit:
            raise InvalidRequest(
                f"requests must have at most {limit:,} items, got {count:,}. Send several batches.", "requests"
            )
        call.charge_requests(count)
        items: list[pb.ParseItem | None] = [None] * count
        groups: dict[LoadedModel, _Group] = {}
        with ExitStack() as models_in_use:
            for position, request in enumerate(message.requests):
                await yield_to_event_loop(position)
                try:
                    item_id = request_id(request.request_id)
                    model = self._registry.route(request.model, request.version, call.routing_key(request.request_id))
                    checked = check_parse_request(
                        request, model.manifest, self._limits, call.deadline, call.client_name
                    )
                except PalmServeError as error:
                    items[position] = error_item(error, request.request_id or call.request_id)
                    continue
                if model not in groups:
                    groups[models_in_use.enter_context(model)] = _Group(model)
                groups[model].add(position, item_id, checked)
            for group in groups.values():
                group.check_answer_size(self._max_answer)
            async with asyncio.TaskGroup() as tasks:
                for group in groups.values():
                    tasks.create_task(group.fill(items, call))
        answers = [item for item in items if item is not None]
        response = pb.ParseBatchResponse(items=answers)
        if response.ByteSize() > self._max_answer:
            fit_items(answers, self._max_answer)
            response = pb.ParseBatchResponse(items=answers)
        return response

    async def parse_stream(self, messages: AsyncIterator[bytes], call: Call, send: Send) -> None:
        """Answer a stream of utterances, each as soon as it is ready.

        Args:
            messages: serialized ParseRequests.
            call: the call.
            send: sends a ParseItem.
        """
        await answer_each(
            messages, lambda data: self._item(data, call), send, self._limits.stream_items, self._lifecycle
        )

    async def _item(self, data: bytes, call: Call) -> pb.ParseItem:
        item_id = call.request_id
        try:
            message = decode(pb.ParseRequest, data)
            item_id = request_id(message.request_id)
            item = pb.ParseItem(request_id=item_id, response=await self._answer(message, item_id, call))
            check_answer(item.ByteSize(), self._max_answer)
            return item
        except Exception as error:
            return error_item(error, item_id)

    async def _answer(self, message: pb.ParseRequest, response_id: str, call: Call) -> pb.ParseResponse:
        with self._registry.route(message.model, message.version, call.routing_key(message.request_id)) as model:
            checked = check_parse_request(message, model.manifest, self._limits, call.deadline, call.client_name)
            prediction = await model.predict(checked.request)
            call.record_answer(model, prediction)
            return parse_response(response_id, model, checked, prediction)


class _Group:
    """The requests of a batch that one model answers, and their positions in the batch."""

    def __init__(self, model: "LoadedModel") -> None:
        self._model = model
        self._members: list[tuple[int, str, CheckedRequest]] = []

    def add(self, position: int, item_id: str, checked: CheckedRequest) -> None:
        """Add a request.

        Args:
            position: position in the batch.
            item_id: id of the request.
            checked: the request.
        """
        self._members.append((position, item_id, checked))

    def check_answer_size(self, limit: int) -> None:
        """Check that the answers are not certainly larger than `limit` bytes. Raises InvalidRequest."""
        requests = [checked for _, _, checked in self._members]
        check_answer_size(self._model.manifest, requests, limit, repeats_text=True)

    async def fill(self, items: list[pb.ParseItem | None], call: Call) -> None:
        """Answer the requests and set the items at their positions."""
        outcomes: Sequence[Prediction | PalmServeError]
        try:
            outcomes = await self._model.predict_many([checked.request for _, _, checked in self._members])
        except PalmServeError as error:
            outcomes = [error] * len(self._members)
        for index, (member, outcome) in enumerate(zip(self._members, outcomes, strict=True)):
            await yield_to_event_loop(index)
            position, item_id, checked = member
            if isinstance(outcome, Prediction):
                call.record_answer(self._model, outcome)
                response = parse_response(item_id, self._model, checked, outcome)
                items[position] = pb.ParseItem(request_id=item_id, response=response)
            else:
                items[position] = error_item(outcome, item_id)


def error_item(error: Exception, item_id: str) -> pb.ParseItem:
    """Create the item of a request that failed."""
    failed = failure(error, item_id)
    status = pb.ItemError(code=failed.number, message=failed.message, retry_after_ms=failed.retry_after_ms)
    return pb.ParseItem(request_id=item_id, error=status)
