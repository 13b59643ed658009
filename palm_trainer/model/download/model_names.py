"""Pretrained models by name, from the Hugging Face Hub. `ls` lists them, `download` downloads them.

The original offered Paddle parameters on its own servers. Here each name stands for the Hub
repository of the same weights in PyTorch's format. `palm-train models convert` converts an original
archive.
"""

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from palm_trainer.errors import PalmError
from palm_trainer.tokenization.e5_files import E5_SMALL_ZH, INSTALL

__all__ = ["ITEMS", "PRETRAINED", "Pretrained", "download", "ls"]

PACKAGED = "minilm-l6-en"
"""The encoder that is installed with the package and needs no download."""
ITEMS = ("pretrain", "vocab", "backbone", "head", "reader")
_print = partial(print, flush=True)


@dataclass(frozen=True, slots=True)
class Pretrained:
    """One of the original's models: its repository on the Hub, if there is one, and a remark."""

    repo: str | None
    note: str = ""


_ERNIE_2 = "its configuration has no task embedding; the original archive's conversion has"

# The repositories and their files were checked in copies of the Hub's pages, not by downloads.
PRETRAINED: dict[str, Pretrained] = {
    "RoBERTa-zh-base": Pretrained("hfl/chinese-roberta-wwm-ext"),
    "RoBERTa-zh-large": Pretrained("hfl/chinese-roberta-wwm-ext-large"),
    "ERNIE-v2-en-base": Pretrained("nghuyong/ernie-2.0-base-en", _ERNIE_2),
    "ERNIE-v2-en-large": Pretrained("nghuyong/ernie-2.0-large-en", _ERNIE_2),
    "XLNet-cased-base": Pretrained("xlnet/xlnet-base-cased"),
    "XLNet-cased-large": Pretrained("xlnet/xlnet-large-cased"),
    "ERNIE-v1-zh-base": Pretrained(
        "nghuyong/ernie-1.0-base-zh", "not confirmed which of the two ERNIE 1.0 archives it was made from"
    ),
    "ERNIE-v1-zh-base-max-len-512": Pretrained(None),
    "BERT-en-uncased-large-whole-word-masking": Pretrained("google-bert/bert-large-uncased-whole-word-masking"),
    "BERT-en-cased-large-whole-word-masking": Pretrained("google-bert/bert-large-cased-whole-word-masking"),
    "BERT-en-uncased-base": Pretrained("google-bert/bert-base-uncased"),
    "BERT-en-uncased-large": Pretrained("google-bert/bert-large-uncased"),
    "BERT-en-cased-base": Pretrained("google-bert/bert-base-cased"),
    "BERT-en-cased-large": Pretrained("google-bert/bert-large-cased"),
    "BERT-multilingual-uncased-base": Pretrained("google-bert/bert-base-multilingual-uncased"),
    "BERT-multilingual-cased-base": Pretrained("google-bert/bert-base-multilingual-cased"),
    "BERT-zh-base": Pretrained("google-bert/bert-base-chinese"),
}
"""The original's models, in its order."""

_CONVERT = "convert the original archive with `palm-train models convert`"
_WITHOUT_DOWNLOAD = {
    "vocab": "a vocabulary comes with each pretrain item",
    "backbone": "palm.backbone has them all",
    "head": "palm.head has them all",
    "reader": "palm.reader has them all",
}


def ls(item: str = "all", scope: str = "all") -> None:
    """Print the downloadable items of one kind or all, with one name or all.

    Raises:
        PalmError: there is no such item or name.
    """
    lines: list[str] = []
    for kind in ITEMS if item.lower() == "all" else (_item(item),):
        lines += _listed(kind, scope)
    # One write, so that a reader that closes early (`| head`) breaks no pipe.
    _print("".join(f"{line}\n" for line in lines), end="")


def _listed(kind: str, scope: str) -> Iterator[str]:
    """Yield the lines of one kind of item."""
    yield f"Available {kind} items:"
    if kind != "pretrain":
        if scope.lower() != "all":
            raise PalmError(f"{kind} '{scope}': {_WITHOUT_DOWNLOAD[kind]}; nothing is to be downloaded.")
        yield f"  none to download: {_WITHOUT_DOWNLOAD[kind]}"
        return
    if scope.lower() != "all":
        name = _name(scope)
        yield f"  => {name} ({source(name)})"
        return
    yield from (f"  => {name}" for name in PRETRAINED)
    yield "Also, without a download:"
    yield f"  => {PACKAGED} (installed with the extra `train`)"
    yield f"  => {E5_SMALL_ZH} (to install it, {INSTALL}; only for `encoder.model` of a configuration)"
    yield "  => scratch (a small encoder without pretrained weights; its vocabulary is learnt from your text)"
    yield "Notes:"
    for name, model in PRETRAINED.items():
        if model.repo is None:
            yield f"  {name} has no repository on the Hub: {_CONVERT}"
        elif model.note:
            yield f"  {name}: {source(name)}"
    yield "  the others come from the Hub's repository of the same weights: `palm-train models ls` shows which"
    yield "  any Hub id works too: downloader.download('pretrain', 'org/name', PATH)"


def source(name: str) -> str:
    """Describe the source of one of the original's models."""
    model = PRETRAINED[name]
    if model.repo is None:
        return f"no repository on the Hub; {_CONVERT}"
    return f"{model.repo}; {model.note}" if model.note else model.repo


def download(item: str, scope: str = "all", path: str | Path = ".") -> str:
    """Download pretrained models to `{path}/pretrain/{name}/`.

    Configuration, tokenizer files and weights are verified by their checksums.

    Complete files are not downloaded again, and an interrupted download continues. The environment
    variables HF_ENDPOINT (a mirror), HF_TOKEN and HF_HUB_OFFLINE are honoured.

    Args:
        item: `pretrain`. The original's other items need no download.
        scope: a name that `ls('pretrain')` lists, a Hub id (`org/name`), or `all`: every listed one
            that is on the Hub.
        path: parent directory of `pretrain/`.

    Returns:
        The argument of `load_pretrain`, which is also printed: the model's directory, or the
        directory of all models.

    Raises:
        PalmError: there is no such item or name, or the download failed.
    """
    kind = _item(item)
    if kind != "pretrain":
        raise PalmError(f"{kind}: {_WITHOUT_DOWNLOAD[kind]}; nothing is to be downloaded.")
    if scope == PACKAGED:
        _print(f"{PACKAGED} is installed with the extra `train`; nothing to download: load_pretrain('{PACKAGED}')")
        return PACKAGED
    root = Path(path).expanduser() / kind
    if scope.lower() == "all":
        for name, model in PRETRAINED.items():
            if model.repo is not None:
                _download(name, model.repo, root / name)
        return str(root)
    if re.fullmatch(r"[^/\s]+/[^/\s]+", scope):
        return _download(scope, scope, root / scope)
    name = _name(scope)
    repo = PRETRAINED[name].repo
    if repo is None:
        raise PalmError(
            f"'{name}' has no repository on the Hub: {_CONVERT} (PADDLE_DIR DIR), or download another model."
        )
    return _download(name, repo, root / name)


def _download(name: str, repo: str, folder: Path) -> str:
    # Imported here since huggingface_hub and torch take seconds to load, which `ls` does not need.
    from palm_trainer.model.download.hub import fetch
    from palm_trainer.model.encoders.convert_pickle import (
        PICKLED_FILES,
        SAFE_FILES,
        has_pickled_weights_only,
        write_safe_weights,
    )

    result = fetch(repo, folder, report=lambda line: _print(f"{name}: {line}"))
    is_pickle = any(file.name in PICKLED_FILES for file in result.files)
    if is_pickle and (not result.already_present or has_pickled_weights_only(folder)):
        count = write_safe_weights(folder, folder / SAFE_FILES[0])
        _print(f"{name}: converted {count} tensors of a pickle to {SAFE_FILES[0]}, which is what PALM loads")
    _print(f"{name}: {'was there already' if result.already_present else 'done'}: {folder}")
    return str(folder)


def _item(item: str) -> str:
    if item.lower() not in ITEMS:
        raise PalmError(f"item '{item}' does not exist. Items: {', '.join(ITEMS)}.")
    return item.lower()


def _name(scope: str) -> str:
    """Return the listed name for any capitalization."""
    names = {name.lower(): name for name in PRETRAINED}
    if scope.lower() in names:
        return names[scope.lower()]
    if scope == E5_SMALL_ZH:
        raise PalmError(f"'{scope}' comes with Python packages. Name it in `encoder.model`. To install them, {INSTALL}")
    if scope in (PACKAGED, "scratch"):
        raise PalmError(f"'{scope}' needs no download: it is ready, e.g. as `encoder.model` of a configuration.")
    close = difflib.get_close_matches(scope.lower(), names, n=3)
    suggestion = f"Did you mean {' or '.join(names[name] for name in close)}? " if close else ""
    raise PalmError(
        f"pretrain '{scope}' does not exist. {suggestion}`downloader.ls('pretrain')` lists the names; a Hub id is written org/name."
    )
