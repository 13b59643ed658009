"""A load generator for a PALM server, in processes of its own: `palm-serve bench`.

load.py      what is asked, how often, by how many
requests.py  the bytes of a request and when it is made, and whether an answer is one
worker.py    one process that asks
report.py    what the answers say
run.py       starts the processes and puts their samples together

Every latency counts from the moment when the call was to be made. A generator that waits for answers, or is late itself,
does not hide that: its delay is in the figures ("coordinated omission" would leave it out), and is shown beside them.
"""
