"""Texts in, predictions out, for one loaded bundle: tokenize, batch, run, decode. Synchronous, and knows no transport."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from palm_serve.batching import BatchLimits, Costs, WaitingRequest, plan_batch
from palm_serve.bundle.golden import GoldenExample
from palm_serve.bundle.loader import Bundle
from palm_serve.decoding import DecoderTable, Item, golden_answer, rows_of
from palm_serve.engine.padding import pad_batch
from palm_serve.engine.providers import sample_batch
from palm_serve.errors import BundleError, InvalidRequest, PalmServeError
from palm_serve.tokenization import TextTokenizer
from palm_serve.types import Encoding, Engine, FloatArray, Prediction, TaskAnswer, TextRequest, Timings, Windows


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A request that is ready for a batch: checked and tokenized. `tasks` are those to answer."""

    request: TextRequest
    encoding: Encoding
    tasks: tuple[str, ...]
    tokenize_us: int
    more: tuple[Encoding, ...] = ()
    """Further windows of a passage, each a row of the batch."""

    @property
    def tokens(self) -> int:
        """Of all rows."""
        return len(self.encoding) + sum(map(len, self.more))

    @property
    def item(self) -> Item:
        """What decoders take."""
        return Item(self.request.text, self.encoding, self.request.pair, self.request.top_k, self.more)


@dataclass(frozen=True, slots=True)
class EngineOutputs:
    """What the engine made of a batch, not decoded yet."""

    values: dict[str, FloatArray]
    tasks: tuple[str, ...]
    """Those that some row asked for."""
    items: Sequence[Item]
    rows: int
    """Windows of passages counted."""
    started_ns: int
    inference_us: int


class Pipeline:
    """Answers requests with one bundle on one engine. `prepare` may be called from any thread, `compute` and `decode` each from one at a time."""

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self.bundle = bundle
        self.engine = engine
        manifest = bundle.manifest
        self._tasks = manifest.tasks
        self._single = tuple(name for name, task in manifest.tasks.items() if not task.pairs)
        self._windows = {name: task.windows for name, task in manifest.tasks.items() if task.windows is not None}
        self._inputs = tuple(tensor.name for tensor in manifest.inputs)
        self._pad_id = manifest.encoder.pad_token_id
        self._tokenizer = TextTokenizer.shared(bundle.tokenizer_json, manifest.max_length)
        self._decoders = DecoderTable.of(manifest.tasks, bundle.arrays)

    def check(self, request: TextRequest) -> tuple[str, ...]:
        """The tasks that answer a request: those it names, or all that read a single text. Raises InvalidRequest."""
        check_not_blank(request.text, "text")
        for name in request.tasks:
            if name not in self._tasks:
                have = ", ".join(self._tasks)
                raise InvalidRequest(
                    f"model '{self.bundle.manifest.name}' has no task '{name}'; it has: {have}", "tasks"
                )
            if self._tasks[name].pairs and request.pair is None:
                raise InvalidRequest(
                    f"task '{name}' reads a text and its pair, and the request has no pair; use Predict with text_pair",
                    "text_pair",
                )
            if not self._tasks[name].pairs and request.pair is not None:
                raise InvalidRequest(
                    f"task '{name}' reads one text, and the request has a pair; leave text_pair empty", "text_pair"
                )
        apart = next((name for name in request.tasks if name in self._windows), None)
        if apart is not None and len(request.tasks) > 1:
            raise InvalidRequest(
                f"task '{apart}' reads its passage in windows; ask it in a request of its own", "tasks"
            )
        tasks = request.tasks or self._single
        if not tasks or (request.pair is not None and not request.tasks):
            raise InvalidRequest("name the task: only tasks on one text are answered unasked", "tasks")
        return tasks

    def prepare(self, request: TextRequest) -> PreparedRequest:
        """Checks and tokenizes a request. Raises InvalidRequest."""
        tasks = self.check(request)
        start = time.perf_counter_ns()
        if tasks[0] in self._windows:
            first, *more = self._tokenizer.encode_rows([(request.text, request.pair)], self._windows[tasks[0]])[0]
            return PreparedRequest(request, first, tasks, (time.perf_counter_ns() - start) // 1000, tuple(more))
        encoding = self._tokenizer.encode(request.text, request.pair)
        return PreparedRequest(request, encoding, tasks, (time.perf_counter_ns() - start) // 1000)

    def prepare_many(self, requests: Sequence[TextRequest]) -> list[PreparedRequest | InvalidRequest]:
        """`prepare` for many, tokenized together in Rust threads; a bad request becomes its error."""
        checked: list[tuple[str, ...] | InvalidRequest] = []
        for request in requests:
            try:
                checked.append(self.check(request))
            except InvalidRequest as error:
                checked.append(error)
        alike: dict[Windows | None, list[int]] = {}
        for i, tasks in enumerate(checked):
            if not isinstance(tasks, InvalidRequest):
                alike.setdefault(self._windows.get(tasks[0]), []).append(i)
        start = time.perf_counter_ns()
        rows: dict[int, tuple[Encoding, ...]] = {}
        for windows, chosen in alike.items():
            inputs = [(requests[i].text, requests[i].pair) for i in chosen]
            rows.update(zip(chosen, self._tokenizer.encode_rows(inputs, windows), strict=True))
        spent = (time.perf_counter_ns() - start) // 1000 // max(len(rows), 1)
        return [
            tasks
            if isinstance(tasks, InvalidRequest)
            else PreparedRequest(requests[i], rows[i][0], tasks, spent, rows[i][1:])
            for i, tasks in enumerate(checked)
        ]

    def padded_shape(self, rows: int, length: int) -> tuple[int, int]:
        """The shape that a batch of this size is run in; never longer than the model takes."""
        rows, length = self.engine.shape(rows, length)
        return rows, min(length, self.bundle.manifest.max_length)

    def padded_tokens(self, works: int, tokens: int) -> int:
        """About how many tokens are computed for a batch of this many works of up to so many tokens each, windows together."""
        windows = math.ceil(tokens / self.bundle.manifest.max_length)
        return math.prod(self.padded_shape(works * windows, math.ceil(tokens / windows)))

    def run(self, works: Sequence[PreparedRequest]) -> list[Prediction]:
        """Answers one batch: `compute` and `decode`."""
        return self.decode(works, self.compute(works))

    def compute(self, works: Sequence[PreparedRequest]) -> EngineOutputs:
        """One encoder pass for all tasks of all rows."""
        started = time.perf_counter_ns()
        wanted = tuple(name for name in self._tasks if any(name in work.tasks for work in works))
        outputs = [output for name in wanted for output in self._tasks[name].outputs]
        items = [work.item for work in works]
        encodings = [encoding for item in items for encoding in item.rows]
        rows, length = self.padded_shape(len(encodings), max(map(len, encodings)))
        batch = pad_batch(encodings, self._inputs, self._pad_id, length, rows)
        values = self.engine.run(batch, outputs)
        return EngineOutputs(values, wanted, items, len(encodings), started, (time.perf_counter_ns() - started) // 1000)

    def decode(
        self, works: Sequence[PreparedRequest], computed: EngineOutputs, waits_s: Sequence[float] = ()
    ) -> list[Prediction]:
        """The answers of a batch. `waits_s` is how long each work waited, for its timings."""
        started = time.perf_counter_ns()
        answers = self._decode(works, computed.items, computed.tasks, computed.values)
        decode_us = (time.perf_counter_ns() - started) // 1000
        return [
            Prediction(
                answers[row],
                work.encoding.truncated,
                work.encoding.seen,
                Timings(
                    work.tokenize_us,
                    int(1e6 * waits_s[row]) if waits_s else 0,
                    computed.inference_us,
                    decode_us,
                    computed.rows,
                    computed.started_ns,
                    started,
                ),
            )
            for row, work in enumerate(works)
        ]

    def _decode(
        self,
        works: Sequence[PreparedRequest],
        items: Sequence[Item],
        wanted: Sequence[str],
        values: dict[str, FloatArray],
    ) -> list[dict[str, TaskAnswer]]:
        answers: list[dict[str, TaskAnswer]] = [{} for _ in works]
        for name in wanted:
            chosen = [i for i, work in enumerate(works) if name in work.tasks]
            mine = {output: values[output] for output in self._tasks[name].outputs}
            if len(chosen) < len(works):
                rows = rows_of(items, chosen)
                mine = {output: value[rows] for output, value in mine.items()}
            for i, answer in zip(chosen, self._decoders.by_task[name](mine, [items[i] for i in chosen]), strict=True):
                answers[i][name] = answer
        return answers

    def predict(self, requests: Sequence[TextRequest], limits: BatchLimits | None = None) -> list[Prediction]:
        """Answers many requests here and now, in batches of similar length; deadlines are ignored. Raises InvalidRequest."""
        limits = limits or BatchLimits()
        prepared = self.prepare_many(requests)
        works = []
        for work in prepared:
            if isinstance(work, InvalidRequest):
                raise work
            works.append(work)
        found: dict[int, Prediction] = {}
        left = list(range(len(works)))
        while left:
            plan = plan_batch([WaitingRequest(works[i].tokens) for i in left], 0.0, limits, Costs())
            chosen = [left[i] for i in plan.batch]
            found.update(zip(chosen, self.run([works[i] for i in chosen]), strict=True))
            done = set(chosen)
            left = [i for i in left if i not in done]
        return [found[i] for i in range(len(works))]

    def warm_up(
        self,
        limits: BatchLimits,
        budget_s: float = 1.0,
        observe: Callable[[int, float], None] = lambda tokens, seconds: None,
    ) -> int:
        """Runs the shapes that serving will meet, small ones first, so that requests do not pay for buffers and compilation.

        Stops after `budget_s` seconds; returns how many shapes ran. `observe` is told the padded tokens and the seconds of each.
        """
        stop = time.perf_counter() + budget_s
        shapes = self.shapes(limits)
        for count, (rows, length) in enumerate(shapes):
            if time.perf_counter() > stop:
                return count
            observe(rows * length, self.run_shape(rows, length))
        return len(shapes)

    def shapes(self, limits: BatchLimits) -> list[tuple[int, int]]:
        """Rows and tokens of the batches that serving will meet, small ones first."""
        longest = self.bundle.manifest.max_length
        lengths = {min(length, longest) for length in (8, 16, 24, 32, 48, 64, longest)}
        sizes = {
            (rows, length)
            for rows in (1, 2, 4, 8, 16, 32, limits.max_rows)
            for length in lengths
            if rows <= limits.max_rows
        }
        shapes = {self.padded_shape(*size) for size in sizes if size[0] == 1 or size[0] * size[1] <= limits.max_tokens}
        return sorted(shapes, key=lambda shape: shape[0] * shape[1])

    def run_shape(self, rows: int, length: int) -> float:
        """Runs a batch of arbitrary pieces in this shape, and once more: the seconds of that."""
        batch = sample_batch(self.bundle, rows, length)
        self.engine.run(batch)
        began = time.perf_counter()
        self.engine.run(batch)  # the first run compiled
        return time.perf_counter() - began

    def probe(self) -> None:
        """Tries the engine on one short text; raises what the engine raises."""
        self.engine.run(sample_batch(self.bundle, 1, 8))

    def golden_check(self) -> int:
        """Answers the bundle's golden examples; how many there are. Raises BundleError naming the first that differs."""
        try:
            self.golden_compare(self.predict(self.golden_requests()))
        except InvalidRequest as error:
            self.golden_compare([error])
        return len(self.bundle.golden)

    def golden_requests(self) -> list[TextRequest]:
        """What `golden_compare` wants answers to."""
        return [TextRequest(example.text, tasks, example.pair, top_k=1) for example, tasks in self._golden()]

    def golden_compare(self, outcomes: Sequence[Prediction | PalmServeError]) -> None:
        """Raises BundleError naming the first of the golden examples that differs, or that cannot be asked."""
        for (example, tasks), prediction in zip(self._golden(), outcomes, strict=False):
            if isinstance(prediction, PalmServeError):
                raise BundleError(
                    f"{self.bundle.path}: golden.jsonl holds an example that cannot be asked: {prediction}"
                ) from prediction
            for task in tasks:
                expected, found = example.answers[task], golden_answer(prediction.answers[task], self._tasks[task])
                if not expected.agrees(found):
                    where = f"{self.engine.info.provider} in {self.engine.info.precision}"
                    raise BundleError(
                        f"{self.bundle.path}: the golden check failed on {where}: for '{example.text}' the task '{task}' answers "
                        f"{found}, the export saw {expected}; export again, or force another --provider"
                    )

    def _golden(self) -> list[tuple[GoldenExample, tuple[str, ...]]]:
        return [(example, tasks) for example in self.bundle.golden for tasks in self._together(example)]

    def _together(self, example: GoldenExample) -> list[tuple[str, ...]]:
        """The example's tasks, in the groups that one request may ask."""
        apart: list[tuple[str, ...]] = [(task,) for task in example.answers if task in self._windows]
        rest = tuple(task for task in example.answers if task not in self._windows)
        return [rest, *apart] if rest else apart


def check_not_blank(text: str, field: str) -> None:
    """Check that a text has a visible character. Raises InvalidRequest with the name of the field."""
    if not text or text.isspace():
        content = "a blank text" if text else "an empty text"
        raise InvalidRequest(f"{field} must have at least one visible character, got {content}. Send some text.", field)
