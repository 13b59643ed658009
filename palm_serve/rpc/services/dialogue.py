"""The service palm_serve.v1.DialogueUnderstanding."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from palm_serve.config import Limits
from palm_serve.errors import InvalidRequest, PalmServeError
from palm_serve.rpc.call import Call, request_id
from palm_serve.rpc.call_handling import Send
from palm_serve.rpc.lifecycle import Lifecycle
from palm_serve.rpc.messages.answer_size import check_answer, check_answer_size, fit_items, max_answer_bytes
from palm_serve.rpc.messages.requests import CheckedRequest, check_parse_request
from palm_serve.rpc.messages.responses import parse_response
from palm_serve.rpc.messages.status import failure
from palm_serve.rpc.messages.wire import decode
from palm_serve.rpc.streams import answer_each, pause_when_refused, yield_to_event_loop
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

    def early_refusal(self, call: Call) -> PalmServeError | None:
        """Return the error if a call would be refused whatever its message says."""
        return self._registry.early_refusal(call.deadline, call.client_name)

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
        batch = _Batch(count, call)
        with ExitStack() as models_in_use:
            for position, request in enumerate(message.requests):
                await yield_to_event_loop(position)
                try:
                    item_id = request_id(request.request_id)
                    model = self._registry.route(request.model, request.version, call.routing_key(request.request_id))
                    if model not in batch.groups:
                        batch.groups[models_in_use.enter_context(model)] = _Group(model, batch)
                    await batch.groups[model].add(position, item_id, request, self._limits)
                except PalmServeError as error:
                    batch.fail(position, error, request.request_id or call.request_id)
            for group in batch.groups.values():
                group.check_answer_size(self._max_answer)
            async with asyncio.TaskGroup() as tasks:
                for group in batch.groups.values():
                    tasks.create_task(group.fill())
        answers = [item for item in batch.items if item is not None]
        response = await _batch_response(answers)
        if response.ByteSize() > self._max_answer:
            fit_items(answers, self._max_answer)
            response = await _batch_response(answers)
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
            await pause_when_refused(error, call.deadline)
            return error_item(error, item_id)

    async def _answer(self, message: pb.ParseRequest, response_id: str, call: Call) -> pb.ParseResponse:
        with self._registry.route(message.model, message.version, call.routing_key(message.request_id)) as model:
            checked = check_parse_request(message, model.manifest, self._limits, call.deadline, call.client_name)
            prediction = await model.predict(checked.request)
            call.record_answer(model, prediction)
            return parse_response(response_id, model, checked, prediction)


async def _batch_response(items: Sequence[pb.ParseItem]) -> pb.ParseBatchResponse:
    """Return the response with these items. Each is copied into it, which takes 20 ms for 4 MiB."""
    response = pb.ParseBatchResponse()
    for index, item in enumerate(items):
        await yield_to_event_loop(index)
        response.items.append(item)
    return response


class _Batch:
    """The items of a batch, and its requests by the model that answers them."""

    def __init__(self, count: int, call: Call) -> None:
        self.call = call
        self.items: list[pb.ParseItem | None] = [None] * count
        self.groups: dict[LoadedModel, _Group] = {}
        self._errors: dict[PalmServeError, pb.ItemError] = {}
        """Converted errors. Many requests of a batch often fail with one."""

    def fail(self, position: int, error: PalmServeError, item_id: str) -> None:
        """Set the item of a request that failed.

        Args:
            position: position in the batch.
            error: the error of the request.
            item_id: id of the request.
        """
        converted = self._errors.get(error)
        if converted is None:
            converted = self._errors[error] = error_item(error, item_id).error
        self.items[position] = pb.ParseItem(request_id=item_id, error=converted)


class _Group:
    """The requests of a batch that one model answers, and their positions in the batch."""

    def __init__(self, model: "LoadedModel", batch: _Batch) -> None:
        self._model = model
        self._batch = batch
        self._members: list[tuple[int, str, CheckedRequest]] = []
        self._refusals: dict[int, PalmServeError | None] = {}
        """Refusal of the batch by the queue of each priority. None: it has room."""

    async def add(self, position: int, item_id: str, request: pb.ParseRequest, limits: Limits) -> None:
        """Add a request.

        Args:
            position: position in the batch.
            item_id: id of the request.
            request: the request.
            limits: limits of one client.

        Raises:
            InvalidRequest: a field of the request is not valid.
        """
        call = self._batch.call
        # A request of a batch that is refused is not checked, so that a client that asks for too much costs little.
        refusal = self._refusals.get(request.priority)
        if refusal is None:
            checked = check_parse_request(request, self._model.manifest, limits, call.deadline, call.client_name)
            if request.priority not in self._refusals:
                refusal = await self._model.wait_for_room(checked.request)
                self._refusals[request.priority] = refusal
        if refusal is None:
            self._members.append((position, item_id, checked))
        else:
            self._model.record_refusal(refusal)
            self._batch.fail(position, refusal, item_id)

    def check_answer_size(self, limit: int) -> None:
        """Check that the answers are not certainly larger than `limit` bytes. Raises InvalidRequest."""
        requests = [checked for _, _, checked in self._members]
        check_answer_size(self._model.manifest, requests, limit, repeats_text=True)

    async def fill(self) -> None:
        """Answer the requests and set their items."""
        outcomes: Sequence[Prediction | PalmServeError]
        try:
            outcomes = await self._model.predict_many([checked.request for _, _, checked in self._members])
        except PalmServeError as error:
            outcomes = [error] * len(self._members)
        for index, (member, outcome) in enumerate(zip(self._members, outcomes, strict=True)):
            await yield_to_event_loop(index)
            position, item_id, checked = member
            if isinstance(outcome, Prediction):
                self._batch.call.record_answer(self._model, outcome)
                response = parse_response(item_id, self._model, checked, outcome)
                self._batch.items[position] = pb.ParseItem(request_id=item_id, response=response)
            else:
                self._batch.fail(position, outcome, item_id)


def error_item(error: Exception, item_id: str) -> pb.ParseItem:
    """Create the item of a request that failed."""
    failed = failure(error, item_id)
    status = pb.ItemError(code=failed.number, message=failed.message, retry_after_ms=failed.retry_after_ms)
    return pb.ParseItem(request_id=item_id, error=status)
