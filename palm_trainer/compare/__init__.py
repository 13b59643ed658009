"""Did training the tasks together help? The joint training against each task alone, over seeds, with intervals.

variants.py    configuration -> the joint training and each task alone, at equal budget
cells.py       one training of one variant with one seed, resumed, and its counts on the test examples
statistics.py  counts -> differences with bootstrap intervals
result.py      cells -> comparisons, notes, compare.json
page.py        compare.html
"""
