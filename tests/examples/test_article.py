"""`examples/article.py` runs to the end on a few rows and a tiny encoder, says what the article says, and its result exports."""

import re
import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from palm_serve.bundle.loader import load_bundle
from palm_trainer.cli.export import app

ROOT = Path(__file__).parents[2]
CITIES = ("boston", "new york", "denver")
WORDS = " ".join(("flight airfare to", *CITIES)).split()


def _joint(folder: Path) -> None:
    folder.mkdir(parents=True)
    columns: dict[str, list[str]] = {"seq.in": [], "seq.out": [], "label": []}
    for i, city in enumerate(CITIES * 2):
        intent = ("atis_flight", "atis_airfare")[i % 2]
        columns["seq.in"].append(f"{intent[5:]} to {city}")
        columns["seq.out"].append(" ".join(["O", "O", "B-toloc.city_name", *["I-toloc.city_name"] * city.count(" ")]))
        columns["label"].append(intent)
    for name, rows in columns.items():
        (folder / name).write_text("".join(row + "\n" for row in rows), encoding="utf-8")


def test_article_runs_says_its_lines_and_exports(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    encoder: Callable[[Path, Sequence[str]], Path],
) -> None:
    for split in ("train", "dev"):
        _joint(tmp_path / "atis" / split)
    work = tmp_path / "work"
    options = {
        "--data": tmp_path / "atis",
        "--work": work,
        "--pretrain": encoder(tmp_path / "ernie", WORDS),
        "--epochs": 10,
    }
    options |= {"--batch-size": 2, "--save-steps": 25}
    monkeypatch.setattr(sys, "argv", ["article.py", *(str(part) for pair in options.items() for part in pair)])
    runpy.run_path(str(ROOT / "examples/article.py"), run_name="__main__")
    said = capsys.readouterr().out.splitlines()
    assert "slot: expected train steps 30." in said
    assert "Estimated overall train steps 60." in said
    line = r"global step: (\d+), (slot|intent): step \d+/3 \(epoch \d\), loss: \d+\.\d{3}, speed: \d+\.\d\d steps/s"
    steps = [match[1] for text in said if (match := re.fullmatch(line, text))]
    assert steps == ["10", "20", "30", "40", "50", "60"]
    assert {"slot train finish!", "intent train finish!"} <= set(said)
    assert f"checkpoint has been saved at {work / 'outputs/ckpt.step60'}" in said
    assert {path.name for path in (work / "outputs").glob("ckpt.*")} == {f"ckpt.step{n}" for n in (25, 50, 60)}

    result = CliRunner().invoke(
        app, [str(work / "outputs"), "--output", str(tmp_path / "bundle"), "--precision", "fp32"]
    )
    assert result.exit_code == 0, result.output
    manifest = load_bundle(tmp_path / "bundle").manifest
    assert manifest.encoder.family == "ernie"
    assert (manifest.task_with_role("intent"), manifest.task_with_role("slots")) == ("intent", "slot")


def test_article_is_the_articles_code() -> None:
    """Every call of the article stands in the example, in the article's order."""
    text = (ROOT / "examples/article.py").read_text(encoding="utf-8")
    calls = [
        "seq_label_reader = palm.reader.SequenceLabelReader(vocab_path, max_seqlen, label_map, seed=random_seed)",
        "cls_reader = palm.reader.ClassifyReader(vocab_path, max_seqlen, seed=random_seed)",
        'seq_label_reader.load_data(train_slot, file_format="tsv", num_epochs=None, batch_size=batch_size)',
        "cls_reader.load_data(train_intent, batch_size=batch_size, num_epochs=None)",
        "ernie = palm.backbone.ERNIE.from_config(config)",
        "seq_label_reader.register_with(ernie)",
        "cls_reader.register_with(ernie)",
        "seq_label_head = palm.head.SequenceLabel(num_classes, input_dim, dropout_prob)",
        "cls_head = palm.head.Classify(num_classes_intent, input_dim, dropout_prob)",
        'trainer_seq_label = palm.Trainer("slot", mix_ratio=1.0)',
        'trainer_cls = palm.Trainer("intent", mix_ratio=1.0)',
        "trainer = palm.MultiHeadTrainer([trainer_seq_label, trainer_cls])",
        "loss1 = trainer_cls.build_forward(ernie, cls_head)",
        "loss2 = trainer_seq_label.build_forward(ernie, seq_label_head)",
        "loss_var = trainer.build_forward()",
        "n_steps = seq_label_reader.num_examples * 1.5 * num_epochs",
        "warmup_steps = int(0.1 * n_steps)",
        "sched = palm.lr_sched.TriangularSchedualer(warmup_steps, n_steps)",
        "adam = palm.optimizer.Adam(loss_var, lr, sched)",
        "trainer.build_backward(optimizer=adam, weight_decay=weight_decay)",
        'trainer.fit_readers_with_mixratio([seq_label_reader, cls_reader], "slot", num_epochs)',
        "trainer.load_pretrain(pretrain)",
        'trainer.set_saver(save_path=work / "outputs", save_steps=options.save_steps)',
        "trainer.train(print_steps=10)",
    ]
    places = [text.find(call) for call in calls]
    assert -1 not in places
    assert places == sorted(places)
