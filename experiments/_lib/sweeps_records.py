"""Reading the records of a sweep."""

import math
from typing import Any

import numpy as np

Records = list[dict[str, Any]]


def log_loss(record: dict[str, Any]) -> float:
  """The log of a record's loss, infinite where the net diverged."""
  if record["diverged"] or record["loss"] is None:
    return math.inf
  return math.log(max(record["loss"], np.finfo(np.float32).tiny))
