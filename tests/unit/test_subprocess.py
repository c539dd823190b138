"""subprocess.rpy with child processes that do what the test says."""

import signal
import sys
from subprocess import PIPE, Popen

import pytest
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.python.failure import Failure

SCRIPT = "subprocess.rpy"


class Process:
    """The transport that spawnProcess makes. It notes what the script asks of it."""

    def __init__(self, protocol, program, arguments):
        self.protocol, self.arguments = protocol, arguments
        self.done, self.exited = [], False
        protocol.makeConnection(self)

    def pauseProducing(self):
        self.done.append("pause")

    def resumeProducing(self):
        self.done.append("resume")

    def signalProcess(self, name):
        if self.exited:
            raise ProcessExitedAlready
        self.done.append(name)

    def end(self, reason):
        self.exited = True
        self.protocol.processEnded(Failure(reason))


@pytest.fixture
def processes(script):
    processes = []
    script.resource.spawn = lambda *arguments: processes.append(Process(*arguments))
    yield processes
    for process in processes:
        if not process.exited:
            process.end(ProcessDone(0))


def running(script):
    return 20 - script.resource.slots.tokens


def test_output_is_sent_as_it_comes_and_then_how_the_child_ended(script, processes):
    asked = script.get("?count=3&interval=0.5&cleanup=7")
    (process,) = processes
    assert process.arguments[-3:] == ["3", "0.5", "7.0"]
    process.protocol.childDataReceived(1, b'{"n": 1}\n')
    script.advance(1)
    assert asked.lines() == [{"n": 1}]
    process.protocol.childDataReceived(1, b'{"n": 2}\n')
    process.end(ProcessTerminated(7))
    script.treq.flush()
    assert asked.done
    assert asked.lines()[1:] == [{"n": 2}, {"exit": 7, "signal": None, "took": 1}]
    assert script.idle()
    assert running(script) == 0


@pytest.mark.parametrize(("reason", "last"), [
    (ProcessDone(0), {"exit": 0, "signal": None, "took": 0}),
    (ProcessTerminated(None, signal.SIGSEGV), {"exit": None, "signal": 11, "took": 0}),
])  # fmt: skip
def test_the_last_line_says_how_the_child_ended(script, processes, reason, last):
    asked = script.get()
    processes[0].end(reason)
    script.treq.flush()
    assert asked.lines() == [last]


def test_a_disconnect_terminates_the_child_then_kills_it(script, processes, logged):
    script.get("?cleanup=60").leave()
    (process,) = processes
    assert process.done == ["resume", "TERM"]
    process.protocol.childDataReceived(1, b"for nobody")
    script.advance(1.9)
    assert (process.done[-1], running(script)) == ("TERM", 1)
    script.advance(0.1)
    assert (process.done[-1], running(script)) == ("KILL", 1)
    process.end(ProcessTerminated(None, signal.SIGKILL))
    assert running(script) == 0
    assert script.idle()
    assert logged().count("the client disconnected") == 1
    assert "Unhandled" not in logged()


def test_a_child_that_ends_in_time_is_not_killed(script, processes, logged):
    script.get().leave()
    processes[0].end(ProcessTerminated(None, signal.SIGTERM))
    assert script.idle()
    script.get().leave()
    processes[1].exited = True  # its output has not been read to the end yet
    script.advance(5)
    processes[1].end(ProcessTerminated(None, signal.SIGTERM))
    assert [process.done[-1] for process in processes] == ["TERM", "TERM"]
    assert running(script) == 0
    assert logged().count("the client disconnected") == 2
    assert "Unhandled" not in logged()


def test_output_is_not_read_while_the_client_does_not_read(script, processes):
    _, transport = script.connect(b"")
    transport.producer.pauseProducing()
    assert processes[0].done == ["pause"]
    transport.producer.resumeProducing()
    assert processes[0].done == ["pause", "resume"]
    processes[0].end(ProcessDone(0))
    assert transport.value().endswith(b"\r\n0\r\n\r\n")


def test_children_are_bounded_even_those_whose_client_disconnected(script, processes):
    script.get().leave()
    for _ in range(19):
        script.get()
    script.get("?count=7").leave()  # before there is a child for it
    waiting = script.get("?count=8")
    assert len(processes) == 20
    processes[0].end(ProcessDone(0))
    assert [process.arguments[-3] for process in processes[20:]] == ["8"]
    processes[20].end(ProcessDone(0))
    script.treq.flush()
    assert waiting.done


def test_a_child_that_cannot_be_started_is_a_500(script, logged):
    script.resource.spawn = lambda *_: 1 / 0
    asked = script.get()
    assert (asked.code, asked.body) == (500, b"the script failed: the server's log says why\n")
    assert "ZeroDivisionError" in logged()
    assert running(script) == 0


def test_the_errors_of_a_child_are_logged(script, processes, logged):
    script.get()
    processes[0].protocol.childDataReceived(2, b"Oh \xff\n")
    assert "a child process says: Oh \ufffd" in logged()


def test_a_child_whose_output_nobody_reads_ends_without_a_traceback(script):
    command = [sys.executable, "-I", "-u", "-c", script.globals["PROGRAM"], "1000", "0", "0"]
    with Popen(command, stdout=PIPE, stderr=PIPE) as child:
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait(30) == -signal.SIGPIPE
