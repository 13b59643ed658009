"""Component 6: pretrained models by name, from the Hugging Face Hub. `ls` shows them, `download` fetches one.

The original served Paddle parameters from servers of its own. Here each of its names stands for the Hub's repository of the same weights in
PyTorch's format; an original archive that somebody has is converted by `palm-train models convert`.
"""

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from palm_trainer.errors import PalmError

__all__ = ["ITEMS", "PRETRAINED", "Pretrained", "download", "ls"]

PACKAGED = "minilm-l6-en"
"""The encoder that is installed with the package: nothing to download."""
ITEMS = ("pretrain", "vocab", "backbone", "head", "reader")
_say = partial(print, flush=True)


@dataclass(frozen=True, slots=True)
class Pretrained:
    """One of the original's models: its repository on the Hub, if there is one, and what is to be known of it."""

    repo: str | None
    note: str = ""


_ERNIE_2 = "its configuration has no task embedding; the original archive's conversion has"

# The repositories and their files were seen in copies of the Hub's pages; nothing was fetched from them where this was written.
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
"""The original's list, in its order."""

_CONVERT = "convert the original archive with `palm-train models convert`"
_WITHOUT_DOWNLOAD = {
    "vocab": "a vocabulary comes with each pretrain item",
    "backbone": "palm.backbone has them all",
    "head": "palm.head has them all",
    "reader": "palm.reader has them all",
}


def ls(item: str = "all", scope: str = "all") -> None:
    """Prints what can be downloaded: one kind of item, or all; one name, or all. Raises PalmError for what does not exist."""
    lines = [line for kind in (ITEMS if item.lower() == "all" else (_item(item),)) for line in _listed(kind, scope)]
    _say(
        "".join(f"{line}\n" for line in lines), end=""
    )  # at once: a reader that leaves after some lines (`| head`) breaks no pipe


def _listed(kind: str, scope: str) -> Iterator[str]:
    """The lines of one kind of item."""
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
    yield f"  => {PACKAGED} (installed with palm-nlu[train])"
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
    """Where a name of the original's list comes from, in words."""
    model = PRETRAINED[name]
    if model.repo is None:
        return f"no repository on the Hub; {_CONVERT}"
    return f"{model.repo}; {model.note}" if model.note else model.repo


def download(item: str, scope: str = "all", path: str | Path = ".") -> str:
    """Fetches pretrained models to `{path}/pretrain/{name}/`: configuration, tokenizer files and weights, each checked against its checksum.

    What lies there whole is not fetched again, and an interrupted download goes on where it stopped. The environment's HF_ENDPOINT (a mirror),
    HF_TOKEN and HF_HUB_OFFLINE are honoured.

    Args:
        item: `pretrain`; the original's other items need no download.
        scope: a name that `ls('pretrain')` lists, a Hub id (`org/name`), or `all`: every listed one that is on the Hub.
        path: where `pretrain/` is made.

    Returns:
        What `load_pretrain` takes, which is also printed: the model's directory; for `all` the directory of them all.

    Raises:
        PalmError: no such item or name, or a download that failed; the message says why and what to do.
    """
    kind = _item(item)
    if kind != "pretrain":
        raise PalmError(f"{kind}: {_WITHOUT_DOWNLOAD[kind]}; nothing is to be downloaded.")
    if scope == PACKAGED:
        _say(f"{PACKAGED} is installed with palm-nlu[train]; nothing to download: load_pretrain('{PACKAGED}')")
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
    from palm_trainer.model.download.hub import (
        fetch,  # huggingface_hub takes a second to load; `ls` need not wait for it
    )

    done = fetch(repo, folder, say=lambda line: _say(f"{name}: {line}"))
    _say(f"{name}: {'was there already' if done.found else 'done'}: {folder}")
    return str(folder)


def _item(item: str) -> str:
    if item.lower() not in ITEMS:
        raise PalmError(f"item '{item}' does not exist. Items: {', '.join(ITEMS)}.")
    return item.lower()


def _name(scope: str) -> str:
    """The listed name, whatever the case it is written in."""
    names = {name.lower(): name for name in PRETRAINED}
    if scope.lower() in names:
        return names[scope.lower()]
    if scope in (PACKAGED, "scratch"):
        raise PalmError(f"'{scope}' needs no download: it is ready, e.g. as `encoder.model` of a configuration.")
    close = difflib.get_close_matches(scope.lower(), names, n=3)
    meant = f"Did you mean {' or '.join(names[one] for one in close)}? " if close else ""
    raise PalmError(
        f"pretrain '{scope}' does not exist. {meant}`downloader.ls('pretrain')` lists the names; a Hub id is written org/name."
    )
