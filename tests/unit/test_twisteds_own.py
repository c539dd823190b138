"""Our channel and folder pass Twisted's own tests, but for what they do otherwise on purpose."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Time limits are kept by one sweep over all connections, not by a timer for each, which these look at.
# What they are about is tested, over real connections, in tests/live/test_limits.py.
TIMERS = {
    "ChannelProductionTests.test_HTTPChannelUnregistersSelfWhenTimingOut",
    "RequestTests.test_requestBodyTimeoutFromFactory",
    "GenericHTTPChannelTests.test_h2CancelsH11Timeout",
} | {
    f"{version}.{test}"
    for version in ("HTTP0_9Tests", "HTTP1_0Tests", "HTTP1_1Tests", "HTTP1_1_close_Tests")
    for test in (
        "test_connectionLostAfterForceClose",
        "test_requestBodyDefaultTimeout",
        "test_transportForciblyClosed",
        "test_transportNotAbortedAfterConnectionLost",
        "test_transportNotAbortedWithZeroAbortTimeout",
    )
}
# A head that is too big is answered with 431, not 400, and with a reason.
TOO_BIG = {
    "ParsingTests.test_headersTooBigInitialCommand",
    "ParsingTests.test_headersTooBigOtherHeaders",
}
# The first two look for a listing, which is only shown if asked for; the third for a log entry about
# a name that is not UTF-8, which any client could fill the log with.
LISTING = {
    "StaticFileTests.test_emptyChild",
    "StaticFileTests.test_emptyChildUnicodeParent",
    "StaticFileTests.test_undecodablePath",
}
# Nothing is forbidden to root: this fails with Twisted's own File too.
ROOT_MAY = {"StaticFileTests.test_forbiddenResource"} if os.geteuid() == 0 else set()

GROUPS = {
    "http": ("test_http", TIMERS | TOO_BIG, 200),
    "static": ("test_static", LISTING | ROOT_MAY, 80),
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
    *failed, ran = done.stdout.splitlines()
    assert int(ran) >= at_least
    assert {name.removeprefix(f"{module}.") for name in failed} == differ
