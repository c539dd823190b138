"""The manuals that scripts have as docstrings, and their groups in the order of learning."""

import warnings

import pytest

from tarry import collection, script_docs
from tarry.script_docs import Group, Manual, arrange, groups, manuals, order, read


def test_each_bundled_script_has_its_place_in_the_order_of_learning():
    names = [name for names in order().values() for name in names]
    assert len(names) == len(set(names))
    assert set(names) == {path.name for path in collection().glob("*.rpy")}


def test_groups_of_the_bundled_scripts():
    lessons, instruments = groups(collection())
    assert (lessons.title, instruments.title) == ("Lessons", "Test instruments")
    assert [manual.name for manual in lessons.manuals][:2] == ["delayed.rpy", "streamed.rpy"]
    assert [manual.name for manual in lessons.manuals] == order()["Lessons"]


def test_another_folder_is_one_group_sorted_by_name(tmp_path):
    for name in ("streamed", "delayed", "b/awaited"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.rpy").write_text("")
    [group] = groups(tmp_path)
    assert group.title == ""
    assert [one.name for one in group.manuals] == ["b/awaited.rpy", "delayed.rpy", "streamed.rpy"]
    assert groups(tmp_path / "b" / "..") == [Group("", tuple(manuals(tmp_path / "b" / "..")))]


def test_an_empty_folder_has_no_groups(tmp_path):
    assert groups(tmp_path) == []


def test_what_the_order_does_not_name_comes_last(tmp_path):
    a, b, c = (Manual(name, tmp_path) for name in "abc")
    names = {"First": ["c", "missing"], "None here": ["missing"]}
    assert arrange([a, b, c], names) == [Group("First", (c,)), Group("Others", (a, b))]


@pytest.mark.parametrize(
    "source",
    [
        "x = " + "-" * 100_000 + "1",
        "x = " + "(" * 1000,
        "x = " + "+".join("x" * 100_000),
        "x" + ".x" * 100_000,
        "def (:",
        "\0",
        b"# coding: nonsense\n",
        b"'\xff'",
    ],
)
def test_what_python_cannot_parse_has_an_empty_manual(tmp_path, source):
    path = tmp_path / "x.rpy"
    head = b'"""A summary."""\n'
    path.write_bytes(head + (source if isinstance(source, bytes) else source.encode()))
    if b"coding" in path.read_bytes():
        path.write_bytes(source)
    assert read(path, "x.rpy") == Manual("x.rpy", path)
    assert read(tmp_path / "missing.rpy", "missing.rpy").summary == ""


def test_a_doubtful_escape_in_a_script_is_no_warning(tmp_path):
    path = tmp_path / "x.rpy"
    path.write_text('"""A summary."""\nx = "\\d" is ""\n')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(path, "x.rpy").summary == "A summary."


def test_the_order_is_data_beside_the_module():
    assert script_docs.ORDER.name == "collection.ini"
    assert script_docs.ORDER.parent == type(collection())(script_docs.__file__).parent
