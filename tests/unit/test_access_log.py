"""Lines of the access log."""

import io
import re

import pytest

from tarry.access_log import AccessLog, quoted
from tarry.ledger import ABORTED, FINISHED, LEFT, REFUSED, Entry, without_credentials


def entry(outcome, status, sent, path=b"/x", query="a=1"):
    made = Entry(100.0, 1_700_000_000.25)
    made.method, made.path, made.query, made.protocol = b"GET", path, query, b"HTTP/1.1"
    made.outcome, made.status, made.bytes, made.ended = outcome, status, sent, 101.5
    made.peer = "127.0.0.1:5000"
    return made


class Request:
    """What the log asks of a request: its headers."""

    def __init__(self, **headers):
        self.headers = headers

    def fields(self, name):
        return [self.headers[name.decode()]] if name.decode() in self.headers else []


def write(log, made, **headers):
    log.write(Request(**headers), made)


def test_lines_of_the_combined_format():
    file = io.StringIO()
    log = AccessLog(file)
    write(log, entry(FINISHED, 200, 137))
    write(log, entry(LEFT, 0, 0))
    write(log, entry(ABORTED, 0, 0))
    write(log, entry(FINISHED, 404, 3, b'/"\xff\\\n', ""))
    assert file.getvalue() == ""  # they are written together
    log.flush()
    combined = r'127\.0\.0\.1 - - \[\d\d/\w{3}/2023:[\d:]{8} [+-]\d{4}\] "GET (\S+) HTTP/1\.1" (.*) "-" "-"'
    lines = [re.fullmatch(combined, line).groups() for line in file.getvalue().splitlines()]
    assert lines == [
        ("/x?a=1", "200 137"),
        ("/x?a=1", "499 -"),
        ("/x?a=1", "500 -"),
        (r"/\"\xff\\\n", "404 3"),
    ]


@pytest.mark.parametrize(("outcome", "status", "colour"), [
    (FINISHED, 200, "32"), (FINISHED, 404, "33"), (FINISHED, 503, "31"), (LEFT, 200, "31"),
])  # fmt: skip
def test_on_a_terminal_lines_come_at_once_and_in_colour(outcome, status, colour):
    file = io.StringIO()
    write(AccessLog(file, watched=True), entry(outcome, status, 1))
    assert file.getvalue().startswith(f"\x1b[{colour}m127.0.0.1 - - ")
    assert file.getvalue().endswith(f"\x1b[0m \x1b[2m1.500 s {outcome}\x1b[0m\n")


def test_what_is_quoted_cannot_forge_a_line():
    assert quoted(b'a"b\\c\r\nd\xe9') == r"a\"b\\c\r\nd\xe9"


def logged(referer=b"-", query=""):
    file = io.StringIO()
    log = AccessLog(file)
    write(log, entry(FINISHED, 200, 1, query=query), referer=referer)
    log.flush()
    return file.getvalue()


@pytest.mark.parametrize("referer", [
    b"http://me:hunter2@host/x", b"http://host/x?api_key=hunter2&a=1", b"/x?a=1;password=hunter2",
    b"http://host/x?%70assword=hunter2", b"http://host/x#access_token=hunter2",
])  # fmt: skip
def test_credentials_of_a_referer_are_left_out(referer):
    assert "hunter2" not in logged(referer)
    assert "host" in logged(b"http://host/x?a=1")
    assert "a=1" in logged(b"http://host/x?a=1")


def test_the_query_is_as_in_the_ledger_without_credentials():
    assert '"GET /x?token=-&a=1 HTTP/1.1"' in logged(
        query=without_credentials(b"token=hunter2&a=1")
    )


def test_a_request_line_that_was_none():
    file = io.StringIO()
    made = Entry(100.0, 1_700_000_000.25)
    made.outcome, made.status, made.peer = REFUSED, 400, "127.0.0.1:5000"
    write(AccessLog(file, watched=True), made)
    assert '"-  -" 400' in file.getvalue()
