"""How every entry point starts: devices first, and one sentence for an error."""

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import app, logging
from tqdm import tqdm

from flax_depthmup import DepthMupError


def run(main: Callable[[Sequence[str]], None]) -> None:
  """Runs an absl main; a `DepthMupError` ends in its one sentence and exit code 1."""

  def guarded(argv: Sequence[str]) -> None:
    try:
      if len(argv) > 1:
        raise DepthMupError(f"unexpected argument {argv[1]!r}; flags start with --")
      use_all_cores()
      main(argv)
    except (DepthMupError, OSError) as error:  # an OSError names its file
      print(f"error: {error}", file=sys.stderr)
      sys.exit(1)
    except KeyboardInterrupt:
      print("\ninterrupted; the same command continues", file=sys.stderr)
      sys.exit(130)

  logging.set_verbosity(logging.WARNING)  # not jax's tries of other backends
  app.run(guarded)


def use_all_cores() -> None:
  """One CPU device per core this process may use, so a sweep's members run at once.

  XLA runs small matrix products on one core. Leaves a number that the user set
  (JAX_NUM_CPU_DEVICES) as it is; no effect once jax has started.
  """
  if jax.config.jax_num_cpu_devices > 0:
    return
  with contextlib.suppress(RuntimeError):
    jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))


def progress(**fields: Any) -> tqdm:
  """A progress bar: live on a terminal, a line now and then in a log file."""
  return tqdm(mininterval=0.1 if sys.stderr.isatty() else 10, **fields)
