"""delayed.rpy in virtual time."""

import pytest

SCRIPT = "delayed.rpy"


def test_answers_after_the_delay_and_not_before(script):
    asked = script.get("?delay=2.5")
    script.advance(2.25)
    assert asked.response is None
    script.advance(0.25)
    assert asked.done
    assert asked.code == 200
    assert b"Sorry to keep you waiting." in asked.body
    assert asked.header("Content-Type") == "text/html; charset=utf-8"
    assert asked.header("Cache-Control") == "no-store"
    assert asked.header("X-Content-Type-Options") == "nosniff"
    assert asked.header("Server-Timing") == "wait;dur=2500.000"
    assert asked.response.length == len(asked.body)
    assert script.idle()


def test_waits_five_seconds_by_default(script):
    asked = script.get()
    script.advance(4.999)
    assert not asked.done
    script.advance(0.001)
    assert asked.done


def test_the_claim_of_the_seed(script):
    """A second load "before the first completes … will also take 5 seconds"."""
    first = script.get("?delay=5")
    script.advance(2)
    second = script.get("?delay=5")
    script.advance(3)
    assert (first.done, second.done) == (True, False)
    script.advance(2)
    assert second.done
    assert second.header("Server-Timing") == "wait;dur=5000.000"


@pytest.mark.parametrize("delay", ["0", "0.5", ".5", "5.", "3600", "007"])
def test_what_is_allowed(script, delay):
    asked = script.get(f"?delay={delay}&key=mine")
    script.advance(float(delay))
    assert asked.code == 200


def test_the_wait_is_reported_as_measured_not_as_asked(script):
    asked = script.get("?delay=1")
    script.advance(1.75)
    assert asked.header("Server-Timing") == "wait;dur=1750.000"


def test_a_client_that_leaves_leaves_nothing_behind(script):
    asked = script.get("?delay=10")
    script.advance(1)
    asked.leave()
    assert script.idle()
    assert asked.failure is not None


def test_head_waits_and_has_no_body(script):
    asked = script.get("?delay=1", method="HEAD")
    script.advance(0.5)
    assert asked.response is None
    script.advance(0.5)
    assert (asked.code, asked.body, asked.done) == (200, b"", True)
    assert int(asked.header("Content-Length")) > 0


def test_a_failure_before_the_first_byte_is_a_plain_500(script, monkeypatch, logged):
    monkeypatch.setitem(type(script.resource).wait.__globals__, "PAGE", None)
    asked = script.get("?delay=1")
    script.advance(1)
    assert (asked.code, asked.done) == (500, True)
    assert asked.body == b"the script failed: the server's log says why\n"
    assert "TypeError" in logged()


class Broken(bytes):
    """Its fault shows once the headers are out, as that of a `str` does."""

    def __bool__(self):
        raise TypeError("found out late")


def test_a_failure_after_the_first_byte_breaks_the_connection(script, monkeypatch, logged):
    monkeypatch.setitem(type(script.resource).wait.__globals__, "PAGE", Broken(b"page"))
    asked = script.get("?delay=1")
    script.advance(1)
    assert asked.failure is not None
    assert not asked.done
    assert "TypeError" in logged()
