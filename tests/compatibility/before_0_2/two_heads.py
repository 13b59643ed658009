"""Two heads on one encoder, in the calls of the Python API: trained and saved, or loaded and continued.

`make.sh` calls this file with the code of the old commit. The test calls the same functions with the code of today.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import palm_trainer as palm

CHECKPOINT_STEP = 6
EPOCHS = 4
ENCODER = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 80,
    "max_position_embeddings": 32,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "initializer_range": 0.02,
}
SLOT_LABELS = {"O": 0, "B-plant": 1, "I-plant": 2, "B-time": 3}


@dataclass(frozen=True)
class TwoHeads:
    """A joint trainer whose data is planned.

    Attributes:
        trainer: holds the trainers `slot` and `intent`.
        readers: of `slot` and of `intent`.
        batches: as many as there are steps left.
    """

    trainer: Any
    readers: tuple[Any, Any]
    batches: Iterator[Any]


def build(data: Path) -> TwoHeads:
    """Declare the readers, the encoder, the heads and the optimizer, and plan the steps."""
    vocabulary = data / "api_vocabulary.txt"
    slot_reader = palm.reader.SequenceLabelReader(vocabulary, 32, SLOT_LABELS, seed=1)
    slot_reader.load_data(data / "api_slot.tsv", file_format="tsv", num_epochs=None, batch_size=3)
    intent_reader = palm.reader.ClassifyReader(vocabulary, 32, seed=1)
    intent_reader.load_data(data / "api_intent.tsv", batch_size=3, num_epochs=None)
    encoder = palm.backbone.ERNIE.from_config(ENCODER)
    slot_reader.register_with(encoder)
    intent_reader.register_with(encoder)
    slot, intent = palm.Trainer("slot"), palm.Trainer("intent", mix_ratio=0.5)
    trainer = palm.MultiHeadTrainer([slot, intent], say=lambda line: None)
    slot.build_forward(encoder, palm.head.SequenceLabel(len(SLOT_LABELS), 16, 0.1))
    intent.build_forward(encoder, palm.head.Classify(3, 16, 0.1))
    adam = palm.optimizer.Adam(trainer.build_forward(), 2e-2)
    trainer.build_backward(
        optimizer=adam,
        weight_decay=0.01,
        use_ema=True,
        ema_decay=0.5,
        device="cpu",
        precision="fp32",
        options={"balancing": "uncertainty", "r_drop": 0.5},
    )
    readers = (slot_reader, intent_reader)
    batches = trainer.fit_readers_with_mixratio(list(readers), "slot", EPOCHS)
    return TwoHeads(trainer, readers, batches)


def train_and_save(data: Path, output: Path) -> None:
    """Train to the end, and save checkpoints and models on the way."""
    two_heads = build(data)
    evaluation = []
    for reader, name in zip(two_heads.readers, ("api_slot.tsv", "api_intent.tsv"), strict=True):
        reader_of_dev = reader.clone("predict")
        reader_of_dev.load_data(data / name, batch_size=3)
        evaluation.append(reader_of_dev)
    two_heads.trainer.set_evaluator(evaluation, eval_steps=4)
    two_heads.trainer.set_saver(output, save_steps=CHECKPOINT_STEP, save_type="ckpt,predict")
    two_heads.trainer.train(print_steps=1000)


def load_and_continue(data: Path, saved: Path) -> dict[str, Any]:
    """Resume from a checkpoint, and train to the end.

    Args:
        data: the folder of the data files.
        saved: the folder that `train_and_save` wrote.

    Returns:
        The predictions of the checkpoint, the losses of each further step, and the predictions of the end.
    """
    two_heads = build(data)
    trainer, intent_reader = two_heads.trainer, two_heads.readers[1]
    trainer.load_ckpt(saved / f"ckpt.step{CHECKPOINT_STEP}", resume=True)
    predictions = trainer.predict(intent_reader)
    losses = []
    for batch in two_heads.batches:
        values, _ = trainer.train_one_step(batch)
        losses.append({name: float(value) for name, value in values.items()})
    return {"loaded": predictions, "losses": losses, "continued": trainer.predict(intent_reader)}


def main() -> None:
    """Write the checkpoints and the record: `two_heads.py DATA OUTPUT RECORD`."""
    data, output, record = (Path(argument) for argument in sys.argv[1:])
    train_and_save(data, output)
    continued = load_and_continue(data, output)
    record.write_text(json.dumps(continued, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
