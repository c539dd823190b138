"""deadline.rpy in virtual time."""

import pytest

SCRIPT = "deadline.rpy"


def test_work_that_is_done_in_time_is_answered(script):
    asked = script.get("?duration=1.5&deadline=2&count=3")
    script.advance(0.5, 0.5)
    assert asked.response is None
    script.advance(0.5)
    assert (asked.code, asked.json()) == (200, {"steps": 3, "of": 3, "took": 1.5})
    assert asked.header("Server-Timing") == "work;dur=1500.000"
    assert script.idle()  # the deadline, too


def test_work_that_is_not_is_cancelled_at_the_deadline(script):
    asked = script.get()
    script.advance(*[0.25] * 7)
    assert asked.response is None
    script.advance(0.25)
    assert (asked.code, asked.json()) == (504, {"steps": 3, "of": 10, "took": 2})
    assert asked.header("Server-Timing") == "work;dur=2000.000"
    assert script.idle()


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("both", [0, 2])
def test_work_that_takes_as_long_as_the_deadline_is_late(script, count, both):
    asked = script.get(f"?duration={both}&deadline={both}&count={count}")
    while asked.response is None:
        script.advance(both / count)
    assert asked.code == 504
    assert asked.json()["took"] == both
    assert script.idle()


def test_a_busy_reactor_does_not_make_it_less_late(script):
    """The work's timer is due before the deadline's, but both are called when that is over."""
    asked = script.get("?duration=1&deadline=2&count=1")
    script.advance(5)
    assert (asked.code, asked.json()) == (504, {"steps": 1, "of": 1, "took": 5})
    assert script.idle()


def test_a_client_that_leaves_cancels_work_and_deadline(script, logged):
    asked = script.get("?duration=9&deadline=8")
    script.advance(1)
    assert len(script.clock.getDelayedCalls()) == 2
    asked.leave()
    assert script.idle()
    assert logged().count("the client left") == 1
    assert "Unhandled" not in logged()


def test_work_that_fails_is_a_500_and_has_no_deadline_any_more(script, logged):
    asked = script.get("?duration=1&count=2")
    script.resource.now = lambda: 1 / 0
    script.advance(0.5)
    assert (asked.code, asked.body) == (500, b"the script failed: the server's log says why\n")
    assert "ZeroDivisionError" in logged()
    assert script.idle()
