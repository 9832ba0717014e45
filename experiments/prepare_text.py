"""Text into packed token shards, once, for any number of training runs.

  python -m experiments.prepare_text --workdir=DIR

packs Python's help topics, as bytes: enough to see everything run. Files, folders and
globs, of plain text (a file is one document), JSON lines or Common Crawl WET:

  python -m experiments.prepare_text --workdir=DIR --input=a.txt,b.txt
  python -m experiments.prepare_text --workdir=DIR --input=FOLDER/*.jsonl.zst
  python -m experiments.prepare_text --workdir=DIR --input=FOLDER/*.warc.wet.gz \
    --tokenizer=tokenizer.json --end_token="<|endoftext|>" --validation=0.001

Other formats through Hugging Face datasets, a builder with its files, or a folder that
save_to_disk wrote:

  python -m experiments.prepare_text --workdir=DIR --hf_dataset=parquet --input=a.parquet
  python -m experiments.prepare_text --workdir=DIR --hf_dataset=FOLDER

and by name, streamed from the hub:

  python -m experiments.prepare_text --workdir=DIR --hf_dataset=allenai/c4 \
    --hf_config=en --max_documents=1000000 --validation=0.001
  python -m experiments.prepare_text --workdir=DIR --hf_dataset=HuggingFaceFW/fineweb \
    --hf_config=sample-10BT --validation=0.001

Writes config.json, train-*.npy, validation-*.npy, index.json (what is in them) and
summary.json. Interrupted, the same command starts afresh; done, it checks the shards.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

from absl import flags

from experiments._lib import app, described, tokens
from experiments._lib import flags as reading
from experiments._lib.packing import Corpus, prepare
from experiments._lib.shard_index import SPLITS, Index, read_index
from experiments._lib.text import TextSource, documents
from experiments._lib.workdir import Workdir

_INPUT = flags.DEFINE_list(
  "input", [], "Files, folders or globs: .txt, .jsonl, .json, .wet, also as .gz or .zst."
)
_HF_DATASET = flags.DEFINE_string(
  "hf_dataset",
  None,
  "Name on the Hugging Face hub, folder of save_to_disk, or a builder for --input: json, "
  "text (a document a line), csv, parquet, arrow.",
)
_HF_CONFIG = flags.DEFINE_string("hf_config", None, "Configuration of --hf_dataset.")
_HF_SPLIT = flags.DEFINE_string("hf_split", None, "Split of --hf_dataset; default train.")
_TEXT_COLUMN = flags.DEFINE_string("text_column", "text", "JSON field or column of text.")
_MAX_DOCUMENTS = flags.DEFINE_integer("max_documents", None, "Stop there; default: all.")
_TOKENIZER = flags.DEFINE_string("tokenizer", None, "A tokenizer.json; default: bytes.")
_END_TOKEN = flags.DEFINE_string(
  "end_token", None, "Token of --tokenizer that ends a document."
)
_VALIDATION = flags.DEFINE_float(
  "validation", 0.1, "Fraction of the documents kept for validation."
)
_SHARD_TOKENS = flags.DEFINE_integer("shard_tokens", 2**24, "Tokens of a shard.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """The resolved flags; what config.json holds. See the flags' own help."""

  input: tuple[str, ...]
  hf_dataset: str | None
  hf_config: str | None
  hf_split: str | None
  text_column: str
  max_documents: int | None
  tokenizer: str | None
  end_token: str | None
  validation: float
  shard_tokens: int

  def corpus(self) -> Corpus:
    """What is to be packed.

    Raises:
      DepthMupError: a value is wrong, or a file is missing.
    """
    source = TextSource(
      files=self.input,
      dataset=self.hf_dataset,
      config=self.hf_config,
      split=self.hf_split,
      column=self.text_column,
      limit=self.max_documents,
    )
    return Corpus(
      source=source,
      tokenizer=tokens.load(self.tokenizer, self.end_token),
      validation=self.validation,
      shard_tokens=self.shard_tokens,
    )


def config_from_flags() -> Config:
  """The flags as a `Config`."""
  return Config(
    input=tuple(_INPUT.value),
    hf_dataset=_HF_DATASET.value,
    hf_config=_HF_CONFIG.value,
    hf_split=_HF_SPLIT.value,
    text_column=_TEXT_COLUMN.value,
    max_documents=_MAX_DOCUMENTS.value,
    tokenizer=_TOKENIZER.value,
    end_token=_END_TOKEN.value,
    validation=_VALIDATION.value,
    shard_tokens=_SHARD_TOKENS.value,
  )


def main(argv: Sequence[str]) -> None:
  """Prepares the text that the flags describe."""
  del argv
  instead = "it makes token shards and no net"
  if described.stops_without("prepare_text", instead):
    return
  config = config_from_flags()
  corpus = config.corpus()
  done = _is_prepared(reading.WORKDIR.value)
  if not done:  # a wrong input is named before the folder is claimed
    next(documents(corpus.source))
  workdir = Workdir(reading.WORKDIR.value, dataclasses.asdict(config))
  if done:
    print(f"already done: {workdir.path}")
  with app.progress(unit="token", unit_scale=True) as bar:
    index = prepare(workdir.path, corpus, bar.update)
  workdir.write_summary({"text": _summary(index)})
  for split in SPLITS:
    shards = len(index.splits[split])
    print(f"{split}: {index.tokens(split):,} tokens in {shards:,} shards")
  vocabulary = f"vocabulary of {index.tokenizer['vocab_size']:,}"
  print(f"{index.documents:,} documents, {vocabulary}, in {workdir.path}")


def _is_prepared(folder: str | None) -> bool:
  return folder is not None and read_index(pathlib.Path(folder)) is not None


def _summary(index: Index) -> dict[str, object]:
  return {
    "documents": index.documents,
    "tokens": {split: index.tokens(split) for split in SPLITS},
    "shards": {split: len(index.splits[split]) for split in SPLITS},
    "vocab_size": index.tokenizer["vocab_size"],
    "fingerprint": index.fingerprint,
  }


if __name__ == "__main__":
  app.run(main)
