"""Request batching and admission control.

plan.py             plans the next batch from the waiting requests (pure)
latency.py          predicts how long a batch takes, learned from those that ran
queue.py            queue of one model and one priority
client_queue.py     requests of one client in a queue, and the turns of several clients
admission.py        accepts requests and shares the engine among queues (no thread, no clock: time is an argument)
batch_handler.py    callbacks of a model for the engine thread
engine_thread.py    the thread that runs the engines, and the thread that decodes their results
scheduler.py        queues the requests of one model for the engine thread, from an event loop
observer.py         events that metrics count
patience.py         waiting of batches before they are refused
loop_turns.py       turns of large batches on the event loop
watchdog.py         stops a run that takes too long
thread_priority.py  niceness of threads
"""

from palm_serve.batching.admission import WEIGHTS, AdmissionController
from palm_serve.batching.client_queue import ClientWeight, equal_weight
from palm_serve.batching.engine_thread import EngineThread
from palm_serve.batching.latency import LatencyModel
from palm_serve.batching.observer import FinishedBatch, Observer, SilentObserver
from palm_serve.batching.plan import BatchLimits, BatchPlan, Costs, WaitingRequest, plan_batch, plan_batches
from palm_serve.batching.queue import EngineLatency
from palm_serve.batching.scheduler import Scheduler
from palm_serve.batching.watchdog import RUN_LIMIT_S

__all__ = [
    "RUN_LIMIT_S",
    "WEIGHTS",
    "AdmissionController",
    "BatchLimits",
    "BatchPlan",
    "ClientWeight",
    "Costs",
    "EngineLatency",
    "EngineThread",
    "FinishedBatch",
    "LatencyModel",
    "Observer",
    "Scheduler",
    "SilentObserver",
    "WaitingRequest",
    "equal_weight",
    "plan_batch",
    "plan_batches",
]
