"""Tokenization of long texts and batches on other threads, bounded by the length of the model's queue."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from palm_serve.errors import InvalidRequest, Overloaded, PalmServeError
from palm_serve.pipeline import PreparedRequest
from palm_serve.types import TextRequest

_CHUNK_TEXTS = 64
_CHUNK_CHARACTERS = 100_000
"""Characters that are tokenized at once, in about 25 ms of one core. A client that leaves stops what follows."""

Prepared = PreparedRequest | PalmServeError


class TextPreparation:
    """Tokenizes the texts of one model. Belongs to one event loop.

    Args:
        prepare_many: checks and tokenizes requests, in any thread.
        check: raises a PalmServeError if a request would be refused by the queue.
        max_waiting: limit of the requests in the queue. As many may be tokenized at once, and half as many of one client.
    """

    def __init__(
        self,
        prepare_many: Callable[[Sequence[TextRequest]], Sequence[PreparedRequest | InvalidRequest]],
        check: Callable[[TextRequest], None],
        max_waiting: int,
    ) -> None:
        self._prepare_many = prepare_many
        self._check = check
        self._limit = max_waiting
        self._client_limit = max(1, max_waiting // 2)
        self._texts: Counter[str] = Counter()

    async def prepare(self, requests: Sequence[TextRequest], client: str) -> list[Prepared]:
        """Tokenize requests of one client in chunks. A chunk that the queue would refuse is not tokenized.

        Args:
            requests: the requests.
            client: name of the client.

        Returns:
            The prepared request or the error of each request, in order.
        """
        prepared: list[Prepared] = []
        for chunk in _chunks(requests):
            refusals = self._refusals(chunk, client)
            accepted = [request for request, refusal in zip(chunk, refusals, strict=True) if refusal is None]
            tokenized = iter(await self._tokenize(accepted, client) if accepted else ())
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
        """Return the error with which each request would be refused. None: it would be queued."""
        of_client = self._texts[client]
        total = self._texts.total()
        if of_client and (of_client + len(chunk) > self._client_limit or total + len(chunk) > self._limit):
            overloaded = Overloaded(
                f"{total:,} texts are being tokenized, the limit is {self._limit:,}, and half of it for one client. Try again later."
            )
            return [overloaded] * len(chunk)
        refusals: list[PalmServeError | None] = [self._refusal(chunk[0])]
        for request in chunk[1:]:
            # Where the first one would be queued, the others have as good a chance. Their own turn tells.
            refusals.append(None if refusals[0] is None else self._refusal(request))
        return refusals

    def _refusal(self, request: TextRequest) -> PalmServeError | None:
        try:
            self._check(request)
        except PalmServeError as error:
            return error
        return None


def _chunks(requests: Sequence[TextRequest]) -> Iterator[Sequence[TextRequest]]:
    """Split requests into chunks of limited size. A text beyond the limit is a chunk of its own."""
    start = characters = 0
    for index, request in enumerate(requests):
        size = len(request.text) + len(request.pair or "")
        if index > start and (characters + size > _CHUNK_CHARACTERS or index - start == _CHUNK_TEXTS):
            yield requests[start:index]
            start = index
            characters = 0
        characters += size
    yield requests[start:]
