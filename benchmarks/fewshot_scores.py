"""Answers of the arms of fewshot.py to test texts: fine-tuned runs, frozen encoders with logistic regression, SetFit."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from common import ROOT
from fewshot_bases import SLOTS_TASK, TARGET_DATA, TARGET_TASK
from paired_bootstrap import pack
from sklearn.linear_model import LogisticRegression

from palm_serve.engine.padding import pad_batch
from palm_serve.tokenization import TextTokenizer
from palm_serve.types import InputTexts
from palm_trainer.config.loader import load_config
from palm_trainer.evaluation.evaluate import calibration_errors, evaluate, judge
from palm_trainer.evaluation.predictor import Predictor
from palm_trainer.model.checkpoint import load_trained
from palm_trainer.model.encoders import Encoder, load_pretrained
from palm_trainer.report import Recording
from palm_trainer.runs.job_from_config import evaluation_sets
from palm_trainer.tasks.metrics import accuracy
from palm_trainer.tokenization.encoder_files import locate_encoder

sys.path.append(str(Path(__file__).with_name("serving") / "peers"))

from environments import Peer, install

MINILM = "minilm-l6-en"
MAX_LENGTH = 64
C = 10.0
"""Inverse strength of the regularization of the logistic regression."""
SETFIT = ROOT / "benchmarks/peers_fewshot/setfit_cell.py"
SETFIT_PACKAGES = (
    "setfit==1.1.3",
    "sentence-transformers==5.1.2",
    "transformers==4.57.6",
    "datasets==5.0.1",
    "scikit-learn==1.9.1",
    "torch==2.13.0",
)
_BATCH = 64


def run_scores(run: Path, texts: str) -> dict[str, Any]:
    """Answer the texts of a file with a finished run, and return what the results file keeps.

    Args:
        run: directory of a run with the data set `target` and the task `intent`, maybe with `slots`. A text is right
            where all its tasks are.
        texts: labelled texts; may name environment variables.
    """
    config = load_config(run / "config.toml", [f"data.{TARGET_DATA}.test={texts}"], output=run)
    trained = load_trained(run)
    predictor = Recording(Predictor(trained))
    kinds = {name: task.kind for name, task in trained.tasks.items()}
    sets = [one for one in evaluation_sets(config, "test") if one.data == TARGET_DATA]
    metrics = evaluate(predictor, kinds, sets)
    errors = calibration_errors(predictor, kinds, sets)
    judged = judge(predictor, kinds, sets)
    correct = []
    for rows in zip(*judged.values(), strict=True):
        correct.append(all(row.gold == row.predicted for row in rows))
    scores = {"accuracy": 100 * sum(correct) / len(correct), "ece": 100 * errors[TARGET_TASK]["ece"]}
    if SLOTS_TASK in metrics:
        scores["intent_accuracy"] = 100 * metrics[TARGET_TASK]["accuracy"]
        scores["slot_f1"] = 100 * metrics[SLOTS_TASK]["f1"]
    return {"test": scores, "texts": len(correct), "correct": pack(correct)}


def answer_scores(gold: Sequence[str], predicted: Sequence[str]) -> dict[str, Any]:
    """Return what the results file keeps of answers that PALM did not give."""
    correct = [label == answer for label, answer in zip(gold, predicted, strict=True)]
    return {"test": {"accuracy": 100 * accuracy(gold, predicted)}, "texts": len(gold), "correct": pack(correct)}


def frozen_scores(base: Path | None, train: str, texts: str) -> dict[str, Any]:
    """Fit a logistic regression on the vectors of a frozen encoder, and score it. Deterministic.

    Args:
        base: run whose encoder it is. None: plain MiniLM-L6.
        train: labelled texts to fit on.
        texts: labelled texts to answer.
    """
    known, asked = read_rows(train), read_rows(texts)
    vectors = encode_texts(base, [row["text"] for row in (*known, *asked)])
    classifier = LogisticRegression(C=C, max_iter=5_000)
    classifier.fit(vectors[: len(known)], [row["intent"] for row in known])
    predicted = classifier.predict(vectors[len(known) :])
    return answer_scores([row["intent"] for row in asked], [str(label) for label in predicted])


def encode_texts(base: Path | None, texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """Return the vectors of texts, `[texts, hidden]`, of length 1: the mean over the tokens of an encoder in fp32.

    Args:
        base: run whose encoder it is. None: plain MiniLM-L6.
        texts: to encode.
    """
    if base is None:
        loaded = load_pretrained(MINILM, pooling="mean")
        backbone, tokenizer_json, pad_id = loaded.backbone, loaded.tokenizer_json, loaded.pad_token_id
    else:
        trained = load_trained(base)
        backbone, tokenizer_json, pad_id = trained.model.backbone, trained.tokenizer_json, trained.encoder.pad_token_id
    tokenizer = TextTokenizer(tokenizer_json, MAX_LENGTH)
    rows = [encodings[0] for encodings in tokenizer.encode_rows([InputTexts(text) for text in texts])]
    order = np.argsort([len(row) for row in rows], kind="stable")
    vectors = np.empty((len(rows), backbone.hidden_size), dtype=np.float32)
    for begin in range(0, len(rows), _BATCH):
        positions = order[begin : begin + _BATCH]
        vectors[positions] = _pooled(backbone, [rows[position] for position in positions], pad_id)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@torch.no_grad()
def _pooled(backbone: Encoder, rows: Sequence[Any], pad_id: int) -> npt.NDArray[np.float32]:
    names = [spec.name for spec in backbone.inputs]
    arrays = pad_batch(rows, names, pad_id).arrays
    inputs = {name: torch.from_numpy(array) for name, array in arrays.items()}
    vectors: npt.NDArray[np.float32] = backbone.eval()(**inputs)["pooled_output"].float().numpy()
    return vectors


def read_rows(path: str) -> list[dict[str, Any]]:
    """Return the rows of a file of JSON lines, whose path may name environment variables."""
    lines = Path(os.path.expandvars(path)).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def setfit_scores(train: str, texts: str, seed: int, work: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """Train SetFit in an environment of its own, below `work`, and score its answers.

    Args:
        train: labelled texts to train on.
        texts: labelled texts to answer.
        seed: of the training.
        work: directory for the environment and its files.
        environment: variables of the process.

    Raises:
        CalledProcessError: SetFit failed.
        NotToBeHadError: it could not be installed.
    """
    peer = Peer("setfit", "SetFit", "", SETFIT_PACKAGES, (), {})
    interpreter = install(peer, work / "environments")
    output = work / f"setfit-{seed}.json"
    paths = {"--train": os.path.expandvars(train), "--texts": os.path.expandvars(texts), "--output": str(output)}
    options = {"--model": locate_encoder(MINILM), **paths, "--work": str(work / "setfit"), "--seed": str(seed)}
    command = [str(interpreter), str(SETFIT), *(part for option in options.items() for part in option)]
    subprocess.run(command, check=True, cwd=work, env={**os.environ, **environment})
    predicted = json.loads(output.read_text(encoding="utf-8"))
    output.unlink()
    return answer_scores([row["intent"] for row in read_rows(texts)], predicted)
