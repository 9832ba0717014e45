"""The figure of a linearization run, from its records alone."""

import pathlib
from typing import Any

import numpy as np

from experiments._lib.linearization_measuring import GRADIENTS, LINEARIZATION
from experiments._lib.linearization_verdict import slope

Records = list[dict[str, Any]]


def draw(records: Records, title: str, path: pathlib.Path) -> None:
  """Distances of blocks and of whole nets over depth, and cosines of gradients."""
  import matplotlib

  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  figure, axes = plt.subplots(1, 3, figsize=(14, 4.4), layout="constrained")
  trained = [r for r in records if r["measure"] == LINEARIZATION]
  _curves(axes[0], trained, "ratio", "rounding")
  axes[0].set_title("each block in its own update (mean over blocks)", fontsize=10)
  axes[0].set_ylabel("|F(W + D) − F(W) − J D| / |J D|")
  _curves(axes[1], trained, "distance", "distance_rounding")
  axes[1].set_title("the whole net in all of them", fontsize=10)
  _cosines(axes[2], [r for r in records if r["measure"] == GRADIENTS])
  figure.suptitle(title, fontsize=11)
  figure.savefig(path, dpi=110)
  plt.close(figure)


def _curves(ax: Any, records: Records, column: str, rounding: str) -> None:
  import matplotlib.pyplot as plt

  nets = dict.fromkeys((r["parametrization"], r["block_depth"]) for r in records)
  names, ks = (list(dict.fromkeys(values)) for values in zip(*nets, strict=True))
  colors = plt.get_cmap("viridis")(np.linspace(0, 0.8, len(names)))
  known = [r for r in records if not r["diverged"]]
  for name, k in nets:
    own = [r for r in known if (r["parametrization"], r["block_depth"]) == (name, k)]
    found = slope(own, column)["slope"]
    label = f"{name}, k = {k}" + ("" if found is None else f": slope {found:+.2f}")
    i, style = names.index(name), ("-", "--", ":", "-.")[ks.index(k) % 4]
    x, y = _means(own, column)
    marker = {"marker": "os^Dv"[i % 5], "mfc": "none", "ms": 6 + 2 * (i % 3)}
    ax.plot(x, y, ls=style, color=colors[i], lw=1.4, label=label, **marker)
  if known:
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    x, y = _means(known, rounding)
    if max(y) > low:  # else it is far below
      ax.plot(x, y, color="0.6", lw=1, label="what rounding makes")
      ax.set_ylim(low, high)
  ax.set_xlabel("depth L, blocks")
  ax.grid(alpha=0.25)
  ax.legend(fontsize=8)


def _means(records: Records, column: str) -> tuple[list[int], list[float]]:
  """Depths, and means over all else."""
  depths = sorted({r["depth"] for r in records})
  return depths, [
    float(np.mean([r[column] for r in records if r["depth"] == depth])) for depth in depths
  ]


def _cosines(ax: Any, records: Records) -> None:
  blocks = list(dict.fromkeys(r["block"] for r in records))
  for i, block in enumerate(blocks):
    own = [r for r in records if r["block"] == block]
    ax.plot([i] * len(own), [r["cosine"] for r in own], "o", color="C0", ms=6)
    ax.plot([i - 0.25, i + 0.25], [own[0]["theory"]] * 2, color="crimson", lw=1.5)
  ax.plot([], [], "o", color="C0", label="measured, a point per seed")
  ax.plot([], [], color="crimson", label="theory")
  ax.set_xticks(range(len(blocks)), [b.replace(" ", "\n") for b in blocks], fontsize=9)
  ax.set_xlim(-0.6, len(blocks) - 0.4)
  ax.set_ylim(-0.15, 1.1)
  ax.set_ylabel("cosine of δh in neighbouring blocks")
  depth = records[0]["depth"] if records else 0
  ax.set_title(f"gradients at initialization, L = {depth}", fontsize=10)
  ax.grid(alpha=0.25)
  ax.legend(fontsize=8, loc="center right")
