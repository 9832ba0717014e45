"""Scales through a file: the same numbers, the same updates, and what is refused."""

import copy
import dataclasses
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flax_depthmup as dmup
from flax_depthmup.adapt.scales_file import load_scales, save_scales


def net():
  p = dmup.complete_p(base_width=4, base_depth=2)
  return dmup.ResidualMLP(width=8, depth=3, outputs=2, parametrization=p)


@pytest.fixture(scope="module")
def made():
  return dmup.abstract_init(net(), jax.random.key(0), jnp.ones((1, 3)))


@pytest.fixture
def path(tmp_path, made):
  save_scales(tmp_path / "scales.json", made[1])
  return tmp_path / "scales.json"


def edited(path, edit):
  """The file with one change; `edit` gets all of it and the entry of the readout."""
  whole = json.loads(path.read_text())
  new = edit(whole, whole["scales"]["readout/kernel"])
  path.write_text(json.dumps(whole if new is None else new))


def test_the_same_tree_comes_back(path, made):
  found = load_scales(str(path))
  assert found == made[1]
  for f in dataclasses.fields(dmup.Scales):
    values = [[getattr(s, f.name) for s in jax.tree.leaves(t)] for t in (found, made[1])]
    assert [type(x) for x in values[0]] == [type(x) for x in values[1]]


def test_every_field_is_in_the_file(path):
  entry = json.loads(path.read_text())["scales"]["stack/block/dense_0/kernel"]
  assert set(entry) == {f.name for f in dataclasses.fields(dmup.Scales)}
  assert entry["kind"] == "hidden"
  assert entry["axes"] == "layers | embed -> embed"
  assert entry["shape"] == [3, 8, 8]
  assert entry["gradient_factor"] == 3.0  # (8/4) (3/2)


def test_odd_floats_and_numpy_numbers_are_kept(tmp_path):
  p = dmup.depthwise(alpha="1/3", gamma="2/3", base_width=7, base_depth=3)
  s = dmup.resolve("embed -> embed", (np.int64(11), 13), p, depth=5, trainable=False)
  s = dataclasses.replace(s, multiplier=np.float64(0.1) + np.float64(0.2))
  save_scales(tmp_path / "s.json", {"w": s})
  assert load_scales(tmp_path / "s.json") == {"w": s}


def test_the_optimizer_takes_loaded_scales(path, made):
  shapes, scales = made
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)

  def update(scales):
    tx = dmup.scale_by_parametrization(optax.identity(), scales)
    return tx.update(params, tx.init(params), params)[0]

  ours, theirs = update(load_scales(path)), update(scales)
  assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), ours, theirs))


def test_a_tree_of_lists_is_found_by_its_paths(tmp_path, made):
  s = made[1]["readout"]["kernel"]
  save_scales(tmp_path / "s.json", {"layers": [{"w": s}, {"w": s}]})
  found = load_scales(tmp_path / "s.json")
  assert found == {"layers": {"0": {"w": s}, "1": {"w": s}}}
  params = {"layers": [{"w": jnp.ones(s.shape)}, {"w": jnp.ones(s.shape)}]}
  dmup.scale_by_parametrization(optax.identity(), found).init(params)


def test_a_failed_write_leaves_the_old_file(path, monkeypatch, made):
  before = path.read_bytes()

  def fail(*_):
    raise OSError("disk full")

  monkeypatch.setattr(os, "fsync", fail)
  with pytest.raises(OSError, match="disk full"):
    save_scales(path, {"w": made[1]["readout"]["kernel"]})
  assert path.read_bytes() == before


# wrong input --------------------------------------------------------------------


def test_a_file_cut_anywhere_is_refused(path):
  text = path.read_text()
  for cut in range(0, len(text) - 1, 7):  # its last character is a line's end
    path.write_text(text[:cut])
    with pytest.raises(dmup.DepthMupError, match=r"scales\.json is no JSON, or cut short"):
      load_scales(path)


def setting(**values):
  return lambda whole, entry: entry.update(values)


@pytest.mark.parametrize(
  ("edit", "message"),
  [
    (
      lambda w, e: w.update(version=2),
      "has version 2, this library reads 1; write it",
    ),
    (lambda w, e: w.update(version=True), "has version True"),
    (lambda w, e: w.pop("version") and None, "has version None"),
    (lambda w, e: w.update(format="other"), "is no file of scales"),
    (lambda w, e: [w], "is no file of scales"),
    (lambda w, e: w.update(scales={}), "holds no scales"),
    (lambda w, e: w.update(scales=[1]), "holds no scales"),
    (lambda w, e: w["scales"].update(x=3), r"scales\.json: x is 3, expected the fields"),
    (lambda w, e: w["scales"].update({"readout": e}), "readout"),
    (lambda w, e: w["scales"].update({"readout/kernel/x": e}), "x lies below another"),
    (setting(colour="red"), "readout/kernel has the unknown field 'colour'; expected kind"),
    (lambda w, e: e.pop("init_std") and None, "readout/kernel lacks the field 'init_std'"),
    (setting(init_std="0.1"), 'init_std is "0.1", expected a finite number of at least 0'),
    (setting(init_std=-0.1), "init_std is -0.1, expected a finite"),
    (setting(init_std=True), "init_std is true, expected a finite"),
    (setting(init_std=None), "init_std is null, expected a finite"),
    (setting(gradient_factor=float("nan")), "gradient_factor is NaN, expected a finite"),
    (setting(multiplier=float("inf")), "multiplier is Infinity, expected a finite"),
    (setting(kind="huge"), 'kind is "huge", expected one of input, hidden, output, vec'),
    (setting(kind=["hidden"]), "kind is .* expected one of"),
    (setting(trainable=1), "trainable is 1, expected true or false"),
    (setting(axes=3), "axes is 3, expected a text"),
    (setting(axes="embed"), "axes 'embed' cannot be read"),
    (setting(axes="embed -> embed embed"), "name 3 axes but the parameter has shape"),
    (setting(shape=[8.0, 2]), r"shape is \[8.0, 2\], expected a list"),
    (setting(shape="82"), 'shape is "82", expected a list'),
    (setting(shape=[8, 0]), r"readout/kernel: a size of shape=0"),
  ],
)
def test_a_wrong_file_is_refused(path, edit, message):
  edited(path, edit)
  with pytest.raises(dmup.DepthMupError, match=message):
    load_scales(path)


def test_other_wrong_input(path, tmp_path, made):
  s = made[1]["readout"]["kernel"]
  with pytest.raises(dmup.DepthMupError, match="cannot be read: No such file"):
    load_scales(tmp_path / "none.json")
  path.write_bytes(b"\xff\xfe")
  with pytest.raises(dmup.DepthMupError, match="is no JSON"):
    load_scales(path)
  path.write_text('{"a": 1, "a": 2}')
  with pytest.raises(dmup.DepthMupError, match="two entries 'a'"):
    load_scales(path)
  path.write_text("[" * 100_000)
  with pytest.raises(dmup.DepthMupError, match="is no JSON"):
    load_scales(path)
  for scales, message in [
    ({"a": {"b": 3}}, "a/b is a int, expected Scales"),
    ({}, "scales is empty"),
    ({"a/b": s, "a": {"b": s}}, "two parameters have the path a/b"),
    ({"a": s, "a/b": s}, "a/b lies below another"),
  ]:
    with pytest.raises(dmup.DepthMupError, match=message):
      save_scales(tmp_path / "new.json", copy.copy(scales))
  assert not (tmp_path / "new.json").exists()
