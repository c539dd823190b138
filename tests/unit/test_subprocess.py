"""subprocess.rpy with a process that is the test's."""

import signal

import pytest
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.python.failure import Failure

SCRIPT = "subprocess.rpy"


class Process:
    """What spawnProcess makes; the test says what it prints and how it ends."""

    def __init__(self, protocol, program, arguments):
        self.protocol, self.arguments = protocol, arguments
        self.done, self.over = [], False
        protocol.makeConnection(self)

    def __getattr__(self, name):
        return lambda *arguments: self.done.append((name, *arguments))

    def signalProcess(self, name):
        if self.over:
            raise ProcessExitedAlready
        self.done.append(name)

    def end(self, reason):
        self.over = True
        self.protocol.processEnded(Failure(reason))


@pytest.fixture
def processes(script):
    processes = []
    script.resource.spawn = lambda *arguments: processes.append(Process(*arguments))
    yield processes
    for process in processes:
        if not process.over:
            process.end(ProcessDone(0))


def test_what_the_child_prints_is_passed_on_and_its_end_told(script, processes):
    asked = script.get("?count=3&interval=0.5&exit=7")
    (process,) = processes
    assert process.arguments[-4:] == ["3.0", "0.5", "7.0", "0.0"]
    process.protocol.childDataReceived(1, b'{"n": 1}\n')
    script.advance(1)
    assert asked.lines() == [{"n": 1}]
    process.protocol.childDataReceived(1, b'{"n": 2}\n')
    process.end(ProcessTerminated(7))
    script.treq.flush()
    assert asked.done
    assert asked.lines()[1:] == [{"n": 2}, {"exit": 7, "signal": None, "took": 1}]
    assert script.idle()
    assert not script.resource.children


@pytest.mark.parametrize(("reason", "last"), [
    (ProcessDone(0), {"exit": 0, "signal": None, "took": 0}),
    (ProcessTerminated(None, signal.SIGSEGV), {"exit": None, "signal": 11, "took": 0}),
])  # fmt: skip
def test_every_end_is_told(script, processes, reason, last):
    asked = script.get()
    processes[0].end(reason)
    script.treq.flush()
    assert asked.lines() == [last]


def test_who_leaves_has_the_child_asked_first_then_killed(script, processes, logged):
    script.get("?stubborn").leave()
    (process,) = processes
    assert process.done[1:] == [("resumeProducing",), "TERM"]
    process.protocol.childDataReceived(1, b"thrown away")
    script.advance(1.9)
    assert (process.done[-1], len(script.resource.children)) == ("TERM", 1)
    script.advance(0.1)
    assert process.done[-1] == "KILL"
    process.end(ProcessTerminated(None, signal.SIGKILL))
    assert not script.resource.children
    assert logged().count("the client left") == 1
    assert "Unhandled" not in logged()


def test_a_child_that_ends_in_time_is_not_killed(script, processes):
    script.get().leave()
    processes[0].end(ProcessTerminated(None, signal.SIGTERM))
    assert script.idle()
    script.get().leave()
    processes[1].over = True  # its output has not been read to the end yet
    script.advance(5)
    assert processes[1].done[-1] == "TERM"


def test_a_client_that_does_not_read_keeps_the_child_s_output_unread(script, processes):
    _, transport = script.connect(b"")
    transport.producer.pauseProducing()
    assert processes[0].done[-1] == ("pauseProducing",)
    transport.producer.resumeProducing()
    assert processes[0].done[-1] == ("resumeProducing",)
    processes[0].end(ProcessDone(0))
    assert transport.value().endswith(b"\r\n0\r\n\r\n")


def test_children_are_bounded_even_those_whose_client_left(script, processes):
    script.get().leave()
    for _ in range(19):
        assert script.get().response is None
    full = script.get()
    assert (full.code, full.header("Retry-After"), len(processes)) == (503, "1", 20)
    processes[0].end(ProcessDone(0))
    assert script.get().response is None


def test_a_child_that_cannot_be_started_is_a_500(script, logged):
    script.resource.spawn = lambda *_: 1 / 0
    asked = script.get()
    assert (asked.code, asked.body) == (500, b"the script failed: the server's log says why\n")
    assert "ZeroDivisionError" in logged()


def test_head_has_no_child(script, processes):
    asked = script.get(method="HEAD")
    assert (asked.code, asked.header("Content-Type")) == (200, "application/x-ndjson")
    assert processes == []


def test_the_errors_of_a_child_are_logged(script, processes, logged):
    script.get()
    processes[0].protocol.childDataReceived(2, b"Oh \xff\n")
    assert "a child says: Oh \ufffd" in logged()
