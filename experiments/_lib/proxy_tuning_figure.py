"""The figure of proxy_tuning, from its records and its verdict alone."""

import pathlib
from typing import Any

from experiments._lib.proxy_tuning_verdict import of
from experiments._lib.sweeps_records import Records


def draw(records: Records, found: dict[str, Any], title: str, path: pathlib.Path) -> None:
  """Panels: the proxy's trials, the large net, both at the same values, best of k."""
  import matplotlib

  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  figure, axes = plt.subplots(1, 4, figsize=(17, 4), layout="constrained")
  _proxy(axes[0], of(records, "proxy"), found["best_proxy"])
  _rates(axes[1], records, found)
  _ranking(axes[2], found["ranking"])
  _searches(axes[3], found)
  for ax in axes:
    ax.grid(alpha=0.25)
  for ax in (axes[0], axes[1], axes[3]):
    ax.set_ylabel("validation loss")
  figure.suptitle(title, fontsize=11)
  figure.savefig(path, dpi=110)
  plt.close(figure)


def _proxy(ax: Any, trials: Records, best: dict[str, Any]) -> None:
  """Loss over learning rate; colour is the block multiplier."""
  alive = [r for r in trials if not r["diverged"]]
  dots = ax.scatter(
    [r["log2_lr"] for r in alive],
    [r["loss"] for r in alive],
    c=[r["log2_multiplier"] for r in alive],
    cmap="viridis",
    s=22,
  )
  ax.figure.colorbar(dots, ax=ax, label="log2 block multiplier")
  ax.plot(best["log2_lr"], best["loss"], "*", color="crimson", ms=14, label="taken over")
  ax.set_xlabel("log2 learning rate")
  ax.set_title(f"the proxy: {len(trials)} random trials")
  ax.legend()


def _rates(ax: Any, records: Records, found: dict[str, Any]) -> None:
  """The large net around the transferred rate, and under standard parametrization."""
  rate, best = found["best_rate"], found["best_proxy"]
  here = [best["log2_lr"] + o for o in rate["octaves"]]
  ax.plot(here, rate["losses"], "o-", label="CompleteP, other rates")
  for group, style, label in (
    ("transferred", "*", "transferred"),
    ("standard", "s", "same values, standard"),
    ("direct", "x", "direct trials"),
  ):
    own = [r for r in of(records, group) if not r["diverged"]]
    ax.plot(
      [r["log2_lr"] for r in own],
      [r["loss"] for r in own],
      style,
      ms=12 if style == "*" else 6,
      label=label,
    )
  ax.set_xlabel("log2 learning rate")
  ax.set_title("the large net")
  ax.legend(fontsize=8)


def _ranking(ax: Any, found: dict[str, Any]) -> None:
  """Loss of the large net over that of the proxy, both with the same hyperparameters."""
  ours, theirs = found["proxy_losses"], found["large_losses"]
  ax.plot(ours[1:], theirs[1:], "o", label="other values")
  ax.plot(ours[0], theirs[0], "*", color="crimson", ms=14, label="taken over")
  ends = min(*ours, *theirs), max(*ours, *theirs)
  ax.plot(ends, ends, ":", color="grey", label="equal losses")
  ax.set_xlabel("validation loss of the proxy")
  ax.set_ylabel("validation loss of the large net")
  ax.set_title(f"the same values in both: rank correlation {found['rank_correlation']:.2f}")
  ax.legend(fontsize=8)


def _searches(ax: Any, found: dict[str, Any]) -> None:
  """Best of k direct trials against the transferred net, over what both cost."""
  bought = found["best_of_direct_trials"]
  k = [b["trials"] for b in bought]
  ax.plot(k, [b["mean"] for b in bought], "o-", label="best of k direct trials, mean")
  ax.fill_between(
    k, [b["lowest"] for b in bought], [b["highest"] for b in bought], alpha=0.2
  )
  cost = found["compute"]["search_and_one_large_run_in_large_runs"]
  own = found["transferred"]["losses"]
  ax.plot([cost] * len(own), own, "*", color="crimson", ms=12, label="search + transfer")
  ax.set_xlabel("compute, in runs of the large net")
  ax.set_title("at equal compute")
  ax.legend(fontsize=8)
