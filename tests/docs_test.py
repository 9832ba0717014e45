"""The pages of docs/: their code runs, what they name is there, the site builds."""

import ast
import importlib
import json
import pathlib
import re
import shlex
import subprocess
import sys

import pytest
import yaml
from absl import flags

import flax_depthmup as dmup
from flax_depthmup import adapt, checkpoint, diagnostics, limits

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = [*PAGES, ROOT / "README.md", ROOT / "experiments" / "README.md"]
ENTRIES = {
  path.stem for path in (ROOT / "experiments").glob("*.py") if path.stem != "__init__"
}
#: Pages whose code compiles for more than 15 seconds.
SLOW = {"instruments", "limits", "nnx", "files", "own_model"}


def name(path):
  return str(path.relative_to(ROOT).with_suffix(""))


def blocks(path, language):
  return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.S | re.M)


def prose(path):
  """The text without its code."""
  text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.S | re.M)
  return re.sub(r"`[^`\n]+`", "", text)


# Code --------------------------------------------------------------------------------


def check_index(names):
  assert names["kernel"].update_factor == pytest.approx(1 / 4)
  assert names["loss"] < 2.3


def check_limits(names):
  assert names["run"].outputs.shape == (10, 4, 1)
  assert names["deep"].outputs.error < 0.01


def check_instruments(names):
  assert names["check"].passed
  assert names["verdict"]["transfers"] is True
  assert names["found"].kappa == pytest.approx(0.5, abs=0.05)


#: Page -> what its names must be in the end, where its text says so.
SAYS = {"index": check_index, "limits": check_limits, "instruments": check_instruments}


@pytest.mark.parametrize(
  "page",
  [
    pytest.param(p, id=p.stem, marks=[pytest.mark.slow] if p.stem in SLOW else [])
    for p in sorted(DOCS.glob("*.md"))
    if blocks(p, "python")
  ],
)
def test_python_blocks_run(page, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)  # what a page writes
  names: dict = {"__name__": page.stem}
  for block in blocks(page, "python"):
    exec(compile(block, str(page), "exec"), names)
  SAYS.get(page.stem, lambda names: None)(names)


# Commands ----------------------------------------------------------------------------


def commands(text):
  """The words of every command of a shell block."""
  lines, found = text.replace("\\\n", " ").splitlines(), []
  while lines:
    line = lines.pop(0)
    while True:
      try:
        found.append(shlex.split(line, comments=True))
        break
      except ValueError:  # a quotation that goes on
        assert lines, f"a quotation has no end: {line}"
        line += "\n" + lines.pop(0)
  return [words for words in found if words]


def calls(words):
  """(entry point, its arguments) of the calls of a command, of a launcher too."""
  for i, word in enumerate(words):
    if word.startswith("experiments.") and words[i - 1] == "-m":
      yield word.removeprefix("experiments."), words[i + 1 :]
    elif word == "docs/launch/tpu.sh":
      yield words[i + 3], words[i + 4 :]
    elif word == "docs/launch/train.sbatch":
      yield words[i + 1], words[i + 2 :]


def in_tables(text):
  """The same of code in a line: `NAME --workdir=DIR ...`."""
  for code in re.findall(r"`([a-z_]\w* --[^`]+)`", text):
    entry, *rest = shlex.split(code.replace("\\|", "|"))
    if entry in ENTRIES:
      yield entry, rest


def needs(module):
  """The modules of experiments that a module imports, itself among them."""
  found, left = set(), [module]
  while left:
    path = left.pop()
    file = (ROOT / path.replace(".", "/")).with_suffix(".py")
    if path in found or not file.exists():
      continue
    found.add(path)
    for node in ast.walk(ast.parse(file.read_text())):
      if isinstance(node, ast.Import):
        left += [alias.name for alias in node.names]
      elif isinstance(node, ast.ImportFrom) and node.module:
        left += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
  return found


def flags_of(entry):
  """Name -> flag, of those that an entry point defines or imports."""
  importlib.import_module(f"experiments.{entry}")
  by_module = flags.FLAGS.flags_by_module_dict()
  mine = needs(f"experiments.{entry}")
  return {f.name: f for module in mine for f in by_module.get(module, ())}


def check_call(entry, arguments):
  assert entry in ENTRIES, f"there is no experiments.{entry}"
  known = flags_of(entry)
  for word in arguments:
    if word.startswith("$"):  # a variable, which its own line is checked for
      continue
    if re.fullmatch(r"[|;&>].*", word):
      break
    assert word.startswith("--"), f"{entry}: {word!r} is no flag"
    flag, equals, value = word.removeprefix("--").partition("=")
    if flag not in known and flag.removeprefix("no") in known:
      assert known[flag.removeprefix("no")].boolean, word
      continue
    assert flag in known, f"experiments.{entry} has no flag --{flag}"
    assert equals or known[flag].boolean, f"{word} has no value"
    if equals and not value.startswith("$"):
      known[flag].parser.parse(value)


@pytest.mark.parametrize("page", TEXTS, ids=name)
def test_commands_name_what_there_is(page):
  targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
  for block in blocks(page, "bash"):
    for words in commands(block):
      if words[0] == "make":
        assert set(words[1:]) <= targets, words
      for entry, arguments in calls(words):
        check_call(entry, arguments)
      for variable in re.findall(r"^[A-Z]+=(--.*)", " ".join(words)):
        for word in variable.split():
          flag = word.removeprefix("--").partition("=")[0]
          assert flag in flags_of("lr_transfer"), word
  for entry, arguments in in_tables(page.read_text()):
    check_call(entry, arguments)


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("python -m experiments.lr_transfr --workdir=DIR", "there is no experiments"),
    ("python -m experiments.train_lm --workdirs=DIR", "has no flag --workdirs"),
    ("python -m experiments.train_lm --steps=many", "many"),
    ("python -m experiments.train_lm --steps", "has no value"),
    ("docs/launch/tpu.sh A B train_lm --log2_lrs=-9,-8", "has no flag --log2_lrs"),
  ],
)
def test_a_wrong_command_is_seen(text, words):
  (command,) = commands(text)
  (call,) = calls(command)
  with pytest.raises((AssertionError, ValueError), match=words):
    check_call(*call)


# Links and the table of contents -----------------------------------------------------


def links(path):
  """Relative targets of links and images."""
  found = re.findall(r"\]\(([^)\s]+)\)", prose(path))
  return [link for link in found if not re.match(r"[a-z]+:|#", link)]


@pytest.mark.parametrize("page", TEXTS, ids=name)
def test_links_and_images_are_there(page):
  for link in links(page):
    assert (page.parent / link.partition("#")[0]).exists(), link


def listed(entry):
  """The pages of a table of contents."""
  if isinstance(entry, str):
    return [entry]
  inside = entry.values() if isinstance(entry, dict) else entry
  return [page for part in inside for page in listed(part)]


def test_every_page_is_in_the_table_of_contents():
  found = listed(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
  pages = [*PAGES, *DOCS.rglob("*.ipynb")]
  assert sorted(found) == sorted(str(p.relative_to(DOCS)) for p in pages)


# The site ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory):
  folder = tmp_path_factory.mktemp("site")
  command = [sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={folder}"]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  return folder


def test_every_public_name_is_in_the_site(site):
  text = "".join(path.read_text() for path in (site / "api").glob("*.html"))
  shown = set(re.findall(r'id="flax_depthmup\.([\w.]+)"', text))
  last = {anchor.rpartition(".")[2] for anchor in shown}
  missing = [n for n in dmup.__all__ if n not in last]
  for module in (adapt, diagnostics, limits):
    own = {a for a in shown if a.startswith(module.__name__.partition(".")[2])}
    last = {anchor.rpartition(".")[2] for anchor in own}
    missing += [f"{module.__name__}.{n}" for n in module.__all__ if n not in last]
  assert not missing
  assert (
    f"{checkpoint.__name__.partition('.')[2]}.{checkpoint.Checkpoints.__name__}" in shown
  )


def test_the_site_asks_nothing_of_others(site):
  for path in site.rglob("*.html"):
    for tag in re.findall(r"<(?:link|script|img)\b[^>]*>", path.read_text()):
      assert not re.search(r'(?:src|href)="(?:https?:)?//', tag), f"{path.name}: {tag}"


# The notebook ------------------------------------------------------------------------


def test_the_notebook_holds_its_results():
  for path in DOCS.rglob("*.ipynb"):
    book = json.loads(path.read_text())
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == [*range(1, len(code) + 1)]
    assert not re.search(r'"(?:/home|/tmp|/work|/Users)', path.read_text())
    assert path.stat().st_size < 300_000


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
  import nbformat
  from nbclient import NotebookClient

  path = DOCS / "first_transfer.ipynb"
  book = nbformat.read(path, as_version=4)
  kept = [cell.outputs for cell in book.cells if cell.cell_type == "code"]
  NotebookClient(
    book, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
  ).execute()
  fresh = [cell.outputs for cell in book.cells if cell.cell_type == "code"]
  assert [len(outputs) for outputs in fresh] == [len(outputs) for outputs in kept]
  printed = "".join(o.get("text", "") for outputs in fresh for o in outputs)
  assert "depth_mup: transfers" in printed
  assert "standard: does not transfer" in printed
  assert "coordinate check: passed" in printed
