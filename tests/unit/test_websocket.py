"""websocket.rpy in virtual time, talked to by the frames of a real client's side."""

import json

import pytest
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure
from wsproto import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

SCRIPT = "websocket.rpy"
HANDSHAKE = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


class Client:
    def __init__(self, script, query=b"", headers=b""):
        self.server, self.transport = script.connect(query, HANDSHAKE + headers)
        self.frames = Connection(ConnectionType.CLIENT)
        self.head, _, rest = self.transport.value().partition(b"\r\n\r\n")
        self.read, self.events = len(self.transport.value()) - len(rest), []

    def send(self, *events):
        """All in one piece, as a burst is received."""
        self.server.dataReceived(b"".join(bytes(self.frames.send(event)) for event in events))

    def texts(self, *texts):
        self.send(*map(TextMessage, texts))

    def got(self):
        """What has come since last time: messages' data, other events' names, codes of closing."""
        self.frames.receive_data(self.transport.value()[self.read :])
        self.read = len(self.transport.value())
        return [
            getattr(event, "data", getattr(event, "code", type(event).__name__))
            for event in self.frames.events()
        ]

    def leave(self):
        self.server.connectionLost(Failure(ConnectionDone()))


def test_echoes_come_in_their_time_and_order(script):
    client = Client(script, b"delay=2")
    assert client.head.startswith(b"HTTP/1.1 101 ")
    client.texts("a")
    script.advance(1.5)
    client.send(BytesMessage(b"b\xff"), TextMessage("c\u2603"))
    script.advance(0.4)
    assert client.got() == []
    script.advance(0.1)
    assert client.got() == ["a"]
    script.advance(1.5)
    assert client.got() == [b"b\xff", "c\u2603"]


def test_without_delay_a_burst_is_echoed_at_once(script):
    client = Client(script)
    client.texts(*map(str, range(5000)))
    assert client.got() == [str(n) for n in range(5000)]


def test_ticks_keep_their_times(script):
    client = Client(script, b"interval=0.5&count=3")
    seen = [client.got()]
    for step in (0.4, 0.4, 0.2, 5):  # the second comes 0.3 s late, the third on time
        script.advance(step)
        seen.append(client.got())
    ticks = [[json.loads(text) for text in texts] for texts in seen]
    assert [[tick["tick"] for tick in each] for each in ticks] == [[1], [], [2], [3], []]
    assert ticks[2] == [{"tick": 2, "due": 0.5}]


def test_while_a_client_does_not_read_nothing_is_sent_and_nothing_read(script):
    client = Client(script, b"interval=1&count=3")
    assert len(client.got()) == 1
    client.transport.producer.pauseProducing()  # as when the buffer is full
    assert client.transport.producerState == "paused"
    client.texts("a", "b")  # which had been read already
    script.advance(5)
    assert client.got() == []
    client.transport.producer.resumeProducing()
    assert client.transport.producerState == "producing"
    assert sorted(client.got()) == [
        "a",
        "b",
        *(f'{{"tick": {n}, "due": {n - 1}.0}}' for n in (2, 3)),
    ]


@pytest.mark.parametrize("over", [0, 1])
@pytest.mark.parametrize("kind", [TextMessage, BytesMessage])
@pytest.mark.parametrize("parts", [1, 7])
def test_a_message_has_a_limit_however_it_comes(script, kind, parts, over):
    client = Client(script)
    whole = (65536 + over) * (b"x" if kind is BytesMessage else "x")
    step = len(whole) // parts + 1
    pieces = [whole[at : at + step] for at in range(0, len(whole), step)]
    *first, last = pieces
    client.send(*(kind(each, message_finished=False) for each in first), kind(last))
    assert client.got() == ([1009] if over else [whole])
    assert client.transport.disconnecting == bool(over)
    if not over:
        client.send(kind(whole))
        assert client.got() == [whole]


def test_characters_count_as_the_bytes_they_are_sent_as(script):
    client = Client(script)
    client.texts("\u2603" * 21846)
    assert client.got() == [1009]


def test_a_message_without_end_is_not_kept(script):
    client = Client(script)
    for _ in range(100):
        client.send(BytesMessage(bytes(65536), message_finished=False))
        assert sum(map(len, gathered(client))) <= 65536
    client.send(BytesMessage(b""))
    assert client.got() == [1009]


def gathered(client):
    wire = client.server._channel.requests[0].producer.websocket
    return wire._textBuffer.data, wire._bytesBuffer.data


@pytest.mark.parametrize("text", ["x" * 65536, "\u2603" * 21845], ids=["ASCII", "three bytes each"])
def test_what_waits_for_its_echo_is_bounded(script, text):
    client = Client(script, b"delay=60")
    for _ in range(15):
        client.texts(text)
    script.advance(19)
    assert client.got() == []
    client.texts(text)  # over 1 MiB, with what each counts more
    client.texts("x")  # this is for nobody
    assert client.got() == [1008]
    client.leave()
    assert script.idle()


def test_who_answers_pings_stays_and_who_does_not_is_reset(script, logged):
    client = Client(script)
    for _ in range(5):
        script.advance(20)
        assert client.got() == ["Ping"]
        client.send(Pong())
    script.advance(20)
    client.send(Ping())  # is no answer
    script.advance(19)
    assert client.got() == ["Ping", "Pong"]
    assert not client.transport.disconnected
    script.advance(1)
    assert client.transport.disconnected
    client.leave()
    assert "no answer to a ping" in logged()


@pytest.mark.parametrize("query", [b"", b"count=9&interval=60", b"delay=60"])
def test_no_timer_remains_when_the_client_leaves(script, logged, query):
    client = Client(script, query)
    client.texts("a", "b")
    script.advance(1)
    client.transport.producer.pauseProducing()
    script.advance(60)
    client.leave()
    assert script.idle()
    assert logged().count("\n") == logged().count("the client left") - 1 == 0


def test_a_client_that_closes_is_closed_and_gets_no_more(script):
    client = Client(script, b"delay=1")
    client.texts("a")
    client.send(CloseConnection(1000))
    script.advance(1)
    assert client.got() == [1000]
    assert client.transport.disconnecting
    client.leave()
    assert script.idle()


def test_a_failure_breaks_the_connection(script, logged, monkeypatch):
    conversation = type(script.resource).render_GET.__globals__["Conversation"]
    monkeypatch.setattr(conversation, "send", None)
    client = Client(script)
    client.texts("a")
    assert client.transport.disconnected
    client.leave()
    assert "TypeError" in logged()
    assert script.idle()


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        (b"", 101),
        (b"Origin: http://x\r\n", 101),
        (b"Origin: https://X\r\n", 101),
        (b"Origin: http://x:81\r\n", 403),
        (b"Origin: http://evil.example\r\n", 403),
        (b"Origin: null\r\n", 403),
        (b"Origin: http://x.evil.example\r\n", 403),
        (b"Origin: \xff://[\r\n", 403),
        (b"Origin: https://friend.example\r\n", 101),
    ],
)
def test_pages_of_other_sites_may_not_connect(script, headers, code):
    type(script.resource).render_GET.__globals__["ORIGINS"].add(b"https://friend.example")
    assert Client(script, b"", headers).head.startswith(b"HTTP/1.1 %d " % code)


def test_what_is_no_websocket_is_told_how_to_become_one(script):
    for headers in (b"", HANDSHAKE.replace(b"13", b"8"), HANDSHAKE.replace(b"websocket", b"h2c")):
        _, transport = script.connect(b"", headers)
        assert transport.value().startswith(b"HTTP/1.1 426 ")
        for told in (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-Websocket-Version: 13"):
            assert b"\r\n%s\r\n" % told in transport.value()
    assert script.get(method="HEAD").code == 426


def test_a_wrong_parameter_is_refused_before_the_upgrade(script):
    assert Client(script, b"count=-1").head.startswith(b"HTTP/1.1 400 ")


def test_without_wsproto_it_says_what_to_install(script, monkeypatch):
    monkeypatch.setitem(type(script.resource).render_GET.__globals__, "WebSocketResource", None)
    client = Client(script)
    assert client.head.startswith(b"HTTP/1.1 503 ")
    assert b"pip install 'Twisted[websocket]>=26.10'" in client.transport.value()
