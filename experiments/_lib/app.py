"""How every entry point starts: devices first, and one sentence for an error."""

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import app, flags, logging
from tqdm import tqdm

from flax_depthmup import DepthMupError
from flax_depthmup.processes import raise_together

_DISTRIBUTED = flags.DEFINE_boolean(
  "distributed", False, "Join the processes of a pod or cluster."
)
_COORDINATOR = flags.DEFINE_string(
  "coordinator", None, "host:port of process 0, where no scheduler tells."
)
_PROCESSES = flags.DEFINE_integer("processes", None, "How many; likewise.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Of this one, from 0; likewise.")


def run(main: Callable[[Sequence[str]], None]) -> None:
  """Runs an absl main; a `DepthMupError` ends in its one sentence and exit code 1."""

  def guarded(argv: Sequence[str]) -> None:
    try:
      if len(argv) > 1:
        raise DepthMupError(f"unexpected argument {argv[1]!r}; flags start with --")
      use_all_cores()
      start_distributed()
      main(argv)
    except (DepthMupError, OSError) as error:  # an OSError names its file
      print(f"error: {error}", file=sys.stderr)
      sys.exit(1)
    except ModuleNotFoundError as error:
      print(
        f"error: the package {error.name} is not installed; pip install "
        "'.[experiments,text]' from the root of the checkout",
        file=sys.stderr,
      )
      sys.exit(1)
    except jax.errors.JaxRuntimeError as error:
      if "RESOURCE_EXHAUSTED" not in str(error):
        raise
      print(
        f"error: the devices are out of memory ({str(error).splitlines()[0]}); split the "
        "net with --mesh=fsdp:-1, recompute with --remat, use --accumulate, or take "
        "smaller sizes",
        file=sys.stderr,
      )
      sys.exit(1)
    except MemoryError as error:  # of numpy, in words: how much it is and of what shape
      print(
        f"error: the machine is out of memory ({error}); take smaller sizes",
        file=sys.stderr,
      )
      sys.exit(1)
    except KeyboardInterrupt:
      print("\ninterrupted; the same command continues", file=sys.stderr)
      sys.exit(130)

  for module, shared in flags.FLAGS.flags_by_module_dict().items():
    if module.startswith("experiments."):  # --help shows them as the entry point's own
      for flag in shared:
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
  logging.set_verbosity(logging.WARNING)  # not jax's tries of other backends
  app.run(guarded)


def start_distributed() -> None:
  """Joins the processes of this run, before anything touches a device.

  Raises:
    DepthMupError: no cluster was found, or the addresses given are not enough.
  """
  given = (_COORDINATOR.value, _PROCESSES.value, _PROCESS_ID.value)
  if not _DISTRIBUTED.value:
    if any(value is not None for value in given):
      raise DepthMupError("--coordinator, --processes, --process_id need --distributed")
    return
  try:
    jax.distributed.initialize(*given)
  except (ValueError, RuntimeError) as error:
    first = str(error).splitlines()[0]
    raise DepthMupError(
      f"--distributed: the processes cannot join ({first}); outside of a TPU pod, Slurm, "
      "Kubernetes and MPI give --coordinator=host:port --processes=N --process_id=I"
    ) from None


def use_all_cores() -> None:
  """One CPU device per core this process may use, so a sweep's members run at once.

  XLA runs small matrix products on one core. Leaves a number that the user set
  (JAX_NUM_CPU_DEVICES) as it is; no effect once jax has started.
  """
  if jax.config.jax_num_cpu_devices > 0:
    return
  with contextlib.suppress(RuntimeError):
    jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))


def once(action: Callable[[], Any]) -> None:
  """Does it in the first process while the others wait."""
  failure = None
  if jax.process_index() == 0:
    try:
      action()
    except DepthMupError as error:
      failure = error
  raise_together(failure)


def progress(**fields: Any) -> tqdm:
  """A progress bar: live on a terminal, a line now and then in a log file."""
  return tqdm(mininterval=0.1 if sys.stderr.isatty() else 10, **fields)
