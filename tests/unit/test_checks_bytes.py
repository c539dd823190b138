"""RPY1xx: a str where Twisted takes or gives bytes."""

from .check_cases import each, expect, render, resource


@each(
    "given",
    [
        '"text"',
        'f"{self}"',
        '"a" + self.b',
        'self.a + "b"',
        '"%s" % self',
        '"{}".format(self)',
        '"".join(self)',
        '"-" * 70',
        '"a{}".format(1).strip() + self.b',
        '"a" if self.b else b"c"',
        'self.a or "b"',
        'data="text"',
        "PAGE",
        "PAGE % self",
        "PAGE.format(self)",
        "str(self)",
        "json.dumps(self)",
        "quote(self)",
    ],
)
def test_write_of_a_str(tmp_path, given):
    rest = 'import json\nfrom html import escape as quote\nPAGE = "<p>%s"'
    body = f"request.write({given})  #! RPY101 request.write is given a str: give it bytes"
    expect(tmp_path, render(body, rest))


@each(
    "given",
    [
        'b"text"',
        '"text".encode()',
        'f"{self}".encode("ascii")',
        '("a" + self.b).encode()',
        'b"%s" % "a"',
        'b", ".join(self.all)',
        "PAGE",
        "PAGE % self.a",
        "TEXT.encode()",
        "CHANGED",
        "self.page",
        'self["page"]',
        'self("page")',
        'self.get("a", "b")',
        "bytes(self)",
        "str(self)",
        'self if self == "a" else b"b"',
        "",
        "*self.all",
    ],
)
def test_write_of_bytes_or_of_something_unknown(tmp_path, given):
    rest = """
        PAGE, TEXT, CHANGED = b"<p>%s", "<p>", ""
        CHANGED = ""
        def change():
            global CHANGED
            CHANGED = b"<p>"
        def str(thing):
            return b"<p>"
    """
    expect(tmp_path, render(f"request.write({given})", rest))


@each(
    "body",
    [
        'page = "a"\nrequest.write(page)  #! a str',
        'page: str = "a"\nrequest.write(page)  #! a str',
        'page = ""\nfor one in self.all:\n    page += one\nrequest.write(page)  #! a str',
        'page = ""\npage = page + self.more\nrequest.write(page)  #! a str',
        'if page := "a":\n    request.write(page)  #! a str',
        'def later():\n    request.write(page)  #! a str\npage = "a"',
        'request.write(  #! a str\n    "a"\n)',
        'request.write("a"); request.write("b")  #! a str',
        'self.request.write("a")  #! self.request.write is given a str',
        'if self.x:\n    return "a"  #! render_GET returns a str: return bytes',
        'if self.x:\n    return "a"  #! a str\nreturn f"b"  #! a str',
        'page = "a"\nif self.x: return page  #! a str',
        'page = "a"\npage = page.encode()\nrequest.write(page)\nreturn page',
        'page = ""\npage = self.load()\nrequest.write(page)\nreturn page',
        'for page in "a", b"b":\n    request.write(page)',
        'try:\n    page = "a"\nexcept OSError as page:\n    request.write(page)',
        'match self.x:\n    case {"a": page}:\n        request.write(page)\npage = "a"',
        'page = ""\ndef more():\n    nonlocal page\n    page += b""\nrequest.write(page)',
        "a = b\nb = a\nrequest.write(a)",
        'with self.x as page:\n    request.write(page)\npage = "a"',
        'def text():\n    return "a"\nreturn text().encode()',
        'self.file.write("a")\nrequest.setHeader("a", "b")',
    ],
)
def test_a_str_by_way_of_names_and_returns(tmp_path, body):
    expect(tmp_path, render(body))


@each(
    "body",
    [
        'def render_PUT(self, req):\n    req.write("a")  #! req.write is given a str\n    return b""',
        'def render_GET(self, r):\n    def f():\n        r.write("a")  #! r.write is given\n'
        '    return b""',
        'def later(self, request):\n    request.write("a")  #! request.write is given a str',
        'async def later(self, request):\n    request.write("a")  #! request.write is given',
        'def render(self, request):\n    return "a"  #! render returns a str',
        'def getChild(self, name, r):\n    r.write("a")  #! r.write is given a str',
        'def later(self, req):\n    req.write("a")\n    return "a"',
        'def render_GET(self, r):\n    def f(r):\n        r.write("a")\n    return b""',
        'def render_title(self, request, tag):\n    return "for a template"',
        'page = "a"\ndef render_GET(self, request):\n    return page',
        '@encoded\ndef render_GET(self, request):\n    return "a"',
    ],
)
def test_what_is_the_request_and_what_renders(tmp_path, body):
    rest = """
        from mine import request
        def function():
            request.write("a")
        class Page:
            def render(self, name):
                return f"<p>{name}"
    """
    expect(tmp_path, resource(body, rest))


@each(
    "call",
    [
        "self.later(r)",
        "reactor.callLater(5, self.later, r)",
        "self.d.addCallback(lambda _: self.later(r))",
        "self.d.addCallback(self.done, r)",
        "helper(r)",
        "reactor.callLater(5, helper, r)",
        "functools.partial(helper, r)",
        "Job(r)",
        "self.r = r\nself.more()",
        "q = r\nhelper(q)",
        "self.inherited(r)",
        "def f(q):\n    q.write('a')  #! q.write is given a str\nreactor.callLater(1, f, r)",
    ],
)
def test_the_request_under_another_name(tmp_path, call):
    """Each function is passed the request or is not, and only in the first case does it count."""
    names = {
        "later": "q", "done": "q", "helper": "q", "Job": "q", "self.more()": "self.r",
        "inherited": "q",
    }  # fmt: skip
    hit = {name: f"  #! {what}.write is given" for name, what in names.items() if name in call}
    source = f"""
import functools
def helper(q):
    q.write("a"){hit.get("helper", "")}
class Job:
    def __init__(self, q):
        self.q = q
        self.q.write("a"){"  #! self.q.write is given" if "Job" in call else ""}
    def start(self, q):
        q.write("a")
class Base(Resource):
    def inherited(self, q):
        q.write("a"){hit.get("inherited", "")}
"""
    methods = f"""
    def later(self, q):
        q.write("a"){hit.get("later", "")}
    def done(self, result, q):
        q.write("a"){hit.get("done", "")}
        result.write("a")
    def more(self):
        self.r.write("a"){hit.get("self.more()", "")}
    """
    body = "\n".join(f"    {line}" for line in call.splitlines())
    script = resource(
        f"{methods}\n".replace("\n    ", "\n")
        + f"def render_GET(self, r):\n{body}\n    return b''",
        source,
    )
    expect(tmp_path, script.replace("class R(Resource)", "class R(Base)"))


@each(
    "body",
    [
        'self.putChild("x", self.page)  #! RPY102 putChild is given a str for path: give it bytes',
        'self.page.putChild(f"{self}", self.page)  #! putChild is given a str',
        'self.putChild(path="x", child=self.page)  #! putChild is given a str',
        'name = "x"\nself.putChild(name, self.page)  #! putChild is given a str',
        'Data("text", "text/plain")  #! Data is given a str for data',
        'static.Data("text", "text/plain")  #! Data is given a str for data',
        'Data(data="text", type="text/plain")  #! Data is given a str for data',
        'request.setResponseCode(200, "Fine")  #! setResponseCode is given a str for message',
        'request.setResponseCode(200, message="Fine")  #! is given a str for message',
        'request.getCookie("session")  #! getCookie is given a str for key',
        'self.putChild(b"x", self.page)\nData(b"text", "text/plain")',
        'request.setResponseCode(200, b"Fine")\nrequest.setResponseCode(200)',
        'request.getCookie(b"session")\nrequest.getHeader("cookie")\nrequest.redirect("/x")',
        'self.getCookie("session")\nself.setResponseCode(200, "Fine")\nself.Data("text")',
        "self.putChild(self.name, self.page)\nself.putChild(*self.all)",
    ],
)
def test_a_str_for_an_argument(tmp_path, body):
    rest = "from twisted.web import static\nfrom twisted.web.static import Data"
    expect(tmp_path, render(body, rest))


@each(
    "body",
    [
        'request.args["x"]  #! RPY103 request.args has bytes, and this is a str: use bytes',
        'request.args.get("x")  #! request.args has bytes',
        'request.args.get("x", [b""])[0]  #! request.args has bytes',
        '"x" in request.args  #! request.args has bytes',
        '"x" not in request.args  #! request.args has bytes',
        'name = "x"\nrequest.args[name]  #! request.args has bytes',
        'args = request.args\nargs["x"]  #! args has bytes\n"x" in args  #! args has bytes',
        'request.args[b"x"][0] == "y"  #! has bytes',
        'request.args.get(b"x", [b""])[0] != "y"  #! has bytes',
        '"y" in request.args[b"x"]  #! has bytes',
        'request.method == "POST"  #! request.method has bytes',
        '"POST" == request.method  #! request.method has bytes',
        'request.method in ("GET", "HEAD")  #! request.method has bytes',
        'request.method in {"GET", "HEAD"}  #! request.method has bytes',
        'method = request.method\nmethod == "POST"  #! method has bytes',
        'match request.method:\n    case b"GET":\n        pass\n    case "POST" | "PUT":  '
        "#! request.method is bytes",
        'request.uri.split("?")  #! request.uri has bytes',
        'request.path.startswith("/x")  #! request.path has bytes',
        '"?" in request.uri  #! request.uri has bytes',
        '"path: " + request.path  #! request.path has bytes',
        'request.path + "/"  #! request.path has bytes',
        'request.postpath[0] == "x"  #! has bytes',
        '"x" in request.postpath  #! request.postpath has bytes',
        'request.content.read() == "x"  #! has bytes',
        'request.content.read().split("&")  #! has bytes',
        'request.clientproto == "HTTP/1.1"  #! has bytes',
        'self.request.args["x"]  #! self.request.args has bytes',
        'request.args[b"x"]\nrequest.args.get(b"x")\nb"x" in request.args\nrequest.args[self.x]',
        'request.method == b"POST"\nrequest.method in (b"GET", b"HEAD")\nrequest.method in self.all',
        'request.uri.split(b"?")\nrequest.path.decode("utf-8").split("/")\nb"a" + request.path',
        'request.args[b"x"][0].decode() == "y"\nrequest.uri.decode() == "/x"\nself.uri == "/x"',
        'request.getHeader("x") == "y"\nself.args["x"]\n"x" in self.args\nself.method == "POST"',
        'request.code == 200\nrequest.args[b"x"][0].hex(":")\nself.method in ("GET", "HEAD")',
        'uri = request.uri\nuri = uri.decode()\nuri == "/x"',
        'f"{request.uri!r} {request.method}"',
    ],
)
def test_a_str_compared_with_bytes(tmp_path, body):
    if "case" in body:
        body += "\n        pass"
    expect(tmp_path, render(body))
