"""The converter on parameters saved by PaddlePaddle (fixtures/paddle), compared with its outputs."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoModel, AutoTokenizer

from palm_trainer.api.backbone import BERT, ERNIE
from palm_trainer.errors import PalmError
from palm_trainer.model.encoders import load_pretrained, load_weights
from palm_trainer.model.encoders.convert_paddle import convert_paddle
from palm_trainer.model.encoders.paddle_tensor import read_tensor

FIXTURES = Path(__file__).parent / "fixtures/paddle"
MODELS = ("ernie2", "ernie1", "bert")
MASKED_LM = (
    "mask_lm_out_fc.b_0",
    "mask_lm_trans_fc.b_0",
    "mask_lm_trans_fc.w_0",
    "mask_lm_trans_layer_norm_bias",
    "mask_lm_trans_layer_norm_scale",
)


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The archives as directories; never written to."""
    folder = tmp_path_factory.mktemp("paddle")
    for name in MODELS:
        with tarfile.open(FIXTURES / f"{name}.tar.gz") as archive:
            archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def archive(unpacked, tmp_path):
    """A copy of ERNIE 2's directory, to be damaged."""
    return shutil.copytree(unpacked / "ernie2", tmp_path / "archive")


@pytest.fixture(scope="module", params=MODELS)
def converted(request, tmp_path_factory):
    """Name, directory and account of a converted archive."""
    target = tmp_path_factory.mktemp("converted") / request.param
    return request.param, target, convert_paddle(FIXTURES / f"{request.param}.tar.gz", target)


def run_of_paddle(name: str):
    """Inputs of Paddle's run as the backbones take them, and its outputs."""
    saved = np.load(FIXTURES / f"{name}.npz")
    ids, types = torch.tensor(saved["token_ids"]), torch.tensor(saved["segment_ids"])
    mask = torch.tensor(saved["input_mask"][:, :, 0]).long()
    return (ids, mask, types), torch.tensor(saved["encoder_outputs"]), torch.tensor(saved["sentence_embedding"])


def assert_same(sequence: torch.Tensor, expected: torch.Tensor, mask: torch.Tensor) -> None:
    """At real pieces. At padding the original attends to everything, which nothing reads."""
    torch.testing.assert_close(sequence[mask == 1], expected[mask == 1], rtol=0, atol=1e-5)


def test_convert_paddle_encoder_agrees_with_paddle(converted):
    name, target, _ = converted
    inputs, expected, _ = run_of_paddle(name)
    with torch.no_grad():
        assert_same(load_pretrained(str(target)).backbone.eval()(*inputs)["sequence_output"], expected, inputs[1])


def test_convert_paddle_pooler_agrees_with_paddle(converted):
    name, target, _ = converted
    (ids, mask, types), _, expected = run_of_paddle(name)
    with torch.no_grad():
        pooled = AutoModel.from_pretrained(target)(ids, attention_mask=mask, token_type_ids=types).pooler_output
    torch.testing.assert_close(pooled, expected, rtol=0, atol=1e-5)


def test_load_weights_fits_original_configuration(converted, unpacked):
    """`X.from_config(original JSON)` and `load_pretrain`, as the article has it. An ERNIE takes what has no task embedding; a BERT not ERNIE 2."""
    name, target, _ = converted
    [file] = (unpacked / name).glob("*_config.json")
    for family in (ERNIE,) if name == "ernie2" else (ERNIE, BERT):
        backbone = family.from_config(json.loads(file.read_text()), phase="predict")
        report = load_weights(backbone, str(target))
        assert report.missing == ()
        assert set(report.unexpected) == {"pooler.dense.weight", "pooler.dense.bias"}
        inputs, expected, _ = run_of_paddle(name)
        with torch.no_grad():
            assert_same(backbone(*inputs)["sequence_output"], expected, inputs[1])


def test_paddle_fixtures_detect_wrong_epsilon(converted):
    name, target, _ = converted
    model = AutoModel.from_pretrained(target, layer_norm_eps=1e-12)
    (ids, mask, types), expected, _ = run_of_paddle(name)
    with torch.no_grad():
        found = model(ids, attention_mask=mask, token_type_ids=types).last_hidden_state
    assert (found - expected)[mask == 1].abs().max() > 3e-4


def test_convert_paddle_reports_matched_tensors(converted):
    name, target, done = converted
    assert done.model_type == ("bert" if name == "bert" else "ernie")
    assert done.missing == ()
    assert done.unused == (() if name == "ernie1" else MASKED_LM)
    assert ("task_embedding" in done.matched) == (name == "ernie2")
    config = json.loads((target / "config.json").read_text())
    assert config["layer_norm_eps"] == 1e-6
    assert config["hidden_act"] == ("relu" if name == "ernie1" else "gelu")
    assert config["type_vocab_size"] == 4


def test_convert_paddle_tokenizer_reads_vocabulary(converted):
    _, target, done = converted
    tokenizer = AutoTokenizer.from_pretrained(target)
    assert tokenizer("Fly to Boston").input_ids == [1, 5, 6, 7, 8, 2]
    assert Tokenizer.from_file(str(target / "tokenizer.json")).encode("Fly to Boston").ids == [1, 5, 6, 7, 8, 2]
    assert done.lowercase
    assert (target / "vocab.txt").read_text().split("\n")[:6] == ["[PAD]", "[CLS]", "[SEP]", "[MASK]", ",", "fly"]


def test_convert_paddle_sources_give_same_result(unpacked, tmp_path):
    sources = (FIXTURES / "ernie2.tar.gz", unpacked / "ernie2", unpacked / "ernie2/params")
    for number, source in enumerate(sources):
        convert_paddle(source, tmp_path / str(number))
    weights = [(tmp_path / str(number) / "model.safetensors").read_bytes() for number in range(3)]
    assert weights[0] == weights[1] == weights[2]


def test_convert_paddle_cased_vocabulary_is_detected(archive, tmp_path):
    text = (archive / "vocab.txt").read_text()
    (archive / "vocab.txt").write_text(text.replace("fly", "Fly"))
    assert not convert_paddle(archive, tmp_path / "cased").lowercase
    assert AutoTokenizer.from_pretrained(tmp_path / "cased").tokenize("Fly") == ["Fly"]
    assert convert_paddle(archive, tmp_path / "uncased", lowercase=True).lowercase


def test_convert_paddle_without_pooler_works(archive, tmp_path):
    for name in ("w_0", "b_0"):
        (archive / f"params/pooled_fc.{name}").unlink()
    done = convert_paddle(archive, tmp_path / "out")
    assert done.missing == ("pooled_fc.w_0", "pooled_fc.b_0")
    load_pretrained(str(tmp_path / "out"))


def test_convert_paddle_ignores_optimizer_state(archive, tmp_path):
    (archive / "params/word_embedding_moment1_0").write_bytes(b"of Adam")
    (archive / "params/@LR_DECAY_COUNTER@").write_bytes(b"of the schedule")
    assert convert_paddle(archive, tmp_path / "out").unused == MASKED_LM


def damaged(archive: Path, name: str, contents: bytes | None) -> Path:
    """The archive with one file replaced, or removed."""
    if contents is None:
        (archive / name).unlink()
    else:
        (archive / name).write_bytes(contents)
    return archive


def configured(archive: Path, **changes: object) -> bytes:
    config = json.loads((archive / "ernie_config.json").read_text()) | changes
    return json.dumps({key: value for key, value in config.items() if value is not None}).encode()


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("params/encoder_layer_1_ffn_fc_0.b_0", None, r"1 tensors are missing: encoder_layer_1_ffn_fc_0.b_0\. Is the"),
        ("params/word_embedding", None, r"no parameters of BERT or ERNIE there: no file 'word_embedding'"),
        (
            "params/sent_embedding",
            b"",
            r"sent_embedding: 0 bytes that are no tensor .* ends where 4 bytes are due at 0",
        ),
        ("params/sent_embedding", b"<html>not found</html>", r"22 bytes that are no tensor of Paddle's: version \d+"),
        ("ernie_config.json", None, r"no \*_config.json beside `params/`. Put the model's own there"),
        ("ernie_config.json", b"{", r"ernie_config.json: not JSON"),
        ("ernie_config.json", b"[]", r"holds a list, but a JSON object is due"),
        ("ernie_config.json", b"{}", r"lacks hidden_size, .*, type_vocab_size. Take the configuration"),
        ("other_config.json", b"{}", r"2 configurations \(ernie_config.json, other_config.json\)"),
        ("vocab.txt", None, r"vocab.txt: no vocabulary there"),
        ("vocab.txt", b"[PAD]\n[UNK]\n", r"lacks \[CLS\], \[SEP\], \[MASK\]. Take the vocabulary"),
        ("vocab.txt", b"a\t0\nb\t2\n", r"the ids of its 2 words are not 0 to 1, each once"),
        ("vocab.txt", b"a\tb\n", r"vocab.txt:1: 'b' is no id"),
        ("vocab.txt", b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n" + b"x\n" * 10, r"15 words, but vocab_size .* is 14"),
    ],
)
def test_convert_paddle_faulty_archives_are_refused(archive, tmp_path, name, contents, message):
    with pytest.raises(PalmError, match=message):
        convert_paddle(damaged(archive, name, contents), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"num_hidden_layers": 3},
            r"16 tensors are missing: encoder_layer_2_multi_head_att_query_fc.w_0, .*num_hidden",
        ),
        ({"hidden_size": 8}, r"word_embedding: \[14, 16\], but \[14, 8\] by the configuration"),
        ({"intermediate_size": 32}, r"ffn_fc_0.w_0: \[16, 64\], but \[16, 32\] by the configuration"),
        ({"hidden_act": "maxout"}, r"hidden_act 'maxout' is unknown. Known: gelu, relu"),
        ({"max_position_embeddings": 512}, r"pos_embedding: \[16, 16\], but \[512, 16\]"),
    ],
)
def test_convert_paddle_wrong_configuration_is_refused(archive, tmp_path, changes, message):
    damaged(archive, "ernie_config.json", configured(archive, **changes))
    with pytest.raises(PalmError, match=message):
        convert_paddle(archive, tmp_path / "out")


@given(cut=st.integers(0, 40), end=st.booleans())
def test_read_tensor_truncated_file_is_refused(unpacked, tmp_path_factory, cut, end):
    whole = (unpacked / "ernie2/params/encoder_layer_0_ffn_fc_0.b_0").read_bytes()
    assert len(whole) == 280
    path = tmp_path_factory.mktemp("cut") / "tensor"
    path.write_bytes(whole[: -cut - 1] if end else whole[:cut])
    with pytest.raises(PalmError, match="bytes that are no tensor of Paddle's"):
        read_tensor(path)


def test_read_tensor_extra_bytes_are_refused(archive):
    path = archive / "params/pooled_fc.b_0"
    path.write_bytes(path.read_bytes() * 2)  # as in a file of all tensors combined
    with pytest.raises(PalmError, match=r"values of 152 bytes, but shape \[16\] needs 64"):
        read_tensor(path)


def test_convert_paddle_two_models_are_refused(unpacked, tmp_path):
    with pytest.raises(PalmError, match=r"holds 3 models \(bert/params, ernie1/params, ernie2/params\). Give the"):
        convert_paddle(unpacked, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("xlnet_config.json", r"XLNet, whose Paddle parameters are not converted.*download XLNet-cased-base"),
        ("model_state.pdparams", r"one .pdparams file, as PaddleNLP writes it, which is not converted"),
        ("model.safetensors", r"not Paddle's, but weights in safetensors. They can be loaded as they are"),
    ],
)
def test_convert_paddle_other_models_are_refused(tmp_path, name, message):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / name).write_bytes(b"{}")
    with pytest.raises(PalmError, match=message):
        convert_paddle(tmp_path / "model", tmp_path / "out")


def test_convert_paddle_full_target_is_refused(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("precious")
    with pytest.raises(PalmError, match=r"out exists and is not empty. Choose another directory"):
        convert_paddle(FIXTURES / "bert.tar.gz", tmp_path / "out")
    assert (tmp_path / "out/mine").read_text() == "precious"


def test_convert_paddle_empty_target_is_used(tmp_path):
    (tmp_path / "out").mkdir()
    convert_paddle(FIXTURES / "bert.tar.gz", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_convert_paddle_invalid_source_is_refused(tmp_path):
    with pytest.raises(PalmError, match="no such directory or archive"):
        convert_paddle(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "page.tgz").write_text("<html>")
    with pytest.raises(PalmError, match=r"page.tgz: cannot be unpacked"):
        convert_paddle(tmp_path / "page.tgz", tmp_path / "out")
    (tmp_path / "cut.tgz").write_bytes((FIXTURES / "bert.tar.gz").read_bytes()[:9000])
    with pytest.raises(PalmError, match=r"cut.tgz: cannot be unpacked"):
        convert_paddle(tmp_path / "cut.tgz", tmp_path / "out")


def test_convert_paddle_unsafe_archive_is_refused(tmp_path):
    with tarfile.open(tmp_path / "evil.tar", "w") as archive:
        member = tarfile.TarInfo("../outside")
        member.size = 4
        archive.addfile(member, io.BytesIO(b"evil"))
    with pytest.raises(PalmError, match=r"evil.tar: cannot be unpacked: .*outside the destination"):
        convert_paddle(tmp_path / "evil.tar", tmp_path / "out")
    assert not (tmp_path.parent / "outside").exists()


def test_load_weights_paddle_directory_names_command(unpacked):
    backbone = BERT.from_config(json.loads((unpacked / "bert/bert_config.json").read_text()))
    with pytest.raises(
        PalmError, match=r"parameters of Paddle: convert them with `palm-train models convert PADDLE_DIR"
    ):
        load_weights(backbone, str(unpacked / "bert"))


def test_load_pretrained_paddle_directory_names_command(unpacked):
    with pytest.raises(
        PalmError, match=r"encoder '.*bert': It holds parameters of Paddle: convert them with `palm-train"
    ):
        load_pretrained(str(unpacked / "bert"))


def test_load_weights_empty_directory_is_refused(unpacked, tmp_path):
    backbone = BERT.from_config(json.loads((unpacked / "bert/bert_config.json").read_text()))
    with pytest.raises(PalmError, match=r"no pretrained weights there. Weights are in model.safetensors"):
        load_weights(backbone, str(tmp_path))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bert_config.json", b"[" * 100_000),
        ("bert_config.json", b"[]"),
        ("bert_config.json", b"\xff\xfe"),
        ("vocab.txt", b"\xff\xfe\xff"),
        ("vocab.txt", b"a\t" + b"9" * 5000 + b"\n"),
    ],
)
def test_convert_paddle_any_bytes_are_refused(unpacked, tmp_path, name, content):
    folder = shutil.copytree(unpacked / "bert", tmp_path / "bert")
    (folder / name).write_bytes(content)
    with pytest.raises(PalmError, match=name):
        convert_paddle(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"num_hidden_layers": "x"},
        {"num_hidden_layers": 10**12},
        {"hidden_size": 0},
        {"vocab_size": None},
        {"vocab_size": True},
        {"hidden_dropout_prob": "half"},
        {"hidden_act": ["gelu"]},
        {"intermediate_size": -1},
    ],
    ids=str,
)
def test_convert_paddle_impossible_sizes_are_refused(unpacked, tmp_path, change):
    folder = shutil.copytree(unpacked / "bert", tmp_path / "bert")
    path = folder / "bert_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(PalmError, match=f"bert_config.json: {next(iter(change))}"):
        convert_paddle(folder, tmp_path / "out")


@given(st.binary(max_size=200))
def test_read_tensor_any_bytes_are_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "tensor"
    path.write_bytes(data)
    message = ""
    try:
        read_tensor(path)
    except PalmError as error:
        message = str(error)
    assert message == "" or "no tensor of Paddle's" in message
