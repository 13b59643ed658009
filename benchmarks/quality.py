"""Quality over seeds: trains examples/NAME.toml once a seed and prints the test metrics, mean and 95 % interval.

    python benchmarks/quality.py atis snips [--seeds 13 14 15] [--runs runs/quality] [--json FILE] [--set KEY=VALUE ...]

The best checkpoint is chosen on dev; test is evaluated once, at the end. A run that is finished is not repeated, an interrupted one is
resumed, so the script may be stopped and started at any time.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path

# Two-sided 95 % quantile of Student's t by degrees of freedom.
T_95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}


def train_cell(name: str, seed: int, runs: Path, overrides: list[str]) -> dict[str, float]:
    """Test metrics of one run, trained now unless it is there, in per cent."""
    run = runs / f"{name}-{seed}"
    metrics = run / "metrics.json"
    if not metrics.exists():
        settings = [part for override in (*overrides, f"train.seed={seed}") for part in ("--set", override)]
        command = ["palm-train", "run", f"examples/{name}.toml", *settings, "--output", str(run)]
        subprocess.run([*command, *(["--resume"] if (run / "last").exists() else ["--overwrite"])], check=True)
    test = json.loads(metrics.read_text())["test"]
    flat = {}
    for task, value in test.items():
        flat.update(
            {f"{task} {key}": 100 * number for key, number in value.items()}
            if isinstance(value, dict)
            else {task: 100 * value}
        )
    return flat


def main() -> None:
    """Trains what is missing, then prints a table a configuration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", help="configurations of examples/, without .toml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[13, 14, 15])
    parser.add_argument("--runs", type=Path, default=Path("runs/quality"))
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results = {}
    for name in arguments.names:
        cells = [train_cell(name, seed, arguments.runs, arguments.overrides) for seed in arguments.seeds]
        print(f"\n{name}, test, seeds {' '.join(map(str, arguments.seeds))}")
        summary = {}
        for metric in cells[0]:
            values = [cell[metric] for cell in cells]
            mean = statistics.mean(values)
            half = (
                T_95[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))
                if len(values) > 1
                else math.nan
            )
            summary[metric] = {"mean": mean, "half_interval": half, "values": values}
            print(f"  {metric:<22}{mean:6.2f} +- {half:4.2f}   ({', '.join(f'{v:.2f}' for v in values)})")
        results[name] = summary
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
