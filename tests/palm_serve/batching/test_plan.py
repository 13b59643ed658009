"""Properties of a batch plan."""

from hypothesis import given
from hypothesis import strategies as st

from palm_serve.batching import BatchLimits, Costs, WaitingRequest, plan_batch

LIMITS = st.builds(
    BatchLimits,
    max_tokens=st.integers(8, 512),
    max_rows=st.integers(1, 16),
    max_padding=st.floats(0, 0.9),
    free_padding=st.integers(0, 64),
)
COSTS = st.builds(Costs, st.floats(0, 0.1), st.floats(0, 0.01), st.floats(0, 1), st.floats(0, 0.1))
TIMES = st.just(float("inf")) | st.floats(-5, 5)
ENTRIES = st.lists(st.builds(WaitingRequest, st.integers(1, 64), TIMES, TIMES), max_size=40).map(
    lambda entries: sorted(entries, key=lambda entry: entry.due)
)


def is_unmeetable(request, costs):
    return request.deadline <= 0 or request.deadline < costs.engine_seconds(request.length)


def by_length(*lengths):
    return [WaitingRequest(length) for length in lengths]


@given(ENTRIES, LIMITS, COSTS)
def test_plan_of_several_rows_keeps_the_limits(waiting, limits, costs):
    lengths = [waiting[i].length for i in plan_batch(waiting, 0.0, limits, costs).batch]
    if len(lengths) > 1:
        padded = max(lengths) * len(lengths)
        assert padded <= limits.max_tokens
        assert len(lengths) <= limits.max_rows
        assert padded - sum(lengths) <= max(limits.free_padding, limits.max_padding * padded)


@given(ENTRIES, LIMITS, COSTS)
def test_plan_runs_the_most_urgent_and_no_lost_request(waiting, limits, costs):
    plan = plan_batch(waiting, 0.0, limits, costs)
    unmeetable = [i for i, request in enumerate(waiting) if is_unmeetable(request, costs)]
    assert set(plan.lost) <= set(unmeetable)
    assert not set(plan.batch) & set(unmeetable)
    first = next((i for i in range(len(waiting)) if i not in unmeetable), None)
    assert (first is None) == (not plan.batch)
    if first is not None:
        assert first in plan.batch
        assert all(i in plan.lost for i in unmeetable if i < first), "requests before it are reported as lost"


@given(ENTRIES, LIMITS, COSTS)
def test_plan_ends_before_the_deadlines_of_its_requests(waiting, limits, costs):
    batch = plan_batch(waiting, 0.0, limits, costs).batch
    if batch:
        padded = len(batch) * max(waiting[i].length for i in batch)
        enough = costs.answer_seconds(padded) if len(batch) > 1 else costs.engine_seconds(padded)
        assert enough <= min(waiting[i].deadline for i in batch)


@given(ENTRIES, LIMITS, COSTS)
def test_plan_overtaking_makes_no_request_late(waiting, limits, costs):
    """All up to the last of the batch can run, in the order of `due`, before the first is due; or all are among the first `max_rows`."""
    plan = plan_batch(waiting, 0.0, limits, costs)
    if plan.batch:
        live = [i for i in range(plan.batch[-1] + 1) if i not in plan.lost]
        spent = sum(costs.per_batch / limits.max_rows + costs.per_token * waiting[i].length for i in live)
        assert len(live) <= limits.max_rows or spent <= waiting[live[0]].due + 1e-9


@given(st.lists(st.integers(1, 64), max_size=40), LIMITS)
def test_plan_until_empty_runs_every_request_once(lengths, limits):
    remaining = list(range(len(lengths)))
    batches = []
    while remaining:
        batch = plan_batch(by_length(*(lengths[i] for i in remaining)), 0.0, limits, Costs()).batch
        planned = [remaining[i] for i in batch]
        assert remaining[0] in planned, "the most urgent always runs"
        batches.append(planned)
        remaining = [i for i in remaining if i not in planned]
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))


def test_plan_separates_requests_of_different_length():
    lengths = [40, 4, 40, 4, 40, 4, 38, 5]
    batch = plan_batch(by_length(*lengths), 0.0, BatchLimits(), Costs()).batch
    assert [lengths[i] for i in batch] == [40, 40, 40, 38]


def test_plan_joins_few_short_requests():
    assert plan_batch(by_length(4, 12, 7), 0.0, BatchLimits(), Costs()).batch == (0, 1, 2)


def test_plan_without_time_left_keeps_to_the_first_rows():
    waiting = [WaitingRequest(10, due=0.0), WaitingRequest(20, due=1.0), WaitingRequest(10, due=2.0)]
    costs = Costs(0.001, 0.001)
    limits = BatchLimits(max_rows=2, free_padding=0)
    assert plan_batch(waiting, 0.0, limits, costs).batch == (0,)
    assert plan_batch([WaitingRequest(10, due=0.1), *waiting[1:]], 0.0, limits, costs).batch == (0, 2)


def test_plan_with_a_near_deadline_is_smaller():
    waiting = [WaitingRequest(10, 0.0, deadline=0.025), WaitingRequest(10), WaitingRequest(10)]
    assert plan_batch(waiting, 0.0, BatchLimits(), Costs(0.0, 0.001)).batch == (0, 1)


def test_pressing_requests_run_together_and_others_fit_to_the_longest():
    waiting = by_length(5, 40, 12, 5, 38, 6, 39, 5)
    assert plan_batch(waiting, 0.0, BatchLimits(free_padding=0), Costs()).batch == (0, 3, 7)
    assert plan_batch(waiting, 0.0, BatchLimits(free_padding=0), Costs(), pressing=3).batch == (0, 1, 2, 4, 6)


def test_pressing_requests_keep_to_tokens_rows_and_deadlines():
    waiting = by_length(5, 40, 30)
    assert plan_batch(waiting, 0.0, BatchLimits(max_tokens=80), Costs(), pressing=3).batch == (0, 1)
    assert plan_batch(waiting, 0.0, BatchLimits(max_rows=1), Costs(), pressing=3).batch == (0,)
    soon = [WaitingRequest(5, deadline=0.05), WaitingRequest(40), WaitingRequest(8)]
    assert plan_batch(soon, 0.0, BatchLimits(), Costs(0.0, 0.001), pressing=3).batch == (0, 2)
