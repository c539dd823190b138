"""scripts/same-text: helpers that stand in several scripts have one text."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def same_text(*arguments):
    command = [sys.executable, ROOT / "scripts" / "same-text", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    return done.returncode, done.stdout


def test_the_collection_agrees():
    assert same_text(ROOT / "rpy") == (0, "")


def test_a_drifted_helper_is_named_and_brought_back(tmp_path):
    for path in (ROOT / "rpy").glob("*.rpy"):
        shutil.copy(path, tmp_path)
    drifted = tmp_path / "streamed.rpy"
    text = drifted.read_text()
    drifted.write_text(text.replace("Answer with one plain line.", "Answer."))
    code, said = same_text(tmp_path)
    assert code == 1
    assert said.startswith(f"{drifted}: refuse differs from the one in ")
    code, said = same_text("--fix", tmp_path)
    assert code == 0
    assert drifted.read_text() == text
    assert same_text(tmp_path) == (0, "")
