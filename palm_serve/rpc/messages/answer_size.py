"""Limit of the size of answers: 4 MiB, which clients of gRPC take unless they are told otherwise.

An answer that is certainly larger is refused before it is computed. Its size depends on the texts, which ParseResponse
repeats, and on the length of rankings. What else is in an answer is known once it is computed.
"""

from collections.abc import Iterable

from palm_serve.bundle.manifest import Manifest
from palm_serve.config import MIB, Limits
from palm_serve.decoding import served_kind
from palm_serve.errors import InvalidRequest
from palm_serve.rpc.messages.requests import CheckedRequest
from palm_serve.rpc.messages.status import failure
from palm_serve.v1 import palm_pb2 as pb

_CLIENT_LIMIT_BYTES = 4 * MIB
"""Largest message that a client takes by default (`grpc.max_receive_message_length`)."""
_LABEL_BYTES = 8
"""Least size of a label in an answer: tag and length, a name of one letter, and its confidence."""
_ITEM_BYTES = 512
"""Room kept in an answer for each item that is not in it yet, so that it can be answered with an error."""
_ADVICE = "Send fewer texts at once, or a smaller top_k."


def max_answer_bytes(limits: Limits) -> int:
    """Return the largest answer. Where larger requests are allowed, answers may be as large."""
    return max(_CLIENT_LIMIT_BYTES, limits.message_bytes)


def check_answer_size(manifest: Manifest, requests: Iterable[CheckedRequest], limit: int, repeats_text: bool) -> None:
    """Check that the answers of one message are not certainly larger than a limit.

    Args:
        manifest: manifest of the model that answers.
        requests: the requests.
        limit: largest answer in bytes.
        repeats_text: true if the answer holds the text.

    Raises:
        InvalidRequest: if the answers would be larger.
    """
    size = 0
    labels: dict[str, int] = {}
    for name, task in manifest.tasks.items():
        labels[name] = len(task.labels) if served_kind(task.kind).ranks else 0
    for checked in requests:
        if repeats_text:
            size += len(checked.request.text.encode())
        for name in checked.request.tasks:
            size += _LABEL_BYTES * min(checked.request.top_k, labels[name])
    if size > limit:
        raise _too_large(size, limit)


def check_answer(answer_bytes: int, limit: int) -> None:
    """Check the size of a computed answer. Raises InvalidRequest."""
    if answer_bytes > limit:
        raise _too_large(answer_bytes, limit)


def fit_items(items: list[pb.ParseItem], limit: int) -> None:
    """Replace the items that do not fit into one answer by errors.

    Args:
        items: items of a batch, in order.
        limit: largest answer in bytes.
    """
    size = 0
    for index, item in enumerate(items):
        # Tag and length of the item take up to 6 bytes.
        item_bytes = item.ByteSize() + 6
        if size + item_bytes > limit - _ITEM_BYTES * (len(items) - index - 1):
            failed = failure(_too_large(size + item_bytes, limit), item.request_id)
            items[index] = pb.ParseItem(
                request_id=item.request_id, error=pb.ItemError(code=failed.number, message=failed.message)
            )
            item_bytes = items[index].ByteSize() + 6
        size += item_bytes


def _too_large(size: int, limit: int) -> InvalidRequest:
    return InvalidRequest(f"the answer must have at most {limit:,} bytes, got at least {size:,}. {_ADVICE}")
