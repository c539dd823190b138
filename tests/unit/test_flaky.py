"""flaky.rpy in virtual time."""

import pytest

SCRIPT = "flaky.rpy"


def now(asked):
    asked.script.advance(0)
    return asked


def test_the_first_fail_then_all_succeed(script):
    first = now(script.get("?key=a"))
    assert (first.code, first.header("Retry-After")) == (503, "1")
    assert first.json() == {"key": "a", "n": 1, "failed": True}
    assert now(script.get("?key=a")).code == 503
    third = now(script.get("?key=a"))
    assert (third.code, third.header("Retry-After")) == (200, None)
    assert third.json() == {"key": "a", "n": 3, "failed": False}
    assert now(script.get("?key=b")).code == 503
    assert script.idle()


def test_how_it_fails_can_be_told(script):
    asked = now(script.get("?failures=1&status=429&retry=30"))
    assert (asked.code, asked.header("Retry-After")) == (429, "30")
    assert now(script.post("?failures=1&status=429", data=b"x")).code == 200


def test_a_request_counts_when_it_arrives_not_after_its_delay(script):
    slow = script.get("?failures=1&delay=5")
    assert now(script.get("?failures=1")).code == 200
    script.advance(5)
    assert slow.code == 503
    assert slow.header("Server-Timing") == "wait;dur=5000.000"


def test_one_that_leaves_counts_all_the_same(script, logged):
    script.get("?failures=1&delay=5").leave()
    assert script.idle()
    assert "the client left" in logged()
    assert now(script.get("?failures=1")).code == 200


def test_counts_are_told_and_forgotten(script):
    for _ in range(3):
        now(script.get("?key=a"))
    assert script.get("?key=a&count").json() == {"key": "a", "requests": 3, "failed": 2}
    assert script.get("?key=a", "DELETE").json() == {"key": "a", "forgotten": 3}
    assert script.get("?key=a&count").json() == {"key": "a", "requests": 0, "failed": 0}
    assert now(script.get("?key=a")).code == 503
    assert script.get("?count=2", "DELETE").code == 400


def test_a_seed_says_which_fail_on_every_machine(script):
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
    script.resource.counts.most = 3
    for key in "abcd":
        now(script.get(f"?key={key}"))
    assert list(script.resource.counts.states) == ["b", "c", "d"]
    script.get("?key=b&count")
    now(script.get("?key=e"))
    assert list(script.resource.counts.states) == ["d", "b", "e"]
    script.advance(3600)
    now(script.get("?key=f"))
    assert list(script.resource.counts.states) == ["f"]
