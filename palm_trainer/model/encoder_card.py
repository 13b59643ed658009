"""Model card (README.md) of an exported encoder: what it was trained on, how, and under which licences."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from palm_trainer.config.loader import Config, DataConfig
from palm_trainer.errors import PalmError
from palm_trainer.model.checkpoint import ModelDescription
from palm_trainer.tokenization.e5_files import E5_SMALL_ZH, LICENCE
from palm_trainer.tokenization.encoder_files import locate_encoder

_UNKNOWN = "unknown"
_HEAD = """---
library_name: sentence-transformers
pipeline_tag: feature-extraction
tags:
- sentence-transformers
- feature-extraction
- palm
---"""


@dataclass(frozen=True)
class CardFacts:
    """Facts of a card beside the configuration of the run.

    Args:
        name: of the folder.
        description: of the checkpoint.
        checkpoint_digest: SHA-256 of the checkpoint's weights, heads included.
        weights_digest: SHA-256 of `model.safetensors` in the folder.
    """

    name: str
    description: ModelDescription
    checkpoint_digest: str
    weights_digest: str


def render_encoder_card(facts: CardFacts, config: Config | None) -> str:
    """Render the card as Markdown. It has no path of the machine and no date.

    Args:
        facts: of the checkpoint.
        config: of the run. None: the run has none, so that its data is unknown.
    """
    description = facts.description
    encoder = description.encoder
    lines = [_HEAD, f"# {facts.name}", ""]
    lines += [
        f"The encoder of a PALM run: {encoder.family}, {encoder.layers} layers, hidden size {encoder.hidden_size}, "
        f"{encoder.parameters / 1e6:.1f} M parameters. A text is read up to {description.max_length} tokens. "
        f"Its vector is {_describe_pooling(description)}.",
        "",
        "```python",
        "from sentence_transformers import SentenceTransformer",
        "",
        f'vectors = SentenceTransformer("{facts.name}").encode(["a text"])',
        "```",
        "",
        f'In a configuration of PALM: `encoder.model = "{facts.name}"`. '
        "The heads of the tasks are not part of this folder.",
        "",
    ]
    lines += ["## Tasks that it was trained on", "", *_list_tasks(description), ""]
    lines += ["## Data", "", *_list_data(config), ""]
    lines += ["## Where it comes from", "", *_list_origin(facts, config), ""]
    return "\n".join(lines)


def _describe_pooling(description: ModelDescription) -> str:
    if description.pooling == "mean":
        return "the mean of all tokens"
    return "that of the classification token"


def _list_tasks(description: ModelDescription) -> list[str]:
    rows = []
    for name, info in description.tasks.items():
        auxiliary = ", auxiliary" if name in description.auxiliary else ""
        rows.append((f"`{name}`", f"{info.kind}{auxiliary}", str(len(info.labels) or "-")))
    return _format_table(("task", "kind", "labels"), rows)


def _list_data(config: Config | None) -> list[str]:
    if config is None:
        return [f"The run has no config.toml: data sets and licences are {_UNKNOWN}."]
    rows = []
    for name, data in config.data.items():
        tasks = [task for task, settings in config.tasks.items() if name in settings.data]
        rows.append((f"`{name}`", data.format, ", ".join(tasks), _find_licence(data)))
    return [
        *_format_table(("data set", "format", "tasks", "licence"), rows),
        "",
        "A licence is the first line of the file LICENSE beside the training data. Check it before you pass this folder on.",
    ]


def _list_origin(facts: CardFacts, config: Config | None) -> Iterator[str]:
    encoder = facts.description.encoder
    if config is not None:
        train = config.train
        yield (
            f"- Made by `palm-train run` ({train.epochs:g} epochs, batch size {train.batch_size}, learning rate "
            f"{train.learning_rate:g}, mixing `{train.mixing}`, seed {train.seed}), then `palm-train models export`."
        )
    if encoder.started_from:
        yield (
            f"- The training started from the run `{encoder.name}`, whose weights have the SHA-256 "
            f"`{encoder.started_from}`. The licences of what that run was trained on hold too."
        )
    elif encoder.name == "scratch":
        yield "- The training started from scratch."
    else:
        base = Path(encoder.name).name if Path(encoder.name).is_absolute() else encoder.name
        yield f"- The training started from the encoder `{base}`, licence: {_find_base_licence(encoder.name)}."
    yield f"- SHA-256 of the checkpoint that was exported: `{facts.checkpoint_digest}`."
    yield f"- SHA-256 of model.safetensors: `{facts.weights_digest}`."


def _find_licence(data: DataConfig) -> str:
    """Return the first line of the licence beside the training data."""
    for path in data.train:
        folders = (path, path.parent) if path.is_dir() else (path.parent,)
        for folder in folders:
            for file in sorted([*folder.glob("LICENSE*"), *folder.glob("LICENCE*")]):
                lines = _read_lines(file)
                if lines:
                    return lines[0].replace("|", "\\|")
    return _UNKNOWN


def _find_base_licence(name: str) -> str:
    """Return the licence that the model card beside pretrained weights names."""
    if name == E5_SMALL_ZH:
        return LICENCE
    try:
        folder = Path(locate_encoder(name))
    except PalmError:  # the weights have gone since
        return _UNKNOWN
    for line in _read_lines(folder / "README.md")[:50]:
        key, _, value = line.partition(":")
        if key in ("license", "licence") and value.strip():
            return value.strip()
    return _UNKNOWN


def _read_lines(path: Path) -> list[str]:
    """Return the lines of a text file without blank ones, nothing where it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines() if line.strip()]


def _format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = []
    for row in (header, ["---"] * len(header), *rows):
        lines.append(f"| {' | '.join(row)} |")
    return lines
