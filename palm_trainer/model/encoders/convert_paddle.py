"""Pretrained weights of the original PALM (Paddle parameters) into a directory that transformers loads.

An archive holds `params/` with one file for each tensor, a JSON configuration and `vocab.txt`. What the original fixed in its code, and a
configuration does not say, goes into `config.json`: layer norm of epsilon 1e-6, an inner size of 4 H. Its fully connected layers keep weights
[in, out], those of PyTorch [out, in].
"""

import json
import re
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from transformers import BertTokenizer

from palm_trainer.errors import PalmError
from palm_trainer.model.encoders.paddle_tensor import read_tensor

_COPIED = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "max_position_embeddings",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "initializer_range",
)
"""Keys of the original's configuration that transformers calls the same."""
_LAYER_NORM_EPS = 1e-6
_ACTIVATIONS = ("gelu", "relu", "sigmoid", "swish", "tanh")
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_MARK = "word_embedding"
"""The tensor that every BERT and ERNIE of the original has."""
_CASED_SHARE = 0.01
"""Of a vocabulary: with more words in capitals than this it is a cased one (of BERT's, uncased have none and cased more than a third)."""
_OF_TRAINING = re.compile(r"@|_moment\d|pow_acc|learning_rate|_velocity")
_LAYER = (
    ("multi_head_att_query_fc", "attention.self.query"),
    ("multi_head_att_key_fc", "attention.self.key"),
    ("multi_head_att_value_fc", "attention.self.value"),
    ("multi_head_att_output_fc", "attention.output.dense"),
    ("post_att_layer_norm", "attention.output.LayerNorm"),
    ("ffn_fc_0", "intermediate.dense"),
    ("ffn_fc_1", "output.dense"),
    ("post_ffn_layer_norm", "output.LayerNorm"),
)


@dataclass(frozen=True, slots=True)
class PaddleConversion:
    """What was done: names of Paddle's tensors that were taken, that the archive lacked, and that the encoder has no place for."""

    target: Path
    model_type: str
    lowercase: bool
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor of Paddle's goes, and its shape there."""

    name: str
    shape: tuple[int, ...]
    transposed: bool = False


def convert_paddle(source: Path, target: Path, *, lowercase: bool | None = None) -> PaddleConversion:
    """Writes `config.json`, tokenizer files and `model.safetensors` to a new directory.

    Args:
        source: an original archive (.tar.gz, .tgz, .tar), the directory that it unpacks to, or its `params/`.
        target: must not exist, or be empty.
        lowercase: whether the vocabulary's text is lower-cased; None looks at the vocabulary.

    Raises:
        PalmError: no archive of BERT or ERNIE, a tensor that is missing, damaged or of another shape, or a vocabulary that does not fit.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise PalmError(f"{target} exists and is not empty. Choose another directory, or remove it first.")
    if source.is_dir():
        return _convert(source, target, lowercase)
    if not source.is_file():
        raise PalmError(f"{source}: no such directory or archive. Give the original archive, or what it unpacks to.")
    with tempfile.TemporaryDirectory() as folder:
        _unpack(source, Path(folder))
        return _convert(Path(folder), target, lowercase, shown=source)


def _unpack(archive: Path, folder: Path) -> None:
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk, not the archive
        raise PalmError(
            f"{archive}: cannot be unpacked: {error}. It should be the original .tar.gz or .tgz; fetch it again, or unpack it by hand."
        ) from error


def _convert(root: Path, target: Path, lowercase: bool | None, shown: Path | None = None) -> PaddleConversion:
    shown = shown or root
    params = _find_params(root, shown)
    above = params.parent if params.name == "params" or not any(params.glob("*.json")) else params
    config_file, config = _read_config(above, shown)
    words = _read_vocabulary(above / "vocab.txt")
    files = {path.name: path for path in params.iterdir() if path.is_file() and path.suffix not in (".json", ".txt")}
    settings = _settings(config, config_file, files, words)
    places = _places(settings)
    tensors = dict(_tensors(places, files, shown))
    lowercase = _is_lowercase(words) if lowercase is None else lowercase
    _write(target, settings, tensors, words, lowercase=lowercase)
    return PaddleConversion(
        target,
        settings["model_type"],
        lowercase,
        matched=tuple(name for name in places if name in files),
        missing=tuple(name for name in places if name not in files),
        unused=tuple(sorted(name for name in files if name not in places and not _OF_TRAINING.search(name))),
    )


def _find_params(root: Path, shown: Path) -> Path:
    found = sorted(path.parent for path in root.rglob(_MARK) if path.is_file())
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(str(path.relative_to(root)) for path in found)
        raise PalmError(f"{shown} holds {len(found)} models ({listed}). Give the directory of one.")
    names = [path.name for path in root.rglob("*") if path.is_file()]
    if any("xlnet" in name.lower() for name in (*names, shown.name)):
        raise PalmError(
            f"{shown}: XLNet, whose Paddle parameters are not converted. Its weights are on the Hub: `palm-train models download XLNet-cased-base`."
        )
    if any(name.endswith(".pdparams") for name in names):
        raise PalmError(
            f"{shown}: one .pdparams file, as PaddleNLP writes it, which is not converted; this takes `params/` with a file for each tensor. "
            "Models of that kind are on the Hub in PyTorch's format: `palm-train models ls`."
        )
    if any(name in ("model.safetensors", "pytorch_model.bin") for name in names):
        raise PalmError(
            f"{shown}: not Paddle's, but PyTorch weights. They can be loaded as they are: give the directory."
        )
    raise PalmError(
        f"{shown}: no parameters of BERT or ERNIE there: no file '{_MARK}', as the original archives have in `params/`."
    )


def _read_config(folder: Path, shown: Path) -> tuple[Path, dict[str, Any]]:
    found = sorted(folder.glob("*config.json"))
    if len(found) != 1:
        listed = (
            f"{len(found)} configurations ({', '.join(path.name for path in found)})" if found else "no *_config.json"
        )
        raise PalmError(f"{shown}: {listed} beside `params/`. Put the model's own there, e.g. ernie_config.json.")
    try:
        config = json.loads(found[0].read_text(encoding="utf-8"))
    except ValueError as error:
        raise PalmError(f"{found[0]}: not JSON: {error}. Unpack the archive again.") from error
    if not isinstance(config, dict):
        raise PalmError(f"{found[0]}: holds a {type(config).__name__}, but a JSON object is due.")
    return found[0], config


def _read_vocabulary(path: Path) -> list[str]:
    """Words in the order of their ids, of `word` or `word<TAB>id` lines. A word that occurs twice has the later id, as in the original."""
    if not path.is_file():
        raise PalmError(f"{path}: no vocabulary there. Put the model's own vocab.txt beside `params/`.")
    words: dict[int, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").removesuffix("\n").split("\n")):
        word, tab, place = line.rstrip("\r").rpartition("\t")
        if tab and not place.isdecimal():
            raise PalmError(f"{path}:{number + 1}: '{place}' is no id. A line is a word, or a word, a tab and its id.")
        words[int(place) if tab else number] = word if tab else place
    if sorted(words) != list(range(len(words))):
        raise PalmError(f"{path}: the ids of its {len(words)} words are not 0 to {len(words) - 1}, each once.")
    missing = [word for word in _SPECIAL if word not in words.values()]
    if missing:
        raise PalmError(f"{path}: lacks {', '.join(missing)}. Take the vocabulary that belongs to the weights.")
    return [words[number] for number in range(len(words))]


def _is_lowercase(words: list[str]) -> bool:
    cased = sum(word != word.lower() for word in words if word not in _SPECIAL)
    return cased <= _CASED_SHARE * len(words)


def _settings(config: Mapping[str, Any], file: Path, files: Mapping[str, Path], words: list[str]) -> dict[str, Any]:
    """The contents of `config.json`."""
    segments = next((config[key] for key in ("sent_type_vocab_size", "type_vocab_size") if key in config), None)
    lacking = [key for key in _COPIED if key not in config] + (["type_vocab_size"] if segments is None else [])
    if lacking:
        raise PalmError(f"{file}: lacks {', '.join(lacking)}. Take the configuration that belongs to the weights.")
    known = {key: config[key] for key in _COPIED}
    activation = known["hidden_act"]
    if activation not in _ACTIVATIONS:
        raise PalmError(f"{file}: hidden_act '{activation}' is unknown. Known: {', '.join(_ACTIVATIONS)}.")
    if len(words) > known["vocab_size"]:
        raise PalmError(
            f"{file.parent / 'vocab.txt'}: {len(words)} words, but vocab_size in {file.name} is {known['vocab_size']}. "
            "Take the vocabulary that belongs to the weights."
        )
    with_tasks = "task_embedding" in files or bool(config.get("use_task_id"))
    ernie = with_tasks or "ernie" in file.name.lower()
    settings = {
        "model_type": "ernie" if ernie else "bert",
        "architectures": ["ErnieModel" if ernie else "BertModel"],
        **known,
        "intermediate_size": config.get("intermediate_size", 4 * known["hidden_size"]),
        "type_vocab_size": segments,
        "layer_norm_eps": _LAYER_NORM_EPS,
        "pad_token_id": words.index("[PAD]"),
    }
    if ernie:
        tasks = config.get("task_type_vocab_size", segments)
        settings |= {"use_task_id": with_tasks, "task_type_vocab_size": tasks}
    return settings


def _places(settings: Mapping[str, Any]) -> dict[str, _Place]:
    """Paddle's name of each tensor of the encoder -> its place."""
    hidden, inner = settings["hidden_size"], settings["intermediate_size"]
    tables = {
        _MARK: ("word_embeddings", settings["vocab_size"]),
        "pos_embedding": ("position_embeddings", settings["max_position_embeddings"]),
        "sent_embedding": ("token_type_embeddings", settings["type_vocab_size"]),
    }
    if settings.get("use_task_id"):
        tables["task_embedding"] = ("task_type_embeddings", settings["task_type_vocab_size"])
    places = {paddle: _Place(f"embeddings.{name}.weight", (rows, hidden)) for paddle, (name, rows) in tables.items()}
    blocks = [("pre_encoder_layer_norm", "embeddings.LayerNorm"), ("pooled_fc", "pooler.dense")]
    for number in range(settings["num_hidden_layers"]):
        blocks += [(f"encoder_layer_{number}_{paddle}", f"encoder.layer.{number}.{name}") for paddle, name in _LAYER]
    for paddle, name in blocks:
        if paddle.endswith("layer_norm"):
            places[f"{paddle}_scale"] = _Place(f"{name}.weight", (hidden,))
            places[f"{paddle}_bias"] = _Place(f"{name}.bias", (hidden,))
        else:
            out, into = (
                (inner if paddle.endswith("ffn_fc_0") else hidden),
                (inner if paddle.endswith("ffn_fc_1") else hidden),
            )
            places[f"{paddle}.w_0"] = _Place(f"{name}.weight", (out, into), transposed=True)
            places[f"{paddle}.b_0"] = _Place(f"{name}.bias", (out,))
    return places


def _tensors(
    places: Mapping[str, _Place], files: Mapping[str, Path], shown: Path
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """PyTorch's name and values of each tensor. Only the pooler may be missing: it is no part of what is trained here."""
    missing = [name for name in places if name not in files and not name.startswith("pooled_fc")]
    if missing:
        raise PalmError(
            f"{shown}: {len(missing)} tensors are missing: {', '.join(missing[:4])}{', ...' if len(missing) > 4 else ''}. "
            "Is the configuration (num_hidden_layers) the weights' own, and the archive unpacked whole?"
        )
    for paddle, place in places.items():
        if paddle not in files:
            continue
        values = read_tensor(files[paddle]).astype(np.float32)
        values = np.ascontiguousarray(values.T) if place.transposed else values
        if values.shape != place.shape:
            given, due = (tuple(reversed(s)) if place.transposed else s for s in (values.shape, place.shape))
            raise PalmError(
                f"{files[paddle]}: {list(given)}, but {list(due)} by the configuration. Take the configuration that belongs to the weights."
            )
        yield place.name, values


def _write(
    target: Path,
    settings: Mapping[str, Any],
    tensors: dict[str, NDArray[np.float32]],
    words: list[str],
    *,
    lowercase: bool,
) -> None:
    """All files into a directory beside the target, which then takes its name: there is never half a model."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as made:
        folder = Path(made) / "model"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        (folder / "vocab.txt").write_text("".join(word + "\n" for word in words), encoding="utf-8")
        ids = {word: number for number, word in enumerate(words)}
        tokenizer = BertTokenizer(
            vocab=ids, do_lower_case=lowercase, model_max_length=settings["max_position_embeddings"]
        )
        tokenizer.save_pretrained(folder)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        if target.is_dir():
            target.rmdir()  # empty, as was seen at the start
        folder.rename(target)
