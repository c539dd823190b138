"""The commands of `tarry`, called in this process; what starts a server is in tests/live."""

import json
import os
import shlex

import pytest
from click.testing import CliRunner

from tarry import __version__, collection
from tarry.cli import main


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


def test_list_has_each_script_with_its_parameters(tarry):
    shown = tarry("list").output
    assert max(map(len, shown.splitlines())) <= 80
    for words in ("delayed.rpy  Wait, then answer.", "0 to 3600", "default 5", "streamed.rpy"):
        assert words in shown


def test_list_json(tarry):
    listed = {row["name"]: row for row in json.loads(tarry("list", "--json").output)}
    assert set(listed) == {path.name for path in collection().glob("*.rpy")}
    assert listed["delayed.rpy"]["parameters"][0] == {
        "name": "delay",
        "meaning": "wait before the answer (seconds)",
        "range": "0 to 3600",
        "default": "5",
    }
    assert listed["delayed.rpy"]["requests"] == ["GET /delayed.rpy?delay=2"]
    assert "405" in listed["delayed.rpy"]["sections"]["Errors"]


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
    assert shown.stdout.startswith(f"{script}:1: ")
    assert "1 script checked: 1 finding" in shown.stderr


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
