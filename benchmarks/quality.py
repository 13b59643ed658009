"""Quality over seeds: trains examples/NAME.toml once a seed and prints the test metrics, mean and 95 % interval.

    python benchmarks/quality.py atis snips [--seeds 13 14 15] [--runs runs/quality] [--json FILE] [--set KEY=VALUE ...]

The best checkpoint is chosen on dev; test is evaluated once, at the end. A run that is finished is not repeated, an interrupted one is
resumed, so the script may be stopped and started at any time.
"""

import argparse
import json
from pathlib import Path

from common import ROOT, in_per_cent, mean_and_half_interval, train_run


def train_cell(name: str, seed: int, runs: Path, overrides: list[str]) -> dict[str, float]:
    """Test metrics of one run, trained now unless it is there, in per cent."""
    run = runs / f"{name}-{seed}"
    train_run(ROOT / f"examples/{name}.toml", run, [*overrides, f"train.seed={seed}"])
    return in_per_cent(json.loads((run / "metrics.json").read_text(encoding="utf-8"))["test"])


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
            mean, half = mean_and_half_interval(values)
            summary[metric] = {"mean": mean, "half_interval": half, "values": values}
            print(f"  {metric:<22}{mean:6.2f} +- {half:4.2f}   ({', '.join(f'{v:.2f}' for v in values)})", flush=True)
        results[name] = summary
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
