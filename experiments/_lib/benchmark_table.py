"""The rows in which a benchmark's summary is shown."""

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table


def show(summary: dict[str, Any]) -> None:
  """Prints what a summary holds."""
  table = Table("measure", "value", title="What the library costs")
  for name, text in rows(summary):
    table.add_row(name, text)
  Console().print(table)


def rows(summary: dict[str, Any]) -> Iterator[tuple[str, str]]:
  """Name and text of every measurement that is there."""
  ratios = "sweep_speedup", "transformation_overhead", "compile_ratio_1024_over_8"
  for name in (*ratios, "import_ratio"):
    if name in summary:
      yield name, f"{summary[name]:.3f}"
  for depth, size in summary.get("peak_memory", {}).items():
    text = f"{_mib(size['plain'])}, with remat {_mib(size['remat'])}"
    yield f"peak_memory, depth {depth}", text
  if found := summary.get("transformer_tokens_per_second"):
    yield "transformer_tokens_per_second", _rates(found)
  if found := summary.get("largest_depth"):
    budget = _mib(found["budget_bytes"])
    for name in ("plain", "remat"):
      yield f"largest_depth, {name}, of {budget}", _depth(found[name])
  for name in summary:
    if name.startswith("limits "):
      for over, entry in summary[name].items():
        yield f"{name.removeprefix('limits ')}, {over}", _growth(entry)
  if found := summary.get("model_flop_utilization"):
    yield "model_flop_utilization", _skipped(found) or _utilization(found)
  if found := summary.get("large_sweep"):
    yield "large_sweep", _skipped(found) or f"{found['speedup']:.3f} times as fast"


def _growth(entry: dict[str, Any]) -> str:
  first, *_, last = entry["seconds"].items()
  text = "; ".join(f"{size}: {seconds:.3g} s" for size, seconds in (first, last))
  if "exponent" in entry:
    text += f", exponent {entry['exponent']:.2f}"
  if "bytes" in entry:
    text += f"; {_mib([*entry['bytes'].values()][-1])}"
  if "exponent of bytes" in entry:
    text += f", exponent {entry['exponent of bytes']:.2f}"
  return text


def _mib(size: int) -> str:
  return f"{size / 2**20:,.1f} MiB"


def _rates(found: dict[str, float]) -> str:
  ours, plain = (f"{found[name]:,.0f}" for name in ("ours", "plain"))
  return f"{ours}, plain linen {plain}, ratio {found['ratio']:.3f}"


def _depth(found: dict[str, Any]) -> str:
  if found["depth"] is None:
    return "not even 1"
  return f"{found['depth']} layers, {_mib(found['bytes'])}"


def _utilization(found: dict[str, Any]) -> str:
  rates = f"tokens per second: {_rates(found['tokens_per_second'])}"
  if found["utilization"] is None:
    return f"peak of this device unknown; {rates}"
  return f"{found['utilization']:.1%}; {rates}"


def _skipped(found: dict[str, Any]) -> str | None:
  return f"skipped: {found['skipped']}" if "skipped" in found else None
