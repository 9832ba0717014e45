"""The figure of a training run, from its result file alone."""

import pathlib
from typing import Any


def draw(records: list[dict[str, Any]], path: pathlib.Path) -> None:
  """Training and validation loss over steps."""
  import matplotlib

  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
  for split, style in (("train", "-"), ("validation", "o-")):
    own = [r for r in records if r["split"] == split]
    ax.plot([r["step"] for r in own], [r["loss"] for r in own], style, ms=4, label=split)
  ax.set_xlabel("step")
  ax.set_ylabel("loss")
  ax.grid(alpha=0.25)
  ax.legend()
  figure.savefig(path, dpi=110)
  plt.close(figure)
