"""websocket.rpy in virtual time, talked to by the frames of a real client's side."""

import pytest
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.server import Site
from wsproto import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

SCRIPT = "websocket.rpy"
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
HEADERS = {
    b"Host": b"localhost", b"Connection": b"Upgrade", b"Upgrade": b"websocket",
    b"Sec-WebSocket-Version": b"13", b"Sec-WebSocket-Key": KEY,
}  # fmt: skip


def handshake(line=b"GET /? HTTP/1.1", *more, **changes):
    """Return a handshake. *changes* are headers: bytes, a list for several, or None for none."""
    headers = HEADERS | {name.replace("_", "-").encode(): each for name, each in changes.items()}
    lines = [line]
    for name, values in headers.items():
        values = values if isinstance(values, list) else [values]
        lines += [name + b": " + value for value in values if value is not None]
    return b"\r\n".join([*lines, *more, b"", b""])


class Client:
    def __init__(self, script, query=b"", request=None):
        site = Site(script.root, reactor=script.clock)
        self.server, self.transport = site.buildProtocol(None), StringTransport()
        self.server.makeConnection(self.transport)
        self.server.dataReceived(request or handshake(b"GET /?%s HTTP/1.1" % query))
        self.head, _, self.rest = self.transport.value().partition(b"\r\n\r\n")
        self.code, self.read = int(self.head[9:12]), len(self.transport.value()) - len(self.rest)
        self.frames = Connection(ConnectionType.CLIENT)

    def send(self, *events):
        """Send all in one piece, as a burst is received."""
        self.server.dataReceived(b"".join(bytes(self.frames.send(event)) for event in events))

    def texts(self, *texts):
        self.send(*map(TextMessage, texts))

    def got(self):
        """Return what came since the last call: data of messages, names of frames, closing codes."""
        self.frames.receive_data(self.transport.value()[self.read :])
        self.read = len(self.transport.value())
        return [
            getattr(event, "data", getattr(event, "code", type(event).__name__))
            for event in self.frames.events()
        ]

    def leave(self):
        self.server.connectionLost(Failure(ConnectionDone()))


# Echoes


def test_echoes_are_sent_when_they_are_due_and_in_order(script):
    client = Client(script, b"delay=2")
    assert client.code == 101
    client.texts("a")
    script.advance(1.5)
    client.send(BytesMessage(b"b\xff"), TextMessage("c\u2603"))
    script.advance(0.4)
    assert client.got() == []
    script.advance(0.1)
    assert client.got() == ["a"]
    script.advance(1.5)
    assert client.got() == [b"b\xff", "c\u2603"]
    assert script.idle()


def test_without_a_delay_echoes_are_sent_at_once_and_in_order(script):
    client = Client(script)
    client.texts(*map(str, range(1000)))
    script.advance(0)
    assert client.got() == [str(n) for n in range(1000)]


def test_a_message_in_parts_is_echoed_as_one(script):
    client = Client(script)
    client.send(*(TextMessage(text, message_finished=text == "c") for text in "abc"))
    script.advance(0)
    assert client.got() == ["abc"]


def test_the_client_s_pings_are_answered_and_its_pongs_ignored(script):
    client = Client(script)
    client.send(Pong(), Ping(b"a"), TextMessage("b"))
    script.advance(0)
    assert client.got() == ["Pong", "b"]


def test_nothing_is_read_while_the_client_is_not_reading(script):
    client = Client(script)
    client.transport.producer.pauseProducing()  # as when the send buffer is full
    assert client.transport.producerState == "paused"
    client.transport.producer.resumeProducing()
    assert client.transport.producerState == "producing"


def test_little_is_parsed_in_one_turn_of_the_reactor(script):
    """As much as `bufferSize` is received in a turn; it is that of TCP, also below TLS."""
    client = Client(script)
    assert client.transport.bufferSize == 256


# Limits


@pytest.mark.parametrize("over", [0, 1])
@pytest.mark.parametrize("kind", [TextMessage, BytesMessage])
@pytest.mark.parametrize("parts", [1, 7])
def test_a_message_has_a_limit_however_it_comes(script, kind, parts, over):
    client = Client(script)
    whole = (65536 + over) * (b"x" if kind is BytesMessage else "x")
    step = len(whole) // parts + 1
    *first, last = [whole[at : at + step] for at in range(0, len(whole), step)]
    client.send(*(kind(each, message_finished=False) for each in first), kind(last))
    script.advance(0)
    assert client.got() == ([1009] if over else [whole])
    assert client.transport.disconnecting == bool(over)
    if not over:
        client.send(kind(whole))
        script.advance(0)
        assert client.got() == [whole]


def test_characters_count_as_the_bytes_they_are_sent_as(script):
    client = Client(script)
    client.texts("\u2603" * 21846)
    assert client.got() == [1009]


def test_a_message_without_an_end_is_not_gathered(script):
    """Twisted has no limit of its own: this fails if it gets one, or does not ask dataReceived."""
    client = Client(script)
    parts = 0
    while not client.transport.disconnected and parts < 100:
        client.send(BytesMessage(bytes(65000), message_finished=False))
        parts += 1
    assert parts == 17


def test_messages_reset_the_count_of_a_message_without_an_end(script):
    client = Client(script)
    for _ in range(50):
        client.send(BytesMessage(bytes(65000)))
        script.advance(0)
        assert len(client.got()) == 1


@pytest.mark.parametrize(
    ("text", "many"), [("x" * 65536, 15), ("\u2603" * 21845, 15), ("", 1024)],
    ids=["ASCII", "three bytes each", "empty"],
)  # fmt: skip
def test_what_waits_for_its_echo_is_bounded(script, text, many):
    client = Client(script, b"delay=60")
    for _ in range(many):
        client.texts(text)
    script.advance(19)
    assert client.got() == []
    client.texts(text, "x")  # the first is too much, the second is ignored
    assert client.got() == [1008]
    client.leave()
    assert script.idle()


def test_what_was_echoed_does_not_count(script):
    client = Client(script, b"delay=1")
    for _ in range(40):
        client.texts("x" * 65536)
        script.advance(1)
        assert len(client.got()) == 1


# The end


@pytest.mark.parametrize("query", [b"", b"delay=60"])
def test_no_timer_is_left_when_the_client_disconnects(script, logged, query):
    client = Client(script, query)
    client.texts("a", "b")
    script.advance(1)
    client.texts("c")
    client.leave()
    assert script.idle()
    assert logged().count("\n") == logged().count("the client disconnected") - 1 == 0


def test_a_client_that_closes_gets_no_more(script):
    client = Client(script, b"delay=1")
    client.texts("a")
    client.send(CloseConnection(1000))
    script.advance(1)
    assert client.got() == [1000]
    assert client.transport.disconnecting
    assert client.transport.producer is None  # with one, TLS would not close
    client.leave()
    assert script.idle()


def test_without_a_delay_an_echo_is_sent_before_a_close_frame_that_came_with_it(script):
    client = Client(script)
    client.send(TextMessage("a"), CloseConnection(1000))
    assert client.got() == ["a", 1000]


def test_nothing_is_parsed_after_the_end(script, logged):
    client = Client(script)
    client.texts("x" * 65537)
    client.server.dataReceived(b"\xff" * 100)
    client.server.dataReceived(b"\xff" * 100)
    assert client.got() == [1009]
    assert "Traceback" not in logged()


@pytest.mark.parametrize("frame", [b"\xff\xff", b"\x81\x01a", b"\x81\x81\0\0\0\0\xff"])
def test_a_frame_that_is_not_allowed_closes_the_connection(script, frame):
    client = Client(script)
    client.server.dataReceived(frame)
    assert client.got()[0] in (1002, 1007)
    assert client.transport.disconnecting


def test_a_failure_resets_the_connection(script, logged):
    client = Client(script, b"delay=1")
    client.texts("a")
    client.server._channel.dataReceived.__self__.waiting.clear()  # of its Conversation
    script.advance(1)
    assert client.transport.disconnected
    assert "IndexError" in logged()
    client.leave()
    assert script.idle()


# The handshake


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (handshake(), 101),
        (handshake(Connection=b"keep-alive, Upgrade", Upgrade=b"WebSocket"), 101),
        (handshake(b"GET /? HTTP/1.1", b"Sec-WebSocket-Protocol: chat, \xc2\xa0"[:-2]), 101),
        (handshake(b"GET /? HTTP/1.1", b"Cookie: \xff"), 101),
        # not a handshake
        (handshake(Connection=None), 426),
        (handshake(Connection=b"keep-alive"), 426),
        (handshake(Upgrade=b"h2c"), 426),
        (handshake(Upgrade=None), 426),
        (handshake(Sec_WebSocket_Version=b"8"), 426),
        (handshake(Sec_WebSocket_Version=None), 426),
        (handshake(b"HEAD /? HTTP/1.1"), 426),
        # wrong
        (handshake(b"GET /? HTTP/1.0"), 400),
        (handshake(Host=None), 400),
        (handshake(Host=[b"a", b"b"]), 400),
        (handshake(Host=b"\xff"), 400),
        (handshake(Host=b"xn--zzzzzzz99"), 400),
        (handshake(Sec_WebSocket_Key=None), 400),
        (handshake(Sec_WebSocket_Key=b""), 400),
        (handshake(Sec_WebSocket_Key=b"abc"), 400),
        (handshake(Sec_WebSocket_Key=KEY + b"="), 400),
        (handshake(Sec_WebSocket_Key=[KEY, KEY]), 400),
        (handshake(Connection=b"Upgrade, \xff"), 400),
        (handshake(b"GET /? HTTP/1.1", b"Sec-WebSocket-Protocol: \xff"), 400),
        (handshake(b"GET /? HTTP/1.1", b"Sec-WebSocket-Extensions: \xff"), 400),
        (handshake(b"GET /? HTTP/1.1", b"X: a\x0bb"), 400),
        (handshake(b"GET /?delay=-1 HTTP/1.1"), 400),
    ],
)  # fmt: skip
def test_a_handshake_is_accepted_or_refused_with_one_line(script, logged, request_, code):
    client = Client(script, request=request_)
    assert client.code == code
    assert "Traceback" not in logged()
    if code == 400:
        assert b"\r\nContent-Type: text/plain; charset=utf-8\r\n" in client.head
        assert client.rest.endswith(b"\n")
        assert (client.rest.count(b"\n"), client.rest.isascii()) == (1, True)
        assert len(client.rest) < 200
    if code == 426:
        for header in (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-Websocket-Version: 13"):
            assert b"\r\n%s\r\n" % header in client.head + b"\r\n"


def test_a_get_is_told_how_to_connect(script):
    asked = script.get()
    assert asked.body == b"this is a WebSocket: connect to it with ws:// and version 13\n"


@pytest.mark.parametrize(
    ("origin", "code"),
    [
        (None, 101),
        (b"http://localhost", 101),
        (b"https://LOCALHOST", 101),
        (b"http://localhost:81", 403),
        (b"http://evil.example", 403),
        (b"null", 403),
        (b"http://localhost.evil.example", 403),
        (b"\xff://[", 403),
        ([b"http://localhost", b"http://localhost"], 403),
        (b"https://friend.example", 101),
    ],
)
def test_pages_of_other_sites_may_not_connect(script, origin, code):
    type(script.resource).render_GET.__globals__["ORIGINS"].add(b"https://friend.example")
    assert Client(script, request=handshake(Origin=origin)).code == code


def test_a_failure_of_this_script_is_not_called_a_bad_handshake(script, monkeypatch, logged):
    conversation = type(script.resource).render_GET.__globals__["Conversation"]
    monkeypatch.setattr(conversation, "negotiationFinished", None)
    Client(script)
    assert "TypeError" in logged()


@pytest.mark.parametrize("old", [False, True])
def test_without_a_twisted_that_has_websockets_it_says_what_to_install(script, monkeypatch, old):
    scope = type(script.resource).render_GET.__globals__
    if old:
        monkeypatch.setattr(
            scope["twisted"], "version", scope["twisted"].version.__class__("Twisted", 25, 5, 0)
        )
    else:
        monkeypatch.setitem(scope, "WebSocketResource", None)
    client = Client(script)
    assert (client.code, client.rest) == (
        503,
        b"WebSockets need: pip install 'Twisted[websocket]>=26.10'\n",
    )
