"""deadline.rpy in virtual time."""

import pytest

SCRIPT = "deadline.rpy"


def test_work_done_before_the_deadline_is_a_200(script):
    asked = script.get("?duration=1.5&deadline=2&count=3")
    script.advance(0.5, 0.5)
    assert asked.response is None
    script.advance(0.5)
    assert (asked.code, asked.json()) == (200, {"steps": 3, "of": 3, "took": 1.5})
    assert asked.header("Server-Timing") == "work;dur=1500.000"
    assert script.idle()  # the deadline has no timer left


def test_work_that_takes_longer_is_cancelled_at_the_deadline(script):
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


def test_a_busy_reactor_does_not_make_late_work_early(script):
    """The work's timer is due before the deadline's, but both are called after it."""
    asked = script.get("?duration=1&deadline=2&count=1")
    script.advance(5)
    assert (asked.code, asked.json()) == (504, {"steps": 1, "of": 1, "took": 5})
    assert script.idle()


def test_a_disconnect_cancels_work_and_deadline(script, logged):
    asked = script.get("?duration=9&deadline=8")
    script.advance(1)
    assert len(script.clock.getDelayedCalls()) == 2
    asked.leave()
    assert script.idle()
    assert logged().count("the client disconnected") == 1
    assert "Unhandled" not in logged()


def test_work_that_fails_is_a_500_and_its_deadline_is_cancelled(script, logged):
    asked = script.get("?duration=1&count=2")
    script.resource.now = lambda: 1 / 0
    script.advance(0.5)
    assert (asked.code, asked.body) == (500, b"the script failed: the server's log says why\n")
    assert "ZeroDivisionError" in logged()
    assert script.idle()
