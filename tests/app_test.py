"""What an entry point says when it cannot go on: one sentence, and its exit code."""

import pathlib
import re
import subprocess
import sys

import pytest

from experiments._lib import app
from flax_depthmup import DepthMupError

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
  """absl's main without absl: no flags are parsed, no devices set up."""
  monkeypatch.setattr(app.app, "run", lambda main: main(["program"]))
  for name in ("use_all_cores", "start_distributed"):
    monkeypatch.setattr(app, name, lambda: None)


@pytest.mark.parametrize(
  ("error", "code", "words"),
  [
    (DepthMupError("--width=0: expected more"), 1, "error: --width=0: expected more"),
    (FileNotFoundError(2, "No such file", "a.txt"), 1, "error: .*a.txt"),
    (MemoryError("Unable to allocate 4 TiB"), 1, "4 TiB\\); take smaller sizes"),
    (ModuleNotFoundError("no", name="grain"), 1, "the package grain is not installed"),
    (KeyboardInterrupt(), 130, "the same command continues"),
  ],
  ids=lambda value: type(value).__name__,
)
def test_an_error_is_one_sentence(capsys, error, code, words):
  def main(argv):
    raise error

  with pytest.raises(SystemExit) as stopped:
    app.run(main)
  assert stopped.value.code == code
  found = capsys.readouterr().err.strip()
  assert len(found.splitlines()) == 1
  assert re.search(words, found)


def test_other_errors_keep_their_trace():
  def main(argv):
    raise ZeroDivisionError

  with pytest.raises(ZeroDivisionError):
    app.run(main)


def test_help_shows_the_shared_flags_too():
  shown = subprocess.run(
    [sys.executable, "-m", "experiments.heat_map", "--help"],
    capture_output=True,
    text=True,
    cwd=ROOT,
    check=False,
  ).stdout
  for flag in ("describe", "workdir", "depths", "log2_multipliers"):
    assert re.search(rf"^\s+--(\[no\])?{flag}:", shown, re.M), flag
