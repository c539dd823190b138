from twisted.internet.defer import CancelledError, Deferred
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET


class Early(Resource):
    isLeaf = early = True

    def render_POST(self, request):
        if not hasattr(request, "body"):
            return b"serve me with 'tarry serve': plain twistd waits for the body\n"
        reading = Deferred.fromCoroutine(self.read(request))
        request.notifyFinish().addErrback(lambda reason: reading.cancel())
        reading.addErrback(self.failed, request)
        return NOT_DONE_YET

    def failed(self, failure, request):
        if not failure.check(CancelledError):  # the client disconnected
            request.processingFailed(failure)  # logs it, and answers 500

    async def read(self, request):
        size = 0
        async for piece in request.body:
            size += len(piece)
            if size > 2_000_000:
                request.setResponseCode(413)
                request.write(b"over 2000000 bytes\n")
                request.finish()
                return
        request.write(b"%d bytes\n" % size)
        request.finish()


recache()
resource = Early()
