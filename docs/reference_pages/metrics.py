"""The metrics of the server, from its registry."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from reference_pages.markdown import code, paragraphs, prose, table

_MONITORING = Path(__file__).parents[2] / "charts" / "monitoring.py"


def metrics() -> str:
    """Return a table for each row of the dashboard."""
    monitoring = _load()
    families = monitoring.metric_families()
    sections = []
    for heading, beginnings in monitoring.ROWS.items():
        rows = [
            [code(family.name), prose(family.description), family.kind, ", ".join(map(code, family.labels))]
            for family in families
            if family.name.startswith(beginnings)
        ]
        sections.append(paragraphs(f"## {heading}", table(["metric", "meaning", "type", "labels"], rows)))
    return paragraphs(*sections)


def process() -> str:
    """Return the table of the metrics that the Prometheus client adds."""
    return table(["metric", "meaning"], [[code(name), prose(text)] for name, (text, _) in _load().PROCESS.items()])


def _load() -> ModuleType:
    name = "palm_chart_monitoring"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, _MONITORING)
    if spec is None or spec.loader is None:
        raise ImportError(f"{_MONITORING} must be a module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
