"""Our folder, requests and site pass Twisted's own tests, but for what they do otherwise on purpose."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# The first two look for a listing, which is only shown if asked for; the third for a log entry about
# a name that is not UTF-8, which any client could fill the log with.
LISTING = {
    "StaticFileTests.test_emptyChild",
    "StaticFileTests.test_emptyChildUnicodeParent",
    "StaticFileTests.test_undecodablePath",
}
# Nothing is forbidden to root: this fails with Twisted's own File too.
ROOT_MAY = {"StaticFileTests.test_forbiddenResource"} if os.geteuid() == 0 else set()

# What our requests and sites do otherwise, and why.
PLAIN_ERRORS = {  # 405, 500 and 501 are one plain line, without markup or the names of methods as sent
    "AllowedMethodsTests.test_notAllowedQuoting",
    "AllowedMethodsTests.test_notImplementedQuoting",
    "NewRenderTests.test_noBytesResult",
    "RequestTests.test_processingFailedDisplayTraceback",
    "RequestTests.test_processingFailedDisplayTracebackHandlesUnicode",
    "RequestTests.test_processingFailedNoTraceback",
    "RequestTests.test_processingFailedNoTracebackByDefault",
}
LOGGED = {  # HEAD is rendered by GET without a word; what is not bytes is a failure, and logged as one
    "NewRenderTests.testImplicitHead",
    "NewRenderTests.test_unsupportedHeadReturn",
    "NewRenderTests.test_unsupportedHeadWrite",
    "RememberURLTests.testRoot",
    "RememberURLTests.testSimple",
}
QUEUED = {  # a test's request is queued (deprecated since Twisted 16.3), so it keeps its channel
    "RequestTests.testPrePathURLHTTPPortAndSSL",
    "RequestTests.testPrePathURLSSLNonDefault",
    "RequestTests.testPrePathURLSSLPortAndSSL",
}
OUR_SITE = {  # has an access log, bodies and connections of its own, and refuses "GET *" with 400
    "RequestTests.test_defaultLargerContentFile",
    "RequestTests.test_defaultUnknownSizeContentFile",
    "RequestTests.test_parsePOSTFormSubmissionSetFromSite",
    "RequestTests.test_rejectNonOPTIONSStar",
    "RequestTests.test_siteSuppliedContentFile",
    "SiteAccessLogTests.test_combinedLogFormat",
    "SiteAccessLogTests.test_logFormatOverride",
    "SiteTest.test_buildProtocol",
    "SiteTest.test_constructorRequestFactory",
    "SiteTest.test_defaultRequestFactory",
}

GROUPS = {
    "static": ("test_static", LISTING | ROOT_MAY, 80),
    "web": ("test_web", PLAIN_ERRORS | LOGGED | QUEUED | OUR_SITE, 90),
    "resource": ("test_resource", set(), 16),
}


@pytest.mark.parametrize("group", GROUPS)
def test_only_what_differs_on_purpose_differs(group, tmp_path):
    module, differ, at_least = GROUPS[group]
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.twisted_cases", group],
        capture_output=True, text=True, timeout=300, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *failed, ran = [line for line in done.stdout.splitlines() if "\t" in line or line.isdigit()]
    assert int(ran) >= at_least
    assert {name.partition("\t")[0].removeprefix(f"{module}.") for name in failed} == differ
