"""How fast a bundle runs against the plain graph on ONNX Runtime's CPU provider, Optimum's export of the same encoder, and PyTorch in bf16.

    python benchmarks/export_speed.py BUNDLE [--threads 2] [--encoder DIR] [--optimum PYTHON] [--json FILE]

Contenders are all combinations of variant, provider and precision that passed a gate of the bundle (`--also OpenVINO/bf16/plain` adds one that was not
put to it), each in a process of its own that sleeps while others run. Rounds are interleaved; a figure is the median over rounds of the median
run in a round. `control` is the plain graph once more: how far it is from 1.00 is what the machine's noise makes of nothing. Texts are padded to
the shape, all tokens real. With one thread on a busy machine, `--clock cpu` counts the time on the processor only.

Optimum cannot live with transformers 5, so it has an environment of its own, and only writes its files there; they run in this one:

    python -m venv optimum && optimum/bin/pip install optimum-onnx onnxruntime torch==2.13.0
    python benchmarks/export_speed.py BUNDLE --encoder DIR --optimum optimum/bin/python

DIR is the encoder in Hugging Face's format (for `minilm-l6-en`: `palm-train models download minilm-l6-en DIR`); without it, Optimum and PyTorch
stand aside. Both compute the encoder only, the bundle its heads as well.
"""

import argparse
import json
import math
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from common import commit, machine, processor, today

from palm_serve.bundle.loader import Bundle, load_bundle
from palm_serve.engine.candidate import PLAIN, Candidate
from palm_serve.engine.providers import available_providers, gated_candidates
from palm_serve.engine.timing import SHAPES as CHOSEN_BY

Shape = tuple[int, int]
Arrays = dict[str, npt.NDArray[np.int64]]

BATCHES, LENGTHS = (1, 8, 32), (8, 16, 64, 128)
CONTROL, TORCH, OPTIMUM = "control", "PyTorch bf16", "Optimum"
LEVELS = ("O1", "O2", "O3")
"""Optimum's optimisation levels for the CPU; O4 is fp16, for GPUs."""

EXPORT_WITH_OPTIMUM = """
import sys
from optimum.onnxruntime import AutoOptimizationConfig, ORTModelForFeatureExtraction, ORTOptimizer
encoder, target, *levels = sys.argv[1:]
model = ORTModelForFeatureExtraction.from_pretrained(encoder, export=True)
for level in levels:
    config = getattr(AutoOptimizationConfig, level)()
    ORTOptimizer.from_pretrained(model).optimize(optimization_config=config, save_dir=f"{target}/{level}", file_suffix="")
"""


@dataclass(frozen=True)
class Contender:
    """What is timed: a graph on a provider, or (without one) the encoder in PyTorch."""

    name: str
    path: Path
    provider: str = ""
    precision: str = ""


def opened(contender: Contender, threads: int) -> Callable[[Arrays], object]:
    """Runs the contender on padded inputs."""
    if not contender.provider:
        import torch
        from transformers import AutoModel

        torch.set_num_threads(threads)
        model = AutoModel.from_pretrained(contender.path, dtype=torch.bfloat16).eval()

        def run(arrays: Arrays) -> object:
            with torch.inference_mode():
                return model(**{name: torch.from_numpy(value) for name, value in arrays.items()})

        return run
    from palm_serve.engine.session import open_engine
    from palm_serve.types import PaddedBatch

    engine = open_engine(contender.path, contender.provider, contender.precision, threads)
    return lambda arrays: engine.run(
        PaddedBatch({name: arrays[name] for name in engine.inputs}, np.full(len(arrays["input_ids"]), 1))
    )


def work(pipe: Any, contender: Contender, threads: int, clock: str) -> None:
    """A contender's process: takes (inputs, seconds), answers the median time of a run in seconds, until it is told None."""
    run = opened(contender, threads)
    now = time.process_time if clock == "cpu" else time.perf_counter
    pipe.send("ready")
    while (task := pipe.recv()) is not None:
        arrays, seconds = task
        times: list[float] = []
        stop = time.perf_counter() + seconds
        while not times or time.perf_counter() < stop:
            start = now()
            run(arrays)
            times.append(now() - start)
        pipe.send(statistics.median(times))


@contextmanager
def processes(contenders: Sequence[Contender], threads: int, clock: str) -> Iterator[dict[str, Any]]:
    """A pipe to each contender's process by its name."""
    context = multiprocessing.get_context("spawn")
    pipes, running = {}, []
    try:
        for contender in contenders:
            pipes[contender.name], theirs = context.Pipe()
            process = context.Process(target=work, args=(theirs, contender, threads, clock), daemon=True)
            process.start()
            theirs.close()
            running.append(process)
            pipes[contender.name].recv()
        yield pipes
    finally:
        for pipe, process in zip(pipes.values(), running, strict=False):
            with suppress(BrokenPipeError):
                pipe.send(None)
            process.join(10)
            process.kill()


def inputs(shape: Shape, vocabulary: int) -> Arrays:
    """Arbitrary pieces, no padding."""
    ids = np.arange(math.prod(shape), dtype=np.int64).reshape(shape) % vocabulary
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def measure(
    pipes: Mapping[str, Any], shapes: Sequence[Shape], rounds: int, seconds: float, vocabulary: int
) -> dict[str, dict[Shape, float]]:
    """Seconds of one run by contender and shape. The first round of a shape compiles and is not counted."""
    found: dict[str, dict[Shape, float]] = {name: {} for name in pipes}
    for shape in shapes:
        arrays = inputs(shape, vocabulary)
        times: dict[str, list[float]] = {name: [] for name in pipes}
        for number in range(rounds + 1):
            for name, pipe in pipes.items():
                pipe.send((arrays, seconds if number else 0.0))
                elapsed = pipe.recv()
                if number:
                    times[name].append(elapsed)
        for name, values in times.items():
            found[name][shape] = statistics.median(values)
        print(f"  measured {shape[0]} x {shape[1]}", file=sys.stderr)
    return found


def geometric_mean(values: Sequence[float]) -> float:
    """Of ratios."""
    return math.exp(statistics.fmean(map(math.log, values)))


def summarize(
    times: Mapping[str, Mapping[Shape, float]], contenders: Sequence[Contender]
) -> dict[str, dict[Shape, float]]:
    """What the issue asks, as how many times faster in each shape.

    `best` is the combination that the server's `auto` takes: the least time over the shapes that it measures.
    """
    plain = times[str(PLAIN)]
    ours = [c.name for c in contenders if c.provider and not c.name.startswith((OPTIMUM, CONTROL))]
    judged = [shape for shape in CHOSEN_BY if shape in plain] or list(plain)
    best = min(ours, key=lambda name: geometric_mean([times[name][shape] for shape in judged]))
    ratios = {f"{name} : {PLAIN}": _faster(plain, times[name]) for name in times if name != str(PLAIN)}
    ratios[f"best ({best}) : {PLAIN}"] = _faster(plain, times[best])
    levels = [times[name] for name in times if name.startswith(OPTIMUM)]
    if levels:
        ratios[f"best : {OPTIMUM} at its best level"] = _faster(
            {shape: min(level[shape] for level in levels) for shape in plain}, times[best]
        )
    if TORCH in times:
        ratios[f"best : {TORCH}"] = _faster(times[TORCH], times[best])
    return ratios


def _faster(other: Mapping[Shape, float], mine: Mapping[Shape, float]) -> dict[Shape, float]:
    return {shape: other[shape] / mine[shape] for shape in mine}


def of_bundle(bundle: Bundle, also: Sequence[str]) -> list[Contender]:
    """Its gated combinations that this machine has, those asked for beside them, and the control."""
    candidates = gated_candidates(bundle, available_providers())
    for text in also:
        provider, precision, variant = text.split("/")
        candidates.append(Candidate(variant, provider, precision))
    named = [Contender(str(c), bundle.graph(c.variant), c.provider, c.precision) for c in dict.fromkeys(candidates)]
    return [*named, Contender(CONTROL, bundle.graph(), PLAIN.provider, PLAIN.precision)]


def of_encoder(encoder: Path | None, optimum: Path | None, folder: Path) -> list[Contender]:
    """The encoder in PyTorch, and as Optimum writes it at each level."""
    if encoder is None:
        return []
    found = [Contender(TORCH, encoder)]
    if optimum is not None:
        command = [str(optimum), "-c", EXPORT_WITH_OPTIMUM, str(encoder), str(folder), *LEVELS]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found += [Contender(f"{OPTIMUM} {level}", folder / level / "model.onnx", "CPU", "fp32") for level in LEVELS]
    return found


def show(times: Mapping[str, Mapping[Shape, float]], ratios: Mapping[str, Mapping[Shape, float]]) -> None:
    """Two tables: milliseconds, and ratios with their geometric mean."""
    shapes = list(next(iter(times.values())))
    width = max(map(len, [*times, *ratios]))
    head = "".join(f"{f'{rows}x{length}':>9}" for rows, length in shapes)
    print(f"{'ms':<{width}}{head}")
    for name, row in times.items():
        print(f"{name:<{width}}" + "".join(f"{1e3 * row[shape]:>9.2f}" for shape in shapes))
    print(f"\n{'times faster':<{width}}{head}{'mean':>9}")
    for name, row in ratios.items():
        mean = geometric_mean(list(row.values()))
        print(f"{name:<{width}}" + "".join(f"{row[shape]:>9.2f}" for shape in shapes) + f"{mean:>9.2f}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the tables; `--json` also writes them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, metavar="ROWS")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, metavar="TOKENS")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.2, help="of each contender in a round, one run at least")
    parser.add_argument("--also", nargs="+", default=(), metavar="PROVIDER/PRECISION/VARIANT")
    parser.add_argument("--encoder", type=Path, help="directory of the same encoder, for PyTorch and Optimum")
    parser.add_argument(
        "--optimum", type=Path, metavar="PYTHON", help="interpreter of an environment with optimum-onnx"
    )
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    bundle = load_bundle(options.bundle)
    shapes = [(rows, length) for rows in options.batches for length in options.lengths]
    with tempfile.TemporaryDirectory() as folder:
        contenders = of_bundle(bundle, options.also) + of_encoder(options.encoder, options.optimum, Path(folder))
        with processes(contenders, options.threads, options.clock) as pipes:
            vocabulary = bundle.manifest.encoder.vocab_size
            times = measure(pipes, shapes, options.rounds, options.seconds, vocabulary)
    ratios = summarize(times, contenders)
    print(f"{bundle.manifest.encoder.name}, {machine()}, {options.threads} thread(s), {options.clock} time, {commit()}")
    show(times, ratios)
    if options.json:
        facts = {
            "machine": processor(),
            "threads": options.threads,
            "clock": options.clock,
            "commit": commit(),
            "date": today(),
        }
        tables = {"ms": _named(times, 1e3), "ratios": _named(ratios, 1.0)}
        means = {name: geometric_mean(list(row.values())) for name, row in ratios.items()}
        options.json.write_text(json.dumps({**facts, **tables, "means": means}, indent=1) + "\n", encoding="utf-8")


def _named(table: Mapping[str, Mapping[Shape, float]], factor: float) -> dict[str, dict[str, float]]:
    return {name: {f"{b}x{s}": round(factor * v, 4) for (b, s), v in row.items()} for name, row in table.items()}


if __name__ == "__main__":
    main()
