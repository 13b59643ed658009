"""Report of a run: `report.html`, a single file.

rows.py              evaluated examples with their gold labels and answers
scores.py            scores by label, confusions, kinds of span errors, thresholds
reliability.py       accuracy by confidence
answers.py           answers by outcome: right or wrong, answered or refused
mistakes.py          wrong answers, the most confident first, with marked spans
history.py           training log as curves
data_summary.py      token lengths, label counts, problems in the data
versions.py          versions of the packages that results depend on
blocks.py            building blocks: tables, figures, matrices, mistakes, code
charts.py            charts as SVG
metric_text.py       names and units of metrics
overview.py          head of the page, and the section on the configuration
sections.py          section of a task
training_section.py  section on training
data_section.py      section on the data
page.py              the page
template.py          rendering of the templates in page/
"""

from palm_trainer.report.page import write_report
from palm_trainer.report.rows import Recording, RunFacts
from palm_trainer.report.versions import installed_versions

__all__ = ["Recording", "RunFacts", "installed_versions", "write_report"]
