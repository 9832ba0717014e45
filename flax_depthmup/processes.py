"""What the processes of one run tell each other. Layer: jax.

Every process has to make the same calls in the same order; with one process they
cost nothing.
"""

import jax
import numpy as np
from jax.experimental import multihost_utils

from flax_depthmup.errors import DepthMupError


def gather(text: str) -> list[str]:
  """The text of every process, by process index; nobody goes on before all are here."""
  if jax.process_count() == 1:
    return [text]
  content = np.frombuffer(text.encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.int32(content.size)).ravel()
  padded = np.zeros(max(1, *sizes), np.uint8)
  padded[: content.size] = content
  rows = multihost_utils.process_allgather(padded)
  return [bytes(row[:n]).decode() for row, n in zip(rows, sizes, strict=True)]


def raise_together(error: DepthMupError | None) -> None:
  """Raises in all processes when one has an error.

  Raises:
    DepthMupError: the own one, or that of the first process that has one.
  """
  told = gather(str(error or ""))
  if error is not None:
    raise error
  for process, text in enumerate(told):
    if text:
      raise DepthMupError(f"process {process}: {text}")
