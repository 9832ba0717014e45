"""What proxy_tuning found, as tables on the terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table

from experiments._lib.proxy_tuning_verdict import of
from experiments._lib.sweeps_claims import tell
from experiments._lib.sweeps_records import Records

_SHOWN = 5


def show_search(records: Records) -> None:
  """Prints the best trials of the proxy."""
  trials = of(records, "proxy")
  ranked = sorted(trials, key=lambda r: (r["diverged"], r["loss"]))[:_SHOWN]
  lost = sum(r["diverged"] for r in trials)
  _print(f"The proxy: best {len(ranked)} of {len(trials)} trials, {lost} diverged", ranked)


def show(found: dict[str, Any], records: Records) -> None:
  """Prints the verdict: what each net was given, what it cost and came to."""
  show_search(records)
  names = ("transferred", "standard", "neighbours", "direct")
  _print("The large net", [r for name in names for r in of(records, name)])
  _print("The proxy at the values of neighbours and direct", of(records, "counterparts"))
  compute = found["compute"]
  print(
    f"compute: search {compute['proxy_search_flops']:.3g}, one large run "
    f"{compute['large_run_flops']:.3g} operations; together "
    f"{compute['search_and_one_large_run_in_large_runs']:.2f} large runs"
  )
  for best in found["best_of_direct_trials"]:
    print(
      f"best of {best['trials']} direct: {best['mean']:.4f} on average, "
      f"{best['lowest']:.4f} to {best['highest']:.4f}, better than transferred in "
      f"{best['share_better_than_transferred']:.0%} of the searches"
    )
  pairs = zip(*(found["ranking"][f"{n}_losses"] for n in ("proxy", "large")), strict=True)
  print(
    "the same values in the proxy and in the large net: "
    + ", ".join(f"{small:.3f} {large:.3f}" for small, large in pairs)
    + f"; rank correlation {found['ranking']['rank_correlation']:.2f}"
  )
  tell(found["claims"])


def _print(title: str, records: Records) -> None:
  table = Table(title=title)
  for column in ("", "parametrization", "seed", "log2 rate", "log2 a", "log2 decay"):
    table.add_column(column, no_wrap=True, justify="left" if column == "" else "right")
  table.add_column("validation loss", no_wrap=True, justify="right")
  for r in records:
    loss = "diverged" if r["diverged"] else f"{r['loss']:.4f}"
    values = (f"{r[name]:.2f}" for name in ("log2_lr", "log2_multiplier", "log2_decay"))
    table.add_row(r["group"], r["parametrization"], str(r["seed"]), *values, loss)
  Console(width=max(Console().width, 100)).print(table)
