"""The results of quality.py as Markdown tables."""

from collections.abc import Sequence
from typing import NamedTuple

from common import mean_and_half_interval
from tables import Results, by_seed, difference, lines, of, paired, shown

INTENT, SLOTS, EXACT = "intent accuracy", "slots f1", "exact_match"
COLUMNS = (INTENT, SLOTS, EXACT)
ANY_OF = "intent any-of accuracy"


class Goal(NamedTuple):
    """A row of the main table with what it should reach on test: intent, slot F1, exact match."""

    task: str
    variant: str
    name: str
    wanted: tuple[float | None, float | None, float | None]


GOALS = (
    Goal("atis", "minilm", "ATIS, MiniLM-L6", (97.9, 96.0, 88.4)),
    Goal("snips", "minilm", "SNIPS, MiniLM-L6", (98.6, 96.4, 91.3)),
    Goal("atis", "scratch", "ATIS, from scratch", (97.3, 95.9, 87.6)),
    Goal("snips", "scratch", "SNIPS, from scratch", (98.1, 94.8, 88.0)),
    Goal("mixatis", "minilm", "MixATIS, MiniLM-L6", (None, None, 52.0)),
    Goal("demo", "minilm", "bundled sample, MiniLM-L6", (None, None, 72.0)),
)
SMALL = (
    ("joint", "intent and slots together"),
    ("masked words", "... and masked words of the unlabelled rest"),
    ("with snips", "... and SNIPS as auxiliary tasks"),
    ("intent alone", "intent alone"),
    ("slots alone", "slots alone"),
)
UNSEEN = (
    ("minilm", "intent and slots together"),
    ("masked words", "... and masked words"),
    ("intent alone", "intent alone"),
    ("slots alone", "slots alone"),
)
EXACT_OF_THREE = "atis"
"""The corpus whose exact match `exact_match` is in results of three in one model from before 2026-11-30: the first.

Later results have one for each corpus, called `exact_match (atis)`.
"""
TOOLS = (
    ("tenth", "joint", "", "a tenth of ATIS"),
    ("atis", "minilm", "minilm ", "ATIS, MiniLM-L6"),
    ("snips", "minilm", "minilm ", "SNIPS, MiniLM-L6"),
    ("atis", "scratch", "scratch ", "ATIS, from scratch"),
    ("snips", "scratch", "scratch ", "SNIPS, from scratch"),
)
"""Sets on which tools are tried, the variant without any, what the names of those with one begin with, and what the set is."""
NO_TOOLS = {variant for variant, _ in SMALL}
THREE = (
    ("ATIS intent", "atis", INTENT, "atis_intent accuracy"),
    ("ATIS slot F1", "atis", SLOTS, "atis_slots f1"),
    ("SNIPS intent", "snips", INTENT, "snips_intent accuracy"),
    ("SNIPS slot F1", "snips", SLOTS, "snips_slots f1"),
    ("CLINC150 intent", "clinc150", INTENT, "clinc_intent accuracy"),
)
"""Tasks of three corpora in one model: name, corpus, metric of the model of that corpus, metric in the model of three."""
CLINC_ERROR = "intent ece"
CLINC_GOALS = (
    ("in-scope accuracy", INTENT, 95.0),
    ("in-scope accuracy, rejected ones counted as wrong", "intent in_scope_accuracy", 93.5),
    ("out-of-scope recall at that threshold", "intent out_of_scope_recall", 70.0),
    ("calibration error", CLINC_ERROR, 2.0),
)
"""Measures of CLINC150 with what they should reach. The calibration error should be at most that."""
DEMO_MEASURES = (
    ("its own test split, refused, %", "intent false_rejection"),
    ("other general sentences, refused, %", "intent out_of_scope_recall"),
    ("exact match of its own test split, %", EXACT),
)
"""Measures of the model of the bundled sample."""
WORST_DIFFERENCE = -0.3
"""No task of three corpora in one model may be worse than alone by more."""


def tables(results: dict[str, dict[str, object]]) -> str:
    """All tables of which there is a cell, each with a heading."""
    cells: Results = list(results.values())
    sets = compared(cells)
    (_, small, _), (_, atis, _), (_, snips, _) = sets
    made = (
        ("Intents and slots, test", main_rows(cells)),
        ("MixATIS, test, with and without the training utterances of ATIS", mixatis_rows(cells)),
        ("Three corpora in one model against each alone, test, paired by seed", three_rows(cells)),
        ("CLINC150, test", clinc_rows(cells)),
        ("The bundled sample, test", demo_rows(cells)),
        ("A tenth of ATIS' training utterances, test", reached_rows(small, "test")),
        ("ATIS, test utterances with a slot value that training has not seen", reached_rows(atis, "unseen")),
        ("SNIPS, the same", reached_rows(snips, "unseen")),
        ("Differences from intent and slots together, in these three, paired by seed", against_joint_rows(sets)),
        ("What each tool changes, paired by seed", tool_rows(cells)),
    )
    return "\n".join(f"{title}:\n\n" + "\n".join(lines(rows)) + "\n" for title, rows in made if len(rows) > 1)


def compared(cells: Results) -> tuple[tuple[str, list["Way"], str], ...]:
    """Return the sets on which ways to train are compared: name, ways, split."""
    atis, snips = (_with_three(_ways(cells, task, UNSEEN, "unseen"), cells, task) for task in ("atis", "snips"))
    return (
        ("a tenth of ATIS", _ways(cells, "tenth", SMALL, "test"), "test"),
        ("unseen values of ATIS", atis, "unseen"),
        ("unseen values of SNIPS", snips, "unseen"),
    )


def main_rows(cells: Results) -> list[tuple[str, ...]]:
    """Return the scores of each set beside its goals."""
    rows = [("set", "seeds", "intent", "intent, any of", "slot F1", "exact match", "calibration error")]
    for goal in GOALS:
        own = of(cells, goal.task, goal.variant, INTENT)
        if own:
            told = [_against(own, metric, wanted) for metric, wanted in zip(COLUMNS, goal.wanted, strict=True)]
            any_of = shown(own, "protocols", ANY_OF)
            rows.append((goal.name, str(len(own)), told[0], any_of, *told[1:], _calibration(own)))
    return rows


def _against(cells: Results, metric: str, wanted: float | None) -> str:
    """`97.69 ± 0.42 (97.7 missed)`."""
    reached = mean_and_half_interval(by_seed(cells, "test", metric))[0]
    goal = "" if wanted is None else f" ({wanted:.1f} {'met' if round(reached, 2) >= wanted else 'missed'})"
    return shown(cells, "test", metric) + goal


def _calibration(cells: Results) -> str:
    """Expected calibration error of intent and slots. MixATIS has no goal for it: its test is of another distribution than its dev."""
    told = (shown(cells, "test", f"{task} ece") for task in ("intent", "slots"))
    return " / ".join(text for text in told if text)


def mixatis_rows(cells: Results) -> list[tuple[str, ...]]:
    """Exact match over the rows, and with each utterance of ATIS that they are made of counted once."""
    rows = [("trained on", "seeds", "slot F1", "exact match", "exact match by utterance")]
    for variant, name in (("minilm", "MixATIS"), ("with atis", "MixATIS and ATIS")):
        own = of(cells, "mixatis", variant, EXACT)
        if any("weighted" in cell for cell in own):
            told = [shown(own, "test", SLOTS), shown(own, "test", EXACT), shown(own, "weighted", EXACT)]
            rows.append((name, str(len(own)), *told))
    plain = of(cells, "mixatis", "minilm", EXACT)
    other = of(cells, "mixatis", "with atis", EXACT)
    values = [paired(other, plain, SLOTS), paired(other, plain, EXACT), paired(other, plain, EXACT, "weighted")]
    if values[0] and len(rows) > 1:
        rows.append(("difference, paired", str(len(values[0])), *(difference(one) if one else "" for one in values)))
    return rows


def three_rows(cells: Results) -> list[tuple[str, ...]]:
    """Return the scores of the model of three corpora beside those of one model for each."""
    rows = [("task", "alone", "together", "difference", f"{WORST_DIFFERENCE} or better")]
    for name, task, metric, together in THREE:
        alone, joint = of(cells, task, "minilm", metric), of(cells, "three", "minilm", together)
        values = paired(joint, alone, together, other=metric)
        if values:
            held = "yes" if sum(values) / len(values) >= WORST_DIFFERENCE else "no"
            rows.append((name, shown(alone, "test", metric), shown(joint, "test", together), difference(values), held))
    return rows


def clinc_rows(cells: Results) -> list[tuple[str, ...]]:
    """Return the scores of CLINC150 beside their goals."""
    own = of(cells, "clinc150", "minilm", INTENT)
    rows = [("measure", "goal", "reached", "seeds")]
    for name, metric, wanted in CLINC_GOALS:
        text = shown(own, "test", metric)
        if text:
            rows.append((name, f"{wanted:.1f}", text, str(len(own))))
    return rows


def demo_rows(cells: Results) -> list[tuple[str, ...]]:
    """Return what the model of the bundled sample refuses and answers, over its seeds."""
    own = of(cells, "demo", "minilm", INTENT)
    rows = [("measure", "reached", "seeds")]
    for name, metric in DEMO_MEASURES:
        text = shown(own, "test", metric)
        if text:
            rows.append((name, text, str(len(own))))
    return rows


class Way(NamedTuple):
    """A way to train a set: its name in the tables, its cells, and what these call intent accuracy, slot F1 and exact match."""

    name: str
    cells: Results
    metrics: tuple[str, str, str] = COLUMNS


def _ways(cells: Results, task: str, names: tuple[tuple[str, str], ...], split: str) -> list[Way]:
    """One for each of `names`, with or without cells; the first is what the others are compared with."""
    return [
        Way(name, [c for c in cells if (c["task"], c["variant"]) == (task, how) and split in c]) for how, name in names
    ]


def _with_three(ways: list[Way], cells: Results, task: str) -> list[Way]:
    """With the model of three corpora, whose other tasks are auxiliary to this corpus', below what it adds to."""
    together = of(cells, "three", "minilm", f"{task}_{INTENT}", "unseen")
    exact = f"{EXACT} ({task})"
    if task == EXACT_OF_THREE and not any(exact in cell["unseen"] for cell in together):
        exact = EXACT
    metrics = (f"{task}_{INTENT}", f"{task}_{SLOTS}", exact)
    return [ways[0], Way("... and the tasks of two other corpora", together, metrics), *ways[1:]]


def reached_rows(ways: list[Way], split: str) -> list[tuple[str, ...]]:
    """Return the scores of each way to train a set."""
    rows = [("trained", "seeds", "intent", "slot F1", "exact match")]
    return rows + [
        (way.name, str(len(way.cells)), *(shown(way.cells, split, metric) for metric in way.metrics))
        for way in ways
        if way.cells
    ]


def against_joint_rows(sets: Sequence[tuple[str, list[Way], str]]) -> list[tuple[str, ...]]:
    """Every way of a set minus its first; a cell is empty where one of the two has not the metric."""
    rows = [("set, and how it was trained", "seeds", "intent", "slot F1", "exact match")]
    for name, ways, split in sets:
        for way in ways[1:]:
            values = [
                paired(way.cells, ways[0].cells, own, split, other=metric)
                for own, metric in zip(way.metrics, COLUMNS, strict=True)
            ]
            seeds = max(map(len, values))
            if seeds:
                told = [difference(one) if one else "" for one in values]
                rows.append((f"{name}: {way.name.removeprefix('... ')}", str(seeds), *told))
    return rows


def tools_of(cells: Results, task: str, begin: str) -> list[str]:
    """Return the tools that were tried on a set, sorted. `begin` is what the names of variants with one begin with."""
    variants = {str(cell["variant"]) for cell in cells if cell["task"] == task} - NO_TOOLS
    return sorted(variant.removeprefix(begin) for variant in variants if variant.startswith(begin))


def tool_rows(cells: Results) -> list[tuple[str, ...]]:
    """Return the paired differences that each tool makes."""
    rows = [("set, and tool", "seeds", "intent", "slot F1", "exact match", "exact match on dev")]
    for task, plain, begin, name in TOOLS:
        base = of(cells, task, plain, EXACT)
        for tool in tools_of(cells, task, begin):
            own = of(cells, task, f"{begin}{tool}", EXACT)
            pairs = [(metric, "test") for metric in COLUMNS] + [(EXACT, "dev")]
            values = [paired(own, base, metric, split) for metric, split in pairs]
            if values[0]:
                rows.append((f"{name}: `{tool}`", str(len(values[0])), *map(difference, values)))
    return rows
