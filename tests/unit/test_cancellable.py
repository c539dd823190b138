"""cancellable.rpy in virtual time."""

SCRIPT = "cancellable.rpy"


def test_the_work_is_done_step_by_step_and_summed_up(script):
    asked = script.get("?duration=2&count=4&key=a")
    for step in range(4):
        assert asked.response is None
        assert script.get("?show=running").json()[0]["steps"] == step
        script.advance(0.5)
    assert asked.done
    summary = asked.json()
    assert summary.pop("started").endswith("+00:00")
    assert summary == {
        "id": 1, "key": "a", "outcome": "finished", "steps": 4, "seconds": 2.0,
    }  # fmt: skip
    assert asked.header("Server-Timing") == "work;dur=2000.000"
    assert asked.header("Content-Type") == "application/json"
    assert script.idle()
    assert script.get("?show=running").json() == []
    assert [job["id"] for job in script.get("?show=recent").json()] == [1]


def test_it_takes_ten_seconds_by_default(script):
    asked = script.get()
    script.advance(*[1] * 9)
    assert not asked.done
    script.advance(1)
    assert asked.json()["steps"] == 10


def test_a_client_that_leaves_cancels_the_work_at_once(script):
    asked = script.get("?duration=10&count=10")
    script.advance(1, 1, 1, 0.5)
    asked.leave()
    assert script.idle()
    (job,) = script.get("?show=recent").json()
    assert (job["outcome"], job["steps"], job["seconds"]) == ("cancelled", 3, 3.5)
    assert script.get("?show=running").json() == []


def test_only_the_last_hundred_are_kept_oldest_first(script):
    for _ in range(105):
        script.get("?duration=0&count=1")
        script.advance(0)
    listed = script.get("?show=recent").json()
    assert [job["id"] for job in listed] == list(range(6, 106))


def test_the_key_picks_from_the_lists(script):
    for key in ("a", "b", "a"):
        script.get(f"?duration=0&count=1&key={key}")
        script.advance(0)
    assert [job["id"] for job in script.get("?show=recent&key=a").json()] == [1, 3]
    assert [job["id"] for job in script.get("?show=recent&key=%C3%A9").json()] == []


def test_what_is_shown_of_a_key_is_not_markup(script):
    script.get("?duration=0&count=1&key=<b>%22")
    script.advance(0)
    shown = script.get("?show=recent")
    assert shown.json()[0]["key"] == '<b>"'
    assert shown.header("Content-Type") == "application/json"
    assert shown.header("X-Content-Type-Options") == "nosniff"


def test_late_steps_do_not_make_the_work_longer(script):
    asked = script.get("?duration=4&count=4")
    script.advance(1.7, 0.3, 1, 1)
    assert asked.json()["seconds"] == 4.0


def test_a_failing_step_is_a_500_and_the_work_is_not_left_running(script, monkeypatch, logged):
    asked = script.get("?duration=2&count=2")
    times = iter([None, 1.0])  # None: the step cannot tell how long it may take
    monkeypatch.setattr(script.resource, "now", lambda: next(times))
    script.advance(1)
    monkeypatch.undo()
    assert asked.code == 500
    assert "TypeError" in logged()
    (job,) = script.get("?show=recent").json()
    assert (job["outcome"], job["steps"]) == ("failed", 1)
    assert script.get("?show=running").json() == []
    assert script.idle()
