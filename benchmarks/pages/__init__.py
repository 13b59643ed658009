"""The pages of docs/benchmarks and the figures of README, made from benchmarks/results.

`book.py` knows the pages, one module for each page turns results into tables and plots, `texts/` has the prose.
"""
