"""Training speed against the reference loops, in one run on one machine: examples/s as ratios.

    python benchmarks/train_speed.py --baselines DIR [--data PALM_DATA/atis/train] [--rounds 3] [--json FILE]

The loops of DIR (`plain_loop.py`, `hf_trainer_loop.py`) are run as they are: (a) plain fp32, (b) Hugging Face Trainer at its best, (c) plain, alternating,
one pass a task. Each round runs all four, one after the other, each in a process of its own; the ratio of a round is ours over theirs,
and the figure is the median over the rounds with the smallest and the largest beside it. Same model and rows, batch of 32, five steps of warm-up.
Our time holds all of a step, and says which share of it went into choosing and collating the batch.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import commit, machine, today

LOOPS = {
    "plain": ("plain_loop.py",),
    "hf_trainer": ("hf_trainer_loop.py",),
    "alternating": ("plain_loop.py", "--alternating"),
}
WARM_UP_STEPS = 5
CONFIG = """
[encoder]
model = "minilm-l6-en"
max_length = 64
[data.joint]
format = "joint"
train = {data}
[tasks.intent]
kind = "classify"
role = "intent"
data = ["joint"]
[tasks.slots]
kind = "sequence_label"
role = "slots"
data = ["joint"]
crf = {crf}
[train]
batch_size = {batch}
learning_rate = 1e-4
output = "unused"
"""


def measure_own(data: Path, steps: int, batch: int, crf: bool) -> dict[str, float]:
    """Examples a second of PALM's loop after the warm-up, and the share of the time that is data work."""
    from palm_trainer.cli.environment import limit_spinning

    limit_spinning()
    from palm_trainer.config.loader import load_config
    from palm_trainer.runs.job_from_config import job_from_config

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speed.toml"
        path.write_text(CONFIG.format(data=json.dumps(str(data.resolve())), batch=batch, crf=str(crf).lower()))
        training = job_from_config(load_config(path))
    run = training.loop.steps()
    for _ in range(WARM_UP_STEPS):
        next(run)
    begin = time.perf_counter()
    timed = [next(run) for _ in range(steps)]
    seconds = time.perf_counter() - begin
    learning = sum(step.seconds for step in timed)
    return {"examples_per_s": sum(step.examples for step in timed) / seconds, "data_share": 1 - learning / seconds}


def in_process(command: list[str]) -> dict[str, float]:
    """Runs a loop that prints {"examples_per_s": ...} as its last line."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    said: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return said


def main() -> None:
    """Prints the table; `--json` also writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default_data = Path(os.environ.get("PALM_DATA", "../shared/data")) / "atis" / "train"
    parser.add_argument("--data", type=Path, default=default_data, help="joint directory (seq.in, seq.out, label)")
    parser.add_argument(
        "--baselines", type=Path, default=Path("../shared/baselines"), help="folder of the reference loops"
    )
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-crf", action="store_true", help="a softmax over tags, as the reference loops have")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--own", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.own:
        print(json.dumps(measure_own(arguments.data, arguments.steps, arguments.batch, not arguments.no_crf)))
        return
    for needed in (arguments.data, arguments.baselines):
        if not needed.is_dir():
            sys.exit(f"{needed}: no such directory; give --data and --baselines, or set PALM_DATA")
    shared = [str(arguments.data), "--steps", str(arguments.steps), "--batch", str(arguments.batch)]
    own = [sys.executable, __file__, "--own", "--data", *shared, *(["--no-crf"] if arguments.no_crf else [])]
    rates: dict[str, list[float]] = {name: [] for name in ("palm", *LOOPS)}
    data_shares = []
    for number in range(arguments.rounds):
        said = in_process(own)
        rates["palm"].append(said["examples_per_s"])
        data_shares.append(said["data_share"])
        for name, (script, *options) in LOOPS.items():
            said = in_process([sys.executable, str(arguments.baselines / script), *shared, *options])
            rates[name].append(said["examples_per_s"])
        print(
            f"round {number + 1}: " + "  ".join(f"{name} {values[-1]:.0f}" for name, values in rates.items()),
            flush=True,
        )
    ratios = {name: [a / b for a, b in zip(rates["palm"], rates[name], strict=True)] for name in LOOPS}
    print(f"\nexamples/s, {machine()}, {commit()}\n")
    print(f"{'loop':<14}{'examples/s':>12}{'palm is':>10}{'(range)':>18}")
    print(f"{'palm':<14}{statistics.median(rates['palm']):>12.0f}")
    for name, values in ratios.items():
        spread = f"({min(values):.2f} to {max(values):.2f})"
        print(f"{name:<14}{statistics.median(rates[name]):>12.0f}{statistics.median(values):>9.2f}x{spread:>18}")
    data_share = statistics.median(data_shares)
    print(f"data work: {data_share:.1%} of palm's step time")
    if arguments.json:
        medians = {name: statistics.median(values) for name, values in ratios.items()}
        found = {"ratios": medians, "rounds": ratios, "examples_per_s": rates, "data_share": data_share}
        arguments.json.write_text(
            json.dumps({**found, "machine": machine(), "commit": commit(), "date": today()}, indent=2)
        )


if __name__ == "__main__":
    main()
