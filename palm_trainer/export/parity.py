"""Parity check: a bundle on a provider must give the answers of the trained model.

It is measured over all dev examples and over random shapes, by the rules of `palm_serve.proof.comparison`. The bundle
under test is read back from its files, with the engine, tokenization and decoding of the server.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from palm_serve.proof.comparison import (
    ParityResult,
    compare_answers,
    compare_outputs,
    compare_single,
    record_answer,
    run_batch,
)
from palm_serve.proof.predictor import EnginePredictor, Outputs
from palm_trainer.data.example import Example
from palm_trainer.export.reference import Reference, ReferenceBatch, ShapeBatch, collect_rows, quote_item

SHAPES = 200
_SINGLE_EXAMPLES = 200
"""Largest number of examples that are also run one by one."""
_MAX_PADDING = 24
"""Largest number of padding tokens of a single example."""


def compare_examples(
    reference: Reference, predictors: Sequence[EnginePredictor], stop_early: bool = False
) -> list[ParityResult]:
    """Compare predictors with the trained model on all examples of the reference.

    Args:
        reference: the trained model with its answers.
        predictors: the predictors.
        stop_early: compare a predictor only until it has failed. Its answers are incomplete then.
    """
    results = [ParityResult(predictor) for predictor in predictors]
    answer_count = reference.answer_count
    for batch in reference.batches:
        expected_outputs = None
        for result in results:
            if stop_early and result.has_failed(answer_count):
                continue
            if expected_outputs is None:
                expected_outputs = reference.outputs(batch)
            _compare_batch(result, reference, batch, expected_outputs)
    return results


def compare_shapes(batches: Iterable[ShapeBatch], results: Sequence[ParityResult]) -> None:
    """Compare logits on random ids.

    Args:
        batches: the ids with the outputs of the trained model.
        results: results of the predictors to compare, which are updated.
    """
    for batch in batches:
        names = batch.row_names
        for result in results:
            outputs = run_batch(result, batch.rows, tuple(batch.outputs), names, batch.length)
            if outputs is not None:
                compare_outputs(result, batch.outputs, outputs, batch.rows, names)


def compare_singles(result: ParityResult, examples: Sequence[Example], seed: int = 0) -> None:
    """Compare a predictor's answers to single examples, with random padding, with its answers in a batch.

    Args:
        result: result of `compare_examples`, which is updated.
        examples: the examples.
        seed: seed of the padding.
    """
    generator = np.random.default_rng(seed)
    predictor = result.predictor
    step = max(1, -(-len(examples) // _SINGLE_EXAMPLES))
    for layout, tasks in predictor.tasks_by_layout().items():
        pairs = predictor.pair_values(tasks)
        for index in range(0, len(examples), step):
            example = examples[index]
            batch_answers = result.answers.get(index, {})
            if (example.pair is not None) not in pairs or tasks[0] not in batch_answers:
                continue
            [item] = predictor.tokenize([example], layout)
            padding = int(generator.integers(0, _MAX_PADDING + 1))
            length = min(max(map(len, item.rows)) + padding, predictor.tokenizer.max_length)
            [single_answers] = predictor.decode(predictor.run(item.rows, length), [item], tasks)
            for task, answer in single_answers.items():
                compare_single(result, task, batch_answers[task], answer, quote_item(item))


def _compare_batch(
    result: ParityResult, reference: Reference, batch: ReferenceBatch, expected_outputs: Outputs
) -> None:
    predictor = result.predictor
    items = predictor.tokenize(batch.examples, batch.layout)
    outputs = run_batch(result, collect_rows(items), tuple(expected_outputs), batch.row_names)
    if outputs is None:
        return
    compare_outputs(result, expected_outputs, outputs, batch.rows, batch.row_names)
    if any(values.shape != outputs[name].shape for name, values in expected_outputs.items()):
        return  # Outputs of another shape cannot be decoded, and the result has failed already.
    answers = predictor.decode(outputs, items, batch.tasks)
    for index, item, example_answers in zip(batch.indices, items, answers, strict=True):
        expected_answers = {}
        for task in example_answers:
            expected_answers[task] = record_answer(reference.answers[index][task], predictor.tasks[task])
        compare_answers(result, index, quote_item(item), expected_answers, example_answers)
