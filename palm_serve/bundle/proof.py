"""Proof of a bundle (`proof.npz`): reference inputs, and what the trained model answered in fp32.

The file holds these arrays:

    info       uint8, JSON of `ProofInfo`: texts with the answers to them, batches and outputs
    lengths    int32, tokens of each row, batch by batch
    ids        int32, token ids of all rows, one row after the other
    types      int32, token types in the same order
    counts     int32 `[batches, outputs]`, number of logits that are stored of each
    values.N   float32, logits of output N, batch by batch

Of wide outputs a part of the logits is stored, at the places that `stored_places` returns.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from palm_serve.bundle.arrays import read_numbers
from palm_serve.bundle.golden import GoldenAnswer
from palm_serve.bundle.manifest import MAX_TOKENS, Manifest
from palm_serve.bundle.strict_json import parse_model
from palm_serve.types import FloatArray, InputTexts, Int64Array

MAX_PROOF_BYTES = 16 << 20
"""Limit of the arrays of a proof together."""
MAX_PROOF_CHARACTERS = 65_536
"""Limit of a text or pair in a proof."""
_MAX_EXAMPLES = 2_000
_MAX_BATCHES = 1_000
_MAX_ROWS = 4_096
_MAX_BATCH_TOKENS = 1 << 16
_MAX_TOTAL_TOKENS = 1 << 18
"""Tokens of all batches with their padding. They bound the work of a proof."""
_MAX_TYPE = 255
_FACTOR = 2_654_435_761
"""Factor of multiplicative hashing modulo 2**32 (Knuth). Its upper bits are mixed best."""

_Index = Annotated[int, Field(ge=0, lt=_MAX_EXAMPLES)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RecordedAnswer(_Strict):
    """Answer of a task, with its probabilities."""

    decision: GoldenAnswer
    """What every execution provider must answer."""
    confidences: dict[str, float] = {}
    """Probabilities by the label or span that they belong to."""
    out_of_scope: float | None = None
    """Out-of-scope score (classify)."""


class ProofExample(_Strict):
    """One input and the answers to it, by task."""

    text: Annotated[str, Field(max_length=MAX_PROOF_CHARACTERS)]
    pair: Annotated[str | None, Field(max_length=MAX_PROOF_CHARACTERS)] = None
    context: Annotated[str, Field(max_length=MAX_PROOF_CHARACTERS)] = ""
    answers: dict[str, RecordedAnswer]

    @property
    def inputs(self) -> InputTexts:
        """Texts of the example."""
        return InputTexts(self.text, self.pair, self.context)


class ProofBatch(_Strict):
    """One batch: rows of examples, or random ids where `examples` is empty."""

    rows: Annotated[int, Field(ge=1, le=_MAX_ROWS)]
    length: Annotated[int, Field(ge=1, le=MAX_TOKENS)]
    """Tokens of a row with its padding."""
    examples: tuple[_Index, ...] = ()
    tasks: tuple[str, ...] = ()
    """Tasks that answer the examples."""


class ProofOutput(_Strict):
    """One output of the graph."""

    name: str
    per_token: bool
    """True for `[rows, tokens, columns]`, False for `[rows, columns]`."""
    columns: Annotated[int, Field(ge=1, le=(1 << 31) - 1)]
    """Values of one row, or of one token."""


class ProofInfo(_Strict):
    """Contents of the array `info`."""

    format: Literal[1]
    tolerance: Annotated[float, Field(gt=0, le=0.01)]
    """Largest difference of a logit in fp32."""
    examples: Annotated[tuple[ProofExample, ...], Field(min_length=1, max_length=_MAX_EXAMPLES)]
    batches: Annotated[tuple[ProofBatch, ...], Field(min_length=1, max_length=_MAX_BATCHES)]
    outputs: Annotated[tuple[ProofOutput, ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class ProofRow:
    """Token ids and token types of one row."""

    ids: tuple[int, ...]
    types: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Proof:
    """Contents of `proof.npz`."""

    info: ProofInfo
    rows: tuple[tuple[ProofRow, ...], ...]
    """Rows of each batch."""
    values: tuple[tuple[FloatArray, ...], ...]
    """Stored logits of each batch, in the order of the outputs."""


def spread_order(size: int) -> list[int]:
    """Return the places 0 to `size` - 1 in an order of which every beginning is spread over all of them."""
    bits = max(1, (size - 1).bit_length())
    order = []
    for index in range(1 << bits):
        place = int(f"{index:0{bits}b}"[::-1], 2)
        if place < size:
            order.append(place)
    return order


def stored_places(size: int, count: int) -> Int64Array:
    """Return the places of `count` of `size` values: one of each of `count` equal ranges, the same on every machine."""
    if count >= size:
        return np.arange(size, dtype=np.int64)
    index = np.arange(count, dtype=np.int64)
    # Within its range the place varies, or a width of the ranges that fits that of the output would meet few columns.
    mixed = (index * _FACTOR & 0xFFFFFFFF) >> 16
    return index * size // max(1, count) + mixed % max(1, size // max(1, count))


def proof_bytes(proof: Proof) -> bytes:
    """Return the contents of `proof.npz`, the same bytes for the same proof."""
    rows: list[ProofRow] = []
    for batch_rows in proof.rows:
        rows += batch_rows
    counts = []
    for batch_values in proof.values:
        counts.append([len(values) for values in batch_values])
    arrays: dict[str, npt.NDArray[Any]] = {
        "info": np.frombuffer(proof.info.model_dump_json(exclude_defaults=True).encode(), dtype=np.uint8),
        "lengths": np.array([len(row.ids) for row in rows], dtype=np.int32),
        "ids": np.concatenate([np.array(row.ids, dtype=np.int32) for row in rows]),
        "types": np.concatenate([np.array(row.types, dtype=np.int32) for row in rows]),
        "counts": np.array(counts, dtype=np.int32),
    }
    for index in range(len(proof.info.outputs)):
        arrays[f"values.{index}"] = np.concatenate([batch_values[index] for batch_values in proof.values])
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    return stream.getvalue()


def read_proof(content: bytes, manifest: Manifest) -> Proof:
    """Return the proof of a bundle.

    Raises:
        ValueError: the file is damaged or too large, or does not fit the manifest. The message states the fault.
    """
    names = ["info", "lengths", "ids", "types", "counts"]
    for index in range(len(_graph_outputs(manifest))):
        names.append(f"values.{index}")
    arrays = read_numbers(content, names, MAX_PROOF_BYTES)
    for name in names:
        if name not in arrays:
            raise ValueError(f"it lacks the array '{name}'")
    _check_types(arrays)
    info = parse_model(ProofInfo, arrays["info"].tobytes().decode())
    _check_info(info, manifest)
    return Proof(info, _split_rows(info, arrays, manifest), _split_values(info, arrays))


def _graph_outputs(manifest: Manifest) -> list[str]:
    names: list[str] = []
    for task in manifest.tasks.values():
        names += task.outputs
    return names


def _check_types(arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    types = {"info": "uint8", "lengths": "int32", "ids": "int32", "types": "int32", "counts": "int32"}
    for name, array in arrays.items():
        expected = types.get(name, "float32")
        axes = 2 if name == "counts" else 1
        if array.dtype != expected or array.ndim != axes:
            raise ValueError(f"'{name}' must be {expected} with {axes} axes, got {array.dtype} with {array.ndim}")


def _check_info(info: ProofInfo, manifest: Manifest) -> None:
    names = [output.name for output in info.outputs]
    expected = _graph_outputs(manifest)
    if names != expected:
        raise ValueError(f"its outputs must be {', '.join(expected)}, got {', '.join(names)[:200]}")
    for example in info.examples:
        unknown = sorted(example.answers.keys() - manifest.tasks.keys())
        if unknown:
            raise ValueError(f"it holds an answer of the task '{unknown[0][:80]}', which the manifest lacks")
    total_tokens = 0
    for batch in info.batches:
        tokens = batch.rows * batch.length
        total_tokens += tokens
        if tokens > _MAX_BATCH_TOKENS or total_tokens > _MAX_TOTAL_TOKENS:
            raise ValueError(
                f"its batches must have at most {_MAX_TOTAL_TOKENS:,} tokens, and {_MAX_BATCH_TOKENS:,} each"
            )
        if batch.length > manifest.max_length:
            raise ValueError(f"a batch must have at most {manifest.max_length} tokens a row, got {batch.length}")
        _check_batch(info, batch, manifest)


def _check_batch(info: ProofInfo, batch: ProofBatch, manifest: Manifest) -> None:
    """Check that the examples of a batch have an answer of each of its tasks that reads them."""
    for task in batch.tasks:
        if task not in manifest.tasks:
            raise ValueError(f"a batch names the task '{task[:80]}', which the manifest lacks")
    if len(batch.examples) > batch.rows or bool(batch.examples) != bool(batch.tasks):
        raise ValueError("a batch of examples must have tasks, and a row for each example")
    for index in batch.examples:
        if index >= len(info.examples):
            raise ValueError(f"a batch names the example {index}, of {len(info.examples)}")
        example = info.examples[index]
        for task in batch.tasks:
            if manifest.tasks[task].pairs == (example.pair is not None) and task not in example.answers:
                raise ValueError(f"example {index} lacks the answer of the task '{task}'")


def _split_rows(
    info: ProofInfo, arrays: Mapping[str, npt.NDArray[Any]], manifest: Manifest
) -> tuple[tuple[ProofRow, ...], ...]:
    lengths = arrays["lengths"]
    ids = arrays["ids"]
    types = arrays["types"]
    if len(lengths) != sum(batch.rows for batch in info.batches):
        raise ValueError(f"its batches have {sum(batch.rows for batch in info.batches)} rows, 'lengths' {len(lengths)}")
    if lengths.min() < 1 or not int(lengths.sum(dtype=np.int64)) == len(ids) == len(types):
        raise ValueError("'lengths' must be at least 1, and their sum the size of 'ids' and 'types'")
    if ids.min() < 0 or ids.max() >= manifest.encoder.vocab_size:
        raise ValueError(f"'ids' must be from 0 to {manifest.encoder.vocab_size - 1}")
    if types.min() < 0 or types.max() > _MAX_TYPE:
        raise ValueError(f"'types' must be from 0 to {_MAX_TYPE}")
    bounds = [0, *np.cumsum(lengths, dtype=np.int64).tolist()]
    rows = []
    for start, end in pairwise(bounds):
        rows.append(ProofRow(tuple(ids[start:end].tolist()), tuple(types[start:end].tolist())))
    batches = []
    begin = 0
    for batch in info.batches:
        batch_rows = tuple(rows[begin : begin + batch.rows])
        begin += batch.rows
        if max(len(row.ids) for row in batch_rows) > batch.length:
            raise ValueError(f"a row must have at most the {batch.length} tokens of its batch")
        batches.append(batch_rows)
    return tuple(batches)


def _split_values(info: ProofInfo, arrays: Mapping[str, npt.NDArray[Any]]) -> tuple[tuple[FloatArray, ...], ...]:
    counts = arrays["counts"]
    if counts.shape != (len(info.batches), len(info.outputs)) or counts.min() < 0:
        raise ValueError(f"'counts' must be [{len(info.batches)}, {len(info.outputs)}] and at least 0")
    batches: list[list[FloatArray]] = [[] for _ in info.batches]
    for index in range(len(info.outputs)):
        values = arrays[f"values.{index}"]
        column = counts[:, index]
        if int(column.sum(dtype=np.int64)) != len(values) or not len(values):
            raise ValueError(
                f"'values.{index}' must hold the {column.sum(dtype=np.int64)} logits of 'counts', got {len(values)}"
            )
        for batch_values, stored in zip(batches, _cut(values, column.tolist()), strict=True):
            batch_values.append(stored)
    return tuple(tuple(batch_values) for batch_values in batches)


def _cut(values: FloatArray, sizes: Sequence[int]) -> list[FloatArray]:
    """Cut an array into parts of these sizes."""
    bounds = np.cumsum([0, *sizes])
    sections = []
    for start, end in pairwise(bounds.tolist()):
        sections.append(values[start:end])
    return sections
