"""Engines: run the graphs of bundles. The only importer of onnxruntime.

candidate.py          combinations of graph, execution provider and precision
candidate_times.py    times of these combinations on this machine
providers.py          selects the graph, the execution provider and the precision
graph_check.py        checks that a graph belongs to its manifest
gpu.py                tells what is missing where a GPU cannot be used
session.py            opens a graph on one provider
openvino.py           OpenVINO's own runtime
provider_fallback.py  continues on the CPU when a provider fails
io_binding.py         keeps inputs and outputs on the GPU
options.py            settings of ONNX Runtime's providers
padding.py            pads encodings into model inputs
timing.py             measures graphs and keeps the times
machine_cache.py      keeps what was found out on this machine
cores.py              cores that this process may use
control_groups.py     processor time and memory that control groups grant
cpu_features.py       features of the processor
"""

import os

# Official builds of ONNX Runtime report usage to their maker unless this is set before the first import. Setting it to 0
# allows the reports.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
