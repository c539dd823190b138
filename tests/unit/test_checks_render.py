"""RPY2xx: what render methods return. RPY3xx: whether anything notices a disconnect."""

from .check_cases import each, expect, render, resource


@each(
    "method",
    [
        "async def render_GET(self, request):  #! RPY201 render_GET returns a coroutine (async def)\n"
        "    return b''",
        "async def render(self, request):  #! render returns a coroutine\n    await self.x",
        "@inlineCallbacks\n"
        "def render_GET(self, request):  #! returns a Deferred (inlineCallbacks), which Twisted does\n"
        "    yield self.x\n    return b''",
        "@defer.inlineCallbacks\ndef render_POST(self, request):  #! RPY201\n    yield self.x",
        "def render_GET(self, request):  #! returns a generator (yield)\n    yield b'a'",
        "def render_GET(self, request):  #! returns a generator (yield)\n    yield from self.x",
        "@answers\nasync def render_GET(self, request):\n    return b''",
        "def render_GET(self, request):\n    def f():\n        yield b'a'\n    return b''.join(f())",
        "async def later(self, request):\n    return b''",
    ],
)
def test_a_render_method_that_is_no_plain_function(tmp_path, method):
    expect(tmp_path, resource(method))


@each(
    "value",
    [
        "return Deferred()  #! RPY202 render_GET returns a Deferred: return bytes, or NOT_DONE_YET",
        "return deferLater(reactor, 1, self.f)  #! a Deferred",
        "return defer.succeed(b'')  #! a Deferred",
        "return deferToThread(self.f).addCallback(self.g).addErrback(self.h)  #! a Deferred",
        "d = deferLater(reactor, 1, self.f)\nd.addCallback(self.g)\nreturn d  #! a Deferred",
        "return Deferred.fromCoroutine(self.f())  #! a Deferred",
        "return treq.get('http://127.0.0.1/')  #! a Deferred",
        "return self.coroutine()  #! returns a coroutine (async def) from coroutine()",
        "return self.callbacks()  #! returns a Deferred (inlineCallbacks) from callbacks()",
        "return function()  #! returns a coroutine (async def) from function()",
        "return self.nothing()  #! returns what nothing() returns, which is None",
        "return {'a': 1}  #! returns a dict",
        "return dict_literal  #! returns a dict\ndict_literal = {}",
        "return [b'a']  #! returns a list",
        "return b'a', 200  #! returns a tuple",
        "return (x for x in self)  #! returns a generator",
        "return 1.5  #! returns 1.5",
        "return True  #! returns True",
        "return self.x == 1  #! returns True or False",
        "return None  #! returns None",
        "return  #! returns None",
        "return b'' if self.x else {}  #! returns a dict",
        "if self.x:\n    return {}  #! returns a dict\nreturn b''",
        "return self.body()\n",
        "return self.abstract()",
        "return self.decorated()",
        "return Job()",
        "return self.page.render(request)",
        "return self.x",
        "d = Deferred()\nif self.x:\n    d = b''\nreturn d",
        "return 1",
        "return notFound().render(request)",
    ],
)
def test_what_is_returned(tmp_path, value):
    rest = """
        import treq
        from twisted.internet import defer
        from twisted.internet.defer import Deferred, inlineCallbacks
        from twisted.internet.task import deferLater
        from twisted.internet.threads import deferToThread
        from twisted.web.pages import notFound
        async def function():
            pass
        class Job:
            def __init__(self):
                pass
    """
    methods = """
def body(self):
    return b''
def nothing(self):
    reactor.callLater(1, self.body)
def abstract(self):
    raise NotImplementedError
@inlineCallbacks
def callbacks(self):
    yield self.x
@answers
async def decorated(self):
    pass
async def coroutine(self):
    return b''
"""
    body = "\n".join(f"    {line}" for line in value.splitlines())
    expect(tmp_path, resource(f"{methods}\ndef render_GET(self, request):\n{body}", rest))


@each(
    ("body", "whole"),
    [
        ("pass", False),
        ("'''Only a docstring.'''", False),
        ("reactor.callLater(1, self.later, request)", False),
        ("if self.x:\n    return b''", False),
        ("if self.x:\n    return b''\nelif self.y:\n    return b''", False),
        ("for x in self:\n    return b''", False),
        ("while self.x:\n    return b''", False),
        ("while True:\n    if self.x:\n        break", False),
        ("try:\n    return b''\nexcept OSError:\n    pass", False),
        ("match self.x:\n    case 1:\n        return b''", False),
        ("with self.x:\n    pass", False),
        ("raise NotImplementedError", True),
        ("if self.x:\n    return b''\nelse:\n    raise ValueError", True),
        ("while True:\n    if self.x:\n        return b''", True),
        ("try:\n    return b''\nfinally:\n    self.x()", True),
        ("try:\n    pass\nfinally:\n    return b''", True),
        ("try:\n    x = self.x()\nexcept OSError:\n    return b''\nelse:\n    return x", True),
        ("try:\n    return b''\nexcept OSError:\n    return b''", True),
        ("with self.x:\n    return b''", True),
        ("match self.x:\n    case 1:\n        return b''\n    case _:\n        return b''", True),
        ("match self.x:\n    case 1:\n        return b''\n    case x:\n        return b''", True),
    ],
)
def test_the_end_of_a_render_method(tmp_path, body, whole):
    source = render(body, end="")
    end = "  #! RPY202 render_GET may end without a return, so it returns None"
    method = "def render_GET(self, request):"
    expect(tmp_path, source if whole else source.replace(method, method + end))


@each(
    "body",
    [
        "request.finish()\nreturn b''  #! RPY203 render_GET returns a body after the response was",
        "request.write(b'a')\nrequest.finish()\nself.log()\nreturn b'a'  #! RPY203",
        "if self.x:\n    request.finish()\n    return b''  #! RPY203\nreturn b''",
        "if self.x:\n    request.finish()\nelse:\n    refuse(request)\nreturn b''  #! RPY203",
        "renderElement(request, self.page)\nreturn b''  #! RPY203",
        "if self.x:\n    request.finish()\n    return server.NOT_DONE_YET\nreturn b''",
        "request.write(b'a')\nreturn b'b'",
        "reactor.callLater(1, request.finish)\nreturn b''",
        "def later():\n    request.finish()\nreturn b''",
        "self.f = lambda: request.finish()\nreturn b''",
        "request.finish()\nreturn self.x",
    ],
)
def test_a_body_after_finish(tmp_path, body):
    rest = f"from twisted.web.template import renderElement\n{HELPERS}"
    expect(tmp_path, render(f"request.notifyFinish()\n{body}", rest, end=""))


# Nothing notices that the client disconnects

HELPERS = """
def unused(request):
    request.notifyFinish()
class Job:
    def __init__(self, request):
        self.done = request.notifyFinish()
def indirect(request):
    return Job(request)
def refuse(request):
    request.finish()
    return server.NOT_DONE_YET
class Producer:
    def __init__(self, request):
        request.registerProducer(self, True)
async def finishes(request):
    request.finish()
"""


@each(
    "body",
    [
        "reactor.callLater(5, self.later, request)\n"
        "return server.NOT_DONE_YET  #! RPY301 NOT_DONE_YET is returned, and nothing notices",
        "from twisted.web.server import NOT_DONE_YET\nreturn NOT_DONE_YET  #! notifyFinish",
        "from twisted.web.server import NOT_DONE_YET as WAIT\nreturn WAIT  #! notifyFinish",
        "from twisted.web import server as web\nreturn web.NOT_DONE_YET  #! notifyFinish",
        "import twisted.web.server as web\nreturn web.NOT_DONE_YET  #! cancel the work",
        "import twisted.web.server\nreturn twisted.web.server.NOT_DONE_YET  #! notifyFinish",
        'return server.NOT_DONE_YET if self.x else b""  #! notifyFinish',
        'return b"" if self.x else server.NOT_DONE_YET  #! notifyFinish',
        'if self.x:\n    return server.NOT_DONE_YET  #! client disconnects\nreturn b""',
        "def inner():\n    return server.NOT_DONE_YET  #! client disconnects\nreturn inner()",
        "if self.x:\n    return refuse(request)\nreturn server.NOT_DONE_YET  #! client disconnects",
        "self.unused = Job = self.indirect\nJob()\nreturn server.NOT_DONE_YET  #! disconnects",
        "request.finish\nreturn server.NOT_DONE_YET  #! client disconnects",
        "reactor.callLater(1, refuse, request)\nreturn server.NOT_DONE_YET  #! disconnects",
        "finishes(request)\nreturn server.NOT_DONE_YET  #! client disconnects",
        "self.page.render(request)\nreturn server.NOT_DONE_YET  #! client disconnects",
        "if self.x:\n    request.finish()\nelse:\n    self.later(request)\n"
        "return server.NOT_DONE_YET  #! client disconnects",
        "if self.x:\n    request.finish()\n    return server.NOT_DONE_YET\n"
        "return server.NOT_DONE_YET  #! client disconnects",
        "json.dumps(request)\nreturn server.NOT_DONE_YET  #! client disconnects",
        "request.notifyFinish().addBoth(self.left)\nreturn server.NOT_DONE_YET",
        "Job(request)\nreturn server.NOT_DONE_YET",
        "indirect(request)\nreturn server.NOT_DONE_YET",
        "reactor.callLater(1, indirect, request)\nreturn server.NOT_DONE_YET",
        "Producer(request)\nreturn server.NOT_DONE_YET",
        "request.registerProducer(self, False)\nreturn server.NOT_DONE_YET",
        "FileSender().beginFileTransfer(self.file, request)\nreturn server.NOT_DONE_YET",
        "NoRangeStaticProducer(request, self.file).start()\nreturn server.NOT_DONE_YET",
        "from mine import answer\nanswer(request)\nreturn server.NOT_DONE_YET",
        "NOT_DONE_YET = b''\nreturn NOT_DONE_YET",
        # finished before it returns
        "return refuse(request)",
        "request.write(b'')\nrequest.finish()\nreturn server.NOT_DONE_YET",
        "request.finish()\nself.log()\nreturn server.NOT_DONE_YET",
        "refuse(request)\nreturn server.NOT_DONE_YET",
        "self.end(request)\nreturn server.NOT_DONE_YET",
        "renderElement(request, self.page)\nreturn server.NOT_DONE_YET",
        "request.render(self.page)\nreturn server.NOT_DONE_YET",
        "if self.x:\n    request.finish()\nelse:\n    refuse(request)\nreturn server.NOT_DONE_YET",
        "if self.x:\n    return b''\nelse:\n    request.finish()\nreturn server.NOT_DONE_YET",
        "if not request.finished:\n    request.finish()\nreturn server.NOT_DONE_YET",
        "try:\n    self.work()\nfinally:\n    request.finish()\nreturn server.NOT_DONE_YET",
        "try:\n    self.work()\n    request.finish()\nexcept OSError:\n    refuse(request)\n"
        "return server.NOT_DONE_YET",
        "with self.lock:\n    request.finish()\nreturn server.NOT_DONE_YET",
        "request.finish()\nif self.x:\n    return server.NOT_DONE_YET\nreturn server.NOT_DONE_YET",
        "match self.x:\n    case 1:\n        request.finish()\n    case _:\n        request.finish()\n"
        "return server.NOT_DONE_YET",
    ],
)
def test_not_done_yet(tmp_path, body):
    rest = f"""\
import json
from twisted.protocols.basic import FileSender
from twisted.web.static import NoRangeStaticProducer
from twisted.web.template import renderElement
{HELPERS}"""
    method = "def end(self, request):\n    if request.code:\n        request.write(b'')\n"
    source = render(body, rest, end="")
    method += "    self.again(request)\ndef again(self, request):\n    request.finish()\n"
    indented = "".join(f"    {line}\n" for line in method.splitlines())
    expect(tmp_path, source.replace("\nresource = R()", f"{indented}\nresource = R()"))


def test_each_class_notices_for_itself_or_by_its_base(tmp_path):
    rest = """
        class Base(Resource):
            def watch(self, request):
                request.notifyFinish()
        class Child(Base):
            def render_GET(self, request):
                self.watch(request)
                return server.NOT_DONE_YET
        class Other(Resource):
            def later(self, request):
                return server.NOT_DONE_YET  #! client disconnects
    """
    expect(tmp_path, render("pass", rest))
