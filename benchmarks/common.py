"""What the benchmark scripts share: trainings in processes of their own, metrics in per cent, means with intervals, and where it was measured."""

import math
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PALM_TRAIN = (sys.executable, "-c", "from palm_trainer.cli.train import main; main()")

# Two-sided 95 % quantile of Student's t by degrees of freedom.
T_95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}


def train_run(config: Path, run: Path, overrides: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    """`palm-train run` into `run`, unless it is finished there; an interrupted run is resumed.

    Raises:
        CalledProcessError: the command failed; return code 130: it was interrupted, and saved what it had.
    """
    if (run / "metrics.json").exists():
        return
    settings = [part for override in overrides for part in ("--set", override)]
    how = ["--resume"] if (run / "config.toml").exists() else []
    command = [*PALM_TRAIN, "run", str(config.resolve()), *settings, "--output", str(run.resolve()), *how]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, **(environment or {})})


def in_per_cent(metrics: Mapping[str, Any]) -> dict[str, float]:
    """`{"intent": {"accuracy": 0.9}, "exact_match": 0.8}` -> `{"intent accuracy": 90.0, "exact_match": 80.0}`.

    Scores of single data sets are called `exact_match (atis)`.
    """
    flat = {}
    for task, value in metrics.items():
        if task == "by_data_set":
            for data, scores in value.items():
                flat.update({f"{name} ({data})": number for name, number in in_per_cent(scores).items()})
        elif isinstance(value, Mapping):
            flat.update({f"{task} {name}": 100 * number for name, number in value.items()})
        else:
            flat[task] = 100 * value
    return flat


def mean_and_half_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half of its 95 % t-interval; of a single value the interval is not known (nan)."""
    if len(values) < 2:
        return statistics.mean(values), math.nan
    quantile = T_95.get(len(values) - 1, 2.26)  # beyond the table: the last one, which is a little too wide
    return statistics.mean(values), quantile * statistics.stdev(values) / math.sqrt(len(values))


def machine() -> str:
    """Processor, cores and Python, without the machine's name."""
    return f"{processor()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def processor() -> str:
    """The processor's model where the system tells it, else its architecture."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def commit() -> str:
    """The repository's commit, with a `+` when tracked files of the two packages differ from it."""
    found = _git("rev-parse", "--short=12", "HEAD")
    return found + (
        "+" if _git("status", "--porcelain", "--untracked-files=no", "--", "palm_trainer", "palm_serve") else ""
    )


def today() -> str:
    """Return the date in UTC, `2026-11-30`."""
    return datetime.now(UTC).date().isoformat()


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()
