"""Rows of the encoder for requests: windows of a passage, one row, or one with and one without the context."""

from collections.abc import Mapping, Sequence

from palm_serve.bundle.manifest import TaskInfo
from palm_serve.tokenization.text_tokenizer import TextTokenizer
from palm_serve.types import Encoding, InputTexts, RowLayout, TextRequest


class RequestRows:
    """Tokenizes requests as their tasks read them. Threads may share it.

    Args:
        tokenizer: tokenizer of the model.
        tasks: all tasks of the model, by name.
    """

    def __init__(self, tokenizer: TextTokenizer, tasks: Mapping[str, TaskInfo]) -> None:
        self._tokenizer = tokenizer
        self._layouts: dict[str, RowLayout] = {}
        for name, task in tasks.items():
            self._layouts[name] = task.layout

    def encode(self, request: TextRequest, tasks: Sequence[str]) -> tuple[Encoding, ...]:
        """Tokenize one request, as `encode_many` does."""
        if request.context or self._layouts[tasks[0]].windows is not None:
            return self.encode_many([request], [tasks])[0]
        return (self._tokenizer.encode(request.text, request.pair),)

    def encode_many(
        self, requests: Sequence[TextRequest], tasks: Sequence[Sequence[str]]
    ) -> list[tuple[Encoding, ...]]:
        """Tokenize requests together, in threads of the tokenizer.

        Args:
            requests: the requests.
            tasks: tasks that answer each of them.

        Returns:
            The rows of each request. Where some of its tasks read its context and others do not, the row with the context
            comes first.
        """
        inputs_by_layout: dict[RowLayout, dict[int, InputTexts]] = {}
        for index, (request, names) in enumerate(zip(requests, tasks, strict=True)):
            for layout in self._layouts_of(request, names):
                inputs_by_layout.setdefault(layout, {})[index] = request.inputs
        rows: list[tuple[Encoding, ...]] = [()] * len(requests)
        for layout in sorted(inputs_by_layout, key=lambda layout: not layout.context):
            inputs = inputs_by_layout[layout]
            for index, encodings in zip(inputs, self._tokenizer.encode_rows([*inputs.values()], layout), strict=True):
                rows[index] += encodings
        return rows

    def _layouts_of(self, request: TextRequest, tasks: Sequence[str]) -> set[RowLayout]:
        """Return how the tasks read a request."""
        if not request.context:
            return {RowLayout(self._layouts[tasks[0]].windows)}
        return {self._layouts[name] for name in tasks}
