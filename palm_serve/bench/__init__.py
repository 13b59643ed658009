"""Load generator for a PALM server, `palm-serve bench`, which runs in processes of its own.

load.py      parameters of a load
requests.py  arrival times, serialized requests, status code of a response
worker.py    one process of the generator
report.py    throughput and latency percentiles
run.py       starts the processes and combines their samples
sweep.py     closed loops with more and more callers
server_usage.py  processor time and memory of the server, from its metrics

Every latency counts from the intended start of the call. So a delay of the generator, or of a server that pauses, is part of
the figures (no coordinated omission). The delays of the generator are also reported separately.
"""
