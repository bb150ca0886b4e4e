"""Live simulation on today's clock: each event at its time, and one clock per topic."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.streams import make_stream, read_records
from tidemill.core.errors import OperationNotAllowed
from tidemill.simulation.produce import ProduceResult
from tidemill.simulation.topic_position import StreamOrigin


def test_a_live_simulation_sends_each_event_at_its_time_on_todays_clock(
    kafka: str, new_topic: Callable[..., str], produce_events: Callable[..., ProduceResult]
) -> None:
    events, topic = make_stream(40), new_topic()
    today, speed = 1_700_000_000_000, 60.0
    now = today

    def sleep(seconds: float) -> None:
        nonlocal now
        now += round(seconds * 1000)

    produce_events(events, topic, 10, 30, speed=speed, clock=lambda: now, sleep=sleep)
    assert now == today + 19_500  # the last of twenty minutes, sixty times as fast
    stamps = sorted(m.timestamp()[1] for ms in read_records(kafka, topic).values() for m in ms)
    assert stamps == [today + 1000 * n for n in range(20)]


def test_a_live_simulation_keeps_its_start_and_catches_up(
    kafka: str, new_topic: Callable[..., str], produce_events: Callable[..., ProduceResult]
) -> None:
    events, topic = make_stream(40), new_topic()
    today = 1_700_000_000_000

    def never(_: float) -> None:
        raise AssertionError("it slept although it was behind")

    clock = iter([today, *[today + 10**6] * 100])
    produce_events(events, topic, 0, 20, speed=60.0, clock=lambda: next(clock), sleep=never)
    produce_events(events, topic, 0, 40, speed=60.0, clock=lambda: today + 10**7, sleep=never)
    stamps = sorted(m.timestamp()[1] for ms in read_records(kafka, topic).values() for m in ms)
    assert stamps == [today + 1000 * n for n in range(40)]


@pytest.mark.parametrize(("first", "second"), [(0.0, 60.0), (60.0, 0.0), (60.0, 1440.0)])
def test_a_topic_keeps_one_clock(
    new_topic: Callable[..., str],
    produce_events: Callable[..., ProduceResult],
    first: float,
    second: float,
) -> None:
    events, topic = make_stream(40), new_topic()
    now = iter([10**12, *[10**13] * 100])
    produce_events(events, topic, 0, 20, speed=first, clock=lambda: next(now))
    produce_events(events, topic, 0, 20, speed=first, clock=lambda: 10**13)
    with pytest.raises(OperationNotAllowed, match="mix its clocks"):
        produce_events(events, topic, 20, 40, speed=second, clock=lambda: 10**13)


@given(
    timestamps=st.lists(st.integers(0, 10**13), min_size=2),
    topic_start_ms=st.integers(0, 2 * 10**12),
    speed=st.floats(0.01, 10**5),
)
def test_a_live_clock_is_monotonic(
    timestamps: list[int], topic_start_ms: int, speed: float
) -> None:
    origin = StreamOrigin(0, min(timestamps), topic_start_ms, speed)
    topic_times = [origin.to_topic_time(timestamp) for timestamp in sorted(timestamps)]
    assert topic_times == sorted(topic_times)
    assert topic_times[0] == topic_start_ms


def test_history_keeps_its_own_clock() -> None:
    assert StreamOrigin(7).to_topic_time(1_357_000_000_123) == 1_357_000_000_123
