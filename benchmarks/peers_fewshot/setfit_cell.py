"""Train SetFit on few examples and answer texts. Run by the interpreter of an environment that holds setfit and not PALM.

    python setfit_cell.py --model DIR --train FILE.jsonl --texts FILE.jsonl --output FILE.json --seed 13

The recipe is SetFit's own, with one change. Since release 1.0 it trains on every pair of texts by default: 146,000 pairs
for 5 examples of 77 classes, 2,200,000 for 10 of 150, which takes hours on two cores. `num_iterations = 20` is the
number of pairs of its paper (R = 20). Nothing is downloaded.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

from datasets import Dataset
from setfit import SetFitModel, Trainer, TrainingArguments

ITERATIONS = 20


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    """Train, then write the predicted label of each text as a JSON list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "train", "texts", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--work", type=Path, required=True, help="directory for checkpoints")
    options = parser.parse_args()
    rows = read_rows(options.train)
    labels = sorted({row["intent"] for row in rows})
    train = Dataset.from_dict(
        {"text": [row["text"] for row in rows], "label": [labels.index(row["intent"]) for row in rows]}
    )
    model = SetFitModel.from_pretrained(str(options.model), labels=labels)
    arguments = TrainingArguments(
        output_dir=str(options.work),
        num_iterations=ITERATIONS,
        seed=options.seed,
        save_strategy="no",
        report_to="none",
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=train)
    trainer.train()
    texts = [row["text"] for row in read_rows(options.texts)]
    options.output.write_text(json.dumps(list(map(str, model.predict(texts)))), encoding="utf-8")


if __name__ == "__main__":
    main()
