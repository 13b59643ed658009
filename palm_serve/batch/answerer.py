"""Answers to batches of columns, for engines that call a function with each batch: Ray Data, Spark, Dask and others.

    from palm_serve.batch import Answerer

    answerer = Answerer("bundles/demo", keep=["id"])
    answers = answerer(pyarrow.table({"id": [1, 2], "text": ["wake me at seven", None]}))

The answers are those of `palm_serve.Model`, as columns.
"""

import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import pyarrow as pa

from palm_serve.batch.answer_columns import ERROR, VERSION, AnswerColumn, Response, answer_columns
from palm_serve.bundle.manifest import Manifest
from palm_serve.errors import BatchError, PalmServeError
from palm_serve.model import Model, OpenOptions

_OPEN_MODELS: dict[Any, Model] = {}
"""Models of this process, by their bundle and options. Engines make a new copy of a function for each batch."""
_OPEN_LOCK = threading.Lock()


class Answerer:
    """Answers the texts of a column with one bundle. It can be pickled; each process opens the bundle once, at its first batch.

    A batch is a `pyarrow.Table`, a `pyarrow.RecordBatch` or a dict of columns, and the answer is of the same class: the
    kept columns, then those of the tasks, `error` and `version`. A row that cannot be answered has the reason in `error`.

    Args:
        bundle: directory of the bundle. DIR@sha256:DIGEST also checks its digest.
        text_column: column of the texts.
        pair_column: column of the second texts or passages, for tasks that read pairs. None: there is none.
        tasks: tasks to answer. Empty: all that the columns allow.
        keep: columns of the batch to keep. None: all.
        **options: options of `palm_serve.Model.open`.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str],
        *,
        text_column: str = "text",
        pair_column: str | None = None,
        tasks: Sequence[str] = (),
        keep: Sequence[str] | None = None,
        **options: Unpack[OpenOptions],
    ) -> None:
        self._bundle = os.fspath(bundle)
        self._text_column = text_column
        self._pair_column = pair_column
        self._asked_tasks = tuple(tasks)
        self._keep = None if keep is None else tuple(keep)
        self._options = options

    @property
    def model(self) -> Model:
        """The open model of this process.

        Raises:
            ConfigError: an option is not valid.
            BundleError: the bundle must not be used.
            EngineError: no engine can run the bundle.
        """
        with _OPEN_LOCK:
            if self._key not in _OPEN_MODELS:
                _OPEN_MODELS[self._key] = Model.open(self._bundle, **self._options)
            return _OPEN_MODELS[self._key]

    @property
    def _key(self) -> Any:
        """Key of the model in this process. A model does not survive a fork: the threads of its engine are gone."""
        return os.getpid(), self._bundle, tuple(sorted(self._options.items()))

    def close(self) -> None:
        """Close the model of this process. The next batch opens it again."""
        with _OPEN_LOCK:
            model = _OPEN_MODELS.pop(self._key, None)
        if model is not None:
            model.close()

    def __call__(self, batch: Any) -> Any:
        """Answer a batch.

        Args:
            batch: table, record batch or dict of columns. The columns of texts are strings.

        Returns:
            The answers, in the class of the batch. The columns of a dict are numpy arrays.

        Raises:
            BatchError: a column is missing or of a wrong type, or has the name of a column of answers.
            BundleError: the bundle must not be used.
            EngineError: the engine failed.
        """
        if isinstance(batch, pa.Table):
            return self.answer(batch)
        if isinstance(batch, pa.RecordBatch):
            answers = self.answer(pa.Table.from_batches([batch]))
            (record_batch,) = answers.combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], answers.schema)]
            return record_batch
        answers = self.answer(pa.table(dict(batch)))
        return {name: answers.column(name).to_numpy() for name in answers.column_names}

    def schema(self, batch_schema: pa.Schema) -> pa.Schema:
        """Return the schema of the answers to batches of a schema.

        Args:
            batch_schema: schema of the batches.

        Raises:
            BatchError: as for a call.
        """
        return output_schema(
            batch_schema, self.model.manifest, self._text_column, self._pair_column, self._asked_tasks, self._keep
        )

    def answer(self, table: pa.Table, faults: Mapping[int, str] | None = None) -> pa.Table:
        """Answer the rows of a table.

        Args:
            table: the rows.
            faults: reasons why rows cannot be answered, by position. They are not asked.

        Raises:
            BatchError: as for a call.
        """
        model = self.model
        schema = self.schema(table.schema)
        columns = _task_columns(model.manifest, self._asked_tasks, self._pair_column)
        errors = dict(faults or {})
        texts = _texts(table.column(self._text_column), "text", errors)
        pairs = [] if self._pair_column is None else _texts(table.column(self._pair_column), "text_pair", errors)
        responses = _ask(model, list(dict.fromkeys(column.task for column in columns)), texts, pairs, errors)
        kept_count = len(schema) - len(columns) - 2
        arrays = [table.column(name) for name in schema.names[:kept_count]]
        for column in columns:
            values: list[Any] = [None] * len(texts)
            for position, response in responses[column.task].items():
                values[position] = column.read(response)
            arrays.append(pa.array(values, column.type))
        arrays.append(pa.array(map(errors.get, range(len(texts))), pa.string()))
        arrays.append(pa.array([model.version] * len(texts), pa.string()))
        return pa.table(arrays, schema=schema)


def output_schema(
    batch_schema: pa.Schema,
    manifest: Manifest,
    text_column: str,
    pair_column: str | None,
    tasks: Sequence[str],
    keep: Sequence[str] | None,
) -> pa.Schema:
    """Return the schema of the answers.

    Args:
        batch_schema: schema of the rows.
        manifest: manifest of the bundle.
        text_column: column of the texts.
        pair_column: column of the second texts. None: there is none.
        tasks: tasks to answer. Empty: all that the columns allow.
        keep: columns to keep. None: all.

    Raises:
        BatchError: a column is missing or of a wrong type, or has the name of a column of answers.
    """
    for name in (text_column, *([] if pair_column is None else [pair_column])):
        _check_text_type(_field(batch_schema, name))
    kept_fields = [_field(batch_schema, name) for name in (batch_schema.names if keep is None else keep)]
    answers = [(column.name, column.type) for column in _task_columns(manifest, tasks, pair_column)]
    answers += [(ERROR, pa.string()), (VERSION, pa.string())]
    for name, _ in answers:
        if name in [field.name for field in kept_fields]:
            raise BatchError(
                f"columns to keep must not have the name of a column of answers, got '{name}'. Name the others with --keep."
            )
    return pa.schema([*kept_fields, *answers])


def _task_columns(manifest: Manifest, tasks: Sequence[str], pair_column: str | None) -> list[AnswerColumn]:
    for name in tasks:
        if name not in manifest.tasks:
            raise BatchError(f"tasks must be some of {', '.join(manifest.tasks)}, got '{name}'. Correct the name.")
        if manifest.tasks[name].pairs and pair_column is None:
            raise BatchError(f"task '{name}' reads pairs of texts. Name the column of the second ones: --pair-column.")
    names = list(dict.fromkeys(tasks))
    if not names:
        names = [name for name, task in manifest.tasks.items() if pair_column is not None or not task.pairs]
    if not names:
        raise BatchError(
            f"the tasks of model '{manifest.name}' read pairs of texts. Name the column of the second ones: --pair-column."
        )
    return answer_columns(manifest, names)


def _ask(
    model: Model, tasks: Sequence[str], texts: Sequence[str], pairs: Sequence[str], errors: dict[int, str]
) -> dict[str, dict[int, Response]]:
    """Return the responses by task and position. Rows that cannot be answered get their error."""
    positions = [position for position in range(len(texts)) if position not in errors]
    asked_texts = [texts[position] for position in positions]
    single = [name for name in tasks if not model.manifest.tasks[name].pairs]
    by_task: dict[str, dict[int, Response]] = {}
    if single:
        parsed = _collect(positions, model.parse_many(asked_texts, tasks=single, top_k=1), errors)
        by_task.update(dict.fromkeys(single, parsed))
    for name in tasks:
        if name not in by_task:
            asked_pairs = [pairs[position] for position in positions]
            by_task[name] = _collect(positions, model.predict_many(name, asked_texts, asked_pairs, top_k=1), errors)
    return by_task


def _collect(
    positions: Sequence[int], outcomes: Sequence[Response | PalmServeError], errors: dict[int, str]
) -> dict[int, Response]:
    responses = {}
    for position, outcome in zip(positions, outcomes, strict=True):
        if isinstance(outcome, PalmServeError):
            errors.setdefault(position, str(outcome))
        else:
            responses[position] = outcome
    return responses


def _field(schema: pa.Schema, name: str) -> pa.Field:
    positions = schema.get_all_field_indices(name)
    if len(positions) != 1:
        present = f"{len(positions)} of them" if positions else f"the columns {', '.join(schema.names) or 'none'}"
        raise BatchError(
            f"the input must have one column '{name}', got {present}. Name its columns: --text-column, --keep."
        )
    return schema.field(positions[0])


def _value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _check_text_type(field: pa.Field) -> None:
    kind = _value_type(field.type)
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if not is_text and not pa.types.is_null(kind):
        raise BatchError(
            f"column '{field.name}' must hold strings, got {field.type}. Name another: --text-column, --pair-column."
        )


def _texts(column: pa.ChunkedArray, field: str, errors: dict[int, str]) -> list[str]:
    """Return the texts of a column. Rows whose text is null or is not UTF-8, which Arrow does not check, get an error."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_null(column.type) or pa.types.is_string_view(column.type):
        column = column.cast(pa.large_string())
    content = column.cast(pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary())
    texts = []
    for position, value in enumerate(content.to_pylist()):
        text = ""
        if value is None:
            errors.setdefault(position, f"{field} must not be null. Send some text.")
        else:
            try:
                text = value.decode()
            except UnicodeDecodeError as error:
                fault = f"{field} must be UTF-8, got another encoding at byte {error.start}. Encode texts as UTF-8."
                errors.setdefault(position, fault)
        texts.append(text)
    return texts
