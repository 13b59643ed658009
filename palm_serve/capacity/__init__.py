"""Capacity planning, `palm-serve plan`: how many replicas answer a rate of calls within a time.

bench_figures.py   reads a sweep of `palm-serve bench`
response_time.py   response times of one replica at a rate: the queueing model
fleet.py           replicas, cores, memory, connections, cost, and the limits that show as the rate grows

The figures of a replica are measured, never assumed. What the model says of more than one replica was checked against a
simulation and against three servers of one machine, see docs/how-to/scale/capacity.md.
"""
