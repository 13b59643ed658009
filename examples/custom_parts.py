"""A head of your own, trained on a pretrained encoder, exported and served like the heads of the package.

    python examples/custom_parts.py --output bundles/custom
    palm-serve run bundles/custom
    palm-serve call "I was charged twice"

The head computes the focal loss of Lin et al. (2017): texts that are told well already count less. Its `kind` says how the server
decodes its `logits`. docs/how-to/train/custom_parts.md describes readers and backbones of your own.
"""

import argparse
import json
from pathlib import Path

import torch

import palm_trainer as palm

DATA = Path(__file__).with_name("data") / "support" / "teams.csv"


class FocalClassify(palm.head.base_head.Head):
    """Classify a text by its vector."""

    kind = "classify"

    def __init__(self, num_classes: int, input_dim: int, gamma: float = 2.0, phase: str = "train") -> None:
        super().__init__(phase)
        self.linear = torch.nn.Linear(input_dim, num_classes)
        self.input_dim, self.gamma = input_dim, gamma

    @property
    def inputs_attrs(self):
        """Arrays that the head reads: labels while it is trained, and the vector of a text."""
        labels = {"label_ids": [[-1], "int64"]} if self.phase == "train" else {}
        return {"reader": labels, "backbone": {"sentence_embedding": [[-1, self.input_dim], "float32"]}}

    @property
    def outputs_attr(self):
        """Arrays that the head gives: a loss while it is trained, else the scores that the kind decodes."""
        return {"loss": [[], "float32"]} if self.phase == "train" else {"logits": [[-1, -1], "float32"]}

    def build(self, inputs, scope_name=""):
        """Compute the outputs of a batch."""
        logits = self.linear(inputs["backbone"]["sentence_embedding"])
        if self.phase == "predict":
            return {"logits": logits}
        log_chosen = logits.log_softmax(-1).gather(1, inputs["reader"]["label_ids"][:, None])
        return {"loss": (-((1 - log_chosen.exp()) ** self.gamma) * log_chosen).mean()}


def main() -> None:
    """Train the head and export it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("bundles/custom"))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--pretrain", default="minilm-l6-en", help="directory of an encoder, or a known name")
    options = parser.parse_args()
    pretrain = Path(palm.backbone.locate(options.pretrain))
    config = json.loads((pretrain / "config.json").read_text(encoding="utf-8"))

    reader = palm.reader.ClassifyReader(pretrain / "vocab.txt", 32, seed=1)
    columns = {"columns": ("text", "label"), "header": True}
    reader.load_data(DATA, file_format="csv", batch_size=8, num_epochs=options.epochs, **columns)
    classes = len({example.fields["label"] for example in reader.examples})
    backbone = palm.backbone.BERT.from_config(config)

    trainer = palm.Trainer("team")
    loss = trainer.build_forward(backbone, FocalClassify(classes, config["hidden_size"]))
    trainer.build_backward(palm.optimizer.Adam(loss, 1e-4, head_lr=1e-3))
    trainer.fit_reader(reader)
    trainer.load_pretrain(pretrain)
    trainer.train(print_steps=10)
    print(trainer.evaluate(reader))
    trainer.export(options.output, precision="fp32")


if __name__ == "__main__":
    main()
