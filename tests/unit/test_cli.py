"""The commands of `tarry`, called in this process; what starts a server is in tests/live."""

import json
import os
import re
import shlex
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from tarry import __version__, collection, serving
from tarry.cli import main
from tarry.options import Options


@pytest.fixture
def tarry(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments):
        return CliRunner().invoke(main, list(map(str, arguments)), catch_exceptions=False)

    return run


@pytest.mark.parametrize("command", ["", "serve", "list", "copy", "check", "fetch"])
def test_help_has_examples_and_fits_the_window(tarry, command):
    shown = tarry(*command.split(), "--help")
    assert shown.exit_code == 0
    assert "Example" in shown.output
    assert f"tarry {command}" in shown.output
    assert max(map(len, shown.output.splitlines())) <= 80


def test_version(tarry):
    assert tarry("--version").output == f"tarry, version {__version__}\n"


def test_list_is_a_screenful_in_the_order_of_learning(tarry):
    lines = tarry("list").output.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= len(list(collection().glob("*.rpy"))) + 5
    assert [line for line in lines if line.endswith(":")] == ["Lessons:", "Test instruments:"]
    names = re.findall(r"^  (\w+)\.rpy  +\S", "\n".join(lines), re.MULTILINE)
    assert names[:4] == ["delayed", "streamed", "cancellable", "awaited"]
    assert sorted(names) == sorted(path.stem for path in collection().glob("*.rpy"))


@pytest.mark.parametrize("what", ["delayed", "delayed.rpy", str(collection() / "delayed.rpy")])
def test_list_one_script(tarry, what):
    shown = tarry("list", what).output
    assert shown.startswith(
        "delayed.rpy  Wait, then answer.\n\n  GET /delayed.rpy?delay=2\n\n  delay "
    )
    for words in ("0 to 3600", "default 5", "Answer: 200 text/html", "  $ curl -i 'http://127"):
        assert words in shown
    assert "streamed" not in shown


def test_list_wraps_prose_but_no_command(tarry, tmp_path):
    command = f"curl 'http://127.0.0.1:8080/x.rpy?{'delay=1&' * 10}'"
    (tmp_path / "x.rpy").write_text(
        f'"""Say it.\n\nAnswer: {"word " * 40}\n\nTry it:\n\n    $ {command}\n"""\n'
    )
    lines = tarry("list", tmp_path / "x.rpy").output.splitlines()
    assert f"  $ {command}" in lines
    assert max(len(line) for line in lines if "$" not in line) <= 80


def test_list_of_what_is_not_there(tarry):
    for what, guess in (("delaied", ": did you mean delayed?"), ("nowhere/", "")):
        shown = tarry("list", what)
        assert shown.exit_code == 1
        expected = f"Error: there is no script or folder '{what}'{guess} (all: tarry list)\n"
        assert shown.output == expected


def test_list_json(tarry):
    listed = {row["name"]: row for row in json.loads(tarry("list", "--json").output)}
    assert set(listed) == {path.name for path in collection().glob("*.rpy")}
    assert listed["delayed.rpy"]["parameters"][0] == {
        "name": "delay",
        "meaning": "seconds to wait before answering",
        "range": "0 to 3600",
        "default": "5",
    }
    assert listed["delayed.rpy"]["requests"] == ["GET /delayed.rpy?delay=2"]
    assert "400" in listed["delayed.rpy"]["sections"]["Errors"]
    assert {row["group"] for row in listed.values()} == {"Lessons", "Test instruments"}
    [one] = json.loads(tarry("list", "delayed", "--json").output)
    assert one == {**listed["delayed.rpy"], "group": ""}


def test_list_of_somebody_s_scripts(tarry, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "plain.rpy").write_text('"""Just a line."""\nresource = None\n')
    (tmp_path / "sub" / "[b]rackets.rpy").write_text('"""A [red]line[/] of it."""\n')
    assert "sub/[b]rackets.rpy  A [red]line[/] of it." in tarry("list", tmp_path).output
    (tmp_path / "sub" / "[b]rackets.rpy").unlink()
    (tmp_path / "broken.rpy").write_text("def (:\n")
    (tmp_path / ".hidden.rpy").write_text("")
    rows = json.loads(tarry("list", tmp_path, "--json").output)
    assert [(row["name"], row["summary"]) for row in rows] == [
        ("broken.rpy", ""),
        ("sub/plain.rpy", "Just a line."),
    ]


ESCAPES = "\x1b[31mred\x07\x9b1m\u202e"
ESCAPED = r"\x1b[31mred\x07\x9b1m\u202e"


def test_terminal_escapes_are_shown_as_text(tarry, tmp_path, capsys):
    (tmp_path / f"{ESCAPES}.rpy").write_text(
        f'"""Say {ESCAPES}.\n\n    GET /{ESCAPES}\n\nParameters:\n\n    name  meaning  range  default\n'
        f"    a{ESCAPES}  b{ESCAPES}  c{ESCAPES}  d{ESCAPES}\n\nAnswer: it{ESCAPES}\n\n"
        f'Try it:\n\n    $ echo {ESCAPES}\n"""\n'
        f"raise ValueError({ESCAPES!r})\n"
    )
    options = Options()
    options.parseOptions([str(tmp_path)])
    serving._announce(options, SimpleNamespace(ports=list))
    whole = tarry("list", tmp_path / f"{ESCAPES}.rpy").output
    for shown in (
        capsys.readouterr().out,
        tarry("list", tmp_path).output,
        whole,
        tarry("check", tmp_path).stdout,
    ):
        assert set(map(ord, ESCAPES)) & set(map(ord, shown)) <= set(map(ord, "[31mred"))
        assert f"{ESCAPED}.rpy" in shown
    assert "\N{HORIZONTAL ELLIPSIS}" not in whole  # nothing is cut off


def test_a_very_deep_expression_costs_the_list_only_its_own_manual(tarry, tmp_path):
    (tmp_path / "deep.rpy").write_text(f'"""Go deep."""\nx = {"-" * 100_000}1\n')
    (tmp_path / "plain.rpy").write_text('"""Stay plain."""\n')
    rows = json.loads(tarry("list", tmp_path, "--json").output)
    assert [(row["name"], row["summary"]) for row in rows] == [
        ("deep.rpy", ""),
        ("plain.rpy", "Stay plain."),
    ]
    assert tarry("list", tmp_path).exit_code == 0


def test_list_of_nothing(tarry, tmp_path):
    shown = tarry("list", tmp_path)
    assert shown.exit_code == 1
    assert shown.output == f"Error: there is no .rpy file in {tmp_path}: try another folder\n"


def test_copy(tarry, tmp_path):
    shown = tarry("copy", "delayed", "streamed.rpy", tmp_path)
    assert shown.exit_code == 0
    assert sorted(os.listdir(tmp_path)) == ["delayed.rpy", "streamed.rpy"]
    for name in os.listdir(tmp_path):
        assert (tmp_path / name).read_bytes() == (collection() / name).read_bytes()


def test_copy_again_changes_nothing(tarry, tmp_path):
    tarry("copy", "delayed", tmp_path)
    shown = tarry("copy", "delayed", tmp_path)
    assert shown.exit_code == 0
    assert "was there already" in shown.output


def test_copy_never_overwrites_unless_forced(tarry, tmp_path):
    mine = tmp_path / "delayed.rpy"
    mine.write_text("mine")
    shown = tarry("copy", "streamed", "delayed", tmp_path)
    assert shown.exit_code == 1
    assert "nothing copied" in shown.output
    assert str(mine) in shown.output
    assert "--force" in shown.output
    assert os.listdir(tmp_path) == ["delayed.rpy"]
    assert mine.read_text() == "mine"
    assert tarry("copy", "streamed", "delayed", tmp_path, "--force").exit_code == 0
    assert "callLater" in mine.read_text()


@pytest.mark.parametrize("name", ["delaied", "dealyed.rpy", "delay", "DELAYED"])
def test_copy_suggests_the_nearest_name(tarry, tmp_path, name):
    shown = tarry("copy", name, tmp_path)
    assert shown.exit_code == 1
    assert "did you mean delayed?" in shown.output
    assert os.listdir(tmp_path) == []


def test_copy_suggests_nothing_when_no_name_is_near(tarry, tmp_path):
    shown = tarry("copy", "zzz", tmp_path)
    assert (shown.exit_code, shown.output) == (
        1,
        "Error: there is no script 'zzz' (all: tarry list)\n",
    )


@pytest.mark.parametrize(("argument", "missing"), [
    ("delayed", "the destination is missing: give one or more names and then the folder"),
    ("delayed.rpy", "as in: tarry copy delayed site/"),
    ("site", "the name of a script is missing: give one or more names and then the folder"),
])  # fmt: skip
def test_copy_says_what_is_missing(tarry, argument, missing):
    shown = tarry("copy", argument)
    assert shown.exit_code == 2
    assert missing in shown.output


def test_copy_to_where_nothing_is(tarry, tmp_path):
    shown = tarry("copy", "delayed", tmp_path / "nowhere")
    assert shown.exit_code == 1
    assert "make it first" in shown.output


def test_copy_to_where_nothing_may_be_written(tarry, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    shown = tarry("copy", "delayed", tmp_path)
    assert shown.exit_code == 1
    assert "No space left on device" in shown.output
    assert os.listdir(tmp_path) == []


def test_check_of_the_collection_finds_nothing(tarry):
    shown = tarry("check")
    assert (shown.exit_code, shown.stdout) == (0, "")
    assert "no findings" in shown.stderr


def test_check_says_where_and_what(tarry, tmp_path):
    script = tmp_path / "bad.rpy"
    script.write_text("x = 1\n")
    shown = tarry("check", tmp_path)
    assert shown.exit_code == 1
    assert shown.stdout.startswith(f"{script}:1: RPY005 ")
    assert "1 script checked: 1 finding" in shown.stderr


def test_check_stops_a_script_that_does_not_end(tarry, tmp_path):
    (tmp_path / "bad.rpy").write_text("while True: pass\n")
    shown = tarry("check", "--timeout", "0.2", tmp_path)
    assert shown.exit_code == 1
    assert "bad.rpy:1: RPY004 loading it does not end within 0.2 s: " in shown.stdout


WRONG = [
    (["nowhere"], "there is no folder 'nowhere'"),
    ([__file__], "is not a folder"),
    (["--port", "x"], "--port 'x' is not allowed: give a whole number from 0 to 65535"),
    (["--port", "65536"], "--port '65536' is not allowed"),
    (["--listen", "tpc:80"], "--listen 'tpc:80' is no endpoint (Unknown endpoint type: 'tpc')"),
    (["--listen", "tcp:eighty"], "--listen 'tcp:eighty' is no endpoint"),
    (["--listen", "tcp:0", "--port", "1"], "leave out --port"),
    (["--listen", "tcp:0", "--interface", "::1"], "leave out --port and --interface"),
    (["--path", ".", "."], "give only one"),
    (["--prot", "1"], "option --prot not recognized"),
    ([".", "."], "Wrong number of arguments"),
    (["--workers", "2", "--listen", "unix:/tmp/x"], "--workers share a tcp: or ssl: endpoint"),
    (["--https", "--listen", "tcp:0"], "give it an ssl: endpoint instead of --https"),
]


@pytest.mark.parametrize(("arguments", "words"), WRONG)
@pytest.mark.parametrize("also", [[], ["--print-command"]])
def test_serve_refuses_in_one_line(tarry, arguments, words, also):
    shown = tarry("serve", *also, *arguments)
    assert shown.exit_code == 1
    assert words in shown.output
    assert shown.output.startswith("Error: ")
    assert shown.output.count("\n") == 1
    assert "tarry serve --help" in shown.output


def test_serve_refuses_a_folder_that_it_may_not_read(tarry, tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)  # root may read everything
    shown = tarry("serve", tmp_path)
    assert shown.exit_code == 1
    assert "may not be read" in shown.output


def test_print_command(tarry, tmp_path):
    shown = tarry("serve", "--print-command", "--port", "9", tmp_path / "..")
    assert shown.exit_code == 0
    command = ["twistd", "-n", "--pidfile=", "tarry", "--port", "9", str(tmp_path / "..")]
    assert shlex.split(shown.output) == command
