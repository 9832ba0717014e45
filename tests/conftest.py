"""Hard floors for every test: eight CPU devices, no silent broadcasting of ranks.

Compiled programs are kept for the length of a test run, so that a program which many
tests and their subprocesses share is compiled once.
"""

import atexit
import os
import shutil
import tempfile

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # workers inherit it
  cache = tempfile.mkdtemp(prefix="depthmup-programs-")
  atexit.register(shutil.rmtree, cache, ignore_errors=True)
  os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
  os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"

import jax
import pytest
from absl import flags

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


#: Files of few and long tests: begun first, so that no worker waits for another at the end.
_LONG = ("train_", "sweeps_", "sharding", "conformance", "docs", "readme", "text_datasets")


def pytest_collection_modifyitems(items):
  items.sort(key=lambda item: not item.path.name.startswith(_LONG))  # stable


@pytest.fixture(autouse=True)
def _parsed_flags():
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
