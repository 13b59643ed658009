"""Comparison of joint training with single-task training, over several seeds.

variants.py           plans the comparison: the joint training and each task alone, at equal budget
trainings.py          runs one training of one variant with one seed and counts its correct answers
workers.py            runs several trainings at a time, each in its own process
compare_trainings.py  compares the finished trainings
statistics.py         paired score differences with bootstrap confidence intervals
result.py             the result and its file compare.json
notes.py              notes and warnings for the reader of a result
forest_plot.py        drawing of the differences and their intervals
page.py               the page compare.html
"""
