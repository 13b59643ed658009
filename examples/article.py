"""The article's dialogue system: intent and slots of ATIS on one encoder, in the calls of the original PALM.

    python examples/article.py --data "$PALM_DATA/atis" --work runs/article
    palm-export runs/article/outputs --output bundles/article
    palm-serve run bundles/article

The lines below `# article` are the article's own. What it leaves out is filled in: the settings, the label map, and dev data to choose the best
weights by. `minilm-l6-en` stands in the place of the ERNIE weights, which cannot be had everywhere: an ERNIE whose task embedding is zero is a BERT.
"""

import argparse
import json
from pathlib import Path

import palm_trainer as palm
from palm_trainer.api.reader.label_maps import tags_of
from palm_trainer.data.convert import convert


def main() -> None:
    """Converts the data, trains, saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="directory with train/ and dev/ of seq.in, seq.out, label"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("runs/article"), help="directory for data, label map, outputs"
    )
    parser.add_argument("--epochs", type=float, default=8, help="of the slot data")
    parser.add_argument("--batch-size", type=int, default=32, help="examples")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save-steps", type=int, default=300, help="steps from checkpoint to checkpoint")
    parser.add_argument(
        "--pretrain", default="minilm-l6-en", help="directory with config.json, vocab.txt and weights, or a known name"
    )
    options = parser.parse_args()

    work = options.work
    pretrain = Path(palm.backbone.locate(options.pretrain))
    train_slot, dev_slot = (to_palm(options.data / s, work / f"data/{s}_slot.tsv", "slots") for s in ("train", "dev"))
    train_intent, dev_intent = (
        to_palm(options.data / s, work / f"data/{s}_intent.tsv", "intent") for s in ("train", "dev")
    )
    vocab_path = pretrain / "vocab.txt"
    config = json.loads((pretrain / "config.json").read_text(encoding="utf-8"))
    label_map = slot_map(train_slot, work / "data/label_map.json", vocab_path)
    max_seqlen, random_seed, batch_size, num_epochs = 64, options.seed, options.batch_size, options.epochs
    lr, weight_decay, dropout_prob, input_dim = 1e-4, 0.01, 0.1, config["hidden_size"]
    num_classes = len(json.loads(label_map.read_text(encoding="utf-8")))

    # article
    # 创建数据集的读取与预处理工具
    seq_label_reader = palm.reader.SequenceLabelReader(vocab_path, max_seqlen, label_map, seed=random_seed)
    cls_reader = palm.reader.ClassifyReader(vocab_path, max_seqlen, seed=random_seed)
    # 加载训练数据
    seq_label_reader.load_data(train_slot, file_format="tsv", num_epochs=None, batch_size=batch_size)
    cls_reader.load_data(train_intent, batch_size=batch_size, num_epochs=None)

    num_classes_intent = len({example.fields["label"] for example in cls_reader.examples})

    # article
    # 创建骨干网络提取文本特征
    ernie = palm.backbone.ERNIE.from_config(config)
    # 在ERNIE的骨干网络上注册数据集读取与预处理工具
    seq_label_reader.register_with(ernie)
    cls_reader.register_with(ernie)
    # 创建任务的输出层
    seq_label_head = palm.head.SequenceLabel(num_classes, input_dim, dropout_prob)
    cls_head = palm.head.Classify(num_classes_intent, input_dim, dropout_prob)
    # 创建任务训练单元和多任务训练模块
    trainer_seq_label = palm.Trainer("slot", mix_ratio=1.0)
    trainer_cls = palm.Trainer("intent", mix_ratio=1.0)
    trainer = palm.MultiHeadTrainer([trainer_seq_label, trainer_cls])
    # 构建包含主干网络和任务头的前向图
    loss1 = trainer_cls.build_forward(ernie, cls_head)  # noqa: F841
    loss2 = trainer_seq_label.build_forward(ernie, seq_label_head)  # noqa: F841
    loss_var = trainer.build_forward()
    # 使能warmup策略以获取更好的微调效果
    n_steps = seq_label_reader.num_examples * 1.5 * num_epochs
    warmup_steps = int(0.1 * n_steps)
    sched = palm.lr_sched.TriangularSchedualer(warmup_steps, n_steps)
    # 构建优化器
    adam = palm.optimizer.Adam(loss_var, lr, sched)
    # 构建反向图
    trainer.build_backward(optimizer=adam, weight_decay=weight_decay)
    # 将准备好的reader和数据给到训练单元。
    trainer.fit_readers_with_mixratio([seq_label_reader, cls_reader], "slot", num_epochs)
    # 加载预训练模型
    trainer.load_pretrain(pretrain)
    # 设置训练期间保存模型
    trainer.set_saver(save_path=work / "outputs", save_steps=options.save_steps)

    dev_readers = [seq_label_reader.clone("predict"), cls_reader.clone("predict")]
    for reader, path in zip(dev_readers, (dev_slot, dev_intent), strict=True):
        reader.load_data(path, batch_size=64)
    trainer.set_evaluator(dev_readers)

    # article
    # 开始训练
    trainer.train(print_steps=10)

    print(f"Export it with: palm-export {work / 'outputs'} --output {work / 'bundle'}")


def to_palm(source: Path, target: Path, field: str) -> Path:
    """Slots of a joint directory as PALM's table with 0x02, intents as its table for classification."""
    if not target.exists():
        convert(source, target, target_format="palm" if field == "slots" else "tsv", field=field)
    return target


def slot_map(train: Path, target: Path, vocab_path: Path) -> Path:
    """The tags of the training data as a JSON label map."""
    reader = palm.reader.JointReader(vocab_path, 64)
    reader.load_data(train, batch_size=1)
    target.write_text(json.dumps(tags_of(reader.examples), indent=0), encoding="utf-8")
    return target


if __name__ == "__main__":
    main()
