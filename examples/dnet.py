"""The D-Net recipe in the calls of the Python API: reading comprehension with masked words and matching as auxiliary tasks (as examples/dnet.toml).

    python examples/dnet.py --squad "$PALM_DATA/xquad/xquad.en.json" --dev "$PALM_DATA/palm_toy/test2/mrqa/dev.json" \
        --text "$PALM_DATA/palm_toy/test2/mlm4mrqa/train.tsv" --pairs "$PALM_DATA/palm_toy/test2/match4mrqa/train.tsv"
    palm-export runs/dnet-api --output bundles/dnet

Only the reading-comprehension head is exported: an auxiliary task shapes the encoder, and training does not wait for it.
"""

import argparse
import json
from pathlib import Path

import palm_trainer as palm

RATIOS = {"answer": 1.0, "words": 2.0, "passage": 0.8}
"""Batches of a task for each of the main task's."""


def main() -> None:
    """Trains and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--squad", type=Path, required=True, help="questions and passages, SQuAD JSON")
    parser.add_argument("--dev", type=Path, required=True, help="the same, to choose the best weights by")
    parser.add_argument("--text", type=Path, required=True, help="table with a column text_a")
    parser.add_argument(
        "--pairs", type=Path, required=True, help="table with label, text_a (question), text_b (passage)"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/dnet-api"))
    parser.add_argument("--epochs", type=float, default=2, help="of the questions")
    parser.add_argument("--batch-size", type=int, default=16, help="rows")
    parser.add_argument("--max-length", type=int, default=256, help="tokens of question and passage")
    parser.add_argument(
        "--pretrain", default="minilm-l6-en", help="directory with config.json, vocab.txt and weights, or a known name"
    )
    options = parser.parse_args()

    pretrain = Path(palm.backbone.locate(options.pretrain))
    config = json.loads((pretrain / "config.json").read_text(encoding="utf-8"))
    vocab, length, width, seed = pretrain / "vocab.txt", options.max_length, config["hidden_size"], 13
    query = min(64, length // 3)
    readers = {
        "answer": palm.reader.MRCReader(vocab, length, query, length * 3 // 8, seed=seed),
        "words": palm.reader.MaskLMReader(vocab, length, seed=seed),
        "passage": palm.reader.MatchReader(vocab, length, seed=seed),
    }
    files = {"answer": options.squad, "words": options.text, "passage": options.pairs}
    bert = palm.backbone.BERT.from_config(config)
    for name, reader in readers.items():
        reader.load_data(files[name], batch_size=options.batch_size)
        reader.register_with(bert)

    heads = {
        "answer": palm.head.MRC(query, width, max_ans_len=30, dropout_prob=0.1),
        "words": palm.head.MaskLM(width, config["vocab_size"], config["hidden_act"], dropout_prob=0.1),
        "passage": palm.head.Match(2, width, dropout_prob=0.1),
    }
    trainers = {name: palm.Trainer(name, mix_ratio=ratio) for name, ratio in RATIOS.items()}
    trainer = palm.MultiHeadTrainer(trainers)
    for name, one in trainers.items():
        one.build_forward(bert, heads[name])
    for name in ("words", "passage"):
        trainers[name].set_as_aux()

    loss_var = trainer.build_forward()
    trainer.fit_readers_with_mixratio(readers, "answer", options.epochs)
    steps = trainer.overall_train_steps
    schedule = palm.lr_sched.TriangularScheduler(max(1, steps // 10), steps)
    adam = palm.optimizer.Adam(loss_var, 1e-4, schedule)
    trainer.build_backward(optimizer=adam, weight_decay=0.1, use_ema=True, ema_decay=0.9999)
    trainer.load_pretrain(pretrain)
    trainer.set_saver(save_path=options.output, save_steps=steps)
    dev = readers["answer"].clone("predict")
    dev.load_data(options.dev, batch_size=64)
    trainer.set_evaluator({"answer": dev})
    trainer.train(print_steps=10)
    print(f"Export it with: palm-export {options.output} --output bundles/dnet")


if __name__ == "__main__":
    main()
