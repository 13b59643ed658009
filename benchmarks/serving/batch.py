"""How fast `palm-serve batch` answers a file, beside a bare loop over the same texts.

    python benchmarks/serving/batch.py BUNDLE [--rounds 3] [--rows 2048] [--provider CPU] [--json FILE]

The loop is that of loop.py: it knows all texts beforehand and does nothing but tokenize, run length-sorted batches and decode. The batch reads
the texts from Parquet, answers them as `palm-serve batch` does with one process, and writes and synchronizes the parts. Both run in this process
on the engine that the batch chose, in turns; what is opened once is not measured. A ratio is the loop's time divided by the batch's in one round:
of the clock, and of the processor, which other programs disturb less. Declared before the first run: the goal is 0.95 of the clock.
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from processes import chosen_texts, finish, middle, options

from palm_serve.batch.batch_run import BatchOptions, run_batch
from palm_serve.bundle.loader import load_bundle
from palm_serve.engine.providers import select_engine
from palm_serve.pipeline import Pipeline, PreparedRequest
from palm_serve.types import TextRequest

_AHEAD = 512
_BATCH_ROWS = 64
_GROUP_ROWS = 1024
"""Rows of a row group of the file, and so of a part."""


def loop(pipeline: Pipeline, texts: list[str]) -> None:
    """Answers all texts, with the tight loop of loop.py."""
    for start in range(0, len(texts), _AHEAD):
        requests = [TextRequest(text, ()) for text in texts[start : start + _AHEAD]]
        prepared = [one for one in pipeline.prepare_many(requests) if isinstance(one, PreparedRequest)]
        prepared.sort(key=lambda one: one.tokens)
        for first in range(0, len(prepared), _BATCH_ROWS):
            pipeline.run(prepared[first : first + _BATCH_ROWS])


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the clock and of the processor."""
    began, computed = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - computed


def main() -> None:
    """Prints the table; `--json` also writes it."""
    arguments = options(__doc__, rounds=3, rows=2048).parse_args()
    chosen = chosen_texts(arguments)
    texts = [chosen[number % len(chosen)] for number in range(arguments.rows)]
    figures: dict[str, list[float]] = {"clock_ratio": [], "cpu_ratio": [], "loop_per_s": [], "batch_per_s": []}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "texts.parquet"
        pq.write_table(pa.table({"text": texts}), source, row_group_size=_GROUP_ROWS)

        def batch(number: int) -> dict[str, str]:
            output = Path(folder) / str(number)
            run_batch(str(arguments.bundle), [source], output, BatchOptions(keep=()), {"provider": arguments.provider})
            part = next(output.glob("*.parquet"))
            column = pq.read_table(part, columns=["error"]).column("error")
            if column.null_count < len(column):
                raise SystemExit(f"{part}: a text was not answered: {column.drop_null()[0]}")
            return engine_of(part)

        engine = batch(0)
        bundle = load_bundle(arguments.bundle)
        pipeline = Pipeline(
            bundle, select_engine(bundle, engine["provider"], engine["precision"], variant=engine["variant"])
        )
        loop(pipeline, texts)
        for number in range(arguments.rounds):
            loop_s, loop_cpu_s = timed(lambda: loop(pipeline, texts))
            batch_s, batch_cpu_s = timed(lambda number=number: batch(number + 1))
            figures["clock_ratio"].append(loop_s / batch_s)
            figures["cpu_ratio"].append(loop_cpu_s / batch_cpu_s)
            figures["loop_per_s"].append(len(texts) / loop_s)
            figures["batch_per_s"].append(len(texts) / batch_s)
    rows = [
        ("loop, texts/s", middle(figures["loop_per_s"]), ""),
        ("batch, rows/s", middle(figures["batch_per_s"]), ""),
        ("  to the loop, of the clock", middle(figures["clock_ratio"]), ">= 0.95"),
        ("  to the loop, of the processor", middle(figures["cpu_ratio"]), ""),
    ]
    finish(arguments, rows, {"engine": engine, "texts": len(chosen), "rows": arguments.rows, "rounds": figures})


def engine_of(part: Path) -> dict[str, str]:
    """The engine that answered a part."""
    facts = json.loads(pq.read_metadata(part).metadata[b"palm.batch"])
    engine: dict[str, str] = facts["engine"]
    return engine


if __name__ == "__main__":
    main()
