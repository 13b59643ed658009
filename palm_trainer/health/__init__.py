"""Data health: rows whose labels look wrong, for a person to decide on.

rows.py         labelled rows of the tasks
findings.py     what a check found about a row or a class
duplicates.py   equal texts with different labels, and texts of train in dev and test
contexts.py     strings that are a span in some rows and not in others, in the same context
classes.py      rare classes, imbalance, and differences between splits
vectors.py      vectors of texts and words, of a run's encoder or the one that a training begins with
out_of_fold.py  probabilities of heads that did not see a row, and the rule of confident learning
model_checks.py confident learning, conflicting neighbours, classes that overlap
review_lines.py findings as lines of a review, with earlier decisions
page.py         health.html
check_data.py   all checks of a configuration
"""
