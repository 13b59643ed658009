"""Who runs together, and who is told at once that it is no use.

plan.py        what waits -> the batch to run now (pure)
latency.py     how long a batch will take, learned from those that ran
dispatch.py    queues of several models and priorities, admission, fairness (no clock, no thread: time is an argument)
lane.py        the thread that runs engines, and the one that decodes behind it
scheduler.py   one model's door to a lane, for an event loop
"""

from palm_serve.batching.admission import WEIGHTS, AdmissionController
from palm_serve.batching.engine_thread import EngineThread
from palm_serve.batching.latency import LatencyModel
from palm_serve.batching.observer import FinishedBatch, Observer, SilentObserver
from palm_serve.batching.plan import BatchLimits, BatchPlan, Costs, WaitingRequest, plan_batch
from palm_serve.batching.queue import EngineLatency
from palm_serve.batching.scheduler import Scheduler

__all__ = [
    "WEIGHTS",
    "AdmissionController",
    "BatchLimits",
    "BatchPlan",
    "Costs",
    "EngineLatency",
    "EngineThread",
    "FinishedBatch",
    "LatencyModel",
    "Observer",
    "Scheduler",
    "SilentObserver",
    "WaitingRequest",
    "plan_batch",
]
