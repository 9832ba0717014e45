"""The figures of word2vec, from its records alone."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments._lib import word2vec_verdict as verdict
from experiments._lib.word2vec_config import KERNEL, LIMIT

Record = dict[str, Any]
Rows = Sequence[Record]

_NAMES = {LIMIT: "μP limit", KERNEL: "kernel regime (NNGP, NTK)"}


def draw(records: Rows, epochs: int, title: str, path: pathlib.Path) -> None:
  """Three panels: accuracy over width, over epochs, and the distance of the logits."""
  plt = _pyplot()
  figure, axes = plt.subplots(1, 3, figsize=(14, 4.6), layout="constrained")
  last = verdict.final(records, epochs)
  kernel = next(r for r in records if r["width"] == KERNEL)
  _over_width(axes[0], last, kernel)
  _over_epochs(axes[1], records, last)
  _distance(axes[2], last)
  for ax in axes:
    ax.grid(alpha=0.25)
    if ax.get_legend_handles_labels()[0]:
      ax.legend(fontsize=8)
  figure.suptitle(title, fontsize=11)
  figure.savefig(path, dpi=110)
  plt.close(figure)


def _over_width(ax: Any, last: dict[int | str, list[Record]], kernel: Record) -> None:
  widths = [w for w in last if w != LIMIT]
  looks = (("accuracy", "all", "o-"), ("semantic", "semantic", "^:"))
  for field, name, look in (*looks, ("syntactic", "syntactic", "v:")):
    shares = [verdict.mean(last[w], field) for w in widths]
    if field != "accuracy" and _alike(last, field):
      continue  # a section that holds all or no questions tells nothing of its own
    color = {"all": "tab:blue", "semantic": "tab:green", "syntactic": "tab:orange"}[name]
    if widths and None not in shares:
      ax.plot(widths, shares, look, color=color, label=f"finite width, {name}", ms=5)
    if LIMIT in last and (share := verdict.mean(last[LIMIT], field)) is not None:
      ax.axhline(share, color=color, ls="--", lw=1.2, label=f"{_NAMES[LIMIT]}, {name}")
  ax.axhline(kernel["expected"], color="gray", ls="-.", lw=1.2, label=_NAMES[KERNEL])
  _width_axis(ax, widths)
  ax.set_ylim(bottom=-0.005)
  ax.set_ylabel("share of analogies solved")
  ax.set_title("After the last epoch", fontsize=10)


def _alike(last: dict[int | str, list[Record]], field: str) -> bool:
  return all(
    verdict.mean(rows, field) in (None, verdict.mean(rows)) for rows in last.values()
  )


def _over_epochs(ax: Any, records: Rows, last: dict[int | str, list[Record]]) -> None:
  for width, color in zip(last, _colors(len(last)), strict=True):
    own = [r for r in records if r["width"] == width]
    epochs = sorted({r["epoch"] for r in own})
    shares = [verdict.mean([r for r in own if r["epoch"] == e]) for e in epochs]
    look = {"color": "k", "ls": "--"} if width == LIMIT else {"color": color}
    ax.plot(epochs, shares, label=_NAMES.get(width, f"width {width}"), **look)
  ax.set_ylim(bottom=-0.005)
  ax.xaxis.get_major_locator().set_params(integer=True)
  ax.set_xlabel("epoch")
  ax.set_ylabel("share of analogies solved")
  ax.set_title("While training", fontsize=10)


def _distance(ax: Any, last: dict[int | str, list[Record]]) -> None:
  rms = {w: verdict.rms_over_seeds(rows) for w, rows in last.items() if w != LIMIT}
  rms = {w: value for w, value in rms.items() if value}
  ax.set_title("Logits approach those of the limit", fontsize=10)
  ax.set_ylabel("rms distance of the logits to the limit's")
  if not rms:
    ax.text(0.5, 0.5, "no limit was trained", ha="center", transform=ax.transAxes)
    return
  ax.plot([*rms], [*rms.values()], "o-", color="tab:blue", label="finite width")
  widest = max(rms)
  theory = [rms[widest] * (widest / w) ** 0.5 for w in rms]
  ax.plot([*rms], theory, color="gray", ls="--", label="$n^{-1/2}$")
  ax.set_yscale("log", base=2)
  _width_axis(ax, [*rms])


def _width_axis(ax: Any, widths: Sequence[int]) -> None:
  if widths:
    ax.set_xscale("log", base=2)
    ax.set_xticks(widths, [str(w) for w in widths], minor=False)
  ax.set_xlabel("width n")


def draw_embeddings(records: Rows, epochs: int, title: str, path: pathlib.Path) -> None:
  """The chosen words in the plane of their principal components, by width."""
  plt = _pyplot()
  last = verdict.final(records, epochs)
  finite = [w for w in last if w != LIMIT]
  shown = {KERNEL: next(r for r in records if r["width"] == KERNEL)}
  # The narrowest and the widest say what width does.
  for width in dict.fromkeys(finite[:1] + finite[-1:] + [LIMIT]):
    if width in last:
      shown[width] = last[width][0]
  figure, axes = plt.subplots(
    1, len(shown), figsize=(4.6 * len(shown), 4.8), layout="constrained", squeeze=False
  )
  for ax, (width, record) in zip(axes[0], shown.items(), strict=True):
    _plane(ax, record["points"])
    ax.set_title(_NAMES.get(width, f"width {width}"), fontsize=10)
    ax.set_xlabel("first principal component")
  axes[0][0].set_ylabel("second principal component")
  axes[0][-1].legend(fontsize=8)
  figure.suptitle(title, fontsize=11)
  figure.savefig(path, dpi=110)
  plt.close(figure)


def _plane(ax: Any, points: dict[str, dict[str, list[float]]]) -> None:
  groups = [np.array([*group.values()]) for group in points.values()]
  if len(groups) == 2:  # pairs, such as city and state
    for ends in zip(*groups, strict=True):
      ax.plot(*np.transpose(ends), color="lightgray", lw=0.8, zorder=0)
  for (name, group), places, color in zip(
    points.items(), groups, _colors(len(groups), "tab10"), strict=True
  ):
    ax.scatter(*places.T, s=22, color=color, label=name)
    if len(groups) == 2:
      for word, place in zip(group, places, strict=True):
        ax.annotate(word, place, fontsize=6.5, xytext=(3, 2), textcoords="offset points")
  ax.grid(alpha=0.25)


def _colors(count: int, name: str = "viridis") -> list[Any]:
  import matplotlib

  cmap = matplotlib.colormaps[name]
  if name == "tab10":
    return [cmap(i % 10) for i in range(count)]
  return [cmap(0.9 * i / max(count - 1, 1)) for i in range(count)]


def _pyplot() -> Any:
  import matplotlib

  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  return plt
