"""WebSocket frames, counted as they pass."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.frame_protocol import CloseReason, FrameProtocol, Opcode

from tarry.ledger import Entry
from tarry.websockets import Frames, Watched


def server_frames(*pieces):
    protocol = FrameProtocol(client=False, extensions=[])
    return b"".join(protocol.send_data(piece) for piece in pieces)


@given(
    st.lists(st.binary(max_size=300) | st.just(b"x" * 70_000), max_size=5),
    st.booleans(),
    st.integers(1, 9),
)
def test_messages_of_any_length_cut_anywhere(messages, client, cuts):
    protocol = FrameProtocol(client=client, extensions=[])
    sent = b"".join(protocol.send_data(message) for message in messages)
    sent += protocol.ping(b"are you there?") + protocol.close(CloseReason.GOING_AWAY, "bye")
    frames, step = Frames(), 1 + len(sent) // cuts
    for at in range(0, len(sent), step):
        frames.feed(sent[at : at + step])
    assert (frames.messages, frames.code) == (len(messages), 1001)


def test_a_message_in_parts_is_one():
    protocol, frames = FrameProtocol(client=True, extensions=[]), Frames()
    frames.feed(protocol.send_data(b"a", fin=False))
    assert frames.messages == 0
    frames.feed(protocol.send_data(b"b", fin=True))
    assert frames.messages == 1


@pytest.mark.parametrize(
    ("frame", "code"), [(b"\x88\x00", 1005), (b"\x88\x80abcd", 1005), (b"\x88\x02\x03\xe8", 1000)]
)
def test_close_frames_with_and_without_a_code(frame, code):
    frames = Frames()
    frames.feed(frame)
    assert frames.code == code


class End:
    """A protocol and a transport that keep what they are given."""

    def __init__(self):
        self.data = b""

    def dataReceived(self, data):
        self.data += data

    write = dataReceived


def test_an_entry_has_messages_and_bytes_both_ways_and_who_closed():
    entry, transport, protocol = Entry(0.0, 0.0), End(), End()
    watched = Watched(transport, protocol, entry)
    watched.write(server_frames(b"one", b"two"))
    client = FrameProtocol(client=True, extensions=[])
    watched.dataReceived(client.send_data(b"hello") + client.close(CloseReason.NORMAL_CLOSURE))
    watched.write(b"\x88\x02\x03\xe8")
    assert entry.as_dict()["messages"] == {"received": 1, "sent": 2}
    assert (entry.bytes, entry.received) == (len(transport.data), len(protocol.data))
    assert (watched.closed_by, watched.code) == ("client", 1000)


def test_the_opcodes_are_those_of_the_field():
    assert (Opcode.CONTINUATION, Opcode.TEXT, Opcode.BINARY, Opcode.CLOSE) == (0, 1, 2, 8)
