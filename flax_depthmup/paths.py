"""Names of the places in a tree. Layer: jax."""

from typing import Any

import jax


def path_name(path: Any) -> str:
  """A tree path as "stack/block/dense_0/kernel"."""
  return jax.tree_util.keystr(path, simple=True, separator="/") or "(the root)"
