"""What the server adds to the bare engine call, one utterance at a time, and how long it takes to be healthy.

    python benchmarks/serve_latency.py BUNDLE [--rounds 10] [--calls 200] [--provider auto] [--json FILE]

Texts are the bundle's golden examples. Rounds alternate between the bare call (this process, the provider that the server chose, tokens prepared
beforehand) and `Parse` over gRPC on loopback, one call at a time; the figure is the difference of the medians, round by round.
"""

import argparse
import json
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from palm_serve.bundle.loader import load_bundle
from palm_serve.client import Client
from palm_serve.engine.padding import pad_batch
from palm_serve.engine.session import open_engine
from palm_serve.tokenization import TextTokenizer


def start(bundle: Path, provider: str) -> tuple[subprocess.Popen[str], str, float]:
    """A server process, its address, and the seconds until it was ready."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "palm_serve.cli", "run", str(bundle), "--port", "0", "--provider", provider]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    target = ""
    for line in process.stdout:
        if found := re.search(r"listening on (\S+)", line):
            target = found[1]
        if "ready" in line:
            return process, target, time.perf_counter() - began
    sys.exit(f"the server ended with exit code {process.wait()} before it was ready")


def timed(call, count: int) -> list[float]:
    """Milliseconds of each of `count` calls."""
    times = []
    for number in range(count):
        begin = time.perf_counter()
        call(number)
        times.append(1e3 * (time.perf_counter() - begin))
    return times


def main() -> None:
    """Prints the table; `--json` also writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--calls", type=int, default=200, help="calls of each kind a round")
    parser.add_argument("--provider", default="auto")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    bundle = load_bundle(arguments.bundle)
    texts = [example.text for example in bundle.golden if example.pair is None]
    process, target, ready_s = start(arguments.bundle, arguments.provider)
    try:
        with Client(target) as client:
            model = client.models()[0]
            tokenizer = TextTokenizer(bundle.tokenizer_json, bundle.manifest.max_length)
            variant = next(
                name
                for name, one in bundle.manifest.variants.items()
                if name == "plain"
                or any((gate.provider, gate.precision) == (model.provider, model.precision) for gate in one.gates)
            )
            engine = open_engine(bundle.graph(variant), model.provider, model.precision)
            inputs = [tensor.name for tensor in bundle.manifest.inputs]
            pad = bundle.manifest.encoder.pad_token_id
            batches = []
            for text in texts:
                encoding = tokenizer.encode(text)
                rows, length = engine.shape(1, len(encoding))
                batches.append(pad_batch([encoding], inputs, pad, length, rows))
            calls = {
                "engine": lambda number: engine.run(batches[number % len(batches)]),
                "parse": lambda number: client.parse(texts[number % len(texts)]),
            }
            for call in calls.values():
                timed(call, 2 * len(texts))
            rounds: dict[str, list[float]] = {name: [] for name in calls}
            for _ in range(arguments.rounds):
                for name, call in calls.items():
                    rounds[name].append(statistics.median(timed(call, arguments.calls)))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
    added = [parse - bare for parse, bare in zip(rounds["parse"], rounds["engine"], strict=True)]
    print(f"{bundle.manifest.name} on {model.provider} in {model.precision}; start to ready {ready_s:.2f} s")
    print(f"{'':<22}{'median of rounds':>18}{'range':>20}")
    for name, values in (
        ("bare engine call, ms", rounds["engine"]),
        ("Parse, ms", rounds["parse"]),
        ("added, ms", added),
    ):
        print(f"{name:<22}{statistics.median(values):>18.2f}{f'{min(values):.2f} to {max(values):.2f}':>20}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"ready_s": ready_s, "rounds_ms": rounds, "added_ms": added}, indent=2))


if __name__ == "__main__":
    main()
