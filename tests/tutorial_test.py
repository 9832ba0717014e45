"""docs/tutorial.md: its commands parse, and run from end to end at toy size."""

import importlib
import itertools
import json
import pathlib
import re
import shlex

import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import proxy_tuning, train_lm
from experiments._lib import proxy_tuning_config
from flax_depthmup import DepthMupError

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "tutorial.md"
#: Sizes of a toy. Both nets are the base net, where every preset is standard
#: parametrization; on one mesh all groups run one program, compiled once, and equal values
#: must give equal losses.
TOY = {
  **{"width": 8, "depth": 1, "base_width": 8, "base_depth": 1, "head_dim": 4},
  **{"sequence_length": 8, "batch_size": 2, "steps": 12, "trials": 3, "direct": 2},
  **{"neighbours": "-1:1:1", "target_seeds": 2, "mesh": "sweep:8"},
}
LAUNCHED = re.compile(r"docs/launch/\S+ NAME ZONE (?P<entry>\w+)(?P<flags>.*)")
RUN = re.compile(r"python -m experiments\.(?P<entry>\w+)(?P<flags>.*)")


def commands():
  """(entry point, its flags) of every command of the page, in its order."""
  found = []
  for block in re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL):
    for line in block.replace("\\\n", " ").splitlines():
      if match := LAUNCHED.search(line) or RUN.search(line):
        words = shlex.split(match["flags"], comments=True)
        found.append((match["entry"], words))
  return found


def values_of(words):
  """The flags of a command as absl reads them: name -> value."""
  parsed = {}
  for word in words:
    name, given, text = word.removeprefix("--").partition("=")
    assert word.startswith("--"), f"{word} is no flag"
    parsed[name] = flags.FLAGS[name].parser.parse(text) if given else True
  return parsed


CONFIGS = {
  "proxy_tuning": proxy_tuning_config.from_flags,
  "train_lm": train_lm.config_from_flags,
}


def test_the_page_has_the_commands_of_all_steps():
  entries = [entry for entry, _ in commands()]
  assert entries.count("proxy_tuning") >= 3  # search, compare, on a pod
  assert entries.count("train_lm") >= 2  # here, on a pod


@pytest.mark.parametrize(("entry", "words"), commands())
def test_a_command_parses(entry, words):
  """Known flags, values of their types, and a run that they describe."""
  importlib.import_module(f"experiments.{entry}")
  given = values_of(words)
  assert given["workdir"]
  with flagsaver.flagsaver(**given):
    if entry in CONFIGS:
      CONFIGS[entry]()


def test_a_command_with_a_slip_is_refused():
  entry, words = commands()[0]
  with pytest.raises(KeyError):
    values_of([*words, "--no_such_flag=1"])
  wrong = values_of(words) | {"head_dim": 48}
  with flagsaver.flagsaver(**wrong), pytest.raises(DepthMupError, match="head_dim"):
    CONFIGS[entry]()


def test_the_large_net_is_the_one_that_was_searched_for():
  """The page's train_lm command is the one its search prints, but for the values."""
  search = values_of(commands()[0][1])
  entry, words = commands()[1]
  assert entry == "train_lm"
  with flagsaver.flagsaver(**search):
    config = proxy_tuning_config.from_flags()
  printed = values_of(config.command(proxy_tuning_config.Values(-7, 0, -2)).split()[3:])
  given = values_of(words)
  assert set(given) == set(printed)
  free = {"workdir", "lr", "block_multiplier", "weight_decay"}
  assert {k: v for k, v in given.items() if k not in free} == {
    k: v for k, v in printed.items() if k not in free
  }


def run(workdir, words, **values):
  given = values_of(words) | values | {"workdir": str(workdir)}
  with flagsaver.flagsaver(**given):
    proxy_tuning.main([])


def read(folder):
  lines = (folder / "results.jsonl").read_text().splitlines()
  summary = json.loads((folder / "summary.json").read_text())["proxy_tuning"]
  return [json.loads(line) for line in lines], summary


def steps_of_the_page():
  """The flags of the search and of the comparison."""
  found = [words for entry, words in commands() if entry == "proxy_tuning"]
  search, compare = (set(words) for words in found[:2])
  assert search - compare == {"--search_only"}
  assert not compare - search
  return found[:2]


def test_the_page_at_toy_size(tmp_path, capsys):
  search, compare = steps_of_the_page()
  folder = tmp_path / "w"
  run(folder, search, **TOY)
  assert "python -m experiments.train_lm --workdir=DIR --width=8" in capsys.readouterr().out
  assert not (folder / "summary.json").exists()
  searched = (folder / "results.jsonl").read_text()
  assert len(searched.splitlines()) == 3
  run(folder, compare, **TOY)
  assert (folder / "results.jsonl").read_text().startswith(searched)
  records, summary = read(folder)
  groups = [
    (g, len([*rows])) for g, rows in itertools.groupby(records, lambda r: r["group"])
  ]
  expected = [("proxy", 3), ("standard", 1), ("transferred", 2), ("direct", 2)]
  assert groups == [*expected, ("neighbours", 2), ("counterparts", 4)]
  best = min(records[:3], key=lambda r: r["loss"])
  standard, here, other = records[3:6]
  # The same net from the same seed, wherever it is trained.
  assert here["loss"] == standard["loss"] == best["loss"]
  assert other["loss"] != here["loss"]
  assert [i for i, r in enumerate(records) if r["parametrization"] == "standard"] == [3]
  losses = [r["loss"] for r in records]
  # In the base net the counterparts are what they are counterparts of.
  assert losses[6:10] == losses[10:]
  assert len(set(losses)) == len(losses) - 2 - 4
  assert all(1 < loss < 7 for loss in losses)
  for r in records[3:]:
    if r["group"] not in ("direct", "counterparts"):
      assert r["log2_multiplier"] == best["log2_multiplier"]
      assert r["log2_decay"] == best["log2_decay"]
      moved = abs(r["log2_lr"] - best["log2_lr"])
      assert moved == (1 if r["group"] == "neighbours" else 0)
  assert set(summary["claims"]) == {"equal_compute", "standard", "rate"}
  assert summary["ranking"]["rank_correlation"] == pytest.approx(1)
  assert summary["compute"]["search_and_one_large_run_in_large_runs"] == 4
  assert (folder / "proxy_tuning.png").read_bytes()[:4] == b"\x89PNG"
  capsys.readouterr()
  run(folder, compare, **TOY)
  assert "already done" in capsys.readouterr().out
  with pytest.raises(DepthMupError, match="holds another run: steps is 12"):
    run(folder, compare, **(TOY | {"steps": 13}))


@pytest.mark.slow
def test_the_whole_page_with_two_sizes(tmp_path, capsys):
  """Search, train_lm with what it prints, comparison: train_lm trains as was compared."""
  search, compare = steps_of_the_page()
  sizes = TOY | {"width": 16, "depth": 2, "batch_size": 8, "steps": 60}
  run(tmp_path / "w", search, **sizes)
  command = re.search(r"python -m experiments\.train_lm (.*)", capsys.readouterr().out)[1]
  given = values_of(command.split()) | {"workdir": str(tmp_path / "lm")}
  with flagsaver.flagsaver(**given):
    train_lm.main([])
  trained = json.loads((tmp_path / "lm" / "summary.json").read_text())["validation_loss"]
  run(tmp_path / "w", compare, **sizes)
  records, summary = read(tmp_path / "w")
  for r in records:
    small = r["group"] in ("proxy", "counterparts")
    assert (r["width"], r["depth"]) == ((8, 1) if small else (16, 2))
  losses = summary["ranking"]
  assert losses["proxy_losses"] != losses["large_losses"]
  compared = [r["loss"] for r in records if r["group"] == "transferred"]
  # The same start, net and optimizer; the batches come in another order.
  assert abs(trained - sum(compared) / len(compared)) < 0.1
