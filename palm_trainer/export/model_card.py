"""Model card of a bundle (README.md): tasks, data, metrics, parity, limits and usage."""

from collections.abc import Mapping, Sequence

from palm_serve.bundle.manifest import Gate, GraphVariant, TaskInfo
from palm_trainer.evaluation.evaluate import EvaluationSet, Metrics, flatten, is_perplexity
from palm_trainer.export.bundle_draft import BundleDraft
from palm_trainer.tasks import task_kind

_MAX_LABELS = 40
_TABLE_BREAK = "\\|"
_GATE_COLUMNS = (
    "variant",
    "provider",
    "precision",
    "largest logit difference",
    "equal answers",
    "independent of batch",
    "dev metric",
    "passed",
)


def render_model_card(
    draft: BundleDraft, sets: Sequence[EvaluationSet], metrics: Mapping[str, Metrics], example: str
) -> str:
    """Render the card as Markdown.

    It has no path of the machine and no date, so that the same run gives the same card.

    Args:
        draft: the bundle with its gates.
        sets: dev examples of each data set.
        metrics: metrics by split, as in `metrics.json`.
        example: a text for the example call.
    """
    lines = [f"# {draft.name}", "", _describe_model(draft), ""]
    lines += ["## Tasks", "", *_list_tasks(draft), ""]
    lines += ["## Data", "", *_list_data(sets), ""]
    lines += ["## Metrics", "", *_list_metrics(metrics), ""]
    lines += ["## Export", "", *_list_gates(draft), ""]
    lines += ["## Limits", "", *_list_limits(draft), ""]
    lines += ["## How to call it", ""]
    lines += [
        "    palm-serve run PATH/TO/THIS/DIRECTORY",
        f"    palm-serve call {_example_arguments(draft, example)}",
        "",
    ]
    return "\n".join(lines)


def _describe_model(draft: BundleDraft) -> str:
    encoder = draft.encoder
    plural = "s" if len(draft.tasks) > 1 else ""
    return (
        f"A PALM bundle: {len(draft.tasks)} task{plural} on one encoder, `{encoder.name}` ({encoder.family}, "
        f"{encoder.layers} layers, hidden size {encoder.hidden_size}, {encoder.parameters / 1e6:.1f} M parameters)."
    )


def _list_tasks(draft: BundleDraft) -> list[str]:
    rows = []
    for name, task in draft.tasks.items():
        rows.append((f"`{name}`", task.kind, task.role or "-", _list_labels(task)))
    return _format_table(("task", "kind", "role", "labels"), rows)


def _list_labels(task: TaskInfo) -> str:
    """List the classes, or the names of spans."""
    names = task_kind(task.kind).card_labels(task)
    quoted = []
    for name in names[:_MAX_LABELS]:
        quoted.append(f"`{name}`".replace("|", _TABLE_BREAK))
    text = f"{len(names)}: {', '.join(quoted)}"
    hidden_count = len(names) - _MAX_LABELS
    return f"{text}, and {hidden_count} more" if hidden_count > 0 else text


def _list_data(sets: Sequence[EvaluationSet]) -> list[str]:
    rows = []
    for evaluation_set in sets:
        example_count = str(len(evaluation_set.examples))
        rows.append((f"`{evaluation_set.data}`", example_count, ", ".join(evaluation_set.fields)))
    return _format_table(("data set", "dev examples", "tasks"), rows)


def _list_metrics(metrics: Mapping[str, Metrics]) -> list[str]:
    if not metrics:
        return ["The run was not evaluated (`palm-train evaluate RUN`)."]
    rows = []
    for split, split_metrics in metrics.items():
        for name, value in flatten(split_metrics).items():
            # A perplexity is not a percentage, and its masked_lm task is not in the bundle.
            if not is_perplexity(name):
                rows.append((split, name, f"{100 * value:.2f}"))
    return _format_table(("split", "metric", "percent"), rows)


def _list_gates(draft: BundleDraft) -> list[str]:
    """List how close each candidate is to the trained model."""
    rows = []
    variants = draft.describe_variants()
    for name, variant in variants.items():
        for gate in variant.gates:
            rows.append(_gate_row(name, variant, gate))
    return [
        "Each of these combinations answered every dev example, and the answers were compared with those of PyTorch. "
        "Some examples were also answered alone and compared with their answers in a batch. "
        "The metric is exact match if tasks share their texts, otherwise the mean of the tasks' primary metrics.",
        "",
        *_format_table(_GATE_COLUMNS, rows),
        *_describe_int8(variants),
    ]


def _gate_row(name: str, variant: GraphVariant, gate: Gate) -> tuple[str, ...]:
    figures = gate.figures
    difference = "not finite"
    if "max_logit_difference" in figures:
        difference = f"{figures['max_logit_difference']:.1e}"
    return (
        f"{name} ({variant.weights}, opset {variant.opset}, {variant.size / 1e6:.1f} MB)",
        gate.provider,
        gate.computed_in,
        difference,
        f"{100 * figures.get('answers_equal', 0):.2f} %",
        f"{100 * figures.get('answers_invariant', 0):.2f} %",
        f"{100 * figures['metric']:.2f}" if "metric" in figures else "-",
        "yes" if gate.passed else "no",
    )


def _describe_int8(variants: Mapping[str, GraphVariant]) -> list[str]:
    """Describe the processors that the int8 gates hold on."""
    weight_bits = {variant.weight_bits for variant in variants.values()}
    if 7 not in weight_bits:
        return []
    return [
        "",
        "int8 was measured with the processor instructions in brackets. "
        "Its weights have 7 bits, with which every processor computes the same integers.",
    ]


def _list_limits(draft: BundleDraft) -> list[str]:
    limits = [
        f"- Texts are read up to {draft.max_length} tokens, special tokens included. "
        "The rest is ignored, and the answer is marked as `truncated`.",
    ]
    if any(task.windows is not None for task in draft.tasks.values()):
        limits.append("- Passages of reading comprehension are read in windows. Only a long question is truncated.")
    for name, task in draft.tasks.items():
        if task.decode.given:
            limits.append(
                f"- `{name}` is decoded given `{task.decode.given}`: a span of a type that no training text of the answered "
                "class has is not answered, unless a threshold of the model rejects the class."
            )
    limits += [
        "- The model knows only the labels above. A text that belongs to none of them still gets one, "
        "so check the confidence.",
        "- The metrics hold for text like the data above. Evaluate the model on your own data before you rely on it.",
    ]
    return limits


def _example_arguments(draft: BundleDraft, example: str) -> str:
    """Return a text for `palm-serve call`, or a text and a pair if all tasks read pairs."""
    if any(not task.pairs for task in draft.tasks.values()):
        return _shell_quote(example)
    name, task = next(iter(draft.tasks.items()))
    text, pair = task_kind(task.kind).example_pair
    return f'"{text}" --task {name} --pair "{pair}"'


def _format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = []
    for row in (header, ["---"] * len(header), *rows):
        lines.append(f"| {' | '.join(row)} |")
    return lines


def _shell_quote(text: str) -> str:
    for character in ("\\", '"', "$", "`"):
        text = text.replace(character, f"\\{character}")
    return f'"{text}"'
