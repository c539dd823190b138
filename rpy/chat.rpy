"""
Utter a chat completion, token by token, as OpenAI does.

    POST /chat.rpy/v1/chat/completions?first=0.5&interval=0.05&count=20
    POST /chat.rpy/v1/chat/completions?count=20&break_after=5
    GET /chat.rpy/v1/models
    GET /chat.rpy

Parameters:

    name         meaning                                              range            default
    first        until the first token (seconds)                      0 to 3600        0.5
    interval     from one token to the next (seconds)                 0 to 3600        0.05
    jitter       each token is late by up to this, drawn (seconds)    0 to 3600        0
    count        how many tokens there are to say                     1 to 10000       20
    seed         what text and jitter are drawn from                  0 to 4294967295  -
    status       answer with this error instead of the first token    400 to 599       -
    retry        Retry-After that 429 and 503 have (seconds)          0 to 3600        1
    error_after  an error after so many tokens, when the next is due  1 to 10000       -
    break_after  a reset after so many tokens, when the next is due   1 to 10000       -
    key          a name of your own, for the ledger                   any text         -

Body: JSON of at most 1000000 bytes, whatever its type is said to be. Needed are "model", any name,
    and "messages"; heeded are "stream", "stream_options" with "include_usage", "seed" where the
    query has none, "max_completion_tokens" or else "max_tokens", and "n", which must be 1. All
    else is ignored, and so is Authorization.
Answer: 200 application/json, a chat.completion, when the last token is due, which Server-Timing has
    as total, in milliseconds. With "stream": 200 text/event-stream, from when the first token is
    due, in Server-Timing as first; a chat.completion.chunk for each token, one with the
    finish_reason, one with the usage if that is included, then [DONE]. A token is a word. The
    seed, 0 if there is none, decides "id", text and jitter; a shorter text is the beginning of a
    longer one. finish_reason is "length" if the body allows fewer tokens than "count", else
    "stop". "prompt_tokens" are the words in the messages. To GET: the paths, or the models, of
    which there are any. HEAD works too.
Errors: 400 for wrong parameters or a wrong body, 404, 405, 413, "status" and "error_after" (500,
    unless tokens are out: then it is the last event, without [DONE]): all are JSON, {"error":
    {"message", "type", "param", "code"}}. But to GET 400 is one plain line, as are 501 for other
    methods and 500 if the script fails; if bytes are out, the connection is aborted. Where no
    token is left, "error_after" and "break_after" act in place of the finish_reason; with more
    than there are, never. A reset before the end of what is not streamed comes without a byte.
Client leaves: nothing more is said, and the log has a line. The note in the ledger of `tarry serve`
    says after how many tokens: "5 of 20 tokens". To one that does not read nothing is said; what
    fell due meanwhile follows at once.

Try it:

    $ twistd -n web --path .
    $ echo '{"model": "any", "messages": [{"content": "Hello"}], "stream": true}' > ask.json
    $ curl -N -d @ask.json 'http://127.0.0.1:8080/chat.rpy/v1/chat/completions?count=3'
"""

# SPDX-License-Identifier: MIT-0
import json
import random
import re
import time
from urllib.parse import parse_qsl

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

recache()  # no state here: a server that keeps scripts in memory may keep this one
log = Logger(namespace="rpy.uttered")

LONGEST = 3600  # seconds
MOST = 10_000  # tokens
LARGEST = 1_000_000  # bytes of a body
PARAMETERS = {
    "first": (0.5, 0, LONGEST), "interval": (0.05, 0, LONGEST), "jitter": (0.0, 0, LONGEST),
    "count": (20, 1, MOST), "seed": (-1, 0, 2**32 - 1), "key": ("",),
    "status": (200, 400, 599), "retry": (1, 0, LONGEST),
    "error_after": (MOST + 1, 1, MOST), "break_after": (MOST + 1, 1, MOST),
}  # fmt: skip
FIELDS = {  # of a body, as far as it is heeded: type, least and most (or lengths), and in words
    "model": (str, 1, 100, "a string of 1 to 100 characters"),
    "messages": (list, 1, LARGEST, "a list of one or more"),
    "stream": (bool, 0, 1, "true or false"),
    "stream_options": (dict, 0, LARGEST, "an object"),
    "max_completion_tokens": (int, 1, 2**63, "a whole number, 1 or more"),
    "max_tokens": (int, 1, 2**63, "a whole number, 1 or more"),
    "seed": (int, -(2**63), 2**63 - 1, "a whole number of 64 bits"),
    "n": (int, 1, 1, "1"),
}
COMPLETIONS, MODELS = "v1/chat/completions", "v1/models"
NOWHERE = f"no such path: after my name give POST /{COMPLETIONS} or GET /{MODELS}"
ASKED_FOR = "an error, as you asked for"
WORDS = ("a", "clock", "day", "goes", "light", "rain", "river", "slow", "the", "time", "waits")


def query(request, **known):
    """The query's values. *known* names each with its default and what is allowed: low and high of
    a number (whole if the default is), words, or nothing for any text. One whose default is False
    is a flag: "name" or "name=1". ValueError on all else."""
    pairs = parse_qsl(request.uri.partition(b"?")[2].decode("utf-8", "replace"), True)
    values = {name: default for name, (default, *_) in known.items()}
    for name, text in pairs:
        if name not in known:
            raise ValueError(f"{name[:40]!a} is no parameter here: give {', '.join(known)}")
        if [other for other, _ in pairs].count(name) > 1:
            raise ValueError(f"{name} is given more than once: give it once")
        default, *allowed = known[name]
        kind = type(default)
        if kind is bool:
            right, hint = text in ("", "1"), f"{name} or {name}=1"
        elif kind is str:
            right = text in allowed if allowed else len(text) <= 1000
            hint = " or ".join(allowed) or "1000 characters at most"
        else:
            form = r"[0-9]{1,20}" if kind is int else r"[0-9]{1,20}(\.[0-9]*)?|\.[0-9]+"
            right = re.fullmatch(form, text) and allowed[0] <= kind(text) <= allowed[1]
            hint = "a {}number from {} to {}".format("whole " * (kind is int), *allowed)
        if not right:
            raise ValueError(f"{name}={text[:40]!a} is not allowed: give {hint}")
        values[name] = kind is bool or kind(text)
    return values


def describe(request, content_type, **waits):
    """Set the headers that all answers here have; *waits* are seconds, for Server-Timing."""
    request.setHeader(b"Content-Type", content_type)
    request.setHeader(b"Cache-Control", b"no-store")  # browsers line up what they could cache
    request.setHeader(b"X-Content-Type-Options", b"nosniff")
    if waits:
        timing = [f"{name};dur={seconds * 1000:.3f}" for name, seconds in waits.items()]
        request.setHeader(b"Server-Timing", ", ".join(timing).encode())


def refuse(request, code, line):
    """Answer with one plain line."""
    request.setResponseCode(code)
    describe(request, b"text/plain; charset=utf-8")
    request.write(f"{line}\n".encode())
    request.finish()
    return NOT_DONE_YET


def attempt(request, log, step):
    """Call *step* from a timer, where an exception would reach nobody: tell log and client."""
    try:
        step()
    except Exception:
        log.failure("{uri!r} failed", uri=request.uri)
        if request.startedWriting:  # a part must not pass for the whole
            (request.transport or request.channel).abortConnection()
        else:
            if request.producer:
                request.unregisterProducer()
            refuse(request, 500, "the script failed: the server's log says why")


def answer(request, content, code=200, **waits):
    """Answer with *content* as JSON; *waits* as in describe."""
    request.setResponseCode(code)
    describe(request, b"application/json", **waits)
    request.write(json.dumps(content).encode() + b"\n")
    request.finish()
    return NOT_DONE_YET


async def sent(clock):
    """Wait for the turns of the reactor in which what was written is sent: an abort drops it."""
    for _ in range(2):
        await deferLater(clock, 0)


def run(request, log, coroutine):
    """Answer by a coroutine: cancel it if the client leaves, tell log and client if it fails."""
    left = []

    def leave(reason):
        if not work.called:  # else it was our own end that closed the connection
            left.append(reason)
            log.info("{uri!r}: the client left", uri=request.uri)
            work.cancel()

    def fail(failure):
        if left:
            failure.trap(CancelledError)  # what else there is, is logged as unhandled
        else:
            attempt(request, log, failure.raiseException)

    request.notifyFinish().addErrback(leave)
    work = Deferred.fromCoroutine(coroutine)
    work.addErrback(fail)
    return NOT_DONE_YET


@implementer(IPushProducer)
class Flow:
    """A response in pieces, each written once the client has taken enough of those before."""

    def __init__(self, request):
        self.request, self.room = request, None
        request.registerProducer(self, True)

    def pauseProducing(self):
        self.room = self.room or Deferred()

    def resumeProducing(self):
        room, self.room = self.room, None
        if room:
            room.callback(None)

    def stopProducing(self):
        """Nothing to do: the coroutine that writes is cancelled when the client leaves."""

    async def write(self, data):
        while self.room:
            await self.room
        self.request.write(data)

    def finish(self):
        self.request.unregisterProducer()
        self.request.finish()


def error(code, line, param=None):
    """What clients of this API make an exception of."""
    kind = "server_error" if code >= 500 else "invalid_request_error"
    kind, name = ("requests", "rate_limit_exceeded") if code == 429 else (kind, None)
    return {"error": {"message": str(line), "type": kind, "param": param, "code": name}}


def event(content):
    return b"data: %s\n\n" % json.dumps(content).encode()


def understand(data):
    """The body in *data*, and how many words are in it. ValueError of a field's name and a line."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        body = None
    if type(body) is not dict:
        raise ValueError(None, "the body is no JSON object: give one, with model and messages")
    for name, (kind, low, high, hint) in FIELDS.items():
        value = body.get(name)
        size = len(value) if type(value) in (str, list, dict) else value
        wanted = value is not None or name in ("model", "messages")
        if wanted and not (type(value) is kind and low <= size <= high):
            raise ValueError(name, f"{name}={json.dumps(value)[:40]} is not allowed: give {hint}")
    try:
        return body, sum(words(message.get("content")) for message in body["messages"])
    except (AttributeError, TypeError):
        hint = 'give objects whose "content" is a string or a list of parts'
        raise ValueError("messages", f"messages has one that is not allowed: {hint}") from None


def words(content):
    """How many there are in the content of a message: a text, or parts of which some have one."""
    parts = [{"text": content}] if type(content) is str else content or []
    return sum(len(part.get("text", "").split()) for part in parts)


class Uttered(Resource):
    isLeaf = True
    clock, now = reactor, time.monotonic  # which a test replaces

    def render_GET(self, request):
        path = b"/".join(request.postpath).decode("utf-8", "replace").rstrip("/")
        try:
            query(request, **PARAMETERS)  # a client may send them with whatever it asks for
        except ValueError as wrong:
            return refuse(request, 400, wrong)
        if path == COMPLETIONS:
            request.setHeader(b"Allow", b"POST")
            return answer(request, error(405, f"no GET here: give POST /{COMPLETIONS}"), 405)
        if path and path != MODELS and not path.startswith(f"{MODELS}/"):
            return answer(request, error(404, NOWHERE), 404)
        name = path.removeprefix(MODELS)[1:]
        model = {"id": name or "any", "object": "model", "created": 0, "owned_by": "chat.rpy"}
        models = model if name else {"object": "list", "data": [model]}
        return answer(request, models if path else {"POST": f"/{COMPLETIONS}", "GET": f"/{MODELS}"})

    def render_POST(self, request):
        data = request.content.read(LARGEST + 1)
        if b"/".join(request.postpath) != COMPLETIONS.encode():
            return answer(request, error(404, NOWHERE), 404)
        if len(data) > LARGEST:
            return answer(request, error(413, f"the body is over {LARGEST} bytes: give less"), 413)
        try:
            asked, (body, prompt) = query(request, **PARAMETERS), understand(data)
        except ValueError as wrong:
            *param, line = wrong.args
            return answer(request, error(400, line, *param), 400)
        if asked["status"] != 200:
            return run(request, log, self.fail(request, asked))
        most = body.get("max_completion_tokens") or body.get("max_tokens") or MOST
        reason = "length" if most < asked["count"] else "stop"
        asked["count"] = said = min(most, asked["count"])
        asked["stop"] = min(said, asked["error_after"], asked["break_after"])
        asked["seed"] = asked["seed"] if asked["seed"] >= 0 else body.get("seed") or 0
        usage = {"prompt_tokens": prompt, "completion_tokens": said, "total_tokens": prompt + said}
        head = {
            "id": f"chatcmpl-{asked['seed'] % 2**64:016x}", "object": "chat.completion",
            "created": int(time.time()), "model": body["model"], "system_fingerprint": "fp_uttered",
        }  # fmt: skip
        if not body.get("stream"):
            return run(request, log, self.whole(request, asked, head, usage, reason))
        head["object"] += ".chunk"
        if not (body.get("stream_options") or {}).get("include_usage"):
            usage = None
        return run(request, log, self.stream(request, asked, head, usage, reason))

    async def tokens(self, request, asked):
        """Each token when it is due, reckoned from the arrival: lateness does not add up."""
        arrived, count = self.now(), asked["count"]
        word, late = (random.Random(f"{asked['seed']}/{what}").random for what in ("word", "late"))
        for n in range(count):
            request.note = f"{n} of {count} tokens"
            due = arrived + asked["first"] + n * asked["interval"] + late() * asked["jitter"]
            await deferLater(self.clock, max(0, due - self.now()))
            if n == asked["stop"]:
                return
            yield " " * (n > 0) + WORDS[int(word() * len(WORDS))]
        request.note = f"{count} of {count} tokens"

    async def whole(self, request, asked, head, usage, reason):
        """Answer with all tokens once the last is there."""
        arrived = self.now()
        text = "".join([token async for token in self.tokens(request, asked)])
        if asked["stop"] == asked["break_after"]:
            return await self.break_off(request)
        if asked["stop"] == asked["error_after"]:
            return answer(request, error(500, ASKED_FOR), 500)
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": reason}
        answer(request, {**head, "choices": [choice], "usage": usage}, total=self.now() - arrived)

    async def stream(self, request, asked, head, usage, reason):
        """Send each token as it comes, in an event of its own."""
        arrived, flow = self.now(), None

        def chunk(delta, reason=None):
            choice = {"index": 0, "delta": delta, "finish_reason": reason}
            return event({**head, "choices": [choice]})

        async for token in self.tokens(request, asked):
            delta = {"content": token}
            if flow is None:
                describe(request, b"text/event-stream; charset=utf-8", first=self.now() - arrived)
                flow, delta = Flow(request), {"role": "assistant", **delta}
            await flow.write(chunk(delta))
        if asked["stop"] == asked["break_after"]:
            return await self.break_off(request)
        last = event(error(500, ASKED_FOR))
        if asked["stop"] != asked["error_after"]:
            last = event({**head, "choices": [], "usage": usage}) if usage else b""
            last = chunk({}, reason) + last + b"data: [DONE]\n\n"
        await flow.write(last)
        flow.finish()

    async def fail(self, request, asked):
        """Answer with the status that was asked for, instead of the first token."""
        await deferLater(self.clock, asked["first"])
        if asked["status"] in (429, 503):
            request.setHeader(b"Retry-After", b"%d" % asked["retry"])
        answer(request, error(asked["status"], ASKED_FOR), asked["status"])

    async def break_off(self, request):
        """Reset the connection, after the turns of the reactor in which the last token leaves."""
        await sent(self.clock)
        (request.transport or request.channel).abortConnection()


resource = Uttered()
