"""One run of `palm-serve batch`: plan the parts, answer those that are missing, tell when all are there."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from palm_serve.batch.answerer import Answerer, output_schema
from palm_serve.batch.files import absolute, locked, remove_unfinished, shown
from palm_serve.batch.line_parts import plan_lines, read_lines
from palm_serve.batch.output_folder import (
    WrittenPart,
    check_facts,
    check_present,
    facts_of,
    remove_success,
    write_part,
    write_success,
    written_parts,
)
from palm_serve.batch.parquet_parts import plan_parquet, read_parquet
from palm_serve.batch.parts import InputFile, Part, find_files
from palm_serve.batch.progress import Progress
from palm_serve.batch.workers import Crew, LocalCrew
from palm_serve.bundle.loader import Bundle
from palm_serve.bundle.manifest import Manifest
from palm_serve.config import Limits
from palm_serve.errors import BatchError, ConfigError, EngineError
from palm_serve.model import Model, OpenOptions
from palm_serve.proof.selection import EngineRequest
from palm_serve.registry.bundle_opener import LoadRules
from palm_serve.registry.local_bundle import local_bundle
from palm_serve.storage.urls import as_url
from palm_serve.system.installation import how_to_install

_FORMAT = 1
"""Version of the parts. Those of another version are not taken for answers of this one."""
_AUTO = "auto"
_DIGEST = "@sha256:"
"""What stands between the directory of a bundle and its digest. With it, no process opens another bundle."""

Facts = dict[str, Any]


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """What is asked of which columns."""

    text_column: str = "text"
    pair_column: str | None = None
    tasks: tuple[str, ...] = ()
    """Tasks to answer. Empty: all that the columns allow."""
    keep: tuple[str, ...] | None = None
    """Columns to keep. None: all."""

    @property
    def texts(self) -> list[str]:
        """Names of the columns of texts."""
        return [self.text_column, *([] if self.pair_column is None else [self.pair_column])]


@dataclass(frozen=True, slots=True)
class RayCluster:
    """A cluster of Ray, by the address of its head. None: the one that this machine belongs to."""

    address: str | None = None


@dataclass(frozen=True, slots=True)
class PartAnswers:
    """Answers and writes parts, in any process."""

    answerer: Answerer
    texts: Sequence[str]
    output: Path
    run_facts: Mapping[str, Any]
    """What the answers of all parts depend on."""

    def __call__(self, input_part: Part) -> WrittenPart:
        """Answer one part.

        Raises:
            BatchError: its file cannot be read, or was changed.
            EngineError: the engine failed, or is another than that of the other parts.
            OSError: the answers cannot be written.
        """
        rows = read_parquet(input_part) if input_part.file.format == "parquet" else read_lines(input_part, self.texts)
        answers = self.answerer.answer(rows.table, rows.faults)
        engine = _engine_facts(self.answerer.model)
        if engine != self.run_facts["engine"]:
            raise EngineError(
                f"all parts must be answered by the engine {self.run_facts['engine']}, which failed here; {engine} took its place. "
                "The log says why."
            )
        return write_part(self.output, input_part, answers, facts_of(input_part, self.run_facts))


def run_batch(
    bundle: str,
    inputs: Sequence[Path],
    output: Path,
    options: BatchOptions,
    open_options: OpenOptions,
    *,
    limit: int | None = None,
    workers: int | None = None,
    cluster: RayCluster | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Answer the rows of files with a bundle, part by part. Parts that an earlier run has written are not answered again.

    Args:
        bundle: directory or URL of the bundle.
        inputs: files and folders, or URLs of them.
        output: folder of the answers, or its URL.
        options: what is asked of which columns.
        open_options: options of the engine.
        limit: largest number of rows. None: all rows.
        workers: number of processes. None: this process answers, or as many actors as the cluster has free CPUs for.
        cluster: where parts are answered. None: on this machine.
        report: called when a part has been written.

    Raises:
        BatchError: the inputs or the output cannot be used, or the cluster has no free CPU.
        ConfigError: there is no such cluster.
        BundleError: the bundle must not be used.
        EngineError: the engine failed.
        PalmServeError: a part has ended several processes.
        OSError: a file cannot be read or written.
    """
    output = absolute(output)  # processes of a cluster have other working directories
    bundle = as_url(bundle) or str(Path(bundle).absolute())
    files = find_files([absolute(place) for place in inputs], output)
    manifest = _load(bundle, open_options).manifest
    with locked(output):
        input_parts = _plan(files, options, limit)
        facts = _facts(manifest, input_parts[0], options, open_options)
        remove_unfinished(output)
        written = written_parts(output, input_parts)
        _check(output, input_parts, written, facts)
        facts["engine"] = _engine_to_use(output, written.values(), open_options)
        _check(output, input_parts, written, facts)
        progress = Progress(sum(input_part.rows for input_part in input_parts), len(input_parts))
        for earlier in written.values():
            progress.add(earlier, earlier=True)
        missing = [input_part for input_part in input_parts if input_part.name not in written]
        if missing:
            remove_success(output)
            pinned = bundle if _DIGEST in bundle else f"{bundle}{_DIGEST}{manifest.version}"
            with _crew(cluster, output, open_options.get("threads"), workers) as crew:
                answers = _answer(pinned, options, open_options, output, facts, missing, crew)
                written |= _collect(answers, progress, report)
            remove_unfinished(output)
            check_present(output, missing)
        write_success(output, facts, [written[input_part.name] for input_part in input_parts])
        return progress


def _collect(
    answers: Iterable[WrittenPart], progress: Progress, report: Callable[[Progress], None]
) -> dict[str, WrittenPart]:
    """Wait for all parts, and return them by name."""
    written = {}
    progress.began = time.monotonic()
    for answered in answers:
        written[answered.name] = answered
        progress.add(answered)
        report(progress)
    return written


def _load(bundle: str, open_options: OpenOptions) -> Bundle:
    """Return the bundle, which is fetched if it has a URL. Raises BundleError or StorageError."""
    rules = LoadRules(open_options.get("trust"), open_options.get("allow_unproven", False))
    request = EngineRequest(
        open_options.get("provider", _AUTO),
        open_options.get("precision", _AUTO),
        variant=open_options.get("variant", _AUTO),
    )
    return rules.load(local_bundle(Path(bundle), request, cache=open_options.get("cache_dir"), trust=rules.trust))


def _plan(files: Sequence[InputFile], options: BatchOptions, limit: int | None) -> list[Part]:
    names = None if options.keep is None else list(dict.fromkeys([*options.texts, *options.keep]))
    is_parquet = files[0].format == "parquet"
    input_parts = plan_parquet(files, names, limit) if is_parquet else plan_lines(files, names, options.texts, limit)
    if not input_parts:
        raise BatchError(
            f"the input must have at least one row, got none in {shown(files[0].path)}. Give another file."
        )
    return input_parts


def _facts(manifest: Manifest, first: Part, options: BatchOptions, open_options: OpenOptions) -> Facts:
    """Return what the answers of all parts depend on, but for the engine. Raises BatchError."""
    schema = output_schema(
        first.schema, manifest, options.text_column, options.pair_column, options.tasks, options.keep
    )
    facts = {
        "format": _FORMAT,
        "bundle": f"{manifest.name}@sha256:{manifest.version}",
        "options": {**asdict(options), "max_text_bytes": open_options.get("max_text_bytes", Limits().text_bytes)},
        "columns": [f"{column.name}: {column.type}" for column in schema],
    }
    # As they are read from a part: JSON has no tuples.
    as_read: Facts = json.loads(json.dumps(facts))
    return as_read


def _check(output: Path, input_parts: Iterable[Part], written: Mapping[str, WrittenPart], facts: Facts) -> None:
    for input_part in input_parts:
        if input_part.name in written:
            check_facts(output, written[input_part.name], facts_of(input_part, facts))


def _engine_to_use(output: Path, written: Iterable[WrittenPart], open_options: OpenOptions) -> Facts:
    """Return the engine of the parts that exist, or that of the options. Raises BatchError if they differ."""
    requested: Facts = {
        "provider": open_options.get("provider", _AUTO),
        "precision": open_options.get("precision", _AUTO),
        "variant": open_options.get("variant", _AUTO),
    }
    for earlier in written:
        engine = earlier.facts["engine"]
        for key, value in requested.items():
            if value != _AUTO and engine[key] not in value.split(","):
                raise BatchError(
                    f"{shown(output / earlier.name)} must be answered with --{key} {value}, got {engine[key]}. Choose another output."
                )
        return dict(engine)
    return requested


def _engine_facts(model: Model) -> Facts:
    info = model.info
    return {"provider": info.provider, "precision": info.precision, "variant": info.variant}


@contextmanager
def _crew(cluster: RayCluster | None, output: Path, threads: int | None, workers: int | None) -> Iterator[Crew]:
    """Yield those who answer the parts.

    Args:
        cluster: where they are. None: on this machine.
        output: folder of the answers.
        threads: threads of each. None: one in a cluster, else all cores together.
        workers: their number. None: one, or as many as the cluster has free CPUs for.

    Raises:
        ConfigError: Ray is not installed, or there is no such cluster.
        BatchError: the cluster has no free CPU, or another run writes to the output.
    """
    if cluster is None:
        yield LocalCrew(workers or 1, threads)
        return
    try:
        from palm_serve.batch.ray_workers import ray_crew
    except ImportError as error:
        raise ConfigError(
            f"--engine ray needs {error.name}, which is not installed. To install it, {how_to_install('ray')}"
        ) from None
    with ray_crew(cluster.address, output, threads or 1, workers) as crew:
        yield crew


def _answer(
    bundle: str,
    options: BatchOptions,
    open_options: OpenOptions,
    output: Path,
    facts: Facts,
    missing: Sequence[Part],
    crew: Crew,
) -> Iterable[WrittenPart]:
    """Open the bundle and yield the parts as they are written. Sets the engine of `facts`.

    Raises:
        BatchError: the engine of the parts that exist cannot be had.
    """
    requested = facts["engine"]
    answerer = _answerer(bundle, options, open_options, requested, crew.threads)
    facts["engine"] = crew.choose_engine(partial(_choose_engine, answerer, keep_open=crew.is_this_process))
    if _AUTO not in requested.values() and facts["engine"] != requested:
        raise BatchError(
            f"the parts in {shown(output)} have answers of the engine {requested}, which does not run here now, got {facts['engine']}. "
            "Choose another output."
        )
    if not crew.is_this_process:
        answerer = _answerer(bundle, options, open_options, facts["engine"], crew.threads)
    return crew.answer_parts(PartAnswers(answerer, options.texts, output, facts), missing)


def _choose_engine(answerer: Answerer, *, keep_open: bool) -> Facts:
    """Open the bundle, and return the engine that its options choose."""
    engine = _engine_facts(answerer.model)
    if not keep_open:
        answerer.close()
    return engine


def _answerer(
    bundle: str, options: BatchOptions, open_options: OpenOptions, engine: Facts, threads: int | None
) -> Answerer:
    engine_options = open_options.copy()
    engine_options.update(
        {
            "provider": engine["provider"],
            "precision": engine["precision"],
            "variant": engine["variant"],
            "threads": threads,
        }
    )
    return Answerer(
        bundle,
        text_column=options.text_column,
        pair_column=options.pair_column,
        tasks=options.tasks,
        keep=options.keep,
        **engine_options,
    )
