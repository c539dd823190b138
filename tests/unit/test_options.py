"""The options of `tarry serve`, and what is said about wrong ones."""

import sys

import pytest
from twisted.python.usage import UsageError

from tarry.options import Options


def test_https_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    monkeypatch.delitem(sys.modules, "tarry.certificate", raising=False)  # it may be loaded already
    with pytest.raises(UsageError, match=r"cryptography is missing: pip install 'tarry\[tls\]'"):
        Options().parseOptions(["--https"])


def test_options_may_stand_after_the_folder(tmp_path):
    options = Options()
    options.parseOptions([str(tmp_path), "--port", "9", "-q", "--grace=3"])
    assert (options.folder(), options["ports"]) == (str(tmp_path), ["tcp:9:interface=127.0.0.1"])
    assert (options["grace"], options["quiet"]) == (3.0, 1)


@pytest.mark.parametrize(("option", "value", "allowed"), [
    ("grace", "-1", "seconds, from 0 to 3600"), ("grace", "nan", "seconds"), ("grace", "x", "seconds"),
    ("ledger", "1.5", "a whole number from 0 to 1000000"), ("workers", "0", "from 1 to 64"),
    ("header-seconds", "0", "from 0.1 to 3600"), ("idle-seconds", "inf", "from 0.1 to 86400"),
    ("header-bytes", "99", "from 100"), ("body-bytes", "-1", "from 0"), ("pending", "", "from 1"),
    ("connections", "0", "from 1"), ("gc", "loud", "idle or python"),
    ("form-bytes", "-1", "from 0"),
])  # fmt: skip
def test_what_is_not_allowed_is_said_in_one_line(option, value, allowed):
    with pytest.raises(UsageError) as wrong:
        Options().parseOptions([f"--{option}", value])
    line = str(wrong.value)
    assert line.startswith(f"--{option} {value!r} is not allowed: give ")
    assert allowed in line
    assert "\n" not in line


@pytest.mark.parametrize("origin", ["", "localhost:5173", "http://", "http://a/b", "http://a?b"])
def test_an_origin_has_a_scheme_and_a_host(origin):
    with pytest.raises(UsageError, match="give one like http://localhost:5173"):
        Options().parseOptions(["--origin", origin])


def test_hosts_and_origins_may_be_given_more_than_once():
    options = Options()
    options.parseOptions(["--host=a.test", "--host=b.test", "--origin=http://c.test"])
    assert options.allowed().hosts == {"a.test", "b.test"}
    assert options.allowed().origins == {b"http://c.test"}
