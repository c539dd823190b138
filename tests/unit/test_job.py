"""job.rpy in virtual time."""

import re
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import fail

from .conftest import RPY, Script

SCRIPT = "job.rpy"


def of(asked):
    """Return what a response says of a job, with its Retry-After."""
    told = asked.json()
    return told["state"], told["progress"], told["left"], asked.header("Retry-After")


def test_a_job_from_its_beginning_to_its_end(script):
    posted = script.post("?key=a&duration=10&keep=5")
    assert (posted.code, posted.header("Location")) == (202, "/script.rpy?key=a")
    assert of(posted) == ("running", 0, 10, "10")
    script.advance(2.5)
    asked = script.get("?key=a")
    assert asked.code == 200
    assert asked.json() == {
        "key": "a",
        "state": "running",
        "progress": 0.25,
        "left": 7.5,
        "result": None,
    }
    assert asked.header("Retry-After") == "8"
    script.advance(7.4)
    assert of(script.get("?key=a")) == ("running", 0.99, 0.1, "1")
    script.advance(0.1)
    assert of(script.get("?key=a")) == ("done", 1, 0, None)
    assert script.get("?key=a").json()["result"] == "10 seconds of work"
    assert script.idle()
    script.advance(4.9)
    assert script.get("?key=a", "HEAD").code == 200
    script.advance(0.1)
    gone = script.get("?key=a")
    assert (gone.code, gone.body) == (410, b"job 'a' was kept for 5 s after its end: ask earlier\n")
    assert script.get("?key=b").code == 404


def test_a_job_goes_on_when_the_client_disconnects(script):
    script.post("?key=a").leave()
    script.advance(10)
    assert of(script.get("?key=a")) == ("done", 1, 0, None)


def test_a_job_can_be_cancelled_while_it_is_running(script):
    script.post("?key=a&duration=10")
    script.advance(4)
    for _ in range(2):  # a client that got no answer asks again
        cancelled = script.get("?key=a", "DELETE")
        assert (cancelled.code, of(cancelled)) == (200, ("cancelled", 0.4, 6, None))
        script.advance(1)
    assert script.idle()
    assert script.get("?key=a").json()["state"] == "cancelled"
    script.advance(58)
    assert script.get("?key=a", "DELETE").code == 410
    assert script.get("?key=b", "DELETE").code == script.get("", "DELETE").code == 404


def test_what_is_done_cannot_be_cancelled(script):
    script.post("?key=a&duration=0")
    script.advance(0)
    assert script.get("?key=a", "DELETE").code == 409
    assert of(script.get("?key=a")) == ("done", 1, 0, None)


def test_a_job_is_done_although_the_clock_says_it_has_time_left(script):
    script.resource.now = lambda: script.clock.seconds() * 0.99
    script.post("?key=a&duration=1")
    script.advance(1)
    assert of(script.get("?key=a")) == ("done", 1, 0, None)


def test_work_that_fails_is_reported_and_logged(script, logged, monkeypatch):
    broken = lambda clock, seconds: fail(RuntimeError("as it happens"))  # noqa: E731
    monkeypatch.setitem(type(script.resource).work.__globals__, "deferLater", broken)
    script.post("?key=a")
    assert script.get("?key=a").json()["state"] == "failed"
    assert "as it happens" in logged()
    assert script.get("?key=a", "DELETE").code == 409
    assert script.get().json() == {"running": 0, "ended": 1}


def test_a_key_is_made_up_or_given_to_one_running_job(script):
    names = {script.post().json()["key"] for _ in range(9)}
    assert len(names) == 9
    assert all(re.fullmatch("[0-9a-f]{32}", name) for name in names)
    assert script.post("?key=a&duration=1").code == 202
    taken = script.post("?key=a")
    assert (taken.code, taken.header("Location")) == (409, None)
    script.advance(1)
    assert of(script.post("?key=a&duration=2")) == ("running", 0, 2, "2")
    assert script.get().json() == {"running": 10, "ended": 0}


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=30))
@settings(deadline=None)
def test_whatever_its_key_is_its_location_leads_to_it(name):
    script = Script(RPY / SCRIPT)
    location = script.post(f"?key={quote(name)}&duration=0").header("Location")
    assert re.fullmatch(r"/script\.rpy\?key=[A-Za-z0-9_.~%-]+", location)
    assert script.get(location.removeprefix("/script.rpy")).json()["key"] == name


def test_the_location_has_the_path_of_the_request_and_no_host():
    """Whatever headers say: a redirect to another site is not the client's to order."""
    script = Script(RPY / SCRIPT)
    headers = {"X-Forwarded-Host": "elsewhere.example", "X-Forwarded-Prefix": "/x"}
    posted = script.post("?key=k", headers=headers)
    assert posted.header("Location") == "/script.rpy?key=k"
    assert script.post("?key=l", below="//elsewhere.example").code == 404


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_there_is_nothing_below_it(script, method):
    asked = script.get("?key=a", method, below="/a.bat")
    assert (asked.code, asked.body) == (404, b"no such page: request job.rpy itself\n")
    assert script.get().json() == {"running": 0, "ended": 0}


def test_jobs_are_bounded(script, monkeypatch):
    monkeypatch.setitem(type(script.resource).render_GET.__globals__, "MAX_JOBS", 3)
    for key, duration in [("a", 20), ("b", 9.5), ("c", 0)]:
        script.post(f"?key={key}&duration={duration}")
    full = script.post("?key=d")
    assert (full.code, full.header("Retry-After")) == (503, "1")
    script.advance(0.2)
    script.post("?key=d&duration=15")
    assert script.post("?key=e").code == 503
    script.advance(20)
    for key in "ef":
        script.post(f"?key={key}&duration=0")
    script.advance(0)
    codes = {key: script.get(f"?key={key}").code for key in "abcdef"}
    assert codes == {"a": 200, "b": 404, "c": 404, "d": 404, "e": 200, "f": 200}
    assert script.get().json() == {"running": 0, "ended": 3}
