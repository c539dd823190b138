from twisted.internet import reactor
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET


class Smallest(Resource):
    isLeaf = True

    def render_GET(self, request):
        timer = reactor.callLater(2, self.answer, request)
        request.notifyFinish().addErrback(lambda reason: timer.cancel())
        return NOT_DONE_YET

    def answer(self, request):
        request.write(b"<!DOCTYPE html><title>Delayed</title>Sorry to keep you waiting.\n")
        request.finish()


resource = Smallest()
