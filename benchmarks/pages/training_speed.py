"""Training speed beside three reference loops."""

from statistics import fmean

from pages.parts import MISSING, Content, Goal, Results, at_least, goals_table, measured, rounds, table
from pages.plot_data import Dots, Panel, Point

LOOPS = {
    "plain": ("plain loop, fp32", 3.0),
    "hf_trainer": ("Hugging Face Trainer (bf16, fused, length grouping)", 1.15),
    "alternating": ("plain loop, one pass a task, as the original PALM trained", 6.0),
}
"""Title of each reference loop, and how many times its examples/s were to be reached."""


def build(results: Results) -> Content:
    """Return the ratios, the rates, and the share of data work."""
    content = Content()
    found = results.get("train_speed")
    if found is None:
        content.blocks.update(ratios=MISSING, rates="", data_share="", measured="")
        content.goals += [Goal(f"times {title}", f"at least {wanted:g}") for title, wanted in LOOPS.values()]
        return content
    for name, (title, wanted) in LOOPS.items():
        values = found["rounds"][name]
        content.goals.append(at_least(f"times {title}", wanted, fmean(values), rounds(values)))
    count = len(found["rounds"]["plain"])
    content.blocks["ratios"] = goals_table(content.goals) + f"\n\nMeans of {count} rounds, with their range."
    rows = [("loop", "examples/s, mean and range of the rounds")]
    labels, rates = [], []
    for name, title in {"palm": "PALM", **{name: title for name, (title, _) in LOOPS.items()}}.items():
        values = found["examples_per_s"][name]
        rows.append((title, rounds(values, 0)))
        labels.append(title.partition(" (")[0].partition(", as")[0])
        rates.append(Point(fmean(values), min(values), max(values)))
    content.blocks["rates"] = table(rows)
    content.blocks["data_share"] = f"{100 * found['data_share']:.1f} %"
    content.blocks["measured"] = measured("train_speed", found)
    panel = Panel("examples/s", tuple(rates))
    content.plots["rates"] = Dots(
        "training_speed", "Training speed on ATIS", tuple(labels), (panel,), "range of rounds"
    )
    content.headline = f"{rounds(found['rounds']['hf_trainer'])} times Hugging Face Trainer"
    return content
