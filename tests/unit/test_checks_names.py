"""RPY5xx: names that Twisted or Python no longer has, or soon won't."""

import sys
from unittest import mock

import twisted

from tarry.checks import name_rules

from .check_cases import each, expect, render, resource


@each(
    "body",
    [
        "from twisted.web.resource import NoResource  #! use twisted.web.pages.notFound instead",
        "from twisted.web.resource import NoResource as N  #! was deprecated in Twisted 22.10.0",
        "from twisted.web import resource\nresource.NoResource  #! twisted.web.resource.NoResource",
        "import twisted.web.resource\ntwisted.web.resource.NoResource()  #! was deprecated in",
        "import twisted.web.resource as r\nclass P(r.ErrorPage):  #! twisted.web.pages.errorPage\n"
        "    pass",
        "from twisted.web.http import HTTPClient  #! Use twisted.web.client.Agent instead",
        "from twisted.python import url  #! twisted.python.url was deprecated in Twisted 17.5.0: ",
        "from twisted.python.url import URL  #! Please use hyperlink from PyPI instead",
        "import twisted.python.url  #! twisted.python.url was deprecated",
        "from twisted.internet.defer import returnValue  #! please use standard return",
        "from twisted.web.static import addSlash  #! was deprecated in Twisted 16.0.0: leave it",
        "from twisted.web.client import getPage  #! VERSION has no twisted.web.client.getPage: ",
        "from twisted.web.client import (  #! RPY501 VERSION has no twisted.web.client.getPage\n"
        "    Agent,\n    getPage,\n)",
        "from twisted.web import client\nclient.getPage(b'')  #! has no twisted.web.client.getPage",
        "from twisted.web import woven  #! VERSION has no twisted.web.woven",
        "import twisted.web.woven.page  #! VERSION has no twisted.web.woven: look for",
        "from twisted.web.woven.page import Page  #! VERSION has no twisted.web.woven: look for",
        "request.getClientIP()  #! request.getClientIP was deprecated in Twisted 18.4.0: please",
        "self.request.getClientIP()  #! please use getClientAddress instead",
        "request.getClientAddress()\nrequest.noSuchThing()\nself.getClientIP()",
        "from twisted.internet import reactor\nreactor.callLater(1, print)\nreactor.noSuchThing",
        "import twisted.internet.reactor\ntwisted.internet.reactor.stop",
        "from twisted.web import server, http as h\nserver.Site\nh.OK\nserver.Site.noSuchThing",
        "import twisted\ntwisted.version",
        "from twisted.web import vhost\nimport twisted.web.rewrite",
        "from . import nothing\nfrom .woven import nothing",
        "def f(server):\n    return server.noSuchThing",
        "from twisted.web import server\nserver = self.server\nserver.noSuchThing",
        "import no_such_module\nno_such_module.twisted.web.woven",
    ],
)
def test_names_in_twisted(tmp_path, body):
    """In a function: loading the script would show one at module level."""
    version = twisted.__version__.rpartition(".")[0]
    expect(tmp_path, render(body.replace("VERSION", f"Twisted {version}")))


@each(
    "body",
    [
        "import cgi  #! RPY503 Python 3.13 and newer have no module cgi: use request.args",
        "from cgi import escape  #! Python 3.13 and newer have no module cgi",
        "import asyncore, imp  #! 3.12 and newer have no module asyncore #! no module imp",
        "import distutils.util  #! no module distutils",
        "import urllib2  #! Python 3.0 and newer have no module urllib2: use urllib.request",
        "from urlparse import urlparse  #! use urllib.parse",
        "import StringIO  #! use io.StringIO\nStringIO.StringIO()",
        "import time\ntime.clock()  #! VERSION has no time.clock: look for its successor",
        "from time import clock  #! VERSION has no time.clock",
        "import urllib\nurllib.urlencode({})  #! has no urllib.urlencode",
        "from urllib import quote  #! has no urllib.quote",
        "from collections import Mapping  #! has no collections.Mapping",
        "import string\nstring.letters  #! has no string.letters",
        "import base64\nbase64.encodestring(b'')  #! has no base64.encodestring",
        "from os import getcwdu  #! has no os.getcwdu",
        "unicode('x')  #! Python 3 has no unicode: use str",
        "for n in xrange(3):  #! Python 3 has no xrange: use range\n    pass",
        "request.args.has_key(b'x')  #! Python 3's dicts have no has_key: use in",
        "for x in request.args.iteritems():  #! have no iteritems: use items\n    pass",
        "import html, json, os.path\nhtml.escape('x')\njson.dumps\nos.path.join",
        "import importlib, xml.etree.ElementTree\nxml.etree.ElementTree.parse",
        "from concurrent.futures import ThreadPoolExecutor\nimport urllib.parse\nurllib.parse.quote",
        "unicode = str\nunicode('x')\nself.xrange(3)\nself.args.has_key('x')",
        "import antigravity, this\nthis.nothing",
        "try:\n    import cgi\nexcept ImportError:\n    cgi = None",
        "try:\n    text = unicode\nexcept NameError:\n    text = str",
    ],
)
def test_names_in_python(tmp_path, body):
    version = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    expect(tmp_path, render(body.replace("VERSION", version)))


def test_a_notice_ends_with_its_paragraph():
    def old():
        """
        Do it.

        Deprecated in Twisted 1.2.3; use
        L{new} instead.

        @return: nothing
        """

    assert name_rules.deprecation("old", old) == (
        "old was deprecated in Twisted 1.2.3",
        "use new instead",
    )
    assert name_rules.deprecation("new", None) is None


def test_import_of_all_there_is(tmp_path):
    later = "def later(self, request):\n    return NOT_DONE_YET  #! client disconnects"
    expect(tmp_path, resource(later, "from twisted.web.server import *"))


@each("error", ["ImportError", "(OSError, ImportError)"])
def test_a_script_may_suit_two_twisteds(tmp_path, error):
    rest = f"""
        try:
            from twisted.web.client import getPage
        except {error}:
            from twisted.web.resource import NoResource
        try:
            server.noSuchThing
        except AttributeError:
            pass
        try:
            from twisted.web.resource import NoResource  #! deprecated
        except ValueError:
            pass
    """
    expect(tmp_path, render("pass", rest))


def test_only_twisted_and_python_are_imported_to_look_at_names(tmp_path):
    """And of Twisted not what another package is needed for: that is not missing from Twisted."""
    asked = []

    def importing(name):
        asked.append(name)
        raise ImportError(name)

    name_rules.verdict.cache_clear()
    with mock.patch.object(name_rules, "import_module", importing):
        imports = (
            "import json.decoder, xml.dom, no_such_module.at_all\nfrom twisted.web import server"
        )
        expect(tmp_path, render(imports))
    name_rules.verdict.cache_clear()
    assert asked
    assert {name.partition(".")[0] for name in asked} <= {"twisted", "json", "xml"}
