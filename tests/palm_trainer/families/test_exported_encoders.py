"""`palm-train models export`: the folders give the vectors of the run, in PALM and in the libraries that users know."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from palm_serve.bundle.manifest import TaskInfo
from palm_serve.tokenization import TextTokenizer, bare_tokenizer_json
from palm_trainer.model.checkpoint import load_trained, save_trained
from palm_trainer.model.encoders import load_pretrained
from palm_trainer.model.export_encoder import export_encoder
from palm_trainer.model.heads import make_head
from palm_trainer.model.multi_task import MultiTaskModel, TrainedModel, describe_encoder
from palm_trainer.model.warm_start import load_exported

FAMILIES = (
    *("bert", "ernie", "xlnet", "albert", "electra"),
    *("roberta", "distilbert", "deberta-v2", "deberta-v3", "xlm-roberta", "modernbert"),
)
MAX_LENGTH = 12
TEXTS = [
    "fly to boston",
    "Where is Anna ? she lives in São Paulo, please",
    "what is the weather in New York on monday, please and about boats and cakes on trains",
    "北京 [MASK] o'clock 🙂",
    "",
]


@pytest.fixture(
    scope="module", params=[(family, pooling) for family in FAMILIES for pooling in ("cls", "mean")], ids="-".join
)
def exported(request, directory_of, tmp_path_factory) -> tuple[Path, TrainedModel]:
    """The folder of an exported run, and the model of the run."""
    family, pooling = request.param
    loaded = load_pretrained(str(directory_of(family)), pooling=pooling)
    info = TaskInfo(kind="classify", outputs=("intent.logits",), labels=("flight", "fare"))
    heads = {"intent": make_head("intent", info, loaded.backbone.hidden_size)}
    trained = TrainedModel(
        MultiTaskModel(loaded.backbone, heads),
        bare_tokenizer_json(loaded.tokenizer_json),
        MAX_LENGTH,
        {"intent": info},
        describe_encoder(loaded.backbone, family, loaded.pad_token_id),
    )
    folder = tmp_path_factory.mktemp(family)
    save_trained(trained, folder / "run" / "best")
    export_encoder(folder / "run", folder / "exported")
    return folder / "exported", load_trained(folder / "run")


@torch.no_grad()
def pooled(trained: TrainedModel) -> np.ndarray:
    """PALM's vectors, [texts, hidden]."""
    tokenizer = TextTokenizer(trained.tokenizer_json, trained.max_length)
    vectors = []
    for text in TEXTS:
        encoding = tokenizer.encode(text)
        inputs = {"input_ids": encoding.input_ids, "token_type_ids": encoding.type_ids}
        inputs["attention_mask"] = [1] * len(encoding)
        tensors = {name: torch.tensor([list(inputs[name])]) for name in trained.model.input_names}
        vectors.append(trained.model.backbone(**tensors)["pooled_output"][0].numpy())
    return np.stack(vectors)


def test_sentence_transformers_gives_the_vectors_of_the_run(exported):
    folder, trained = exported
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries that PALM does not import
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(folder), device="cpu")
    assert model.max_seq_length == MAX_LENGTH
    np.testing.assert_allclose(model.encode(TEXTS), pooled(trained), atol=1e-5, rtol=0)


@torch.no_grad()
def test_transformers_gives_the_vectors_of_the_run(exported):
    folder, trained = exported
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    assert set(batch) == set(trained.model.input_names)
    assert batch["input_ids"].shape[1] <= MAX_LENGTH
    own = TextTokenizer(trained.tokenizer_json, MAX_LENGTH)
    for text, ids, mask in zip(TEXTS, batch["input_ids"], batch["attention_mask"], strict=True):
        assert ids[mask.bool()].tolist() == list(own.encode(text).input_ids)
    hidden = AutoModel.from_pretrained(folder).eval()(**batch).last_hidden_state
    vectors = trained.model.backbone._pool(hidden, batch["attention_mask"])
    np.testing.assert_allclose(vectors.numpy(), pooled(trained), atol=1e-5, rtol=0)


def test_palm_gives_the_vectors_of_the_run(exported):
    folder, trained = exported
    encoder = load_exported(folder)
    assert encoder.backbone.pooling == trained.model.backbone.pooling
    assert encoder.tokenizer_json == trained.tokenizer_json
    assert encoder.pad_token_id == trained.encoder.pad_token_id
    state = encoder.backbone.state_dict()
    expected = trained.model.backbone.state_dict()
    assert state.keys() == expected.keys()
    assert [name for name in state if not torch.equal(state[name], expected[name])] == []


def test_record_names_the_checkpoint(exported):
    folder, _ = exported
    record = json.loads((folder / "palm-export.json").read_text(encoding="utf-8"))
    assert record["max_length"] == MAX_LENGTH
    assert len(record["checkpoint_sha256"]) == 64
