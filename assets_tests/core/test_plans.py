"""A boundary is where the stream as a whole passes the window's end, not a single record."""

from hypothesis import given
from hypothesis import strategies as st

from tidemill.core.plans import BoundarySearch, Observation, Plan, PlannedRange

END = 1000


def boundary(timestamps: list[int], confirmation_records: int = 4) -> int | None:
    search = BoundarySearch(END, confirmation_records)
    search.feed(enumerate(timestamps))
    return search.boundary


def boundary_at_end(timestamps: list[int], confirmation_records: int = 4) -> int | None:
    search = BoundarySearch(END, confirmation_records)
    search.feed(enumerate(timestamps))
    return search.at_end_of_log()


def naive_boundary(timestamps: list[int], confirmation_records: int, complete: bool) -> int | None:
    """The rule of platform/docs/design/windows.md, record by record."""
    for i, timestamp in enumerate(timestamps):
        if timestamp < END:
            continue
        following = timestamps[i + 1 : i + 1 + confirmation_records]
        earlier = sum(t < END for t in following)
        if len(following) - earlier >= confirmation_records - confirmation_records // 2:
            return i
        if earlier <= confirmation_records // 2 and not complete:
            return None  # undecided: more records are needed
        if complete and 2 * earlier <= len(following):
            return i
    return None


def test_it_is_the_first_record_at_or_after_the_end() -> None:
    assert boundary([998, 999, 1000, 1001, 1002]) == 2


def test_a_record_exactly_at_the_end_belongs_to_the_next_window() -> None:
    assert boundary([1000, 1000, 1000]) == 0


def test_one_record_stamped_in_the_future_moves_nothing() -> None:
    assert boundary([998, 9999, 998, 998, 999, 1000, 1001, 1002]) == 5


def test_half_of_the_following_records_confirm_it_without_waiting_for_the_rest() -> None:
    assert boundary([999, 1000, 998, 1001, 1002]) == 1
    assert boundary([999, 1000, 998, 1001]) is None


def test_without_a_record_after_the_end_there_is_no_boundary() -> None:
    assert boundary([1, 2, 3]) is None
    assert boundary_at_end([1, 2, 3]) is None


def test_for_a_finished_stream_the_records_that_are_there_decide() -> None:
    assert boundary_at_end([999, 1000, 1001]) == 1
    assert boundary_at_end([999, 1000]) == 1
    assert boundary_at_end([9999, 998, 998, 1000]) == 3


@given(
    st.lists(st.integers(990, 1010), max_size=60),
    st.sampled_from([2, 3, 4, 5, 20]),
)
def test_the_streaming_search_finds_what_the_definition_says(
    timestamps: list[int], confirmation_records: int
) -> None:
    expected = naive_boundary(timestamps, confirmation_records, complete=False)
    assert boundary(timestamps, confirmation_records) == expected
    if expected is None:
        assert boundary_at_end(timestamps, confirmation_records) == naive_boundary(
            timestamps, confirmation_records, complete=True
        )


@given(st.lists(st.integers(990, 1010), max_size=60), st.integers(1, 7))
def test_how_the_records_are_cut_into_chunks_changes_nothing(
    timestamps: list[int], size: int
) -> None:
    records = list(enumerate(timestamps))
    search = BoundarySearch(END, 4)
    for i in range(0, len(records), size):
        if search.feed(records[i : i + size]):
            break
    assert search.boundary == boundary(timestamps)


def test_an_end_that_moved_or_a_clock_that_went_back_restarts_the_idle_time() -> None:
    observation = Observation(10, 100, 100).updated(10, 400)
    assert observation.unchanged_for_ms == 300
    assert observation.updated(11, 500).unchanged_for_ms == 0
    assert observation.updated(10, 50).unchanged_for_ms == 0
    assert (
        observation.updated(10, 100).unchanged_for_ms == 300
    )  # back, but not to before it was first seen


def test_a_search_reports_the_newest_timestamp() -> None:
    search = BoundarySearch(END, 4)
    assert search.newest_timestamp is None
    search.feed(enumerate([5, 7, 6]))
    assert search.newest_timestamp == 7


def test_of_a_plan_only_ranges_that_hold_offsets_are_read() -> None:
    ranges = (PlannedRange(0, 10, 30), PlannedRange(1, 5, 5), PlannedRange(2, 0, 1))
    plan = Plan("m", "w", 0, 1, "events", "c", "t", 0, ranges, None)
    assert plan.offset_ranges == {0: (10, 30), 2: (0, 1)}
    assert plan.end_offsets == {0: 30, 1: 5, 2: 1}
    assert plan.offset_count == 21


def test_a_plan_was_by_default_closed_by_the_log_and_without_an_adoption() -> None:
    plan = Plan("m", "w", 0, 1, "events", "c", "t", 0, (), None)
    assert (plan.closed_by, plan.adoption) == (None, 0)
