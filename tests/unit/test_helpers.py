"""scripts/helpers.py, the helpers that scripts share, and scripts/paste-helpers, which copies them."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.web.http_headers import Headers
from twisted.web.server import NOT_DONE_YET

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("helpers", ROOT / "scripts" / "helpers.py")
helpers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(helpers)


class Request:
    """What a helper sees of a request; `lost` is how a client disconnects."""

    def __init__(self, uri=b"/"):
        self.uri, self.channel, self.transport, self.producer = uri, self, self, None
        self.responseHeaders, self.code, self.body = Headers(), 200, b""
        self.startedWriting, self.finished, self.aborted = 0, False, False
        self.waiting = []

    def setResponseCode(self, code):
        self.code = code

    def setHeader(self, name, value):
        self.responseHeaders.setRawHeaders(name, [value])

    def write(self, data):
        self.startedWriting = 1
        self.body += data

    def finish(self):
        assert self.channel
        self.finished = True

    def registerProducer(self, producer, streaming):
        self.producer = producer

    def unregisterProducer(self):
        self.producer = None

    def notifyFinish(self):
        self.waiting.append(Deferred())
        return self.waiting[-1]

    def abortConnection(self):
        self.aborted = True

    def lost(self):
        self.channel = None
        for each in self.waiting:
            each.errback(ConnectionLost())


# Parameters


def params(query):
    return helpers.parse_params(Request(f"/?{query}".encode()), "a", "b")


def test_parameters_are_a_dict_of_decoded_texts():
    assert params("a=%C3%A9+x&b=") == {"a": "\u00e9 x", "b": ""}
    assert params("a") == {"a": ""}
    assert params("") == {}


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("c=1", "unknown parameter 'c': give one of a, b"),
        ("%3Cb%3E", "unknown parameter '<b>': give one of a, b"),
        ("a=1&a=2&a=3", "a was given 3 times: give it once"),
        ("a=" + "x" * 1001, "a is too long: give at most 1000 characters"),
    ],
)
def test_a_query_that_is_refused(query, message):
    with pytest.raises(ValueError, match="give") as error:
        params(query)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("text", "value"), [("0", 0), ("2.5", 2.5), (".5", 0.5), ("5.", 5), ("007", 7)]
)
def test_numbers_are_decimals(text, value):
    assert helpers.number({"n": text}, "n", 1.0, low=0, high=10) == value


@pytest.mark.parametrize(
    "text", ["", ".", "x", "-1", "1e2", "11", "nan", "1_0", " 1", "1.2.3", "9" * 5000, "\u0661"]
)
def test_what_is_no_number_in_the_range(text):
    with pytest.raises(ValueError, match="give a number from 0 to 10"):
        helpers.number({"n": text}, "n", 1.0, low=0, high=10)


def test_a_whole_number_where_the_default_is_one():
    assert helpers.number({}, "n", 3, low=1, high=10) == 3
    with pytest.raises(ValueError, match="give a whole number from 1 to 10"):
        helpers.number({"n": "1.5"}, "n", 3, low=1, high=10)


def test_a_choice_of_words():
    assert helpers.choice({}, "how", "a", "a", "b") == "a"
    assert helpers.choice({"how": "b"}, "how", "a", "a", "b") == "b"
    with pytest.raises(ValueError, match="invalid how 'c': give a or b"):
        helpers.choice({"how": "c"}, "how", "", "a", "b")
    with pytest.raises(ValueError, match="invalid how ''"):
        helpers.choice({"how": ""}, "how", "", "a", "b")


def test_a_flag():
    assert [helpers.flag(given, "f") for given in ({}, {"f": ""}, {"f": "1"})] == [
        False,
        True,
        True,
    ]
    with pytest.raises(ValueError, match="invalid f 'yes': give f or f=1"):
        helpers.flag({"f": "yes"}, "f")


# Responses


def header(request, name):
    return request.responseHeaders.getRawHeaders(name)


def test_the_headers_of_every_response():
    request = Request()
    helpers.set_headers(request, "text/html; charset=utf-8", wait=2.0004, work=0.1)
    assert header(request, "Content-Type") == ["text/html; charset=utf-8"]
    assert header(request, "Cache-Control") == ["no-store"]
    assert header(request, "X-Content-Type-Options") == ["nosniff"]
    assert header(request, "Server-Timing") == ["wait;dur=2000.400", "work;dur=100.000"]


def test_bodies_of_errors_and_json():
    request = Request()
    assert helpers.try_later(request, "full", 3) == b"full: try again in 3 s\n"
    assert (request.code, header(request, "Retry-After")) == (503, ["3"])
    request = Request()
    assert helpers.json_page(request, {"a": 1}, 201) == b'{"a": 1}\n'
    assert (request.code, header(request, "Content-Type")) == (201, ["application/json"])


# Asynchronous work


async def wait_for(deferred):
    await deferred


def test_a_client_that_disconnects_cancels_the_coroutine_and_one_line_is_logged(logged):
    request, cancelled = Request(b"/x"), []
    assert helpers.run(request, wait_for(Deferred(cancelled.append))) is NOT_DONE_YET
    request.lost()
    assert len(cancelled) == 1
    assert "b'/x': the client disconnected" in logged()
    assert (request.body, request.finished) == (b"", False)


def test_a_failure_before_the_first_byte_is_a_plain_500(logged):
    request = Request()
    helpers.run(request, wait_for(fail(KeyError("why"))))
    assert (request.code, request.finished) == (500, True)
    assert request.body == b"the script failed: the server's log says why\n"
    assert "KeyError" in logged()


def test_a_failure_after_the_first_byte_aborts_the_connection(logged):
    request = Request()
    request.registerProducer(object(), True)
    request.write(b"a part")
    helpers.run(request, wait_for(fail(KeyError("why"))))
    assert request.aborted
    assert not request.finished
    assert "KeyError" in logged()


def test_a_cancelled_deferred_is_a_failure_while_the_client_waits(logged):
    request, inner = Request(), Deferred()
    helpers.run(request, wait_for(inner))
    inner.cancel()
    assert request.code == 500
    assert "CancelledError" in logged()


def test_a_failure_once_the_client_is_gone_is_logged_and_nothing_else(logged):
    request = Request()

    async def clumsy():
        try:
            await Deferred()
        finally:
            raise KeyError("in the cleanup")

    helpers.run(request, clumsy())
    request.lost()
    assert "KeyError" in logged()
    assert (request.body, request.finished, request.aborted) == (b"", False, False)


def test_a_reset_comes_once_what_was_written_could_leave():
    request, clock = Request(), Clock()
    Deferred.fromCoroutine(helpers.reset_connection(request, clock))
    assert not request.aborted
    clock.advance(0)
    assert request.aborted
    assert not clock.getDelayedCalls()


def test_backpressure_holds_a_coroutine_while_the_client_does_not_read():
    request = Request()
    client, steps = helpers.Backpressure(request), []

    async def write():
        for step in range(3):
            await client.ready()
            steps.append(step)
            if step == 0:
                client.pauseProducing()
                client.pauseProducing()

    writing = Deferred.fromCoroutine(write())
    assert steps == [0]
    client.resumeProducing()
    client.resumeProducing()
    assert steps == [0, 1, 2]
    assert writing.called


class State:
    def __init__(self, busy=False):
        self.is_busy = busy

    def busy(self):
        return self.is_busy


def test_states_are_made_once_for_each_key_and_the_oldest_makes_room():
    states = helpers.States(State, limit=2, lifetime=100)
    a, b = states.use("a", 0), states.use("b", 1)
    assert states.use("a", 2) is a
    states.use("c", 3)  # b was unused for longest
    assert states.use("a", 4) is a
    assert states.use("b", 5) is not b


def test_a_state_unused_for_its_lifetime_is_dropped():
    states = helpers.States(State, limit=9, lifetime=100)
    a = states.use("a", 0)
    states.use("b", 99)
    assert states.use("a", 100) is not a


def test_busy_states_stay_and_there_may_be_no_room():
    states = helpers.States(lambda: State(busy=True), limit=1, lifetime=100)
    a = states.use("a", 0)
    assert states.use("b", 1000) is None
    assert states.use("a", 2000) is a


# Pasting


def paste(*arguments):
    command = [sys.executable, ROOT / "scripts" / "paste-helpers", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    return done.returncode, done.stdout


@pytest.fixture
def folder(tmp_path):
    for path in (ROOT / "rpy").glob("*.rpy"):
        shutil.copy(path, tmp_path)
    return tmp_path


def test_the_collection_has_the_helpers_as_they_are():
    assert paste(ROOT / "rpy") == (0, "")


def test_an_edited_copy_is_named_and_the_home_s_text_comes_back(folder):
    for path in folder.glob("*.rpy"):  # however many have the same edit
        path.write_text(path.read_text().replace("Set the status and headers of a one-line", "A"))
    code, said = paste(folder)
    assert code == 1
    assert f"{folder / 'delayed.rpy'}: error_page differs from scripts/helpers.py: " in said
    assert paste("--fix", folder)[0] == 0
    for path in folder.glob("*.rpy"):
        assert path.read_text() == (ROOT / "rpy" / path.name).read_text()


def test_a_helper_that_a_script_uses_is_added_and_one_it_does_not_use_removed(folder):
    path = folder / "delayed.rpy"
    text = path.read_text()
    path.write_text(
        text.replace(
            "        return self.wait(", "        json_page(request, 1)\n        return self.wait("
        )
    )
    assert paste("--fix", folder)[0] == 0
    assert "def json_page(" in path.read_text()
    path.write_text(path.read_text().replace("        json_page(request, 1)\n", ""))
    assert paste("--fix", folder)[0] == 0
    assert path.read_text() == text


def test_a_function_that_two_scripts_share_must_have_a_home(folder):
    for name in ("delayed.rpy", "streamed.rpy"):
        with (folder / name).open("a") as file:
            file.write("\n\ndef homeless():\n    return 1\n")
    code, said = paste(folder)
    assert code == 1
    assert "homeless is in delayed.rpy, streamed.rpy: move it to scripts/helpers.py" in said
