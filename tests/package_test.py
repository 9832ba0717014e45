"""What is installed: a light import, types, and a wheel of the library alone."""

import email
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

import flax_depthmup as dmup

ROOT = pathlib.Path(__file__).parents[1]

#: Slow to import, and for some purpose only.
HEAVY = {
  "flax.nnx",
  "flax_depthmup.checkpoint",
  "flax_depthmup.limits",
  "jinja2",
  "matplotlib",
  "orbax",
  "pandas",
  "rich",
  "scipy",
  "sklearn",
  "tensorstore",
  "yaml",
}


def modules_after(imports):
  """What a fresh process holds after these imports."""
  code = f"{imports}\nimport sys\nprint(*sys.modules, sep='\\n')"
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
  )
  return set(done.stdout.split())


def test_the_import_is_light():
  # What flax.linen and optax load anyway costs nothing more.
  base = modules_after("import flax.linen, optax")
  loaded = modules_after("import flax_depthmup") - base
  found = {name for name in HEAVY if name in loaded}
  assert not found, f"import flax_depthmup loads {sorted(found)}"
  foreign = {n for n in loaded if not n.startswith(("flax_depthmup", "__editable__"))}
  assert len(foreign) < 30, sorted(foreign)  # scipy alone is 200


def test_the_library_is_typed():
  assert (ROOT / "flax_depthmup" / "py.typed").exists()


# The wheel ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
  """Of a clean copy: what git knows or would add, without what is built."""
  folder = tmp_path_factory.mktemp("wheel")
  copy = folder / "clone"
  listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
  done = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True)
  for name in filter(None, done.stdout.split("\0")):
    if (ROOT / name).is_file() and not name.startswith(("docs/", "experiments/")):
      (copy / name).parent.mkdir(parents=True, exist_ok=True)
      shutil.copyfile(ROOT / name, copy / name)
  for name in ("docs", "experiments"):  # must not be in it, so must be there
    (copy / name).mkdir()
    (copy / name / "__init__.py").touch()
  command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet"]
  command += ["--disable-pip-version-check", f"--wheel-dir={folder}", str(copy)]
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  (path,) = folder.glob("*.whl")
  return zipfile.ZipFile(path)


@pytest.mark.slow
def test_the_wheel_holds_the_library_alone(wheel):
  names = set(wheel.namelist())
  expected = {
    str(path.relative_to(ROOT)) for path in (ROOT / "flax_depthmup").rglob("*.py")
  }
  info = {n for n in names if ".dist-info/" in n}
  assert names - info == expected | {"flax_depthmup/py.typed"}


@pytest.mark.slow
def test_the_wheel_says_what_it_needs(wheel):
  (name,) = [n for n in wheel.namelist() if n.endswith("METADATA")]
  metadata = email.message_from_string(wheel.read(name).decode())
  assert metadata["Name"] == "flax_depthmup"
  assert metadata["Version"] == dmup.__version__
  assert metadata["Requires-Python"] == ">=3.11"
  assert set(metadata.get_all("Provides-Extra")) == {"docs", "experiments", "test", "text"}
  needs = [n for n in metadata.get_all("Requires-Dist") if "extra ==" not in n]
  packages = {re.match(r"[\w-]+", n)[0] for n in needs}
  assert packages == {
    "absl-py",
    "etils",
    "flax",
    "jax",
    "numpy",
    "optax",
    "orbax-checkpoint",
    "pyyaml",
    "rich",
    "scipy",
  }
  assert any(n.endswith("LICENSE") for n in wheel.namelist())
