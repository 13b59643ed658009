"""The index of all pages with the goals that were missed, and the table of README."""

from collections.abc import Mapping

from pages.parts import NOT_MEASURED, Content, Goal, table

_ROWS = (
    ("ATIS, intent and all slots right, %", "quality", "ATIS, MiniLM-L6: exact match"),
    ("CLINC150, intents, accuracy, %", "quality", "CLINC150: in-scope accuracy"),
    ("BANKING77 after five examples an intent, accuracy, %", "few_shot", "BANKING77 5 examples an intent, pre-"),
    (
        "Sentences outside the domain that the demo model refuses, %",
        "out_of_scope",
        "demo model: sentences from outside",
    ),
    ("Training speed, times Hugging Face Trainer", "training_speed", "times Hugging Face Trainer"),
    ("Speed of int8 on ONNX Runtime's CPU provider, times fp32", "export", "int8 on ONNX Runtime's CPU provider"),
    (
        "Served calls/s, times the best of the other servers",
        "serving_beside_peers",
        "times the calls/s of {best}, 256 in flight",
    ),
    ("Answered in time under three times the load, to the peak", "overload_and_soak", "overload: answered in time"),
)
"""Rows of README's table: what it says, the page, and what the goal begins with."""


def build(titles: Mapping[str, str], contents: Mapping[str, Content]) -> Content:
    """Return the table of pages and the goals that are not met.

    Args:
        titles: of the pages by name.
        contents: of the pages by name.
    """
    pages = [("page", "the result in one line", "goals met", "missed", "not measured")]
    missed = [("page", "measurement", "goal", "reached")]
    waiting = [("page", "measurement", "goal")]
    for name, content in contents.items():
        link = f"[{titles[name]}]({name}.md)"
        counts = [sum(goal.verdict == verdict for goal in content.goals) for verdict in ("met", "missed", NOT_MEASURED)]
        pages.append((link, content.headline, *(str(count) if content.goals else "" for count in counts)))
        for goal in content.goals:
            if goal.verdict == "missed":
                missed.append((link, goal.what, goal.wanted, goal.reached or ""))
            elif goal.verdict == NOT_MEASURED:
                waiting.append((link, goal.what, goal.wanted))
    blocks = {"pages": table(pages, 2), "missed": table(missed, 3)}
    blocks["waiting"] = table(waiting, 3) if len(waiting) > 1 else "None."
    return Content(blocks)


def readme_table(contents: Mapping[str, Content]) -> str:
    """Return the table of results in README."""
    rows = [("what was measured", "goal", "reached", "verdict")]
    for title, page, begin in _ROWS:
        goal = goal_of(contents[page], begin)
        rows.append((f"[{title}](docs/benchmarks/{page}.md)", goal.wanted, goal.reached or "", goal.verdict))
    return table(rows, 2)


def goal_of(content: Content, begin: str) -> Goal:
    """Return the first goal whose name begins so, one that was not measured if there is none.

    `{best}` stands for any name.
    """
    first, _, last = begin.partition("{best}")
    for goal in content.goals:
        if goal.what.startswith(first) and goal.what.endswith(last):
            return goal
    return Goal(begin, "")
