"""Tokenization of long texts and batches on other threads, bounded by the length of the model's queue."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

from palm_serve.errors import InvalidRequest, Overloaded, PalmServeError
from palm_serve.pipeline import PreparedRequest
from palm_serve.types import Priority, TextRequest

_CHUNK_TEXTS = 64
_CHUNK_CHARACTERS = 100_000
"""Characters that are tokenized at once, in about 25 ms of one core. A client that leaves stops what follows."""

Prepared = PreparedRequest | PalmServeError


class TextPreparation:
    """Tokenizes the texts of one model. Belongs to one event loop.

    Args:
        prepare_many: checks and tokenizes requests, in any thread.
        refusal: returns the error with which the queue would refuse a request. None: it would be queued.
        count_refusal: counts a request that was refused.
        max_waiting: limit of the requests in the queue. As many may be tokenized at once, and half as many of one client.
    """

    def __init__(
        self,
        prepare_many: Callable[[Sequence[TextRequest]], Sequence[PreparedRequest | InvalidRequest]],
        refusal: Callable[[TextRequest], PalmServeError | None],
        count_refusal: Callable[[PalmServeError], None],
        max_waiting: int,
    ) -> None:
        self._prepare_many = prepare_many
        self._refusal = refusal
        self._count_refusal = count_refusal
        self._limit = max_waiting
        self._client_limit = max(1, max_waiting // 2)
        self._texts: Counter[str] = Counter()

    def first_chunk(self, requests: Sequence[TextRequest], room: int) -> Sequence[TextRequest]:
        """Return as many of the first requests as are tokenized together, at least one.

        Args:
            requests: the requests, at least one.
            room: limit of requests, if it is above zero.
        """
        limit = min(_CHUNK_TEXTS, room) if room > 0 else _CHUNK_TEXTS
        characters = 0
        for index, request in enumerate(requests[:limit]):
            characters += request.inputs.characters
            if index and characters > _CHUNK_CHARACTERS:
                return requests[:index]
        return requests[:limit]

    def texts(self, client: str) -> int:
        """Return the number of texts of a client that are being tokenized."""
        return self._texts[client]

    def room(self, client: str) -> int:
        """Return the number of texts of a client that may be tokenized now."""
        of_client = self._texts[client]
        if not of_client:
            return self._limit
        return min(self._client_limit - of_client, self._limit - self._texts.total())

    async def prepare(self, chunk: Sequence[TextRequest], client: str) -> list[Prepared]:
        """Tokenize a chunk of requests of one client. Requests that the queue would refuse are not tokenized.

        Args:
            chunk: the requests.
            client: name of the client.

        Returns:
            The prepared request or the error of each request, in order.
        """
        refusals = self._refusals(chunk, client)
        accepted = [request for request, refusal in zip(chunk, refusals, strict=True) if refusal is None]
        tokenized = iter(await self._tokenize(accepted, client) if accepted else ())
        prepared: list[Prepared] = []
        for refusal in refusals:
            prepared.append(next(tokenized) if refusal is None else refusal)
        return prepared

    async def _tokenize(self, requests: Sequence[TextRequest], client: str) -> Sequence[Prepared]:
        self._texts[client] += len(requests)
        try:
            return await asyncio.to_thread(self._prepare_many, requests)
        finally:
            self._texts[client] -= len(requests)
            if not self._texts[client]:
                del self._texts[client]

    def _refusals(self, chunk: Sequence[TextRequest], client: str) -> list[PalmServeError | None]:
        """Return the error with which each request is refused, and count them. None: it would be queued."""
        if self._texts[client] and self.room(client) < len(chunk):
            overloaded = Overloaded(
                f"{self._texts.total():,} texts are being tokenized, the limit is {self._limit:,}, and half of it for one client. "
                "Try again later."
            )
            return [overloaded] * len(chunk)
        by_queue: dict[tuple[Priority, float | None], PalmServeError | None] = {}
        refusals = []
        for request in chunk:
            key = request.priority, request.deadline
            if key not in by_queue:
                by_queue[key] = self._refusal(request)
            refusal = by_queue[key]
            if refusal is not None:
                self._count_refusal(refusal)
            refusals.append(refusal)
        return refusals
