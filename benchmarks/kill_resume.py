"""A training that is killed again and again must end where an unbroken one ends, to the bit.

`python benchmarks/kill_resume.py --kills 50` trains a tiny model (scratch encoder, two tasks, dropout, moving average, batches in parts) once
unbroken. Then it starts `palm-train run` and sends SIGKILL, in turn at a random time after the first step and within the write of a
checkpoint, goes on with --resume, and so on; after the last kill the run goes to its end. It prints where the kills fell and how long
each restart took until its first step, and fails unless all weights of `best/` and `last/` are those of the unbroken run.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from common import PALM_TRAIN, ROOT, machine
from safetensors.numpy import load_file

CONFIG = """
[encoder]
model = "scratch"
max_length = 16
layers = 1
hidden_size = 16
heads = 2
vocab_size = 100

[data.d]
format = "jsonl"
train = "d.jsonl"
dev = "dev.jsonl"

[tasks.intent]
kind = "classify"
data = ["d"]

[tasks.slots]
kind = "sequence_label"
data = ["d"]

[train]
epochs = {epochs}
batch_size = 8
accumulate_steps = 2
log_every_steps = 1
device = "cpu"
precision = "fp32"
output = "{output}"

[train.checkpoints]
save_every_steps = 5

[train.regularization]
ema_decay = 0.9
"""
STEPS_A_KILL = 40  # room for every kill to fall among steps, not behind the last one


@dataclass(frozen=True)
class Kill:
    """Where one fell: the last step that was logged, whether a checkpoint was being written, seconds from the start to the first step."""

    step: int
    in_write: bool
    restart_s: float


def write_data(folder: Path, rows: int) -> None:
    """Two intents, one slot."""
    cities = ("boston", "new york", "denver", "st louis")
    for name, count in (("d", rows), ("dev", 4)):
        lines = []
        for i in range(count):
            text = f"{'fly to' if i % 2 else 'stay in'} {cities[i % 4]}"
            begin = text.index(cities[i % 4])
            spans = [{"start": begin, "end": len(text), "label": "city"}]
            lines.append(json.dumps({"text": text, "intent": "go" if i % 2 else "stay", "slots": spans}) + "\n")
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def start(config: Path, run: Path) -> subprocess.Popen[bytes]:
    """`palm-train run`, resumed where there is something to resume."""
    how = ["--resume"] if (run / "config.toml").exists() else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*PALM_TRAIN, "run", str(config), "--output", str(run), *how],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
    )


def last_step(run: Path, since: float = 0.0) -> int:
    """The last step that was logged whole, of those made after a time; 0 before the first."""
    log = run / "events.jsonl"
    lines = log.read_text(encoding="utf-8").split("\n")[:-1] if log.exists() else []
    events = [json.loads(line) for line in lines]
    return max((event["step"] for event in events if event["event"] == "step" and event["time"] > since), default=0)


def made(path: Path) -> int | None:
    """When a directory was made, or changed last; None where there is none. A kill within a write leaves one behind."""
    try:
        return path.stat().st_ctime_ns
    except FileNotFoundError:
        return None


def kill_once(config: Path, run: Path, in_write: bool, moment: random.Random) -> Kill | None:
    """Lets the run train a while and kills it; None where it came to its end first."""
    new = run / "last.new"
    begun, clock = time.time(), time.monotonic()
    process = start(config, run)
    while process.poll() is None and not last_step(run, begun):
        time.sleep(0.005)
    restart_s = time.monotonic() - clock
    time.sleep(moment.uniform(0.0, 0.3))
    before = made(new)
    while in_write and process.poll() is None and made(new) in (None, before):
        time.sleep(0.0005)
    process.kill()
    if process.wait() >= 0:
        return None
    return Kill(last_step(run), made(new) not in (None, before), restart_s)


def differing(one: Path, other: Path) -> list[str]:
    """Names of the tensors that are not equal to the bit, by checkpoint."""
    found = []
    for which in ("best", "last"):
        a, b = (load_file(run / which / "model.safetensors") for run in (one, other))
        found += [f"{which}/{name}" for name in a.keys() | b.keys() if a[name].tobytes() != b[name].tobytes()]
    return found


def main() -> int:
    """Prints a table; 1 where the weights differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    arguments = parser.parse_args()
    moment = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_data(folder, rows=80)
        config = folder / "config.toml"
        epochs = max(1, arguments.kills * STEPS_A_KILL // 10)
        config.write_text(CONFIG.format(epochs=epochs, output=(folder / "unbroken").as_posix()), encoding="utf-8")
        if start(config, folder / "unbroken").wait():
            return 1
        kills = [kill_once(config, folder / "killed", bool(i % 2), moment) for i in range(arguments.kills)]
        if start(config, folder / "killed").wait():
            return 1
        wrong = differing(folder / "unbroken", folder / "killed")
        steps = last_step(folder / "unbroken")
    fell = [kill for kill in kills if kill is not None]
    result = {
        "kills": len(fell),
        "in_a_write": sum(kill.in_write for kill in fell),
        "steps": steps,
        "killed_at": [kill.step for kill in fell],
        "restart_s": [round(kill.restart_s, 2) for kill in fell],
        "differing_tensors": wrong,
        "machine": machine(),
    }
    for name, value in result.items():
        print(f"{name:18} {value}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 1 if wrong or len(fell) < arguments.kills else 0


if __name__ == "__main__":
    sys.exit(main())
