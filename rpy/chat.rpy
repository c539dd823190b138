"""
Stream a chat completion token by token, as OpenAI does.

    POST /chat.rpy/v1/chat/completions?delay=0.5&count=20
    GET /chat.rpy/v1/models

Parameters:

    name         meaning                                              range            default
    delay        seconds before the first token                       0 to 3600        0.5
    interval     seconds between tokens                               0 to 3600        0.05
    jitter       seconds that each token may be late, at random       0 to 3600        0
    count        number of tokens                                     1 to 10000       20
    seed         seed of text and jitter, before the one in the body  0 to 4294967295  -
    status       of an error; alone, instead of the first token       400 to 599       500
    retry        Retry-After of an error, in seconds                  0 to 3600        1
    error_after  report an error after so many tokens                 0 to 10000       -
    reset_after  reset the connection after so many tokens            0 to 10000       -
    key          a label for finding the request in the ledger        any text         -

Body: JSON of up to 500000 bytes (each four are a prompt token) with "model" and "messages". Also used:
    "stream", "stream_options", "max_completion_tokens", "max_tokens", "seed" and "n", which must be 1.
Answer: 200. With "stream", text/event-stream, a chat.completion.chunk per token and [DONE]; else JSON,
    with the last token. A token is a word. Server-Timing has the wait. GET returns a list of models.
Errors: as JSON, like OpenAI's: 400 (one plain line to GET), 404 and "status", with Retry-After.
Client leaves: it stops and is logged. A client that stops reading pauses it; overdue tokens follow.

Try it:

    $ twistd -n web --path .
    $ curl -d '{"model":"a","messages":[{}]}' 'http://127.0.0.1:8080/chat.rpy/v1/chat/completions?count=3'
"""

# SPDX-License-Identifier: MIT-0
import json
import random
import time
from urllib.parse import parse_qs

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer


class Chat(Resource):
    isLeaf = True
    clock, now = reactor, time.monotonic  # replaced in tests

    def render_POST(self, request):
        if request.postpath != [b"v1", b"chat", b"completions"]:
            return json_page(request, error_object(NOT_FOUND), 404)
        data = request.content.read(MAX_BODY + 1)
        try:
            options, body = parse_query(request), parse_body(data)
        except ValueError as error:
            return json_page(request, error_object(*error.args), 400)
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or MAX_TOKENS
        options["reason"] = "length" if limit < options["count"] else "stop"
        options["count"] = count = min(limit, options["count"])
        options["seed"] = seed = options["seed"] if options["seed"] >= 0 else body.get("seed") or 0
        stream, size = body.get("stream") or False, len(data) // 4  # four bytes are about a token
        usage = {"prompt_tokens": size, "completion_tokens": count, "total_tokens": size + count}
        if stream and not (body.get("stream_options") or {}).get("include_usage"):
            usage = None
        head = {"id": f"chatcmpl-{seed % 2**64:016x}", "model": body["model"]}
        head.update(object="chat.completion" + ".chunk" * stream, created=int(time.time()))
        return run(request, self.complete(request, options, head, usage, stream))

    async def complete(self, request, options, head, usage, stream):
        """Send each token when it is due, or without *stream* all of them with the last one."""
        arrived, client, text = self.now(), Backpressure(request), []
        word, late = (random.Random(f"{options['seed']}/{of}").random for of in ("word", "late"))
        count = options["count"]
        failure = min(options["error_after"], options["reset_after"])  # after so many tokens
        for n in range(min(count, failure) + (failure <= count)):
            request.note = f"{n} of {count} tokens"  # for the ledger
            due = arrived + options["delay"] + n * options["interval"] + late() * options["jitter"]
            await deferLater(self.clock, max(0, due - self.now()))
            if n == failure:
                return await self.fail(request, options)
            text.append(" " * (n > 0) + WORDS[int(word() * len(WORDS))])
            if stream:
                await client.ready()
                if n == 0:
                    set_headers(request, "text/event-stream", wait=self.now() - arrived)
                delta = {"content": text[n]} if n else {"role": "assistant", "content": text[0]}
                choice = {"index": 0, "delta": delta, "finish_reason": None}
                request.write(event({**head, "choices": [choice]}))
        request.note = f"{count} of {count} tokens"
        if stream:
            choice = {"index": 0, "delta": {}, "finish_reason": options["reason"]}
            request.write(event({**head, "choices": [choice]}))
            if usage:
                request.write(event({**head, "choices": [], "usage": usage}))
            request.write(b"data: [DONE]\n\n")
        else:
            message = {"role": "assistant", "content": "".join(text)}
            choice = {"index": 0, "message": message, "finish_reason": options["reason"]}
            content = {**head, "choices": [choice], "usage": usage}
            request.write(json_page(request, content, wait=self.now() - arrived))
        request.unregisterProducer()
        request.finish()

    async def fail(self, request, options):
        """Reset the connection or report an error: in an event, if tokens have been sent."""
        if options["reset_after"] <= options["error_after"]:
            return await reset_connection(request, self.clock)
        content = error_object("an error, as error_after or status says", None, options["status"])
        if request.startedWriting:
            request.write(event(content))
        else:
            request.setHeader("Retry-After", str(options["retry"]))
            request.write(json_page(request, content, options["status"]))
        request.unregisterProducer()
        request.finish()

    def render_GET(self, request):
        try:
            parse_query(request)  # a client may add the parameters to whatever it asks for
        except ValueError as error:
            return error_page(request, 400, error)
        if request.postpath not in ([], [b"v1", b"models"]):
            return json_page(request, error_object(NOT_FOUND), 404)
        model = {"id": "any", "object": "model", "created": 0, "owned_by": "chat.rpy"}
        return json_page(request, {"object": "list", "data": [model]})


MAX_WAIT, MAX_TOKENS, MAX_BODY = 3600, 10_000, 500_000  # seconds, tokens, bytes (20 ms to parse)
NOT_FOUND = "no such path: give POST /v1/chat/completions or GET /v1/models"
WORDS = ("a", "clock", "day", "goes", "light", "rain", "river", "slow", "the", "time", "waits")
PARAMETERS = {  # default, least and greatest value
    "delay": (0.5, 0, MAX_WAIT), "interval": (0.05, 0, MAX_WAIT), "count": (20, 1, MAX_TOKENS),
    "jitter": (0.0, 0, MAX_WAIT), "seed": (-1, 0, 2**32 - 1), "status": (500, 400, 599),
    "retry": (1, 0, MAX_WAIT),
    **dict.fromkeys(("error_after", "reset_after"), (MAX_TOKENS + 1, 0, MAX_TOKENS)),
}  # fmt: skip
FIELDS = {  # of the body: type, least and greatest value or length, and what to give
    "model": (str, 1, 100, "a string of 1 to 100 characters"), "stream": (bool, 0, 1, "true or false"),
    "messages": (list, 1, 1000, "a list of 1 to 1000"), "stream_options": (dict, 0, 1000, "an object"),
    "max_completion_tokens": (int, 1, 2**63, "1 or more"), "max_tokens": (int, 1, 2**63, "1 or more"),
    "seed": (int, -(2**63), 2**63 - 1, "a whole number of 64 bits"), "n": (int, 1, 1, "1"),
}  # fmt: skip


def parse_query(request):
    """Return the values of all parameters. "status" alone means an error before the first token."""
    params = parse_params(request, *PARAMETERS, "key")
    given = {name: number(params, name, *PARAMETERS[name]) for name in params if name != "key"}
    defaults = {name: default for name, (default, *_) in PARAMETERS.items()}
    return {**defaults, **({"error_after": 0} if "status" in given else {}), **given}


def parse_body(data):
    """Return the JSON object in *data*. ValueError has a message and the name of a field."""
    if len(data) > MAX_BODY:
        raise ValueError(f"the body is too long: give at most {MAX_BODY} bytes")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        body = None
    if type(body) is not dict:
        raise ValueError("the body is no JSON object: give one with model and messages")
    for name, (kind, low, high, hint) in FIELDS.items():
        value = body.get(name)
        size = len(value) if type(value) in (str, list, dict) else value
        needed = value is not None or name in ("model", "messages")
        if needed and not (type(value) is kind and low <= size <= high):
            raise ValueError(f"invalid {name} {json.dumps(value)[:40]}: give {hint}", name)
    return body


def event(content):
    return b"data: %s\n\n" % json.dumps(content).encode()


def error_object(message, param=None, status=400):
    """Return the body that this API's clients make an exception of."""
    code = "rate_limit_exceeded" if status == 429 else None
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


# The helpers below have the same text in every script that uses them: see CONTRIBUTING.md.

log = Logger(namespace="rpy.chat")


def parse_params(request, *names):
    """Return the query string as a dict. Unknown and repeated names are a ValueError."""
    query = request.uri.partition(b"?")[2].decode("utf-8", "replace")
    params = parse_qs(query, keep_blank_values=True)
    for name, values in params.items():
        if name not in names:
            raise ValueError(f"unknown parameter {name[:40]!a}: give one of {', '.join(names)}")
        if len(values) > 1:
            raise ValueError(f"{name} was given {len(values)} times: give it once")
        if len(values[0]) > 1000:
            raise ValueError(f"{name} is too long: give at most 1000 characters")
    return {name: values[0] for name, values in params.items()}


def number(params, name, default, low, high):
    """Return a number between *low* and *high*; a whole number if *default* is one."""
    text = params.get(name, str(default))
    digits = text if type(default) is int else text.replace(".", "", 1)
    if not (digits.isascii() and digits.isdecimal() and low <= float(text) <= high):
        kind = "a whole number" if type(default) is int else "a number"
        raise ValueError(f"invalid {name} {text[:40]!a}: give {kind} from {low} to {high}")
    return type(default)(text)


def set_headers(request, content_type, **timings):
    """Set the headers every response has, and *timings*, in seconds, as Server-Timing."""
    request.setHeader("Content-Type", content_type)
    request.setHeader("Cache-Control", "no-store")
    request.setHeader("X-Content-Type-Options", "nosniff")
    for name, seconds in timings.items():
        request.responseHeaders.addRawHeader("Server-Timing", f"{name};dur={seconds * 1000:.3f}")


def error_page(request, code, message):
    """Set the status and headers of a one-line error; return its body."""
    request.setResponseCode(code)
    set_headers(request, "text/plain; charset=utf-8")
    return f"{message}\n".encode()


def json_page(request, content, code=200, **timings):
    """Set the status and headers of a JSON response; return its body."""
    request.setResponseCode(code)
    set_headers(request, "application/json", **timings)
    return json.dumps(content).encode() + b"\n"


def run(request, coroutine):
    """Let *coroutine* answer *request*; cancel it if the client disconnects."""
    work = Deferred.fromCoroutine(coroutine)
    request.notifyFinish().addErrback(lambda reason: work.cancel())
    work.addErrback(report_failure, request)
    return NOT_DONE_YET


def report_failure(failure, request):
    """An errback: log why there is no answer, and tell the client if it is still connected."""
    connected = getattr(request, "channel", None) is not None
    if failure.check(CancelledError) and not connected:
        log.info("{uri!r}: the client disconnected", uri=request.uri)
        return
    log.failure("{uri!r} failed", failure, uri=request.uri)
    if connected and request.producer:
        request.unregisterProducer()
    if connected and request.startedWriting:  # never let part of a response pass for all of it
        (request.transport or request.channel).abortConnection()
    elif connected:
        request.write(error_page(request, 500, "the script failed: the server's log says why"))
        request.finish()


async def reset_connection(request, clock):
    """Reset the connection, after what was written has left: a reset drops what has not."""
    for _ in range(2):  # it leaves within two turns of the reactor
        await deferLater(clock, 0)
    (request.transport or request.channel).abortConnection()


@implementer(IPushProducer)
class Backpressure:
    """Lets a coroutine wait for a slow client: `await client.ready()` before each write."""

    def __init__(self, request):
        self.paused = None  # a Deferred while the connection's send buffer is full
        request.registerProducer(self, True)

    def pauseProducing(self):
        self.paused = self.paused or Deferred()

    def resumeProducing(self):
        paused, self.paused = self.paused, None
        if paused:
            paused.callback(None)

    def stopProducing(self):
        """Nothing to do: run() cancels the coroutine when the client disconnects."""

    async def ready(self):
        while self.paused:
            await self.paused


recache()  # stateless, so `tarry serve` may reuse this resource; plain twistd ignores this
resource = Chat()
