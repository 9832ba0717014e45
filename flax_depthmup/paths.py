"""Names of the places in a tree. Layer: jax."""

from typing import Any

import jax


def path_name(path: Any) -> str:
  """A tree path as "stack/block/dense_0/kernel".

  The name of an `nnx.Param` is that of its array: nnx hands optimizers both, the
  Variable in `init` and the bare array in `update`.
  """
  *above, last = path or (None,)
  is_value = isinstance(last, jax.tree_util.GetAttrKey) and last.name == "value"
  path = above if above and is_value else path
  return jax.tree_util.keystr(path, simple=True, separator="/") or "(the root)"
