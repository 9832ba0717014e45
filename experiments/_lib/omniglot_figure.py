"""The figure and the table of an omniglot_maml run, from its records alone."""

import pathlib
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments._lib.omniglot_verdict import Accuracy, Record, accuracies, name

#: Kernel -> what the legend calls it, colour, style of its line.
_KERNELS = {
  "relu_nngp": ("NNGP, relu", "tab:orange", "--"),
  "relu_ntk": ("NTK, relu", "tab:red", "-."),
  "linear_kernel": ("linear kernel", "tab:brown", (0, (3, 1, 1, 1, 1, 1))),
}
_LIMIT = "tab:blue"


def draw(records: list[Record], ways: int, title: str, path: pathlib.Path) -> None:
  """Test accuracy over width, and accuracy in training over meta-steps."""
  import matplotlib

  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
  _over_width(left, records, ways)
  _over_steps(right, records, ways)
  figure.suptitle(title, fontsize=11)
  figure.savefig(path, dpi=110)
  plt.close(figure)


def _over_width(ax: Any, records: list[Record], ways: int) -> None:
  found = accuracies(records)
  widths = sorted({r["width"] for r in records if r["width"] is not None})
  limit = found["limit"]
  ax.axhline(100 * limit.mean, color=_LIMIT, lw=1.5, label="μP limit")
  band = [100 * (limit.mean + sign * limit.error) for sign in (-1, 1)]
  ax.axhspan(*band, color=_LIMIT, alpha=0.15, lw=0)
  finite = [found[f"width {w}"] for w in widths]
  values, errors = (
    100 * np.array([getattr(a, f) for a in finite]) for f in Accuracy._fields
  )
  ax.errorbar(
    widths, values, errors, color="k", marker="o", capsize=3, lw=1, label="μP, width n"
  )
  for kernel, (label, color, style) in _KERNELS.items():
    if kernel in found:
      ax.axhline(100 * found[kernel].mean, color=color, ls=style, lw=1.5, label=label)
  _chance(ax, ways)
  ax.set_xscale("log", base=2)
  ax.set_xticks(widths, [str(w) for w in widths])
  ax.set_xlabel("width n")
  ax.set_ylabel("test accuracy, %")
  ax.set_title("Meta-test; bars and band: standard error", fontsize=10)
  ax.grid(alpha=0.25)
  ax.legend(fontsize=8)


def _over_steps(ax: Any, records: list[Record], ways: int) -> None:
  import matplotlib

  names = list(dict.fromkeys(name(r) for r in records))
  finite = [n for n in names if n.startswith("width")]
  shades = matplotlib.colormaps["Greys"](np.linspace(0.35, 1, max(len(finite), 1)))
  looks = {n: (f"n = {n.split()[1]}", c, "-") for n, c in zip(finite, shades, strict=False)}
  looks |= {"limit": ("μP limit", _LIMIT, "-")} | _KERNELS
  for model in names:
    curves = [r["train_curve"] for r in records if name(r) == model]
    steps, values = np.mean(curves, axis=0).T
    label, color, style = looks[model]
    mark = "." if len(steps) == 1 else None
    ax.plot(steps, 100 * values, color=color, ls=style, marker=mark, lw=1.2, label=label)
  _chance(ax, ways)
  ax.set_xlabel("meta-step")
  ax.set_ylabel("accuracy on training queries, %")
  ax.set_title("Meta-training, mean over 100 meta-steps and seeds", fontsize=10)
  ax.grid(alpha=0.25)
  ax.legend(fontsize=8, ncols=2)


def _chance(ax: Any, ways: int) -> None:
  ax.axhline(100 / ways, color="gray", ls=":", lw=1, label="chance")


def show(records: list[Record]) -> None:
  """Prints a line a model, its accuracies in percent."""
  test, early = accuracies(records), accuracies(records, "test_as_trained")
  validation = accuracies(records, "validation")
  table = Table(title="Accuracy in %, mean over seeds ± standard error")
  table.add_column("model", no_wrap=True)
  for column in ("test", "test, steps as in training", "validation", "training, last"):
    table.add_column(column, justify="right", no_wrap=True)
  for model in test:
    last = [r["train_curve"][-1][1] for r in records if name(r) == model]
    diverged = any(r["diverged"] for r in records if name(r) == model)
    table.add_row(
      f"{model}, diverged" if diverged else model,
      *(_text(column.get(model)) for column in (test, early, validation)),
      f"{100 * np.mean(last):.2f}",
    )
  Console(width=max(Console().width, 100)).print(table)


def _text(a: Accuracy | None) -> str:
  return "–" if a is None else f"{100 * a.mean:.2f} ± {100 * a.error:.2f}"
