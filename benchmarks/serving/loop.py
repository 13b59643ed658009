"""The same work without a server: tokenizes, sorts by length, runs batches and decodes, in a tight loop.

    python benchmarks/serving/loop.py BUNDLE PROVIDER PRECISION SECONDS TEXTS.json [THREADS]

Prints, as JSON, processor seconds per text, texts per second, and the median seconds of a bare engine call on one text.
"""

import json
import statistics
import sys
import time
from pathlib import Path

from palm_serve.bundle.loader import load_bundle
from palm_serve.engine.padding import pad_batch
from palm_serve.engine.providers import select_engine
from palm_serve.pipeline import Pipeline, PreparedRequest
from palm_serve.types import TextRequest

_AHEAD = 512
_ROWS = 64
_ALONE = 100


def main(folder: Path, provider: str, precision: str, seconds: float, texts: list[str], threads: int | None) -> None:
    """Prints the figures."""
    bundle = load_bundle(folder)
    engine = select_engine(bundle, provider=provider, precision=precision, threads=threads)
    pipeline = Pipeline(bundle, engine)
    requests = [TextRequest(texts[i % len(texts)], ()) for i in range(_AHEAD)]

    def all_of_them() -> None:
        works = [work for work in pipeline.prepare_many(requests) if isinstance(work, PreparedRequest)]
        works.sort(key=lambda work: work.tokens)
        for start in range(0, len(works), _ROWS):
            pipeline.run(works[start : start + _ROWS])

    all_of_them()
    began, computed, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - began < seconds:
        all_of_them()
        count += _AHEAD
    cpu_s, took_s = (time.process_time() - computed) / count, (time.perf_counter() - began) / count
    manifest = bundle.manifest
    inputs, pad = [tensor.name for tensor in manifest.inputs], manifest.encoder.pad_token_id
    batches = []
    for request in requests[:_ALONE]:
        work = pipeline.prepare(request)
        rows, length = pipeline.padded_shape(1, len(work.encoding))
        batches.append(pad_batch([work.encoding], inputs, pad, length, rows))
    alone = []
    for _ in range(2):  # what is compiled or allocated for a shape is not what is measured
        alone.clear()
        for batch in batches:
            began = time.perf_counter()
            engine.run(batch)
            alone.append(time.perf_counter() - began)
    print(json.dumps({"cpu_s": cpu_s, "texts_per_s": 1 / took_s, "alone_s": statistics.median(alone)}))


if __name__ == "__main__":
    path, provider, precision, seconds, texts, *threads = sys.argv[1:]
    main(
        Path(path),
        provider,
        precision,
        float(seconds),
        json.loads(Path(texts).read_text(encoding="utf-8")),
        int(threads[0]) if threads else None,
    )
