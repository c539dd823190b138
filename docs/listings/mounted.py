from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.web.resource import Resource
from twisted.web.script import ResourceScript
from twisted.web.server import Site
from twisted.web.static import File

scripts = File("mine")
scripts.processors = {".rpy": ResourceScript}  # otherwise File serves the source

root = Resource()
root.putChild(b"slow", scripts)  # mine/delayed.rpy is at /slow/delayed.rpy

if __name__ == "__main__":
    serverFromString(reactor, "tcp:8080:interface=127.0.0.1").listen(Site(root))
    reactor.run()
