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
from flax_depthmup.axes import Axes


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


@pytest.mark.parametrize(
  ("axes", "shape"),
  [
    ("embed -> embed", (8, 8)),
    ("embed -> embed", (4, 4)),  # at the base size: one of four kinds by the axes alone
    ("(kh) (kw) embed -> (kh)", (3, 3, 8, 3)),
    ("-> (embed)", (8,)),
    ("->", ()),
    ("experts | -> embed", (7, 8)),
    (Axes.parse("embed -> embed").insert(1, "layers"), (8, 3, 8)),  # nn.scan of axis 1
    (Axes.parse("embed -> embed").insert(2, "layers").insert(1, "experts"), (8, 2, 8, 3)),
    (Axes((*Axes.parse("-> embed").axes, *Axes.parse("(i) ->").axes)), (8, 3)),  # turned
  ],
)
def test_axes_of_any_order_come_back(tmp_path, axes, shape):
  p = dmup.complete_p(base_width=4, base_depth=2)
  scales = {"w": dmup.resolve(axes, shape, p, depth=3)}
  save_scales(tmp_path / "s.json", scales)
  assert load_scales(tmp_path / "s.json") == scales


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
    (
      setting(axes="embed -> embed embed"),
      r'kernel: axis_names is \["embed", "outputs"\], expected 3 entries',
    ),
    (setting(shape=[8.0, 2]), r"shape is \[8.0, 2\], expected a list"),
    (setting(shape="82"), 'shape is "82", expected a list'),
    (setting(shape=[8, 0]), r"kernel: shape is \[8, 0\], expected sizes of at least 1"),
    (setting(base_shape=[0, 2]), r"kernel: base_shape is \[0, 2\], expected sizes of"),
    (setting(base_shape=[4]), r"kernel: base_shape is \[4\], expected 2 entries, one for"),
    (setting(base_shape=[4, 1]), r"base_shape is \[4, 1\], expected 2 for the axis \(outp"),
    (setting(shape=[8]), r"kernel: shape is \[8\], expected 2 entries"),
    (setting(roles=["in"]), r'kernel: roles is \["in"\], expected 2 entries'),
    (setting(roles=["out", "in"]), r'kernel: roles is \["out", "in"\], expected those of'),
    (setting(roles=["x", "out"]), r'kernel: roles is .* expected 1 of "in", as in "embed'),
    (setting(roles=["in", "in"]), r'kernel: roles is .* expected 1 of "in", as in "embed'),
    (setting(axis_names=["q"]), r'kernel: axis_names is \["q"\], expected 2 entries'),
    (setting(axis_names=["q", "outputs"]), 'kernel: axis_names is .* role "in" are embed'),
    (setting(axes="a -> (b)"), 'kernel: axis_names is .* role "in" are a;'),
    (setting(axes="outputs -> embed"), r'kernel: roles is .* role "in" are outputs'),
    (setting(kind="vector"), 'kernel: kind is "vector", expected output, by "embed -> '),
    (setting(kind="hidden"), 'kernel: kind is "hidden", expected output'),
    (setting(gradient_factor=0), "kernel: gradient_factor is 0, expected a number over 0"),
    (setting(std_factor=0.0), "kernel: std_factor is 0, expected a number over 0"),
    (
      setting(gradient_factor=-1),
      "kernel: gradient_factor is -1, expected a finite",
    ),
    (setting(width_update_factor=-1.0), "width_update_factor is -1.0, expected a finite"),
    (setting(init_std=10**400), "kernel: init_std is 10+, expected a finite number"),
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
    ({"a": dataclasses.replace(s, multiplier=np.nan)}, "scales: a: multiplier is NaN, exp"),
    ({"a": dataclasses.replace(s, roles=("out", "in"))}, "scales: a: roles is .* anew fro"),
    (
      {"a": dataclasses.replace(s, trainable=np.True_)},
      'trainable is "True", expected tru',
    ),
    ({"a/b": s, "a": {"b": s}}, "two parameters have the path a/b"),
    ({"a": s, "a/b": s}, "a/b lies below another"),
  ]:
    with pytest.raises(dmup.DepthMupError, match=message):
      save_scales(tmp_path / "new.json", copy.copy(scales))
  assert not (tmp_path / "new.json").exists()
