"""Pipeline of one bundle on one engine: tokenize, batch, run and decode. Synchronous and independent of the transport."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

from palm_serve.batching import BatchLimits, plan_batches
from palm_serve.bundle.golden import GoldenExample
from palm_serve.bundle.loader import Bundle
from palm_serve.bundle.manifest import with_given
from palm_serve.decoding import DecoderTable, Item, check_outputs, golden_answer, own_rows, rows_of
from palm_serve.engine.candidate_times import sample_batch
from palm_serve.engine.padding import pad_batch
from palm_serve.errors import BundleError, EngineTimeout, InvalidRequest, PalmServeError, check_text, one_line
from palm_serve.system.background import unhindered_clock
from palm_serve.system.plain_text import plain
from palm_serve.tokenization.request_rows import RequestRows
from palm_serve.tokenization.scripts import language_check
from palm_serve.tokenization.trial import open_tokenizer
from palm_serve.types import Encoding, FloatArray, Prediction, ServedEngine, TaskAnswer, TextRequest, Timings
from palm_serve.values import open_values

_TRIAL_TEXT = "one and two"
_WARM_UP_ROWS = (1, 2, 4, 8, 16, 32)
_WARM_UP_LENGTHS = (8, 16, 24, 32, 48, 64)


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A request that was checked and tokenized, ready for a batch. `unknown_language`: the model cannot read most of it."""

    request: TextRequest
    encoding: Encoding
    tasks: tuple[str, ...]
    """Tasks to answer."""
    tokenize_us: int
    further_rows: tuple[Encoding, ...] = ()
    """Windows of a passage after the first, or the text without its context, for the tasks that do not read it."""
    unknown_language: bool = False

    @property
    def tokens(self) -> int:
        """Total tokens of all rows."""
        tokens = len(self.encoding)
        for row in self.further_rows:
            tokens += len(row)
        return tokens

    @property
    def item(self) -> Item:
        """Input of the decoders."""
        return Item(self.request.text, self.encoding, self.request.pair, self.request.top_k, self.further_rows)


@dataclass(frozen=True, slots=True)
class EngineOutputs:
    """Outputs of the engine for a batch, before decoding."""

    values: dict[str, FloatArray]
    tasks: tuple[str, ...]
    """Tasks that at least one request asked for."""
    items: Sequence[Item]
    rows: int
    """Rows of the batch, each window of a passage included."""
    started_ns: int
    inference_us: int


class Pipeline:
    """Answers requests with one bundle on one engine.

    `prepare` may be called from any thread. `compute` and `decode` may each be called from one thread at a time.
    """

    def __init__(self, bundle: Bundle, engine: ServedEngine) -> None:
        manifest = bundle.manifest
        self.bundle = bundle
        self.engine = engine
        self._tasks = manifest.tasks
        self._default_tasks = manifest.tasks_reading(pairs=False)
        self._windows: set[str] = set()
        for name, task in manifest.tasks.items():
            if task.windows is not None:
                self._windows.add(name)
        self._inputs = manifest.input_names
        self._pad_id = manifest.encoder.pad_token_id
        try:
            tokenizer = open_tokenizer(bundle.tokenizer_json, manifest.max_length)
        except ValueError as error:
            raise BundleError(f"{bundle.path}/tokenizer.json cannot be used: {error}; export again") from None
        self._is_unknown_language = language_check(manifest, tokenizer)
        self._rows = RequestRows(tokenizer, manifest.tasks)
        self._decoders = DecoderTable.of(manifest.tasks, bundle.arrays)
        self.values = open_values(bundle)
        """Resolves the values of answered spans. None: the bundle knows no values."""

    def check(self, request: TextRequest) -> tuple[str, ...]:
        """Return the tasks that answer a request: those that it names, or all that read a single text.

        Raises:
            InvalidRequest: the request cannot be answered as sent.
        """
        check_text(request.text, "text")
        for name in request.tasks:
            self._check_task(name, request)
        if len(request.tasks) > 1:
            for name in request.tasks:
                if name in self._windows:
                    raise InvalidRequest(
                        f"task '{name}' reads its passage in windows; ask it in a request of its own", "tasks"
                    )
        tasks = request.tasks or self._default_tasks
        if not tasks or (request.pair is not None and not request.tasks):
            raise InvalidRequest("name the task: without a name, only tasks on one text are answered", "tasks")
        return tasks

    def _check_task(self, name: str, request: TextRequest) -> None:
        if name not in self._tasks:
            raise InvalidRequest(
                f"model '{self.bundle.manifest.name}' has no task '{name}'; it has: {', '.join(self._tasks)}", "tasks"
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

    def prepare(self, request: TextRequest) -> PreparedRequest:
        """Check and tokenize a request.

        Raises:
            InvalidRequest: the request cannot be answered as sent.
        """
        tasks = self.check(request)
        began = time.perf_counter_ns()
        encoding, *further_rows = self._rows.encode(request, tasks)
        unknown = self._is_unknown_language(request.text, encoding)
        tokenize_us = (time.perf_counter_ns() - began) // 1000
        return PreparedRequest(request, encoding, tasks, tokenize_us, tuple(further_rows), unknown)

    def prepare_many(self, requests: Sequence[TextRequest]) -> list[PreparedRequest | InvalidRequest]:
        """Check and tokenize many requests together, in threads of the tokenizer. An invalid request becomes its error."""
        checked: list[tuple[str, ...] | InvalidRequest] = []
        valid_requests: list[TextRequest] = []
        tasks_of_valid: list[tuple[str, ...]] = []
        for request in requests:
            try:
                tasks = self.check(request)
            except InvalidRequest as error:
                checked.append(error)
                continue
            checked.append(tasks)
            valid_requests.append(request)
            tasks_of_valid.append(tasks)
        began = time.perf_counter_ns()
        rows = iter(self._rows.encode_many(valid_requests, tasks_of_valid))
        tokenize_us = (time.perf_counter_ns() - began) // 1000 // max(len(valid_requests), 1)
        prepared: list[PreparedRequest | InvalidRequest] = []
        for request, outcome in zip(requests, checked, strict=True):
            if isinstance(outcome, InvalidRequest):
                prepared.append(outcome)
            else:
                encoding, *later_rows = next(rows)
                unknown = self._is_unknown_language(request.text, encoding)
                prepared.append(PreparedRequest(request, encoding, outcome, tokenize_us, tuple(later_rows), unknown))
        return prepared

    def padded_shape(self, rows: int, length: int) -> tuple[int, int]:
        """Return the shape `[rows, tokens]` in which a batch runs. It is never longer than the model reads."""
        rows, length = self.engine.shape(rows, length)
        return rows, min(length, self.bundle.manifest.max_length)

    def padded_tokens(self, requests: int, tokens: int) -> int:
        """Estimate the tokens that the engine computes for a batch.

        Args:
            requests: number of requests.
            tokens: tokens of the longest request, all its windows together.
        """
        windows = math.ceil(tokens / self.bundle.manifest.max_length)
        return math.prod(self.padded_shape(requests * windows, math.ceil(tokens / windows)))

    def run(self, requests: Sequence[PreparedRequest]) -> list[Prediction]:
        """Answer one batch: `compute`, then `decode`."""
        return self.decode(requests, self.compute(requests))

    def compute(self, requests: Sequence[PreparedRequest]) -> EngineOutputs:
        """Run the graph once, for all tasks of all requests."""
        started_ns = time.perf_counter_ns()
        asked_tasks: set[str] = set()
        items = []
        encodings: list[Encoding] = []
        for request in requests:
            asked_tasks.update(request.tasks)
            items.append(request.item)
            encodings.append(request.encoding)
            encodings.extend(request.further_rows)
        tasks = tuple(name for name in self._tasks if name in asked_tasks)
        outputs = dict.fromkeys(chain.from_iterable(map(self._decoders.outputs.__getitem__, tasks)))
        rows, length = self.padded_shape(len(encodings), max(map(len, encodings)))
        batch = pad_batch(encodings, self._inputs, self._pad_id, length, rows)
        values = self.engine.run(batch, list(outputs))
        for name in with_given(tasks, self._tasks):
            check_outputs(name, self._tasks[name], values, len(encodings))
        inference_us = (time.perf_counter_ns() - started_ns) // 1000
        return EngineOutputs(values, tasks, items, len(encodings), started_ns, inference_us)

    def decode(
        self, requests: Sequence[PreparedRequest], outputs: EngineOutputs, waits_s: Sequence[float] = ()
    ) -> list[Prediction]:
        """Decode the answers of a batch.

        Args:
            requests: requests of the batch.
            outputs: result of `compute` for these requests.
            waits_s: seconds that each request waited, for its timings. Empty: none waited.
        """
        started_ns = time.perf_counter_ns()
        answers = self._decode_tasks(requests, outputs)
        decode_us = (time.perf_counter_ns() - started_ns) // 1000
        predictions = []
        for index, request in enumerate(requests):
            timings = Timings(
                request.tokenize_us,
                int(1e6 * waits_s[index]) if waits_s else 0,
                outputs.inference_us,
                decode_us,
                outputs.rows,
                outputs.started_ns,
                started_ns,
            )
            encoding = request.encoding
            unknown = request.unknown_language
            predictions.append(Prediction(answers[index], encoding.truncated, encoding.seen, timings, unknown))
        return predictions

    def _decode_tasks(self, requests: Sequence[PreparedRequest], outputs: EngineOutputs) -> list[dict[str, TaskAnswer]]:
        """Return the answers of each request, by task."""
        answers: list[dict[str, TaskAnswer]] = [{} for _ in requests]
        for name in outputs.tasks:
            indices = [index for index, request in enumerate(requests) if name in request.tasks]
            items = [outputs.items[index] for index in indices]
            values = {output: outputs.values[output] for output in self._decoders.outputs[name]}
            if name not in self._windows and any(item.more for item in items):
                rows, items = own_rows(outputs.items, indices, in_context=self._tasks[name].layout.context)
                values = {output: value[rows] for output, value in values.items()}
            elif len(indices) < len(requests):
                rows = rows_of(outputs.items, indices)
                values = {output: value[rows] for output, value in values.items()}
            for index, answer in zip(indices, self._decoders.by_task[name](values, items), strict=True):
                answers[index][name] = answer
        return answers

    def predict(self, requests: Sequence[TextRequest], limits: BatchLimits | None = None) -> list[Prediction]:
        """Answer many requests at once, in batches of similar length. Deadlines are ignored.

        Raises:
            InvalidRequest: a request cannot be answered as sent.
        """
        prepared: list[PreparedRequest] = []
        for outcome in self.prepare_many(requests):
            if isinstance(outcome, InvalidRequest):
                raise outcome
            prepared.append(outcome)
        predictions: dict[int, Prediction] = {}
        for batch in plan_batches([request.tokens for request in prepared], limits or BatchLimits()):
            predictions.update(zip(batch, self.run([prepared[index] for index in batch]), strict=True))
        return [predictions[index] for index in range(len(prepared))]

    def warm_up(
        self,
        limits: BatchLimits,
        budget_s: float = 1.0,
        observe: Callable[[int, float], None] = lambda tokens, seconds: None,
    ) -> int:
        """Run the shapes that serving will meet, small ones first, so that buffers and kernels are ready for requests.

        Args:
            limits: limits of a batch.
            budget_s: seconds after which no further shape runs.
            observe: called with the padded tokens and the seconds of each run.

        Returns:
            The number of shapes that ran.
        """
        deadline = unhindered_clock() + budget_s
        shapes = self.shapes(limits)
        for count, (rows, length) in enumerate(shapes):
            if unhindered_clock() > deadline:
                return count
            observe(rows * length, self.run_shape(rows, length))
        return len(shapes)

    def shapes(self, limits: BatchLimits) -> list[tuple[int, int]]:
        """Return the shapes `[rows, tokens]` of the batches that serving will meet, small ones first."""
        max_length = self.bundle.manifest.max_length
        shapes: set[tuple[int, int]] = set()
        for rows in (*_WARM_UP_ROWS, limits.max_rows):
            for length in (*_WARM_UP_LENGTHS, max_length):
                tokens = rows * min(length, max_length)
                if rows <= limits.max_rows and (rows == 1 or tokens <= limits.max_tokens):
                    shapes.add(self.padded_shape(rows, min(length, max_length)))
        return sorted(shapes, key=lambda shape: shape[0] * shape[1])

    def run_shape(self, rows: int, length: int) -> float:
        """Run a batch of arbitrary tokens in this shape twice, and return the seconds of the second run."""
        self.run_once(rows, length)  # the first run may compile
        return self.run_once(rows, length)

    def run_once(self, rows: int, length: int) -> float:
        """Run a batch of arbitrary tokens in this shape, and return the seconds of the run."""
        batch = sample_batch(self.bundle, rows, length)
        began = time.perf_counter()
        self.engine.run(batch)
        return time.perf_counter() - began

    def probe(self) -> None:
        """Try the engine on one short text. Raises whatever the engine raises."""
        self.engine.run(sample_batch(self.bundle, 1, 8))

    def interrupt(self) -> None:
        """Ask the engine's run in progress, in another thread, to end with EngineTimeout."""
        self.engine.interrupt()

    def golden_check(self) -> int:
        """Answer the golden examples of the bundle and one text for each further task. Return the number of examples.

        Raises:
            BundleError: an answer differs from that of the export, or a task cannot be answered. The message names it.
        """
        try:
            outcomes: Sequence[Prediction | PalmServeError] = self.predict(self.golden_requests())
        except InvalidRequest as error:
            outcomes = [error]
        except (EngineTimeout, MemoryError):  # they have messages of their own
            raise
        except Exception as error:  # of the engine, or of a decoder whose outputs do not fit
            raise BundleError(f"{self.bundle.path} cannot answer its golden examples: {one_line(error)}") from error
        self.golden_compare(outcomes)
        return len(self.bundle.golden)

    def golden_requests(self) -> list[TextRequest]:
        """Return the requests whose answers `golden_compare` takes.

        Tasks without a golden example are asked once too, so that a bundle that can answer none of them is never ready.
        """
        requests = []
        answered_tasks: set[str] = set()
        for example, tasks in self._golden_groups():
            requests.append(TextRequest(example.text, tasks, example.pair, example.context, top_k=1))
            answered_tasks.update(tasks)
        for name, task in self._tasks.items():
            if name not in answered_tasks:
                requests.append(TextRequest(_TRIAL_TEXT, (name,), _TRIAL_TEXT if task.pairs else None, top_k=1))
        return requests

    def golden_compare(self, outcomes: Sequence[Prediction | PalmServeError]) -> None:
        """Compare answers with those of the export. Outcomes of further tasks count only if they are errors.

        Raises:
            BundleError: an answer differs, or an example cannot be asked. The message names the first such example.
        """
        groups = self._golden_groups()
        for outcome in outcomes[len(groups) :]:
            if isinstance(outcome, PalmServeError):
                raise BundleError(f"{self.bundle.path} cannot answer a text: {outcome}") from outcome
        for (example, tasks), outcome in zip(groups, outcomes, strict=False):
            if isinstance(outcome, PalmServeError):
                raise BundleError(
                    f"{self.bundle.path}: golden.jsonl holds an example that cannot be asked: {outcome}"
                ) from outcome
            for task in tasks:
                expected = example.answers[task]
                actual = golden_answer(outcome.answers[task], self._tasks[task])
                if not expected.agrees(actual):
                    engine = f"{self.engine.info.provider} in {self.engine.info.precision}"
                    raise BundleError(
                        f"{self.bundle.path}: the golden check failed on {engine}: for '{plain(example.text)}' the task '{task}' "
                        f"answers {plain(actual)}, the export saw {plain(expected)}; export again, or force another --provider"
                    )

    def _golden_groups(self) -> list[tuple[GoldenExample, tuple[str, ...]]]:
        """Return each golden example with the tasks of one request. A task that reads windows has a request of its own."""
        groups: list[tuple[GoldenExample, tuple[str, ...]]] = []
        for example in self.bundle.golden:
            joint_tasks = tuple(task for task in example.answers if task not in self._windows)
            if joint_tasks:
                groups.append((example, joint_tasks))
            for task in example.answers:
                if task in self._windows:
                    groups.append((example, (task,)))
        return groups
