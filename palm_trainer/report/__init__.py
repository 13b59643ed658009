"""What a person looks at after a run: `report.html`, one file that needs nothing else.

rows.py        each evaluated example with its gold labels and its answer
scores.py      per-label scores, confusion, kinds of span errors, thresholds: pure functions on the rows
reliability.py confidence against how often it was right
mistakes.py    the errors, worst first, with the spans marked in the text
history.py     the run's log as curves
datafacts.py   lengths, label distribution, faults
blocks.py      what a section is made of: tables, figures, a matrix, mistakes, code
charts.py      SVG
sections.py    results -> sections of a task; overview.py: the head of the page, training, data, configuration
page.py        sections -> HTML, through the template in page/
"""

from palm_trainer.report.overview import versions
from palm_trainer.report.page import write_report
from palm_trainer.report.rows import Recording, RunFacts

__all__ = ["Recording", "RunFacts", "versions", "write_report"]
