import pytest

from ring3 import clock as clocks
from ring3.clock import HostClock, ManualClock, Timer


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def fired():
    """(name, time) of each callback."""
    return []


@pytest.fixture
def timer(clock, fired):
    def make(name):
        return Timer(clock, lambda: fired.append((name, clock.now())))

    return make


def test_timers_fire_exactly_and_in_order(clock, timer, fired):
    timer("late").arm(300)
    timer("early").arm(100)
    clock.advance(1000)
    assert fired == [("early", 100), ("late", 300)]
    assert clock.now() == 1000


def test_equal_deadlines_fire_in_the_order_of_arming(clock, timer, fired):
    first, second = timer("first"), timer("second")
    second.arm(100)
    first.arm(100)
    second.arm(100)
    clock.advance(100)
    assert [name for name, _ in fired] == ["first", "second"]


def test_a_cancelled_timer_stays_silent(clock, timer, fired):
    t = timer("t")
    t.arm(100)
    t.cancel()
    clock.advance(1000)
    assert fired == []
    assert t.deadline_ns is None


def test_arming_again_replaces_the_deadline(clock, timer, fired):
    t = timer("t")
    t.arm(100)
    t.arm(200)
    clock.advance(1000)
    assert fired == [("t", 200)]


def test_a_periodic_timer_fires_at_each_period(clock):
    times = []

    def tick():
        times.append(clock.now())
        t.arm(clock.now() + 100)

    t = Timer(clock, tick)
    t.arm(100)
    clock.advance(350)
    assert times == [100, 200, 300]


def test_a_deadline_in_the_past_fires_at_the_next_advance(clock, timer, fired):
    clock.advance(500)
    timer("t").arm(100)
    clock.advance(0)
    assert fired == [("t", 500)]


def test_the_hook_hears_of_earlier_deadlines_only(clock, timer):
    heard = []
    clock.on_earlier_deadline = heard.append
    timer("a").arm(300)
    timer("b").arm(400)
    timer("c").arm(200)
    assert heard == [300, 200]
    assert clock.next_deadline() == 200


@pytest.fixture
def host_ns(monkeypatch):
    """The host's monotonic clock, in a list of one."""
    now = [1_000_000]
    monkeypatch.setattr(clocks.time, "monotonic_ns", lambda: now[0])
    return now


def test_host_clock_starts_where_told_and_follows_the_host(host_ns):
    clock = HostClock(now_ns=500)
    host_ns[0] += 42
    assert clock.now() == 542


def test_host_clock_stands_still_while_paused(host_ns):
    clock = HostClock()
    host_ns[0] += 10
    clock.pause()
    host_ns[0] += 1000
    assert clock.now() == 10
    clock.resume()
    host_ns[0] += 5
    assert clock.now() == 15


def test_host_clock_runs_what_is_due(host_ns):
    clock, fired = HostClock(), []
    Timer(clock, lambda: fired.append("due")).arm(100)
    Timer(clock, lambda: fired.append("later")).arm(101)
    host_ns[0] += 100
    clock.run_due()
    assert fired == ["due"]


def test_host_clock_runs_a_timer_armed_in_the_past_once_a_round(host_ns):
    clock, fired = HostClock(), []

    def again():
        fired.append(1)
        t.arm(0)

    t = Timer(clock, again)
    t.arm(0)
    clock.run_due()
    assert len(fired) == 1


def test_host_clock_skips_what_a_callback_cancelled(host_ns):
    clock, fired = HostClock(), []
    victim = Timer(clock, lambda: fired.append("victim"))
    Timer(clock, victim.cancel).arm(0)
    victim.arm(1)
    host_ns[0] += 10
    clock.run_due()
    assert fired == []
