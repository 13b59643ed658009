"""Recording of a proof: examples and random shapes, and what the trained model answers to them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from palm_serve.bundle.manifest import EncoderInfo
from palm_serve.bundle.proof import (
    MAX_PROOF_CHARACTERS,
    Proof,
    ProofBatch,
    ProofExample,
    ProofInfo,
    ProofOutput,
    ProofRow,
    RecordedAnswer,
    spread_order,
    stored_places,
)
from palm_serve.decoding import Item
from palm_serve.proof.comparison import LOGIT_LIMIT, readable_values, record_answer
from palm_serve.proof.predictor import EnginePredictor, HasTexts, Outputs
from palm_serve.proof.shapes import random_encodings, stratified_shapes
from palm_serve.types import Encoding, FloatArray, TaskAnswer

SHAPES = 64
MIN_EXAMPLES = 128
"""Examples whatever the size of the encoder, unless their texts have more than `_MAX_TOKENS`."""
MAX_EXAMPLES = 512
_MAX_TOKENS = 16_384
_MAX_PRODUCTS = 1.75e11
"""Multiplications beyond which no more than MIN_EXAMPLES are taken: 16,384 tokens of a MiniLM with 6 layers."""
_MAX_CHARACTERS = 1_000_000
_VALUE_BYTES = 1_200_000
"""Stored logits. With all else, the proof of a MiniLM stays below 2 MiB."""
_BATCH_EXAMPLES = 32
_BATCH_PASSAGES = 8
_SHAPE_TOKENS = 64
_CORNER_TOKENS = 512
_DIGITS = 8
"""Digits of a stored probability or score."""


@dataclass(frozen=True)
class _RecordedBatch:
    """A batch with the outputs of the trained model that a decoder reads, one array for each output."""

    batch: ProofBatch
    rows: tuple[Encoding, ...]
    values: tuple[FloatArray, ...]


def record_proof(
    predictor: EnginePredictor, examples: Sequence[HasTexts], encoder: EncoderInfo, usable: Sequence[bool]
) -> Proof:
    """Record what the trained model answers to some examples and to random ids.

    Args:
        predictor: the trained model.
        examples: dev examples.
        encoder: facts about the encoder.
        usable: False for examples to leave out.

    Raises:
        ValueError: no example can be used.
    """
    proof_examples = _choose_examples(predictor, examples, encoder, usable)
    if not proof_examples:
        raise ValueError("no dev example can be used")
    answers: list[dict[str, TaskAnswer]] = [{} for _ in proof_examples]
    first_outputs: Outputs = {}
    batches: list[_RecordedBatch] = []
    for batch, rows, items in _batch_examples(predictor, proof_examples):
        outputs = predictor.run(rows, batch.length)
        first_outputs = first_outputs or outputs
        for index, example_answers in zip(batch.examples, predictor.decode(outputs, items, batch.tasks), strict=True):
            answers[index].update(example_answers)
        batches.append(_RecordedBatch(batch, tuple(rows), _all_values(predictor, outputs, rows)))
    for batch, rows in _random_batches(predictor.tokenizer.max_length, encoder.vocab_size):
        outputs = predictor.run(rows, batch.length)
        batches.append(_RecordedBatch(batch, tuple(rows), _all_values(predictor, outputs, rows)))
    info = ProofInfo(
        format=1,
        tolerance=LOGIT_LIMIT,
        examples=tuple(_record_example(predictor, *answered) for answered in zip(proof_examples, answers, strict=True)),
        batches=tuple(recorded.batch for recorded in batches),
        outputs=tuple(_describe_outputs(predictor, first_outputs)),
    )
    return Proof(info, tuple(map(_proof_rows, batches)), _select_values(batches))


def output_names(predictor: EnginePredictor) -> list[str]:
    """Return the outputs of all tasks, in the order of the manifest."""
    names: list[str] = []
    for task in predictor.tasks.values():
        names += task.outputs
    return names


def _choose_examples(
    predictor: EnginePredictor, examples: Sequence[HasTexts], encoder: EncoderInfo, usable: Sequence[bool]
) -> list[HasTexts]:
    """Choose examples that are spread over all, as many as the limits allow."""
    products_per_token = 12 * max(1, encoder.layers) * encoder.hidden_size**2
    proof_examples: list[HasTexts] = []
    tokens = 0
    characters = 0
    for index in spread_order(len(examples)):
        example = examples[index]
        texts = example.inputs
        length = max(len(texts.text), len(texts.pair or ""), len(texts.context))
        if not usable[index] or not texts.text.strip() or length > MAX_PROOF_CHARACTERS:
            continue
        example_tokens = _count_tokens(predictor, example)
        if not example_tokens:
            continue
        tokens += example_tokens
        characters += texts.characters
        too_many = tokens > _MAX_TOKENS or characters > _MAX_CHARACTERS or len(proof_examples) == MAX_EXAMPLES
        too_costly = len(proof_examples) >= MIN_EXAMPLES and tokens * products_per_token > _MAX_PRODUCTS
        if proof_examples and (too_many or too_costly):
            break
        proof_examples.append(example)
    return proof_examples


def _count_tokens(predictor: EnginePredictor, example: HasTexts) -> int:
    """Return the tokens of an example in all rows that a task reads. 0: no task reads it."""
    tokens = 0
    for layout, tasks in predictor.tasks_by_layout().items():
        if (example.inputs.pair is not None) in predictor.pair_values(tasks):
            [item] = predictor.tokenize([example], layout)
            tokens += sum(map(len, item.rows))
    return tokens


def _batch_examples(
    predictor: EnginePredictor, examples: Sequence[HasTexts]
) -> Iterator[tuple[ProofBatch, list[Encoding], list[Item]]]:
    """Yield batches of examples of similar length, for each way in which the tasks read."""
    order = sorted(range(len(examples)), key=lambda index: examples[index].inputs.characters)
    for layout, tasks in predictor.tasks_by_layout().items():
        pairs = predictor.pair_values(tasks)
        readable = [index for index in order if (examples[index].inputs.pair is not None) in pairs]
        size = _BATCH_EXAMPLES if layout.windows is None else _BATCH_PASSAGES
        for begin in range(0, len(readable), size):
            indices = tuple(readable[begin : begin + size])
            items = predictor.tokenize([examples[index] for index in indices], layout)
            rows: list[Encoding] = []
            for item in items:
                rows += item.rows
            batch = ProofBatch(rows=len(rows), length=max(map(len, rows)), examples=indices, tasks=tasks)
            yield batch, rows, items


def _random_batches(max_length: int, vocab_size: int) -> Iterator[tuple[ProofBatch, list[Encoding]]]:
    generator = np.random.default_rng(0)
    for rows, length in stratified_shapes(generator, max_length, SHAPES, _SHAPE_TOKENS):
        count = min(rows, max(1, _CORNER_TOKENS // length))
        yield ProofBatch(rows=count, length=length), list(random_encodings(generator, count, length, vocab_size))


def _all_values(predictor: EnginePredictor, outputs: Outputs, rows: Sequence[Encoding]) -> tuple[FloatArray, ...]:
    lengths = [len(row) for row in rows]
    values = []
    for name in output_names(predictor):
        values.append(readable_values(outputs[name], lengths, name in predictor.token_outputs))
    return tuple(values)


def _describe_outputs(predictor: EnginePredictor, outputs: Outputs) -> Iterator[ProofOutput]:
    for name in output_names(predictor):
        shape = outputs[name].shape
        per_token = name in predictor.token_outputs
        columns = int(np.prod(shape[2 if per_token else 1 :], dtype=np.int64))
        yield ProofOutput(name=name, per_token=per_token, columns=columns)


def _record_example(predictor: EnginePredictor, example: HasTexts, answers: Mapping[str, TaskAnswer]) -> ProofExample:
    recorded = {}
    for task, answer in answers.items():
        recorded[task] = _round(record_answer(answer, predictor.tasks[task], decided_only=True))
    texts = example.inputs
    return ProofExample(text=texts.text, pair=texts.pair, context=texts.context, answers=recorded)


def _round(answer: RecordedAnswer) -> RecordedAnswer:
    confidences = {}
    for name, confidence in answer.confidences.items():
        confidences[name] = _shorten(confidence)
    score = None if answer.out_of_scope is None else _shorten(answer.out_of_scope)
    return RecordedAnswer(decision=answer.decision, confidences=confidences, out_of_scope=score)


def _shorten(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _proof_rows(recorded: _RecordedBatch) -> tuple[ProofRow, ...]:
    rows = []
    for row in recorded.rows:
        rows.append(ProofRow(tuple(row.input_ids), tuple(row.type_ids)))
    return tuple(rows)


def _select_values(batches: Sequence[_RecordedBatch]) -> tuple[tuple[FloatArray, ...], ...]:
    """Return the logits to store: of each output of a batch at most so many that all together fit."""
    sizes: list[int] = []
    for recorded in batches:
        sizes += [len(values) for values in recorded.values]
    largest = _largest_share(sizes, _VALUE_BYTES // 4)
    selected = []
    for recorded in batches:
        batch_values = []
        for values in recorded.values:
            batch_values.append(values[stored_places(len(values), largest)].astype(np.float32))
        selected.append(tuple(batch_values))
    return tuple(selected)


def _largest_share(sizes: Sequence[int], total: int) -> int:
    """Return the largest number, at least 1, to which `sizes` can be cut so that their sum is at most `total`."""
    low = 1
    high = max(sizes)
    while low < high:
        middle = (low + high + 1) // 2
        if sum(min(size, middle) for size in sizes) <= total:
            low = middle
        else:
            high = middle - 1
    return low
