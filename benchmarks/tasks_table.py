"""The results of tasks.py as a Markdown table: mean and 95 % t-interval over the seeds, and paired differences."""

from collections.abc import Iterator
from typing import NamedTuple

from common import mean_and_half_interval
from tables import Results, by_seed, difference, lines, of, paired, show


class Row(NamedTuple):
    """A line of the table: a metric of a task's variant, in per cent, and what it should reach on test."""

    task: str
    variant: str
    name: str
    metric: str
    goal: float | None = None


class Difference(NamedTuple):
    """A line below the table: how much better the first variant is than the second."""

    task: str
    first: str
    second: str
    name: str
    metric: str


ROWS = (
    Row("sst2", "single", "SST-2 accuracy", "sentiment accuracy", 90.0),
    Row("mrpc", "single", "MRPC F1", "paraphrase f1", 86.0),
    Row("mrpc", "single", "MRPC accuracy", "paraphrase accuracy"),
    Row("wnut17", "single", "WNUT17 span F1", "entities f1", 40.0),
    *(
        Row("atis", variant, f"ATIS {name}, {told}", metric)
        for variant, told in (("api", "article's calls"), ("config", "same as config"), ("joint", "one pass"))
        for name, metric in (("intent", "intent accuracy"), ("slot F1", "slot f1"), ("exact match", "exact_match"))
    ),
    Row("chnsenticorp", "single", "ChnSentiCorp accuracy (scratch)", "sentiment accuracy", 86.0),
    Row("chnsenticorp", "e5", "ChnSentiCorp accuracy (e5-small-zh)", "sentiment accuracy"),
    Row("msra", "single", "MSRA sample span F1 (scratch)", "entities f1"),
    Row("msra", "single", "MSRA sample token accuracy", "entities token_accuracy"),
    Row("msra", "e5", "MSRA sample span F1 (e5-small-zh)", "entities f1"),
    *(
        Row("cais", variant, f"CAIS {name} ({told})", metric)
        for variant, told in (("single", "scratch"), ("e5", "e5-small-zh"))
        for name, metric in (("intent", "intent accuracy"), ("slot F1", "slots f1"), ("exact match", "exact_match"))
    ),
    Row("lcqmc", "single", "LCQMC accuracy (scratch)", "match accuracy"),
    Row("lcqmc", "e5", "LCQMC accuracy (e5-small-zh)", "match accuracy"),
    *(
        Row("xquad", variant, f"XQuAD-en {name}, {told}", metric)
        for variant, told in (("alone", "MRC alone"), ("dnet", "with the D-Net auxiliaries"))
        for name, metric in (("EM", "answer exact_match"), ("F1", "answer f1"))
    ),
)
DIFFERENCES = (
    Difference("cais", "e5", "single", "CAIS exact match, e5-small-zh - scratch", "exact_match"),
    Difference("cais", "e5", "single", "CAIS slot F1, e5-small-zh - scratch", "slots f1"),
    Difference("msra", "e5", "single", "MSRA span F1, e5-small-zh - scratch", "entities f1"),
    Difference("chnsenticorp", "e5", "single", "ChnSentiCorp accuracy, e5-small-zh - scratch", "sentiment accuracy"),
    Difference("lcqmc", "e5", "single", "LCQMC accuracy, e5-small-zh - scratch", "match accuracy"),
    Difference("atis", "api", "config", "ATIS intent, article's calls - config", "intent accuracy"),
    Difference("atis", "api", "config", "ATIS slot F1, article's calls - config", "slot f1"),
    Difference("xquad", "dnet", "alone", "XQuAD-en EM, D-Net - alone", "answer exact_match"),
    Difference("xquad", "dnet", "alone", "XQuAD-en F1, D-Net - alone", "answer f1"),
)


def table(cells: Results) -> str:
    """All rows of which there is a cell. Folds are averaged within a seed, so that the interval is over seeds."""
    rows = [("task", "goal", "dev", "test", "cells")]
    for row in ROWS:
        own = of(cells, row.task, row.variant, row.metric)
        if own:
            dev, test = (mean_and_half_interval(by_seed(own, split, row.metric)) for split in ("dev", "test"))
            goal = "" if row.goal is None else f"{row.goal:.1f} {'met' if test[0] >= row.goal else 'missed'}"
            rows.append((row.name, goal, show(*dev), show(*test), str(len(own))))
    text = "\n".join(lines(rows))
    told = [line for difference_of in DIFFERENCES for line in _difference(cells, difference_of)]
    return text + ("\n\nPaired differences on test, 95 % t-interval:\n\n" + "\n".join(told) if told else "") + "\n"


def _difference(cells: Results, told: Difference) -> Iterator[str]:
    own = (of(cells, told.task, variant, told.metric) for variant in (told.first, told.second))
    values = paired(*own, told.metric)
    if len(values) > 1:
        folds = any(c["fold"] is not None for c in cells if c["task"] == told.task)
        unit = "folds, each the mean over its seeds" if folds else "seeds"
        yield f"- {told.name}: {difference(values)} over {len(values)} {unit}"
