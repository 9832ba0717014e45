"""Work directories that are damaged, or none: named, and no page written."""

import json

import pytest

from flax_depthmup import DepthMupError
from tests.report_pages import make, one_of_each, png, write


def damage(name, content):
  return lambda folder: (folder / name).write_bytes(content)


def remove(*names):
  return lambda folder: [(folder / name).unlink() for name in names]


SEEN = {"claim": "x", "seen": "yes"}


DAMAGES = {
  "config missing": (remove("config.json"), "w has no config.json"),
  "config cut": (damage("config.json", b'{"a": 1'), r"config\.json is damaged: no JSON"),
  "config empty": (damage("config.json", b""), r"config\.json is damaged"),
  "config a list": (damage("config.json", b"[1]"), r"config\.json is damaged"),
  "config no text": (damage("config.json", b"\xff\xfe\x00"), r"config\.json is damaged"),
  "config of others": (damage("config.json", b'{"a": 1}'), "has no versions; leave it out"),
  "summary cut": (damage("summary.json", b'{"x": '), r"summary\.json is damaged: no JSON"),
  "summary empty": (damage("summary.json", b"{}"), r"summary\.json is damaged"),
  "summary deep": (damage("summary.json", b"[" * 10**6), r"summary\.json is damaged"),
  "verdict": (
    damage("summary.json", json.dumps({"x": [SEEN]}).encode()),
    r"summary\.json is damaged: 'seen' is 'yes', expected true, false or null",
  ),
  "results cut": (damage("results.jsonl", b'{"a": 1}\n{"a'), "line 2 is cut short"),
  "results bad": (damage("results.jsonl", b'{"a": 1}\n\n'), "line 2 is no JSON object"),
  "results list": (damage("results.jsonl", b"[]\n"), "line 1 is no JSON object"),
  "results gone": (remove("results.jsonl"), "is missing or empty, and a.png was drawn"),
  "results empty": (damage("results.jsonl", b""), r"results\.jsonl is missing or empty"),
  "figure cut": (damage("a.png", png()[:-20]), r"a\.png is damaged: no whole PNG image"),
  "figure head": (damage("a.png", png()[:20]), r"a\.png is damaged"),
  "figure empty": (damage("a.png", b""), r"a\.png is damaged"),
  "figure other": (damage("a.png", b"<svg></svg>"), r"a\.png is damaged"),
  "figure flipped": (
    damage("a.png", png()[:45] + bytes([png()[45] ^ 1]) + png()[46:]),
    r"a\.png is damaged",
  ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_directory_is_named(tmp_path, name):
  spoil, words = DAMAGES[name]
  fine = make(tmp_path / "fine", {"x": 1})
  folder = make(tmp_path / "w", {"x": 1})
  spoil(folder)
  with pytest.raises(DepthMupError, match=words) as caught:
    write(tmp_path / "r.html", fine, folder)
  assert str(folder) in str(caught.value)
  assert not list(tmp_path.glob("r.html*"))


def test_wrong_workdirs(tmp_path):
  everything = one_of_each(tmp_path / "work")

  def refused(words, *workdirs):
    with pytest.raises(DepthMupError, match=words):
      write(tmp_path / "r.html", *workdirs)

  refused("--workdirs is missing: give work directories")
  refused("'' is no folder", "")
  refused("nowhere' is no folder; give", tmp_path / "nowhere")
  refused("is no folder .wildcards are not expanded.; give", everything / "*")
  refused("is a file", everything / "a" / "config.json")
  (tmp_path / "bare").mkdir()
  refused("bare is no work directory and has none below it", tmp_path / "bare")
  again = everything / "c" / ".." / "a"
  refused(f"names {again} twice, first as {everything}/a", everything, again)
  assert not (tmp_path / "r.html").exists()
