"""Arrivals, requests and the report of the load generator."""

import numpy as np
import pytest
from google.rpc import code_pb2
from hypothesis import given
from hypothesis import strategies as st

from palm_serve.bench.load import TEXTS, Load, Method
from palm_serve.bench.report import make_report, percentiles
from palm_serve.bench.requests import arrivals, code_of, prepare
from palm_serve.bench.server_usage import Snapshot, parse_metrics, usage_between
from palm_serve.bench.sweep import sweep_callers
from palm_serve.bench.worker import Samples
from palm_serve.oip import inference_pb2 as oip
from palm_serve.v1 import palm_pb2 as pb

LOAD = Load("nowhere", rate=10, warm_up_s=1, duration_s=10, deadline_s=0.5)


def samples(*calls: tuple[float, float, float, int], lag: float = 0.0, busy: float = 0.1) -> Samples:
    """Create samples of calls, given as (due, late, took, code)."""
    due, late, took, code = (np.array(column) for column in zip(*calls, strict=True))
    return Samples(due, late, took, code, np.full(50, lag), busy)


@given(rate=st.floats(1, 5000), processes=st.integers(1, 4), seed=st.integers(0, 99))
def test_arrivals_are_a_poisson_process(rate: float, processes: int, seed: int) -> None:
    load = Load("nowhere", rate=rate, processes=processes, seed=seed, duration_s=3, warm_up_s=1)
    times = np.sort(np.concatenate([arrivals(load, rate, i) for i in range(processes)]))
    assert abs(len(times) - 4 * rate) <= 6 * (4 * rate) ** 0.5 + 1
    assert np.all((times > 0) & (times < 4))
    gaps = np.diff(times)
    if len(gaps) > 1000:
        assert np.std(gaps) == pytest.approx(np.mean(gaps), rel=0.25)


@given(concurrency=st.integers(1, 99), processes=st.integers(1, 9))
def test_callers_are_spread_over_processes(concurrency: int, processes: int) -> None:
    load = Load("nowhere", concurrency=concurrency, processes=processes)
    callers = [load.callers(i) for i in range(processes)]
    assert sum(callers) == concurrency
    assert max(callers) - min(callers) <= 1


def test_prepare_serializes_requests() -> None:
    asked = pb.ParseRequest.FromString(prepare(Load("", model="m"), 0)[0])
    assert asked.text in TEXTS
    assert asked.model == "m"
    batch = pb.ParseBatchRequest.FromString(prepare(Load("", method=Method.BATCH, batch=5), 0)[0])
    assert len(batch.requests) == 5
    (tensor,) = oip.ModelInferRequest.FromString(prepare(Load("", method=Method.OIP), 0)[0]).inputs
    assert tensor.contents.bytes_contents[0].decode() in TEXTS
    assert prepare(LOAD, 0) != prepare(LOAD, 1)


def test_code_of_batch_is_that_of_its_first_error() -> None:
    good, bad = pb.ParseItem(response=pb.ParseResponse()), pb.ParseItem(error=pb.ItemError(code=8))
    answers = {code: pb.ParseBatchResponse(items=items) for code, items in ((0, [good, good]), (8, [good, bad]))}
    for code, answer in answers.items():
        assert code_of(Method.BATCH, answer.SerializeToString()) == code


def test_report_counts_calls_of_the_measurement() -> None:
    report = make_report(
        LOAD,
        [
            samples((0.5, 0, 0.1, 0), (0.9, 0, 0.3, 0), (2, 0, 0.1, 0)),
            samples((3, 0, 0.6, 0), (4, 0, 0.01, code_pb2.RESOURCE_EXHAUSTED), (10.9, 0, 0.2, 0)),
        ],
    )
    # In the warm-up; begun in it and answered after it; in time; too late; refused; answered after the end.
    assert (report.calls, report.offered) == (4, 0.4)
    assert report.codes == {"OK": 3, "RESOURCE_EXHAUSTED": 1}
    assert (report.answered, report.goodput) == (0.3, 0.2)
    assert report.answered_ms["max"] == 600
    assert report.refused_ms["p50"] == 10
    assert report.doubts == ()


def test_percentiles_are_observed_values() -> None:
    assert percentiles(np.arange(1, 1001) / 1000) == {"p50": 500, "p90": 900, "p99": 990, "p99.9": 999, "max": 1000}
    assert percentiles(np.array([])) == {}


def test_report_doubts_a_late_or_busy_generator() -> None:
    on_time, late = (2.0, 0.0, 0.1, 0), (2.0, 0.02, 0.1, 0)
    assert make_report(LOAD, [samples(*[on_time] * 99, late)]).doubts == ()
    (doubt,) = make_report(LOAD, [samples(*[on_time] * 9, late)]).doubts
    assert doubt == "10.0 % of the calls started more than 10 ms late"
    lagging, busy = make_report(LOAD, [samples(on_time), samples(on_time, lag=0.03, busy=0.95)]).doubts
    assert lagging == "50.0 % of the timers of the generator fired more than 10 ms late"
    assert busy == "a process of the generator was busy 95 % of the time. Use more --processes."


def test_sweep_doubles_the_callers_up_to_the_last() -> None:
    assert sweep_callers(1) == [1]
    assert sweep_callers(8) == [1, 2, 4, 8]
    assert sweep_callers(100) == [1, 2, 4, 8, 16, 32, 64, 100]


def test_server_usage_is_per_answered_call() -> None:
    text = """# HELP process_cpu_seconds_total Total user and system CPU time spent in seconds.
process_cpu_seconds_total 12.5
process_resident_memory_bytes 2.097152e+08
palm_requests_total{code="OK",door="grpc",method="Parse"} 1000.0
palm_requests_total{code="OK",door="http",method="Parse"} 5.0
palm_requests_total{code="NOT_FOUND",door="grpc",method="Parse"} 7.0
"""
    after = parse_metrics(text)
    assert after == Snapshot(12.5, 2.097152e8, 1005.0)
    usage = usage_between(Snapshot(2.5, 1e8, 5.0), after)
    assert usage is not None
    assert usage.as_dict() == {"cpu_ms_per_call": 10.0, "memory_mib": 200.0}
    assert usage_between(after, after) is None
