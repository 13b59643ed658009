"""The plan of a batch, stated as properties."""

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


def by_length(*lengths):
    return [WaitingRequest(length) for length in lengths]


@given(ENTRIES, LIMITS, COSTS)
def test_no_batch_exceeds_its_limits_but_for_a_single_row(waiting, limits, costs):
    chosen = [waiting[i].length for i in plan_batch(waiting, 0.0, limits, costs).batch]
    if len(chosen) > 1:
        padded = max(chosen) * len(chosen)
        assert padded <= limits.max_tokens
        assert len(chosen) <= limits.max_rows
        assert padded - sum(chosen) <= max(limits.free_padding, limits.max_padding * padded)


@given(ENTRIES, LIMITS, COSTS)
def test_the_lost_cost_no_row_and_the_most_urgent_of_the_rest_runs(waiting, limits, costs):
    plan = plan_batch(waiting, 0.0, limits, costs)
    hopeless = [i for i, e in enumerate(waiting) if e.deadline <= 0 or e.deadline < costs.of(e.length)]
    assert set(plan.lost) <= set(hopeless)
    assert not set(plan.batch) & set(hopeless)
    first = next((i for i in range(len(waiting)) if i not in hopeless), None)
    assert (first is None) == (not plan.batch)
    if first is not None:
        assert first in plan.batch
        assert all(i in plan.lost for i in hopeless if i < first), "whoever stood before it is told"


@given(ENTRIES, LIMITS, COSTS)
def test_a_batch_ends_before_the_deadlines_of_its_members(waiting, limits, costs):
    batch = plan_batch(waiting, 0.0, limits, costs).batch
    if batch:
        padded = len(batch) * max(waiting[i].length for i in batch)
        enough = costs.answered(padded) if len(batch) > 1 else costs.of(padded)
        assert enough <= min(waiting[i].deadline for i in batch)


@given(ENTRIES, LIMITS, COSTS)
def test_who_overtakes_makes_nobody_late(waiting, limits, costs):
    """All up to the last of the batch can run, in the order of `due`, before the first is due; or all are among the first `max_rows`."""
    plan = plan_batch(waiting, 0.0, limits, costs)
    if plan.batch:
        live = [i for i in range(plan.batch[-1] + 1) if i not in plan.lost]
        spent = sum(costs.per_batch / limits.max_rows + costs.per_token * waiting[i].length for i in live)
        assert len(live) <= limits.max_rows or spent <= waiting[live[0]].due + 1e-9


@given(st.lists(st.integers(1, 64), max_size=40), LIMITS)
def test_every_entry_runs_exactly_once(lengths, limits):
    left, batches = list(range(len(lengths))), []
    while left:
        batch = plan_batch(by_length(*(lengths[i] for i in left)), 0.0, limits, Costs()).batch
        chosen = [left[i] for i in batch]
        assert left[0] in chosen, "the most urgent always runs"
        batches.append(chosen)
        left = [i for i in left if i not in chosen]
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))


def test_lengths_that_differ_do_not_share_a_batch():
    lengths = [40, 4, 40, 4, 40, 4, 38, 5]
    batch = plan_batch(by_length(*lengths), 0.0, BatchLimits(), Costs()).batch
    assert [lengths[i] for i in batch] == [40, 40, 40, 38]


def test_few_short_ones_do():
    assert plan_batch(by_length(4, 12, 7), 0.0, BatchLimits(), Costs()).batch == (0, 1, 2)


def test_with_no_time_left_only_the_first_may_share():
    waiting = [WaitingRequest(10, due=0.0), WaitingRequest(20, due=1.0), WaitingRequest(10, due=2.0)]
    costs = Costs(0.001, 0.001)
    limits = BatchLimits(max_rows=2, free_padding=0)
    assert plan_batch(waiting, 0.0, limits, costs).batch == (0,)
    assert plan_batch([WaitingRequest(10, due=0.1), *waiting[1:]], 0.0, limits, costs).batch == (0, 2)


def test_company_is_left_behind_where_a_deadline_is_near():
    waiting = [WaitingRequest(10, 0.0, deadline=0.025), WaitingRequest(10), WaitingRequest(10)]
    assert plan_batch(waiting, 0.0, BatchLimits(), Costs(0.0, 0.001)).batch == (0, 1)
