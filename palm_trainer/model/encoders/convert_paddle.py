"""Conversion of the original PALM's pretrained weights (Paddle parameters) to a directory that transformers loads.

An archive holds `params/` with one file for each tensor, a JSON configuration and `vocab.txt`.
Values that the original has in its code and not in the configuration are added to `config.json`:
layer norm of epsilon 1e-6, an inner size of 4 H. Weights of its fully connected layers are [in,
out], those of PyTorch [out, in].
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

from palm_trainer.config.atomic_files import check_new_directory, new_directory
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
"""Keys with the same name in the original's configuration and in transformers."""
_SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "max_position_embeddings",
    "type_vocab_size",
    "sent_type_vocab_size",
    "task_type_vocab_size",
    "intermediate_size",
)
_MAX_SIZE = 10_000_000
_MAX_DIGITS = 9
"""Of an id in a vocabulary."""
_RATES = ("hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range")
_OWN_CONFIG = "Take the configuration that belongs to the weights."
_LAYER_NORM_EPS = 1e-6
_ACTIVATIONS = ("gelu", "relu", "sigmoid", "swish", "tanh")
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_MARK = "word_embedding"
"""A tensor of every BERT and ERNIE of the original."""
_CASED_SHARE = 0.01
"""Share of words with capitals in a cased vocabulary (BERT's: 0 if uncased, over 1/3 if cased)."""
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
    """Names of Paddle's tensors that were converted, that the archive lacked, and that the encoder does not have."""

    target: Path
    model_type: str
    lowercase: bool
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Destination:
    """PyTorch name and shape of a tensor of Paddle."""

    name: str
    shape: tuple[int, ...]
    transposed: bool = False


def convert_paddle(source: Path, target: Path, *, lowercase: bool | None = None) -> PaddleConversion:
    """Convert an archive: write `config.json`, tokenizer files and `model.safetensors` to a new directory.

    Args:
        source: an original archive (.tar.gz, .tgz, .tar), the directory that it unpacks to, or its
            `params/`.
        target: must not exist, or be empty.
        lowercase: True for a lower-cased vocabulary. None looks at the vocabulary.

    Raises:
        PalmError: the archive holds no BERT or ERNIE, a tensor is missing, damaged or of another
            shape, or the vocabulary does not fit.
    """
    check_new_directory(target)
    if source.is_dir():
        return _convert(source, target, lowercase)
    if not source.is_file():
        raise PalmError(f"{source}: no such directory or archive. Give the original archive, or what it unpacks to.")
    with tempfile.TemporaryDirectory() as folder:
        _unpack(source, Path(folder))
        return _convert(Path(folder), target, lowercase, display_path=source)


def _unpack(archive: Path, folder: Path) -> None:
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # an error of the disk, not of the archive
        raise PalmError(
            f"{archive}: cannot be unpacked: {error}. "
            "It should be the original .tar.gz or .tgz; fetch it again, or unpack it by hand."
        ) from error


def _convert(root: Path, target: Path, lowercase: bool | None, display_path: Path | None = None) -> PaddleConversion:
    """Convert an unpacked archive. `display_path` is named in messages."""
    display_path = display_path or root
    params = _find_params(root, display_path)
    has_config = any(params.glob("*.json"))
    model_folder = params.parent if params.name == "params" or not has_config else params
    config_file, config = _read_config(model_folder, display_path)
    words = _read_vocabulary(model_folder / "vocab.txt")
    files: dict[str, Path] = {}
    for path in params.iterdir():
        if path.is_file() and path.suffix not in (".json", ".txt"):
            files[path.name] = path
    settings = _settings(config, config_file, files, words)
    destinations = _destinations(settings)
    tensors = dict(_tensors(destinations, files, display_path))
    lowercase = _is_lowercase(words) if lowercase is None else lowercase
    _write(target, settings, tensors, words, lowercase=lowercase)
    unused = []
    for name in files:
        if name not in destinations and not _OF_TRAINING.search(name):
            unused.append(name)
    matched = []
    missing = []
    for name in destinations:
        if name in files:
            matched.append(name)
        else:
            missing.append(name)
    return PaddleConversion(
        target,
        settings["model_type"],
        lowercase,
        matched=tuple(matched),
        missing=tuple(missing),
        unused=tuple(sorted(unused)),
    )


def _find_params(root: Path, display_path: Path) -> Path:
    """Return the directory of the parameters. Raises PalmError unless there is exactly one."""
    folders = sorted(path.parent for path in root.rglob(_MARK) if path.is_file())
    if len(folders) == 1:
        return folders[0]
    if folders:
        listed = ", ".join(str(path.relative_to(root)) for path in folders)
        raise PalmError(f"{display_path} holds {len(folders)} models ({listed}). Give the directory of one.")
    names = [path.name for path in root.rglob("*") if path.is_file()]
    if any("xlnet" in name.lower() for name in (*names, display_path.name)):
        raise PalmError(
            f"{display_path}: XLNet, whose Paddle parameters are not converted. "
            "Its weights are on the Hub: `palm-train models download XLNet-cased-base`."
        )
    if any(name.endswith(".pdparams") for name in names):
        raise PalmError(
            f"{display_path}: one .pdparams file, as PaddleNLP writes it, which is not converted; "
            "this takes `params/` with a file for each tensor. "
            "Models of that kind are on the Hub in PyTorch's format: `palm-train models ls`."
        )
    if "model.safetensors" in names:
        raise PalmError(
            f"{display_path}: not Paddle's, but weights in safetensors. They can be loaded as they are: give the directory."
        )
    raise PalmError(
        f"{display_path}: no parameters of BERT or ERNIE there: no file '{_MARK}', as the original archives have in `params/`."
    )


def _read_config(folder: Path, display_path: Path) -> tuple[Path, dict[str, Any]]:
    """Return the only configuration of a directory, and its contents."""
    files = sorted(folder.glob("*config.json"))
    if len(files) != 1:
        listed = ", ".join(path.name for path in files)
        fault = f"{len(files)} configurations ({listed})" if files else "no *_config.json"
        raise PalmError(f"{display_path}: {fault} beside `params/`. Put the model's own there, e.g. ernie_config.json.")
    try:
        config = json.loads(files[0].read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise PalmError(f"{files[0]}: not JSON: {error}. Unpack the archive again.") from error
    if not isinstance(config, dict):
        raise PalmError(f"{files[0]}: holds a {type(config).__name__}, but a JSON object is due.")
    return files[0], config


def _read_vocabulary(path: Path) -> list[str]:
    """Read words in the order of their ids, from `word` or `word<TAB>id` lines.

    A word that occurs twice has the later id, as in the original.
    """
    if not path.is_file():
        raise PalmError(f"{path}: no vocabulary there. Put the model's own vocab.txt beside `params/`.")
    words: dict[int, str] = {}
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise PalmError(f"{path}: not UTF-8: {error}. Unpack the archive again.") from error
    for number, line in enumerate(text.removesuffix("\n").split("\n")):
        word, tab, last = line.rstrip("\r").rpartition("\t")
        if not tab:
            words[number] = last
        elif last.isdecimal() and len(last) <= _MAX_DIGITS:
            words[int(last)] = word
        else:
            raise PalmError(f"{path}:{number + 1}: '{last}' is no id. A line is a word, or a word, a tab and its id.")
    if sorted(words) != list(range(len(words))):
        raise PalmError(f"{path}: the ids of its {len(words)} words are not 0 to {len(words) - 1}, each once.")
    missing = [word for word in _SPECIAL if word not in words.values()]
    if missing:
        raise PalmError(f"{path}: lacks {', '.join(missing)}. Take the vocabulary that belongs to the weights.")
    return [words[number] for number in range(len(words))]


def _is_lowercase(words: list[str]) -> bool:
    cased_count = 0
    for word in words:
        if word not in _SPECIAL and word != word.lower():
            cased_count += 1
    return cased_count <= _CASED_SHARE * len(words)


def _settings(config: Mapping[str, Any], file: Path, files: Mapping[str, Path], words: list[str]) -> dict[str, Any]:
    """Return the contents of `config.json`."""
    segments = config.get("sent_type_vocab_size", config.get("type_vocab_size"))
    missing = [key for key in _COPIED if key not in config]
    if segments is None:
        missing.append("type_vocab_size")
    if missing:
        raise PalmError(f"{file}: lacks {', '.join(missing)}. Take the configuration that belongs to the weights.")
    _check_numbers(config, file)
    copied = {key: config[key] for key in _COPIED}
    activation = copied["hidden_act"]
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        raise PalmError(f"{file}: hidden_act '{activation}' is unknown. Known: {', '.join(_ACTIVATIONS)}.")
    if len(words) > copied["vocab_size"]:
        raise PalmError(
            f"{file.parent / 'vocab.txt'}: {len(words)} words, "
            f"but vocab_size in {file.name} is {copied['vocab_size']}. "
            "Take the vocabulary that belongs to the weights."
        )
    has_tasks = "task_embedding" in files or bool(config.get("use_task_id"))
    is_ernie = has_tasks or "ernie" in file.name.lower()
    settings = {
        "model_type": "ernie" if is_ernie else "bert",
        "architectures": ["ErnieModel" if is_ernie else "BertModel"],
        **copied,
        "intermediate_size": config.get("intermediate_size", 4 * copied["hidden_size"]),
        "type_vocab_size": segments,
        "layer_norm_eps": _LAYER_NORM_EPS,
        "pad_token_id": words.index("[PAD]"),
    }
    if is_ernie:
        task_types = config.get("task_type_vocab_size", segments)
        settings |= {"use_task_id": has_tasks, "task_type_vocab_size": task_types}
    return settings


def _check_numbers(config: Mapping[str, Any], file: Path) -> None:
    """Check the sizes and rates of a configuration that are there.

    Raises:
        PalmError: one is no number of its range.
    """
    for key in _SIZES:
        value = config.get(key, 1)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MAX_SIZE:
            raise PalmError(
                f"{file}: {key} must be a whole number from 1 to {_MAX_SIZE}, got {value!r:.40}. {_OWN_CONFIG}"
            )
    for key in _RATES:
        value = config[key]
        if not isinstance(value, int | float) or not 0 <= value <= 1:
            raise PalmError(f"{file}: {key} must be a number from 0 to 1, got {value!r:.40}. {_OWN_CONFIG}")


def _destinations(settings: Mapping[str, Any]) -> dict[str, _Destination]:
    """Return the destination of each tensor of the encoder, by its name in Paddle."""
    hidden = settings["hidden_size"]
    tables = {
        _MARK: ("word_embeddings", settings["vocab_size"]),
        "pos_embedding": ("position_embeddings", settings["max_position_embeddings"]),
        "sent_embedding": ("token_type_embeddings", settings["type_vocab_size"]),
    }
    if settings.get("use_task_id"):
        tables["task_embedding"] = ("task_type_embeddings", settings["task_type_vocab_size"])
    destinations = {}
    for paddle_name, (name, rows) in tables.items():
        destinations[paddle_name] = _Destination(f"embeddings.{name}.weight", (rows, hidden))
    layers = [("pre_encoder_layer_norm", "embeddings.LayerNorm"), ("pooled_fc", "pooler.dense")]
    for number in range(settings["num_hidden_layers"]):
        for paddle_name, name in _LAYER:
            layers.append((f"encoder_layer_{number}_{paddle_name}", f"encoder.layer.{number}.{name}"))
    for paddle_name, name in layers:
        if paddle_name.endswith("layer_norm"):
            destinations[f"{paddle_name}_scale"] = _Destination(f"{name}.weight", (hidden,))
            destinations[f"{paddle_name}_bias"] = _Destination(f"{name}.bias", (hidden,))
        else:
            outputs = settings["intermediate_size"] if paddle_name.endswith("ffn_fc_0") else hidden
            inputs = settings["intermediate_size"] if paddle_name.endswith("ffn_fc_1") else hidden
            destinations[f"{paddle_name}.w_0"] = _Destination(f"{name}.weight", (outputs, inputs), transposed=True)
            destinations[f"{paddle_name}.b_0"] = _Destination(f"{name}.bias", (outputs,))
    return destinations


def _tensors(
    destinations: Mapping[str, _Destination], files: Mapping[str, Path], display_path: Path
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield PyTorch's name and values of each tensor.

    Only the pooler may be missing, since it is not trained here.
    """
    missing = []
    for name in destinations:
        if name not in files and not name.startswith("pooled_fc"):
            missing.append(name)
    if missing:
        listed = ", ".join(missing[:4]) + (", ..." if len(missing) > 4 else "")
        raise PalmError(
            f"{display_path}: {len(missing)} tensors are missing: {listed}. "
            "Is the configuration (num_hidden_layers) the weights' own, and the archive unpacked whole?"
        )
    for paddle_name, destination in destinations.items():
        if paddle_name not in files:
            continue
        file = files[paddle_name]
        values = read_tensor(file).astype(np.float32)
        values = np.ascontiguousarray(values.T) if destination.transposed else values
        if values.shape != destination.shape:
            step = -1 if destination.transposed else 1  # shapes of the file, in the message
            raise PalmError(
                f"{file}: {list(values.shape[::step])}, but {list(destination.shape[::step])} by the configuration. "
                "Take the configuration that belongs to the weights."
            )
        yield destination.name, values


def _write(
    target: Path,
    settings: Mapping[str, Any],
    tensors: dict[str, NDArray[np.float32]],
    words: list[str],
    *,
    lowercase: bool,
) -> None:
    """Write all files of the target, which is never incomplete."""
    with new_directory(target) as folder:
        (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        (folder / "vocab.txt").write_text("".join(word + "\n" for word in words), encoding="utf-8")
        ids = {word: number for number, word in enumerate(words)}
        tokenizer = BertTokenizer(
            vocab=ids, do_lower_case=lowercase, model_max_length=settings["max_position_embeddings"]
        )
        tokenizer.save_pretrained(folder)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
