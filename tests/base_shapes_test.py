"""Files of base shapes: mup's own format, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

import flax_depthmup as dmup
from flax_depthmup.adapt.base_shapes import read_base_shapes, write_base_shapes
from flax_depthmup.adapt.shapes import axes_from_shapes
from flax_depthmup.axes import Axes, kind_of
from flax_depthmup.paths import path_name


def net(width, layers=2):
  """Flax's shapes: embeddings [vocab, embed], kernels [in, out], a convolution."""

  def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)

  return {
    "conv": {"kernel": shape(3, 5, 7, width)},
    "embed": {"embedding": shape(11, width)},
    **{
      f"layers_{i}": {"kernel": shape(width, 4 * width), "bias": shape(4 * width)}
      for i in range(layers)
    },
    "out": {"kernel": shape(4 * width, 11)},
    "temperature": shape(),
  }


#: As mup writes the same net in PyTorch, with its own comments, written by hand.
GOLDEN = """\
# This is a base shape file encoded in yaml
# - `null` indicates a dimension is "finite", i.e. a non-"width" dimension
# - a number indicates the base dimension of an "infinite" dimension
conv.kernel:
- 8
- null
- null
- null
embed.embedding:
- null
- 8
layers_0.bias:
- 32
layers_0.kernel:
- 32
- 8
layers_1.bias:
- 32
layers_1.kernel:
- 32
- 8
out.kernel:
- null
- 32
temperature: []
"""


@pytest.fixture
def golden(tmp_path):
  path = tmp_path / "net.bsh"
  path.write_text(GOLDEN)
  return path


def shapes_of(tree):
  return jax.tree.map(lambda x: x.shape, tree)


def test_reads_what_mup_writes(golden):
  target = net(64)
  found = read_base_shapes(golden, target)
  assert found.base == net(8)
  assert found.depth is None
  grown = jax.tree.map(
    lambda b, d: [n != m for n, m in zip(b.shape, d.shape, strict=True)],
    found.base,
    found.delta,
  )
  assert grown["conv"]["kernel"] == [False, False, False, True]
  assert grown["out"]["kernel"] == [True, False]
  assert grown["temperature"] == []


def test_writes_what_mup_reads(golden, tmp_path):
  """mup: yaml.safe_load of one document; three lines of comment; entries in its order."""
  path = tmp_path / "written.bsh"
  write_base_shapes(str(path), net(8), net(16))
  lines = path.read_text().splitlines()
  assert [line[0] for line in lines[:4]] == ["#", "#", "#", "c"]
  assert yaml.safe_load(path.read_text()) == yaml.safe_load(GOLDEN)
  assert lines[3:] == GOLDEN.splitlines()[3:]


def test_round_trip_with_depth(tmp_path):
  path = tmp_path / "net.bsh"
  base = jax.tree.map(lambda s: np.zeros(s.shape, np.float32), net(8))
  write_base_shapes(path, base, net(16), depth=2)
  found = read_base_shapes(path, net(64))
  assert (found.base, found.depth) == (net(8), 2)
  first, second = yaml.safe_load_all(path.read_text())
  assert first == yaml.safe_load(GOLDEN)
  assert second == {"base_depth": 2}


def test_names_and_order_can_be_others(tmp_path):
  path = tmp_path / "net.bsh"
  tree = {"blocks": [{"w": np.ones((2, 3))}, {"w": np.ones((2, 3))}]}
  wide = {"blocks": [{"w": np.ones((2, 6))}, {"w": np.ones((2, 6))}]}
  kwargs = {
    "names": lambda path: "module." + path.replace("/", "."),
    "transpose": lambda path: path == "blocks/0/w",
  }
  write_base_shapes(path, tree, wide, **kwargs)
  expected = {"module.blocks.0.w": [3, None], "module.blocks.1.w": [None, 3]}
  assert yaml.safe_load(path.read_text()) == expected
  assert shapes_of(read_base_shapes(path, wide, **kwargs).base) == shapes_of(tree)
  write_base_shapes(path, net(8), net(16), transpose=False)
  assert yaml.safe_load(path.read_text())["out.kernel"] == [32, None]
  assert read_base_shapes(path, net(64), transpose=False).base == net(8)


@pytest.mark.parametrize("width", [8, 64])
def test_axes_come_from_the_file(golden, width):
  """Also where the target has the base net's width."""
  target = net(width)
  shapes = read_base_shapes(golden, target)
  axes = axes_from_shapes(shapes.base, target, shapes.delta, branches=())
  labels = jax.tree_util.tree_leaves_with_path(axes.tree)
  found = {path_name(path): Axes.parse(label.axes) for path, label in labels}
  kinds = {name: kind_of(a, axes.base_sizes).value for name, a in found.items()}
  assert kinds == {
    "conv/kernel": "input",
    "embed/embedding": "input",
    "layers_0/bias": "vector",
    "layers_0/kernel": "hidden",
    "layers_1/bias": "vector",
    "layers_1/kernel": "hidden",
    "out/kernel": "output",
    "temperature": "scalar",
  }
  assert sorted(axes.base_sizes.values()) == [8, 32]


# wrong files --------------------------------------------------------------------


def test_a_file_cut_anywhere_is_refused(golden):
  for cut in range(len(GOLDEN)):
    golden.write_text(GOLDEN[:cut])
    with pytest.raises(dmup.DepthMupError, match=r"net\.bsh"):
      read_base_shapes(golden, net(64))


def _replaced(old, new):
  assert old in GOLDEN
  return GOLDEN.replace(old, new, 1)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    (
      _replaced("out.kernel", "head.kernel"),
      r"no entry out.kernel .*\(1 of 8 are miss.*head",
    ),
    (GOLDEN + "extra: []\n", "an entry extra that no parameter is called"),
    (GOLDEN + "out.kernel:\n- 8\n- 8\n", "two entries out.kernel"),
    (_replaced("- 8\n", "- 8.5\n"), "base size of conv.kernel=8.5: expected a whole"),
    (_replaced("- 8\n", "- true\n"), "base size of conv.kernel=True: expected a whole"),
    (_replaced("- 8\n", "- 0\n"), "base size of conv.kernel=0: expected a whole"),
    (_replaced("- 8\n", "- wide\n"), "base size of conv.kernel='wide'"),
    (_replaced("- 8\n", ""), r"conv.kernel has 3 axes, parameter conv/kernel has shape"),
    (_replaced("temperature: []", "temperature: 3"), "entry 'temperature' is 3; expected"),
    (_replaced("temperature: []", "3: []"), r"entry 3 is \[\]; expected a name"),
    ("- 1\n- 2\n", "no mapping from names"),
    ("", "does not end with a line's end"),
    ("\n", "no mapping from names"),
    ("{}\n", "no mapping from names"),
    ("a: [1\n", "is no YAML, or cut short"),
    ("a: !!python/object:os.system {}\n", "is no YAML"),
    ("{[1, 2]: 3}\n", "is no YAML"),
    (GOLDEN + "---\nbase_depth: 0\n", "base_depth=0: expected a whole number"),
    (GOLDEN + "---\ndepth: 2\n", "second document is {'depth': 2}"),
    (GOLDEN + "---\nbase_depth: 2\n---\na: 1\n", "no mapping from names"),
  ],
)
def test_a_wrong_file_is_refused(golden, text, message):
  golden.write_text(text)
  with pytest.raises(dmup.DepthMupError, match=message):
    read_base_shapes(golden, net(64))


def test_other_wrong_input(golden, tmp_path):
  with pytest.raises(dmup.DepthMupError, match="cannot be read: No such file"):
    read_base_shapes(tmp_path / "none.bsh", net(64))
  golden.write_bytes(b"\xff\xfe\x00")
  with pytest.raises(dmup.DepthMupError, match="is no YAML"):
    read_base_shapes(golden, net(64))
  golden.write_text(GOLDEN)
  with pytest.raises(dmup.DepthMupError, match=r"no entry layers_2\.bias .* file's depth"):
    read_base_shapes(golden, net(64, layers=3))
  with pytest.raises(dmup.DepthMupError, match=r"an entry layers_1\.bias that no param"):
    read_base_shapes(golden, net(64, layers=1))
  with pytest.raises(dmup.DepthMupError, match="names gives 'w' for parameter embed/emb"):
    read_base_shapes(golden, net(64), names=lambda path: "w")
  with pytest.raises(dmup.DepthMupError, match="names gives None for parameter"):
    read_base_shapes(golden, net(64), names={}.get)
  with pytest.raises(dmup.DepthMupError, match="transpose='yes'"):
    read_base_shapes(golden, net(64), transpose="yes")
  with pytest.raises(dmup.DepthMupError, match="target has no parameters"):
    read_base_shapes(golden, {})
  with pytest.raises(dmup.DepthMupError, match="target: a is a int; give a tree of arr"):
    read_base_shapes(golden, {"a": 3})
  wrong = [net(16, layers=3), net(16, layers=1), net(16) | {"temperature": np.ones(2)}]
  for delta in wrong:
    with pytest.raises(dmup.DepthMupError, match="give two widths of one net"):
      write_base_shapes(golden, net(8), delta)
  with pytest.raises(dmup.DepthMupError, match="depth=0"):
    write_base_shapes(golden, net(8), net(16), depth=0)
  assert golden.read_text() == GOLDEN  # untouched
