"""The arrows of the house, and BUILD, against the imports that are there."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FRAMEWORKS = {"jax", "flax", "optax", "orbax", "absl", "numpy"}

#: Room -> the frameworks its files may import. A room is a module, or a folder.
MATHEMATICS = [
  "errors",
  "patterns",
  "checks",
  "axes",
  "exponents",
  "classify",
  "parametrizations",
  "scales",
  "families",
]
LINEN = [
  "metadata",
  "initializers",
  "forward_multipliers",
  "layers",
  "convolution",
  "residual",
  "models",
  "decoding",
  "multiplier_probe",
]
ALLOWED = {
  **{room: set() for room in MATHEMATICS},
  "paths": {"jax"},
  **{room: {"jax", "flax", "numpy"} for room in LINEN},
  "entrywise": {"jax", "optax"},
  "inner_checks": {"jax", "optax", "numpy"},
  "matrices": {"jax", "optax"},
  "transforms": {"jax", "optax"},
  "weight_decay": {"jax", "optax"},
  "optimizers": {"jax", "optax"},
  "sharding": {"jax", "flax", "optax"},
  "identity": set(),
  "files": set(),
  "seals": set(),
  "processes": {"jax", "numpy"},
  "state_trees": {"jax", "numpy"},
  "orbax_steps": {"orbax"},
  "checkpoint_writer": {"jax"},
  "checkpoint": {"jax"},
  "sweep_store": {"jax", "numpy"},
  "sweep_mesh": {"jax", "numpy"},
  "sweep_program": {"jax", "numpy"},
  "sweep_engine": {"jax", "numpy"},
  "sweeps": {"jax", "numpy"},
  "limits": {"jax", "numpy"},
  "diagnostics": {"jax", "flax", "numpy", "optax"},
  "adapt": {"jax", "flax", "numpy"},
  "branch_survey": {"jax", "flax"},
  "description_table": set(),
  "description": {"jax", "flax", "numpy"},
  "recommendation_claims": set(),
  "recommendation_commands": {"flax"},
  "recommendation": {"flax"},
  "__init__": set(),
}
#: Imports run from right to left only.
ORDER = [*ALLOWED][:-1]


def imports(path: pathlib.Path) -> set[str]:
  """Dotted names of the modules a file imports, also inside functions."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
  return found


def library_files() -> list[pathlib.Path]:
  return sorted((ROOT / "flax_depthmup").rglob("*.py"))


def room(path: pathlib.Path) -> str:
  parts = path.relative_to(ROOT / "flax_depthmup").with_suffix("").parts
  return parts[0]


@pytest.mark.parametrize("path", library_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_imports_what_it_may(path):
  names = imports(path)
  frameworks = {name.split(".")[0] for name in names} & FRAMEWORKS
  assert frameworks <= ALLOWED[room(path)]
  if room(path) == "__init__":
    return
  own = {n.split(".")[1] for n in names if n.startswith("flax_depthmup.")} & set(ORDER)
  allowed = ORDER[: ORDER.index(room(path)) + 1]
  assert own <= set(allowed), f"{path.name} may import {allowed}"
  assert "experiments" not in {n.split(".")[0] for n in names}


def test_experiments_import_public_names_only():
  for path in (ROOT / "experiments").rglob("*.py"):
    own = {n for n in imports(path) if n.startswith("flax_depthmup.")}
    modules = {".".join(n.split(".")[:2]) for n in own}
    public = {
      f"flax_depthmup.{name}"
      for name in (
        "sweeps",
        "limits",
        "diagnostics",
        "checkpoint",
        "identity",
        "processes",
      )
    }
    named = {
      n
      for n in modules
      if n not in public and (ROOT / n.replace(".", "/")).with_suffix(".py").exists()
    }
    assert not named, f"{path.name} reaches into {named}"
    assert not any("._" in n for n in own)


@pytest.mark.parametrize("folder", ["flax_depthmup", "experiments", "tests"])
def test_rooms_are_small(folder):
  for path in (ROOT / folder).rglob("*.py"):
    text = path.read_text()
    assert text.count("\n") <= 330, f"{path} is too long: split it"
    for node in ast.walk(ast.parse(text)):
      if isinstance(node, ast.FunctionDef) and folder == "flax_depthmup":
        body = node.body[1:] if ast.get_docstring(node) else node.body
        length = node.end_lineno - body[0].lineno + 1 if body else 0
        assert length <= 50, f"{path}: {node.name} is {length} lines"


# BUILD ---------------------------------------------------------------------------

THIRD_PARTY = {
  "PIL": "pillow",
  "absl": "absl_py",
  "orbax": "orbax_checkpoint",
  "sklearn": "scikit_learn",
  "yaml": "pyyaml",
}


def targets() -> dict[str, dict]:
  """Name -> attributes of every target of BUILD, with its rule."""
  found = {}
  for node in ast.parse((ROOT / "BUILD").read_text()).body:
    call = node.value
    if call.func.id not in ("py_library", "py_binary", "py_test"):
      continue
    fields = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
    assert fields["name"] not in found, f"BUILD has {fields['name']} twice"
    found[fields["name"]] = fields | {"rule": call.func.id}
  return found


def sources() -> dict[str, str]:
  """Path of every Python file -> its target."""
  return {src: name for name, t in targets().items() for src in t["srcs"]}


def needed(paths: list[str], owner: dict[str, str], own: str) -> set[str]:
  """The deps that the imports of these files call for."""
  deps = set()
  for path in paths:
    for name in imports(ROOT / path):
      parts = name.split(".")
      if parts[0] in ("flax_depthmup", "experiments", "tests"):
        for n in range(len(parts), 0, -1):
          stem = "/".join(parts[:n])
          hit = [f for f in (f"{stem}.py", f"{stem}/__init__.py") if f in owner]
          if hit:
            deps.add(f":{owner[hit[0]]}")
            break
      elif parts[0] not in __import__("sys").stdlib_module_names:
        deps.add(f"@pypi//{THIRD_PARTY.get(parts[0], parts[0])}")
  return deps - {f":{own}"}


def test_every_file_is_in_exactly_one_target():
  files = [
    str(path.relative_to(ROOT))
    for folder in ("flax_depthmup", "experiments", "tests")
    for path in (ROOT / folder).rglob("*.py")
  ]
  listed = [src for target in targets().values() for src in target["srcs"]]
  assert sorted(listed) == sorted(files)


@pytest.mark.parametrize("name", targets())
def test_deps_are_the_imports(name):
  target = targets()[name]
  assert set(target.get("deps", [])) == needed(target["srcs"], sources(), name)


def test_one_test_per_test_file():
  tests = {n: t for n, t in targets().items() if t["rule"] == "py_test"}
  assert all(t["srcs"] == [f"tests/{n}.py"] for n, t in tests.items())
  assert len(tests) == len(list((ROOT / "tests").glob("*_test.py")))
