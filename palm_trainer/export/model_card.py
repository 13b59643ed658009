"""The bundle's README.md: what the model is, how good it was measured to be, what it cannot do, how to call it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from palm_serve.bundle.manifest import Manifest, TaskInfo
from palm_trainer.evaluation.evaluate import EvaluationSet, Metrics
from palm_trainer.tasks import task_kind

_LABELS_SHOWN = 40


def model_card(manifest: Manifest, sets: Sequence[EvaluationSet], metrics: Mapping[str, Metrics], example: str) -> str:
    """Markdown. Names no file of the machine, and no date, so that the same run gives the same card.

    Args:
        manifest: with its gates.
        sets: dev examples of each data set.
        metrics: by split, as in `metrics.json`.
        example: a text to call the model with.
    """
    encoder = manifest.encoder
    lines = [
        f"# {manifest.name}",
        "",
        f"A PALM bundle: {len(manifest.tasks)} task{'s' * (len(manifest.tasks) > 1)} on one encoder, `{encoder.name}` ({encoder.family}, "
        f"{encoder.layers} layers, hidden size {encoder.hidden_size}, {encoder.parameters / 1e6:.1f} M parameters).",
        "",
        "## Tasks",
        "",
        *_table(
            ("task", "kind", "role", "labels"),
            [(f"`{n}`", t.kind, t.role or "-", _labels(t)) for n, t in manifest.tasks.items()],
        ),
        "",
        "## Data",
        "",
        *_table(
            ("data set", "dev examples", "tasks"),
            [(f"`{s.data}`", str(len(s.examples)), ", ".join(s.fields)) for s in sets],
        ),
        "",
        "## Metrics",
        "",
        *_metrics(metrics),
        "",
        "## Export",
        "",
        *_gates(manifest),
        "",
        "## Limits",
        "",
        f"- Texts are read up to {manifest.max_length} tokens, special ones included; what lies beyond is not seen, and the answer says `truncated`.",
        *_windows(manifest),
        "- It knows the labels above and no others: a text that belongs to none of them still gets one. Judge by the confidence.",
        "- The metrics hold for text like the data above. Measure on your own before relying on it.",
        "",
        "## How to call it",
        "",
        "    palm-serve run PATH/TO/THIS/DIRECTORY",
        f"    palm-serve call {_question(manifest, example)}",
        "",
    ]
    return "\n".join(lines)


def _labels(task: TaskInfo) -> str:
    """Classes, or the names of spans."""
    names = task_kind(task.kind).card_labels(task)
    told = ", ".join(f"`{name}`" for name in names[:_LABELS_SHOWN]).replace("|", "\\|")
    more = len(names) - _LABELS_SHOWN
    return f"{len(names)}: {told}" + (f", and {more} more" if more > 0 else "")


def _metrics(metrics: Mapping[str, Metrics]) -> list[str]:
    if not metrics:
        return ["The run was not evaluated (`palm-train evaluate RUN`)."]
    figures = [(split, name, value) for split, found in metrics.items() for name, value in _flat(found)]
    # the perplexity of a masked_lm is no share, and the task is not in the bundle
    rows = [(split, name, f"{100 * value:.2f}") for split, name, value in figures if not name.endswith("perplexity")]
    return _table(("split", "metric", "percent"), rows)


def _flat(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name} ")
        elif isinstance(value, int | float):
            yield prefix + name, float(value)


def _gates(manifest: Manifest) -> list[str]:
    """How far each provider was from the trained model."""
    rows = []
    for name, variant in manifest.variants.items():
        for gate in variant.gates:
            difference = gate.figures.get("max_logit_difference")
            rows.append(
                (
                    f"{name} ({variant.weights}, opset {variant.opset}, {variant.size / 1e6:.1f} MB)",
                    gate.provider,
                    gate.computed_in,
                    "not finite" if difference is None else f"{difference:.1e}",
                    f"{100 * gate.figures.get('answers_equal', 0):.2f} %",
                    f"{100 * gate.figures.get('answers_invariant', 0):.2f} %",
                    f"{100 * gate.figures['metric']:.2f}" if "metric" in gate.figures else "-",
                    "yes" if gate.passed else "no",
                )
            )
    return [
        "Every dev example was answered by PyTorch and by each of these, and compared. Some were asked alone too, whose answers must be those of a batch. "
        "The metric is exact match where tasks share their texts, else the mean of the tasks' main metrics.",
        "",
        *_table(
            (
                "variant",
                "provider",
                "precision",
                "largest logit difference",
                "equal answers",
                "equal alone",
                "dev metric",
                "passed",
            ),
            rows,
        ),
        *_processors(manifest),
    ]


def _processors(manifest: Manifest) -> list[str]:
    """Return the paragraph on where the gates of int8 hold; nothing without int8."""
    if all(variant.weight_bits != 7 for variant in manifest.variants.values()):
        return []
    return [
        "",
        "int8 was measured with the processor instructions in brackets. Its weights have 7 bits, with which every processor computes the same integers.",
    ]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]


def _question(manifest: Manifest, example: str) -> str:
    """What to ask: a text, or where all tasks read pairs, the first of them with its pair."""
    if any(not task.pairs for task in manifest.tasks.values()):
        return _shell_quoted(example)
    name, task = next(iter(manifest.tasks.items()))
    text, pair = task_kind(task.kind).example_pair
    return f'"{text}" --task {name} --pair "{pair}"'


def _windows(manifest: Manifest) -> list[str]:
    if all(task.windows is None for task in manifest.tasks.values()):
        return []
    return ["- Passages of reading comprehension are read whole, in windows; only a long question is cut."]


def _shell_quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$").replace("`", "\\`") + '"'
