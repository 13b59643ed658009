"""What differs from family to family: types, positions, the token that stands for the text, the table of words."""

import copy
import json
import shutil
import signal

import pytest
import torch
from transformers import AutoConfig, AutoModel, ByT5Tokenizer
from transformers.utils import logging

from palm_serve.bundle.manifest import TaskInfo
from palm_serve.tokenization import TextTokenizer
from palm_trainer.cli.train import app, command
from palm_trainer.data.example import Example
from palm_trainer.errors import PalmError, ParityError
from palm_trainer.evaluation.evaluate import EvaluationSet
from palm_trainer.export.exporter import export_bundle
from palm_trainer.model.encoders import freeze_unused_rows, load_pretrained
from palm_trainer.model.heads import make_head
from palm_trainer.model.multi_task import MultiTaskModel, TrainedModel, describe_encoder

WITH_TYPES = ("bert", "ernie", "xlnet", "albert", "electra")
WITHOUT_TYPES = ("roberta", "distilbert", "deberta-v2", "deberta-v3", "xlm-roberta", "modernbert")
FAMILIES = (*WITH_TYPES, *WITHOUT_TYPES)
MAX_LENGTH = 32


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def encoder(family, directory_of):
    return load_pretrained(str(directory_of(family)))


def inputs(encoder, *pairs, padding=0):
    """Model inputs of texts with their pairs, padded to the longest and by `padding` more."""
    rows = [TextTokenizer(encoder.tokenizer_json, MAX_LENGTH).encode(*pair) for pair in pairs]
    length = max(map(len, rows)) + padding
    columns = {
        "input_ids": [[*row.input_ids, *[encoder.pad_token_id] * (length - len(row))] for row in rows],
        "attention_mask": [[1] * len(row) + [0] * (length - len(row)) for row in rows],
        "token_type_ids": [[*row.type_ids, *[0] * (length - len(row))] for row in rows],
    }
    return {spec.name: torch.tensor(columns[spec.name]) for spec in encoder.backbone.inputs}


def test_the_tokenizer_is_the_one_that_lies_beside_the_weights(encoder, family, directory_of):
    """transformers 5 builds another: it drops the normalizer of XLM-R, ALBERT, XLNet and DeBERTa."""
    assert encoder.tokenizer_json == (directory_of(family) / "tokenizer.json").read_text(encoding="utf-8")
    assert encoder.pad_token_id == json.loads((directory_of(family) / "config.json").read_text())["pad_token_id"]


def test_types_go_where_they_are_taken(encoder, family):
    assert ("token_type_ids" in [spec.name for spec in encoder.backbone.inputs]) == (family in WITH_TYPES)
    given = inputs(encoder, ("fly to boston", "about denver"))
    if family in WITH_TYPES:
        assert given["token_type_ids"].max() >= 1
        plain = {**given, "token_type_ids": torch.zeros_like(given["token_type_ids"])}
        one, other = (encoder.backbone(**x)["sequence_output"] for x in (given, plain))
        assert (one - other).abs().max() > 1e-3


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_padding_changes_nothing(family, directory_of, pooling):
    encoder = load_pretrained(str(directory_of(family)), pooling=pooling)
    texts = [("fly to boston",), ("weather in new york",)]
    alone = encoder.backbone(**inputs(encoder, texts[0]))
    beside = encoder.backbone(**inputs(encoder, *texts, padding=3))
    length = alone["sequence_output"].shape[1]
    torch.testing.assert_close(beside["sequence_output"][:1, :length], alone["sequence_output"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(beside["pooled_output"][:1], alone["pooled_output"], atol=1e-5, rtol=1e-5)
    hidden = alone["sequence_output"][0]
    own = hidden.mean(dim=0) if pooling == "mean" else hidden[-1 if family == "xlnet" else 0]
    torch.testing.assert_close(alone["pooled_output"][0], own)


def test_positions_are_as_many_as_the_encoder_has(encoder, family):
    assert encoder.backbone.max_length == (None if family == "xlnet" else MAX_LENGTH)
    text = ("about boston " * MAX_LENGTH,)
    full = inputs(encoder, text, ("fly",))
    assert full["input_ids"].shape[1] == MAX_LENGTH
    assert encoder.backbone(**full)["sequence_output"].isfinite().all()


def test_training_only_the_rows_in_use_is_training_all(encoder):
    given = inputs(encoder, ("fly to boston", "about denver"), ("fly to new york",))
    active = copy.deepcopy(encoder.backbone)
    freeze_unused_rows(active, given["input_ids"].unique())
    for backbone in (encoder.backbone.train(), active.train()):
        optimizer = torch.optim.AdamW(backbone.parameters(), lr=0.01, weight_decay=0.0)
        torch.manual_seed(5)  # the same dropout
        for _ in range(3):
            backbone(**given)["sequence_output"].square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    expected, found = encoder.backbone.state_dict(), active.state_dict()
    assert expected.keys() == found.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-6, rtol=1e-5)
    assert not torch.equal(expected["encoder." + table_name(active)], load_table(encoder))


def table_name(backbone):
    table = backbone.encoder.get_input_embeddings()
    return next(name for name, module in backbone.encoder.named_modules() if module is table) + ".weight"


def load_table(encoder):
    return load_pretrained(encoder.name).backbone.embedding_table


def test_masked_lm_decodes_with_a_table_of_another_width(directory_of):
    """ALBERT and ELECTRA: the head projects to the width of the table."""
    for family in ("albert", "electra"):
        backbone = load_pretrained(str(directory_of(family))).backbone
        assert backbone.embedding_table.shape[1] == 8
        assert backbone.hidden_size == 16


def save(path, encoder, tokenizer=None):
    logging.set_verbosity_error()
    encoder.save_pretrained(path)
    if tokenizer is not None:
        tokenizer.save_pretrained(path)
    return str(path)


@pytest.mark.parametrize(
    ("model_type", "settings", "match"),
    [
        (
            "gpt2",
            {"n_embd": 16, "n_layer": 1, "n_head": 2},
            r"\(GPT2Model\) is a decoder: a token depends only on those before it. Choose",
        ),
        (
            "t5",
            {"d_model": 16, "num_layers": 1, "num_heads": 2, "d_kv": 8, "d_ff": 16},
            r"with a decoder \(t5\), which PALM cannot use",
        ),
        (
            "vit",
            {
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 16,
                "image_size": 16,
            },
            r"\(ViTModel\) cannot be run on token ids with a mask",
        ),
        (
            "fnet",
            {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16},
            r"\(FNetModel\) ignores the mask",
        ),
    ],
)
def test_what_is_no_encoder_is_refused(model_type, settings, match, tmp_path, tokenizer_of):
    tokenizer = tokenizer_of("byte-level")
    encoder = AutoModel.from_config(AutoConfig.for_model(model_type, vocab_size=len(tokenizer), **settings))
    with pytest.raises(PalmError, match=match):
        load_pretrained(save(tmp_path, encoder, tokenizer))


def test_no_fast_tokenizer(tmp_path, directory_of):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(directory_of("bert") / name, tmp_path)
    ByT5Tokenizer().save_pretrained(tmp_path)
    with pytest.raises(PalmError, match=r"has no fast tokenizer \(tokenizer.json\), which character offsets need"):
        load_pretrained(str(tmp_path))


def test_a_directory_without_a_vocabulary(tmp_path, directory_of):
    """transformers makes up a tokenizer of nothing but special tokens there."""
    for name in ("config.json", "model.safetensors"):
        shutil.copy(directory_of("bert") / name, tmp_path)
    with pytest.raises(PalmError, match=r"could not be loaded: .* holds no vocabulary"):
        load_pretrained(str(tmp_path))


def test_a_damaged_tokenizer(tmp_path, directory_of):
    shutil.copytree(directory_of("bert"), tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(PalmError, match=r"could not be loaded: .*tokenizer.json is no tokenizer"):
        load_pretrained(str(tmp_path))


def test_a_tokenizer_with_more_pieces_than_the_encoder_knows(tmp_path, directory_of):
    shutil.copytree(directory_of("bert"), tmp_path, dirs_exist_ok=True)
    content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    content["model"]["vocab"]["zebra"] = 5000
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(PalmError, match=r"its tokenizer has the id 5000, but the embedding table \d+ rows"):
        load_pretrained(str(tmp_path))


def test_an_encoder_that_cannot_be_used_ends_the_command_with_2(tmp_path, tokenizer_of, capsys):
    gpt2 = AutoConfig.for_model("gpt2", vocab_size=400, n_embd=16, n_layer=1, n_head=2)
    save(tmp_path / "gpt2", AutoModel.from_config(gpt2), tokenizer_of("byte-level"))
    (tmp_path / "a.tsv").write_text("text\tmood\nfly\tgood\nhotel\tbad\n", encoding="utf-8")
    (tmp_path / "a.toml").write_text(
        '[encoder]\nmodel = "./gpt2"\n[data.a]\nformat = "tsv"\ntrain = "a.tsv"\n[tasks.mood]\nkind = "classify"\ndata = ["a"]\n'
        f'[train]\noutput = "{(tmp_path / "run").as_posix()}"\n',
        encoding="utf-8",
    )
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        assert command(app, ["run", str(tmp_path / "a.toml")]) == 2
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    said = capsys.readouterr().err
    assert "is a decoder" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_an_encoder_whose_graph_holds_for_one_shape_only(tmp_path, tokenizer_of):
    """Longformer cuts texts into blocks in Python, so that its trace holds the block of the example."""
    settings = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "attention_window": 4,
    }
    config = AutoConfig.for_model("longformer", vocab_size=400, pad_token_id=1, max_position_embeddings=40, **settings)
    loaded = load_pretrained(save(tmp_path / "long", AutoModel.from_config(config), tokenizer_of("byte-level")))
    info = TaskInfo(kind="classify", outputs=("mood.logits",), labels=("bad", "good"))
    model = MultiTaskModel(loaded.backbone, {"mood": make_head("mood", info, 16)}).eval()
    trained = TrainedModel(
        model, loaded.tokenizer_json, MAX_LENGTH, {"mood": info}, describe_encoder(loaded.backbone, "long", 1)
    )
    sets = [EvaluationSet("a", [Example("fly to boston on monday", fields={"mood": "good"})], {"mood": "mood"})]
    with pytest.raises(
        ParityError,
        match=r"parity failed on CPU in fp32: output 'mood.logits' on .*: the bundle cannot be run: .*No bundle was",
    ):
        export_bundle(trained, sets, tmp_path / "bundle", precision="fp32")
    assert not (tmp_path / "bundle").exists()
