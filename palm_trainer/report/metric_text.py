"""Metrics as a reader sees them. A metric has a dotted name such as `slots.f1`."""

from palm_trainer.evaluation.evaluate import BY_DATA_SET

UNITS_NOTE = "In per cent, except perplexities."

_TITLES = {"f1": "F1", "ece": "calibration error"}


def metric_title(metric: str) -> str:
    """Return the readable name of a metric such as `f1` or `token_accuracy`."""
    return _TITLES.get(metric, metric.replace("_", " "))


def column_title(name: str) -> str:
    """Return the readable form of a dotted name: `slots f1`, or of a single data set `slots f1 (travel)`."""
    if name.startswith(f"{BY_DATA_SET}."):
        _, data, name = name.split(".", 2)
        return f"{column_title(name)} ({data})"
    return name.replace(".", " ").replace("_", " ")


def is_percentage(name: str) -> bool:
    """Return True unless the metric is a perplexity, which is shown as it is."""
    return not name.endswith("perplexity")
