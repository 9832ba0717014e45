"""Documents through the Hugging Face `datasets` library, streamed where it can."""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from flax_depthmup import DepthMupError


def is_repository(dataset: str) -> bool:
  """Whether the name is a folder, or user/name on the hub, and not a builder of files."""
  return "/" in dataset or pathlib.Path(dataset).is_dir()


def read(
  dataset: str,
  config: str | None,
  split: str | None,
  column: str,
  paths: Sequence[pathlib.Path] = (),
) -> Iterator[str]:
  """The text of a data set, a document a row.

  Args:
    dataset: a name on the hub such as allenai/c4, a folder that save_to_disk wrote,
      a folder of files that `datasets` loads, or with `paths` the builder that
      reads them: json, text (a document a line), csv, parquet, arrow.
    config: its configuration, such as en; None for the only one.
    split: None for "train", or for all of a saved data set without splits.
    column: the column with the text.
    paths: local files for a builder.

  Raises:
    DepthMupError: the data set, its configuration, split or column does not exist,
      cannot be reached or is damaged.
  """
  rows = _load(dataset, config, split, paths)
  if rows.column_names is not None:  # some streams do not know before the first row
    _check_column(dataset, column, rows.column_names)
    rows = rows.select_columns([column])
  found = iter(rows)
  number = -1
  while True:
    try:
      row = next(found)
    except StopIteration:
      break
    except Exception as error:  # of whatever file format or network is beneath
      raise _failed(dataset, f"row {number + 1} cannot be read", error) from None
    number += 1
    _check_column(dataset, column, row)
    if not isinstance(row[column], str):
      raise DepthMupError(
        f"--hf_dataset={dataset}, row {number}: {column!r} is {row[column]!r:.40}; "
        "expected a string; choose another column with --text_column"
      )
    yield row[column]
  if number < 0:
    raise DepthMupError(f"--hf_dataset={dataset} holds no row; choose another --hf_split")


def _load(
  dataset: str, config: str | None, split: str | None, paths: Sequence[pathlib.Path]
) -> Any:
  """The rows: a `datasets.Dataset` or `IterableDataset`."""
  import datasets

  folder = pathlib.Path(dataset)
  saved = [folder / name for name in ("state.json", "dataset_dict.json")]
  try:
    if any(path.is_file() for path in saved):
      return _choose(datasets.load_from_disk(dataset), dataset, config, split)
    files = {"data_files": {"train": list(map(str, paths))}} if paths else {}
    return datasets.load_dataset(
      dataset, config, split=split or "train", streaming=True, **files
    )
  except DepthMupError:
    raise
  except Exception as error:  # it raises a dozen kinds, its own and of others
    raise _failed(dataset, f"config={config}, split={split or 'train'}", error) from None


def _choose(saved: Any, dataset: str, config: str | None, split: str | None) -> Any:
  """The split of what was saved to disk."""
  if config is not None:
    raise DepthMupError(f"--hf_dataset={dataset} was saved to disk; it has no --hf_config")
  if isinstance(saved, dict):
    if (split or "train") not in saved:
      raise DepthMupError(
        f"--hf_dataset={dataset} has no split {split or 'train'}; choose --hf_split from "
        f"{', '.join(saved)}"
      )
    return saved[split or "train"]
  if split is not None and split != str(saved.split):
    raise DepthMupError(
      f"--hf_dataset={dataset} was saved without a split {split}; leave --hf_split away"
    )
  return saved


def _check_column(dataset: str, column: str, columns: Any) -> None:
  if column not in columns:
    raise DepthMupError(
      f"--hf_dataset={dataset} has no column {column!r} but {', '.join(columns)}; choose "
      "with --text_column"
    )


def _failed(dataset: str, what: str, error: Exception) -> DepthMupError:
  reason = (str(error).strip().splitlines() or [""])[0]
  return DepthMupError(
    f"--hf_dataset={dataset}: {what}: {type(error).__name__}: {reason[:300]}; check name, "
    "configuration, split, files and network"
  )
