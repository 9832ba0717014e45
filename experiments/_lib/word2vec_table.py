"""What a word2vec run prints."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments._lib import word2vec_verdict as verdict
from experiments._lib.sweeps_claims import tell
from experiments._lib.word2vec_config import KERNEL

Record = dict[str, Any]


def show(records: Sequence[Record], epochs: int, found: dict[str, Any]) -> None:
  """Prints a line a width, and the claims."""
  table = Table(title=f"Word2Vec after epoch {epochs}, means over seeds")
  for name in ("width", "loss", "analogies", "semantic", "syntactic", "logits to limit"):
    table.add_column(name, justify="right", no_wrap=True)
  table.add_column("s/epoch", justify="right", no_wrap=True)
  kernel = next(r for r in records if r["width"] == KERNEL)
  share = f"{kernel['accuracy']:.4f}"
  table.add_row("kernel regime", "–", share, "–", "–", "–", "–")
  last = verdict.final(records, epochs)
  for width, rows in last.items():
    fields = ("accuracy", "semantic", "syntactic")
    shares = [_text(verdict.mean(rows, field)) for field in fields]
    own = [r["seconds"] for r in records if r["width"] == width]
    seconds = f"{sum(own) / len(own):.3g}"
    loss, distance = verdict.mean(rows, "loss"), verdict.rms_over_seeds(rows)
    table.add_row(str(width), _text(loss), *shares, _text(distance), seconds)
  Console(width=max(Console().width, 100)).print(table)
  lost = sorted({str(r["width"]) for r in records if r.get("diverged")})
  if lost:
    print(f"diverged: {', '.join(lost)}; give a smaller --cbow_lr or --batch_size")
  tell(found)


def _text(value: float | None) -> str:
  return "–" if value is None else f"{value:.4f}"
