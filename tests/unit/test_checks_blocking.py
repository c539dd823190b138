"""RPY4xx: calls that block the reactor. RPY601: threads, timers and connections made per request."""

from textwrap import dedent, indent

from .check_cases import HEAD, each, expect, render, resource

WAITS = [
    ("import time", "time.sleep(1)", "RPY401 time.sleep() keeps all other clients waiting: use"),
    ("import time as t", "t.sleep(1)", "reactor.callLater, or await deferLater"),
    ("from time import sleep", "sleep(1)", "time.sleep() "),
    ("from time import sleep as nap", "nap(1)", "time.sleep() "),
    ("", "input()", ": RPY401 input() keeps all other clients waiting: run it in a thread"),
    ("import os", "os.system('x')", "os.system() keeps all other clients waiting: use reac"),
    ("import os", "os.popen('x')", "reactor.spawnProcess"),
    ("import subprocess as s", "s.run('x')", "subprocess.run() "),
    ("from subprocess import call", "call('x')", "reactor.spawnProcess"),
    ("from subprocess import check_call", "check_call('x')", "reactor.spawnProcess"),
    ("from subprocess import check_output", "check_output('x')", "reactor.spawnProcess"),
    ("from subprocess import getoutput", "getoutput('x')", "reactor.spawnProcess"),
    ("", "self.process.communicate()", ".communicate() keeps all other clients waiting"),
    ("import asyncio", "asyncio.run(self.x())", "use Deferred.fromCoroutine"),
    ("import asyncio", "asyncio.get_event_loop().run_until_complete(1)", ".run_until_complete()"),
    ("", "reactor.run()", "the reactor runs already"),
    (
        "from twisted.internet.threads import blockingCallFromThread",
        "blockingCallFromThread(reactor, self.x)",
        "await the Deferred instead",
    ),
    ("import urllib.request", "urllib.request.urlopen('x')", "deferToThread"),
    ("from urllib.request import urlopen", "urlopen('x')", "urllib.request.urlopen() "),
    ("from urllib import request as u", "u.urlopen('x')", "urllib.request.urlopen() "),
    ("import socket", "socket.create_connection(self)", "deferToThread"),
    *((f"import {name.split('.')[0]}", f"{name}('x')", f"{name}() keeps all")
      for name in ("requests.get", "requests.post", "httpx.request", "httpx.stream")),
]  # fmt: skip
READS = [
    (
        "",
        "open('x')",
        ": RPY401 open() keeps all other clients waiting: run it in a thread, with d",
    ),
    ("import io", "io.open('x')", "deferToThread"),
    ("import sqlite3", "sqlite3.connect('x')", "deferToThread"),
    ("from pathlib import Path", "Path('x').read_text()", ".read_text() "),
    ("", "self.path.write_text('x')", "deferToThread"),
    ("", "self.path.read_bytes()", "deferToThread"),
    ("", "(self.path / 'x').write_bytes(b'')", "deferToThread"),
]


@each(("rest", "call", "text"), WAITS + READS)
def test_a_call_that_blocks(tmp_path, rest, call, text):
    body = f"with self.x:\n    x = [{call}  #! {text}\n    for one in self.all]"
    expect(tmp_path, render(body, rest))


@each(("rest", "call", "text"), WAITS)
def test_a_call_that_waits_at_module_level(tmp_path, rest, call, text):
    name = text.removeprefix("RPY401 ").partition("(")[0] if "() keeps" in text else ""
    name = name.removeprefix(": RPY401 ")
    line = f"{call}  #! {name}() at module level keeps all clients waiting at each request: "
    expect(tmp_path, f"{HEAD}{rest}\n{line if name else line.replace('() at', 'at')}\n")


@each(("rest", "call", "text"), READS)
def test_files_may_be_read_at_module_level(tmp_path, rest, call, text):
    """Twisted reads the script itself at each request."""
    expect(tmp_path, f"{HEAD}{rest}\n{call}\n")


@each(
    ("body", "in_method", "in_function"),
    [
        ("self.a(request)", "#! time.sleep()", ""),
        ("self.b(request)", "#! time.sleep()", ""),
        ("helper()", "", "#! time.sleep()"),
        ("sleep(1); sleep(2)  #! time.sleep()", "", ""),
        ("if self.x:\n    sleep(1)  #! time.sleep()\nsleep(1)  #! time.sleep()", "", ""),
        ("deferToThread(sleep, 1)", "", ""),
        ("deferToThread(self.a, request)", "", ""),
        ("deferToThread(helper)", "", ""),
        ("reactor.callLater(1, helper)", "", "#! time.sleep()"),
        ("self.d.addCallback(self.a)", "#! time.sleep()", ""),
        ("LoopingCall(helper).start(1)", "", "#! time.sleep()"),
        ("reactor.callLater(1, lambda: sleep(1))  #! time.sleep()", "", ""),
        ("Job()", "", ""),
        ("run(request, self.coroutine())", "", ""),
        ("def work():\n    sleep(1)\ndeferToThread(work)", "", ""),
        ("def work():\n    sleep(1)  #! time.sleep()\nreactor.callLater(1, work)", "", ""),
        ("deferToThread(lambda: sleep(1))", "", ""),
        ("sleep = self.sleep\nsleep(1)", "", ""),
        ("open = self.open\nopen('x')", "", ""),
        ("stop(self)", "", ""),
        ("self.open('x')\nself.time.sleep(1)\nrequest.run()\nrequest.a()", "", ""),
    ],
)
def test_where_blocking_counts(tmp_path, body, in_method, in_function):
    def called(name):
        return "  #! time.sleep()" if name in body else ""

    rest = f"""
        from time import sleep
        from twisted.internet.task import LoopingCall
        from twisted.internet.threads import deferToThread
        def helper():
            sleep(1)  {in_function}
        class Job:
            def __init__(self):
                sleep(1){called("Job")}
        def stop(work):
            work.helper()
        def run(request, coroutine):
            request.notifyFinish()
        def render_GET(self, request):
            sleep(1)
    """
    methods = f"""
    def a(self, request):
        if self.c(): return self.b(request)
    def b(self, request):
        return self.a(request)
    def c(self):
        sleep(1)  {in_method}
    async def coroutine(self):
        sleep(1){called("coroutine")}
        await self.process.communicate()
    def render_title(self, request, tag):
        sleep(1)
    def getChild(self, name, request):
        sleep(1)  #! time.sleep()
        return self
    """
    get = f"def render_GET(self, request):\n{indent(body, '    ')}\n    return b''\n"
    expect(tmp_path, resource(get + dedent(methods), rest))


def test_what_runs_at_module_level(tmp_path):
    source = f"""{HEAD}
import time
class R(Resource):
    time.sleep(1)  #! RPY402
    def __init__(self):
        time.sleep(1)  #! RPY402
    def other(self):
        time.sleep(1)
def function():
    time.sleep(1)  #! RPY402
def unused():
    time.sleep(1)
function()
if __name__ == "__main__":
    time.sleep(1)
resource = R()
"""
    expect(tmp_path, source)


OUTLIVES = [
    ("from twisted.python.threadpool import ThreadPool", "ThreadPool()", "threadpool.ThreadPool"),
    ("from twisted.internet.task import LoopingCall", "LoopingCall(print)", "task.LoopingCall"),
    ("from twisted.internet import task", "task.LoopingCall(print).start(1)", "task.LoopingCall"),
    ("", "reactor.callLater(1, print)", "reactor.callLater"),
    ("", "reactor.listenTCP(0, None)", "reactor.listenTCP"),
    ("", "reactor.connectTCP('x', 1, None)", "reactor.connectTCP"),
    ("import threading", "threading.Thread(target=print).start()", "threading.Thread"),
    (
        "from concurrent.futures import ThreadPoolExecutor",
        "ThreadPoolExecutor()",
        "futures.ThreadPoolExecutor",
    ),
    (
        "from twisted.enterprise import adbapi",
        "adbapi.ConnectionPool('sqlite3')",
        "adbapi.ConnectionPool",
    ),
    (
        "from twisted.web.client import HTTPConnectionPool",
        "HTTPConnectionPool(reactor)",
        "client.HTTPConnectionPool",
    ),
    ("import subprocess", "subprocess.Popen(['x'])", "subprocess.Popen"),
]


@each(("rest", "call", "name"), OUTLIVES)
@each(
    ("source", "found"),
    [
        ("x = CALL", True),
        ("recache()\nx = CALL", True),
        ("x = CALL\ncache()", True),
        ("from functools import cache\ncache(print)\nx = CALL", True),
        ("class R(Resource):\n    x = CALL", True),
        ("class R(Resource):\n    def __init__(self):\n        self.x = CALL\nresource = R()", True),
        ("def make():\n    return CALL\nx = make()", True),
        ("cache()\nx = CALL", False),
        (
            "class R(Resource):\n    def __init__(self):\n        self.x = CALL\ncache()\n"
            "resource = R()",
            False,
        ),
        ("def later():\n    return CALL", False),
        ("class R(Resource):\n    def render_GET(self, request):\n        CALL\n        return b''\n"
         "resource = R()", False),
    ],
)  # fmt: skip
def test_what_is_made_again_at_each_request(tmp_path, rest, call, name, source, found):
    mark = f"  #! RPY601 {name}() at module level is called again at each request: call cache()"
    lines = f"{HEAD}{rest}\n{source}".splitlines()
    marked = [f"{line}{mark}" if found and "CALL" in line else line for line in lines]
    expect(tmp_path, "\n".join(marked).replace("CALL", call))
