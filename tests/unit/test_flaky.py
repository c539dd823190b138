"""flaky.rpy in virtual time."""

import pytest

SCRIPT = "flaky.rpy"


def now(asked):
    """The same request, answered."""
    asked.script.advance(0)
    return asked


def test_the_first_two_fail_then_all_succeed(script):
    first = now(script.get("?key=a"))
    assert (first.code, first.header("Retry-After")) == (503, "1")
    assert first.json() == {"key": "a", "n": 1, "failed": True}
    assert now(script.get("?key=a")).code == 503
    third = now(script.get("?key=a"))
    assert (third.code, third.header("Retry-After")) == (200, None)
    assert third.json() == {"key": "a", "n": 3, "failed": False}
    assert now(script.get("?key=b")).code == 503
    assert script.idle()


def test_status_and_retry_after_of_a_failure_may_be_chosen(script):
    asked = now(script.get("?failures=1&status=429&retry=30"))
    assert (asked.code, asked.header("Retry-After")) == (429, "30")
    assert now(script.post("?failures=1&status=429", data=b"x")).code == 200


def test_a_request_counts_when_it_arrives_not_after_its_delay(script):
    slow = script.get("?failures=1&delay=5")
    assert now(script.get("?failures=1")).code == 200
    script.advance(5)
    assert slow.code == 503
    assert slow.header("Server-Timing") == "wait;dur=5000.000"


def test_a_client_that_disconnects_still_counts(script, logged):
    script.get("?failures=1&delay=5").leave()
    assert script.idle()
    assert "the client disconnected" in logged()
    assert now(script.get("?failures=1")).code == 200


def test_counts_are_returned_and_reset(script):
    for _ in range(3):
        now(script.get("?key=a"))
    assert script.get("?key=a&show").json() == {"key": "a", "requests": 3, "failed": 2}
    assert script.get("?key=a", "DELETE").json() == {"key": "a", "forgotten": 3}
    assert script.get("?key=a&show").json() == {"key": "a", "requests": 0, "failed": 0}
    assert now(script.get("?key=a")).code == 503
    assert script.get("?show=2", "DELETE").code == 400


def test_a_seed_fails_the_same_requests_on_every_machine(script):
    failed = [now(script.get("?rate=0.3&seed=7")).json()["failed"] for _ in range(12)]
    assert [n for n, each in enumerate(failed, 1) if each] == [1, 3, 4, 7, 9, 11, 12]
    other = [now(script.get("?rate=0.3&seed=8&key=b")).json()["failed"] for _ in range(12)]
    assert failed != other
    assert now(script.get("?rate=1&key=c")).code == 503


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_share_that_fails_is_the_rate(script, rate):
    total = sum(now(script.get(f"?rate={rate}&seed=1")).code == 503 for _ in range(1000))
    assert abs(total - 1000 * rate) < 50  # over three standard deviations, with a fixed seed


def test_keys_are_bounded_in_number_and_time(script):
    script.resource.counts.limit = 3
    for key in "abcd":
        now(script.get(f"?key={key}"))
    assert list(script.resource.counts.states) == ["b", "c", "d"]
    script.get("?key=b&show")
    now(script.get("?key=e"))
    assert list(script.resource.counts.states) == ["d", "b", "e"]
    script.advance(3600)
    now(script.get("?key=f"))
    assert list(script.resource.counts.states) == ["f"]


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_below_itself_it_has_no_page(script, method):
    """A browser would save /flaky.rpy/setup.bat?key=... under that name, with the client's key in it."""
    asked = script.get("/setup.bat?key=a", method)
    assert (asked.code, asked.body) == (404, b"no such page: request flaky.rpy itself\n")
    assert script.get("?key=a&show").json()["requests"] == 0
