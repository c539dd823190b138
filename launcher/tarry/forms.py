"""The fields of a form, parsed by Twisted's functions, within limits.

Those functions take up to a microsecond a byte for a form made to be slow, while every other request
waits. So a form that is longer than `Limits.form_bytes` is refused; a body that is not asked for its
fields may be as long as any.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.web import http

from tarry.errors import Refused
from tarry.limits import MAX_FORM_PARAMETERS

if TYPE_CHECKING:
    from tarry.request import Request


def form_fields(request: Request) -> dict[bytes, list[bytes]]:
    """Return the fields of the form in the body of *request*; none if it is no form.

    Raises Refused if it is too long to parse, or malformed.
    """
    kind = b"".join(request.fields(b"content-type")[:1])
    name = kind.partition(b";")[0].strip().lower()
    if name not in (b"application/x-www-form-urlencoded", b"multipart/form-data"):
        return {}
    length, most = request.content.seek(0, 2), request.site.limits.form_bytes
    request.content.seek(0)
    if length > most:
        raise Refused(413, f"the form has {length} bytes: this server parses at most {most}")
    if kind.count(b";") > MAX_FORM_PARAMETERS:
        raise Refused(400, f"Content-Type has over {MAX_FORM_PARAMETERS} parameters")
    body = request.content.read()
    request.content.seek(0)
    if name == b"application/x-www-form-urlencoded":
        return dict(http.parse_qs(body, 1))
    try:
        return dict(http._getMultiPartArgs(body, kind))
    except http._MultiPartParseException as error:
        raise Refused(400, f"malformed multipart form: {error}"[:200]) from None
