"""Comparison of an engine with the proof of its bundle, by the rules of the export."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from palm_serve.bundle.loader import PROOF, Bundle
from palm_serve.bundle.proof import Proof, ProofBatch, ProofOutput, ProofRow, stored_places
from palm_serve.decoding import Item, check_outputs
from palm_serve.errors import BundleError, one_line
from palm_serve.proof.comparison import (
    METRIC_DROP,
    LogitDifference,
    ParityResult,
    compare_answers,
    compare_single,
    readable_values,
    run_batch,
)
from palm_serve.proof.predictor import EnginePredictor, Outputs
from palm_serve.system.plain_text import plain
from palm_serve.tokenization.trial import open_tokenizer
from palm_serve.types import Encoding, Engine, FloatArray, TaskAnswer

_SINGLE_EXAMPLES = 64
"""Largest number of examples that are also run one by one."""
_PADDING_STEP, _PADDINGS = 7, 25
"""Single example N has N * 7 modulo 25 tokens of padding."""
_ROUNDING = 1e-9
"""Tolerance of a share of examples, which is a quotient of whole numbers."""


@dataclass(frozen=True)
class _Batch:
    """A batch that is ready to run."""

    batch: ProofBatch
    rows: tuple[Encoding, ...]
    names: tuple[str, ...]
    """Description of each row, for messages."""
    items: tuple[Item, ...]
    """Inputs of the decoders. Empty for random ids."""
    values: tuple[FloatArray, ...]


class Prover:
    """Compares engines with the proof of a bundle.

    Args:
        bundle: a bundle with a proof.

    Raises:
        BundleError: its tokenizer cannot be used, or gives other tokens than at the export.
    """

    def __init__(self, bundle: Bundle) -> None:
        assert bundle.proof is not None
        manifest = bundle.manifest
        try:
            self._tokenizer = open_tokenizer(bundle.tokenizer_json, manifest.max_length)
        except ValueError as error:
            raise BundleError(f"{bundle.path}/tokenizer.json cannot be used: {error}; export again") from None
        self._bundle = bundle
        self._proof: Proof = bundle.proof
        info = self._proof.info
        self._token_outputs = [output.name for output in info.outputs if output.per_token]
        self._batches = tuple(map(self._prepare, info.batches, self._proof.rows, self._proof.values))
        self.shapes = sum(not batch.examples for batch in info.batches)
        """Number of random shapes."""

    def compare(self, engine: Engine) -> ParityResult:
        """Compare an engine with the answers of the trained model."""
        predictor = EnginePredictor.from_bundle(self._bundle, engine, self._tokenizer, self._token_outputs)
        result = ParityResult(predictor, logit_limit=self._proof.info.tolerance)
        for batch in self._batches:
            outputs = run_batch(result, batch.rows, self._output_names, batch.names, batch.batch.length)
            if outputs is None or not self._compare_outputs(result, batch, outputs):
                return result
            try:
                self._compare_answers(result, batch, outputs)
            except Exception as error:  # of a decoder that cannot read such outputs
                detail = f"its outputs cannot be decoded: {type(error).__name__}: {one_line(error)}"
                result.worst = LogitDifference(math.inf, self._output_names[0], batch.names[0], detail)
                return result
        self._compare_singles(result)
        return result

    @property
    def examples(self) -> int:
        """Number of examples."""
        return len(self._proof.info.examples)

    @property
    def _output_names(self) -> list[str]:
        return [output.name for output in self._proof.info.outputs]

    def _prepare(self, batch: ProofBatch, rows: Sequence[ProofRow], values: tuple[FloatArray, ...]) -> _Batch:
        """Tokenize the examples of a batch. Rows of random ids are taken as they are."""
        if not batch.examples:
            encodings = []
            for row in rows:
                size = len(row.ids)
                encodings.append(Encoding(row.ids, row.types, [(0, 0)] * size, [0] * size))
            name = f"random ids in shape [{batch.rows}, {batch.length}]"
            return _Batch(batch, tuple(encodings), (name,) * batch.rows, (), values)
        examples = [self._proof.info.examples[index] for index in batch.examples]
        inputs = [example.inputs for example in examples]
        items: list[Item] = []
        names: list[str] = []
        tokens: list[Encoding] = []
        layout = self._bundle.manifest.tasks[batch.tasks[0]].layout
        for example, encoded in zip(examples, self._tokenizer.encode_rows(inputs, layout), strict=True):
            items.append(Item(example.text, encoded[0], example.pair, more=tuple(encoded[1:])))
            names += [_quote(example.text, example.pair)] * len(encoded)
            tokens += encoded
        self._check_tokens(rows, tokens, names)
        return _Batch(batch, tuple(tokens), tuple(names), tuple(items), values)

    def _check_tokens(self, rows: Sequence[ProofRow], encodings: Sequence[Encoding], names: Sequence[str]) -> None:
        if len(rows) != len(encodings):
            raise BundleError(
                f"{self._bundle.path}/{PROOF} must have {len(encodings)} rows for the examples of a batch, got {len(rows)}. "
                "Export again."
            )
        for row, encoding, name in zip(rows, encodings, names, strict=True):
            if row.ids != tuple(encoding.input_ids) or row.types != tuple(encoding.type_ids):
                raise BundleError(
                    f"{self._bundle.path}/tokenizer.json must give the tokens of the export, got others for {name}. "
                    "Install the version of `tokenizers` that the export had, or export again."
                )

    def _compare_outputs(self, result: ParityResult, batch: _Batch, outputs: Outputs) -> bool:
        """Note the largest differences. Return False if the outputs cannot be decoded: another shape, or not finite."""
        for output, expected in zip(self._proof.info.outputs, batch.values, strict=True):
            fault = _shape_fault(output, batch.batch, outputs[output.name])
            if fault:
                result.worst = LogitDifference(math.inf, output.name, batch.names[0], fault)
                return False
            _compare_values(result, output, expected, outputs[output.name], batch)
        if result.worst is not None and not math.isfinite(result.worst.size):
            return False
        try:
            for task in batch.batch.tasks:
                check_outputs(task, self._bundle.manifest.tasks[task], outputs, batch.batch.rows)
        except Exception as error:  # EngineError, or KeyError for an output that is not there
            result.worst = LogitDifference(math.inf, self._output_names[0], batch.names[0], one_line(error))
            return False
        return True

    def _compare_answers(self, result: ParityResult, batch: _Batch, outputs: Outputs) -> None:
        if not batch.items:
            return
        answers = result.predictor.decode(outputs, batch.items, batch.batch.tasks)
        for index, item, example_answers in zip(batch.batch.examples, batch.items, answers, strict=True):
            expected = self._proof.info.examples[index].answers
            compare_answers(result, index, _quote(item.text, item.pair), expected, example_answers)

    def _compare_singles(self, result: ParityResult) -> None:
        """Compare the answers to some examples alone, with padding, with those in a batch."""
        step = max(1, -(-self.examples // _SINGLE_EXAMPLES))
        for batch in self._batches:
            for index, item in zip(batch.batch.examples, batch.items, strict=False):
                if index % step == 0 and not self._compare_single(result, index, item, batch.batch.tasks):
                    return

    def _compare_single(self, result: ParityResult, index: int, item: Item, tasks: tuple[str, ...]) -> bool:
        """Compare one example. Return False if it cannot be run."""
        name = _quote(item.text, item.pair)
        longest = max(map(len, item.rows))
        length = min(longest + index * _PADDING_STEP % _PADDINGS, self._tokenizer.max_length)
        outputs = run_batch(result, item.rows, self._output_names, [name], length)
        if outputs is None:
            return False
        answers: Mapping[str, TaskAnswer] = result.predictor.decode(outputs, [item], tasks)[0]
        for task, answer in answers.items():
            compare_single(result, task, result.answers[index][task], answer, name)
        return True


def check_proof(result: ParityResult, examples: int) -> str | None:
    """Return why a result breaks the rules of the export, or None if it does not.

    Args:
        result: result of `Prover.compare`.
        examples: number of examples of the proof.
    """
    if not result.compared and result.worst is not None and math.isfinite(result.worst.size):
        return "no answer was compared"
    if result.is_exact:
        return result.check_exact()
    reason = result.check_reduced()
    if reason is None and len(result.unequal_examples) / examples > METRIC_DROP + _ROUNDING:
        # The labels of dev do not travel. Where every changed answer counts as lost, no metric falls by more than this.
        permitted = int(METRIC_DROP * examples + _ROUNDING)
        reason = (
            f"the answers to {len(result.unequal_examples)} of {examples} examples differ, and at most {permitted} may, so that "
            f"no metric falls by more than {100 * METRIC_DROP:.1f} points; first: {result.unequal[0]}"
        )
    return reason


def _quote(text: str, pair: str | None) -> str:
    return f"'{plain(text)}'" if pair is None else f"'{plain(text)}' with '{plain(pair)}'"


def _shape_fault(output: ProofOutput, batch: ProofBatch, values: FloatArray) -> str:
    """Return what is wrong with the shape of an output. Empty: nothing."""
    units = (batch.rows, batch.length) if output.per_token else (batch.rows,)
    if values.shape[: len(units)] == units and values.size == math.prod(units) * output.columns:
        return ""
    return f"PyTorch gives {math.prod(units) * output.columns} values, the bundle the shape {list(values.shape)}"


def _compare_values(
    result: ParityResult, output: ProofOutput, expected: FloatArray, values: FloatArray, batch: _Batch
) -> None:
    """Note the largest difference of the stored logits, and any value that is not finite."""
    lengths = [len(row) for row in batch.rows]
    readable = readable_values(values, lengths, output.per_token)
    not_finite = np.flatnonzero(~np.isfinite(readable))
    if len(not_finite):
        place = int(not_finite[0])
        detail = f"the bundle gives {readable[place]}"
        result.worst = LogitDifference(math.inf, output.name, _row_name(output, batch, lengths, place), detail)
        return
    if len(expected) > len(readable):
        detail = f"PyTorch gives at least {len(expected)} values, the bundle {len(readable)}"
        result.worst = LogitDifference(math.inf, output.name, batch.names[0], detail)
        return
    if not len(expected):
        return
    places = stored_places(len(readable), len(expected))
    gaps = np.abs(expected - readable[places])
    position = int(gaps.argmax())
    if result.worst is None or gaps[position] > result.worst.size:
        place = int(places[position])
        detail = (
            f"at value {place % output.columns} PyTorch gives {expected[position]:.6f}, "
            f"the bundle {readable[place]:.6f}"
        )
        name = _row_name(output, batch, lengths, place)
        result.worst = LogitDifference(float(gaps[position]), output.name, name, detail)


def _row_name(output: ProofOutput, batch: _Batch, lengths: Sequence[int], place: int) -> str:
    """Return the name of the row that a readable value belongs to."""
    unit = place // output.columns
    row = int(np.searchsorted(np.cumsum(lengths), unit, side="right")) if output.per_token else unit
    return batch.names[row]
