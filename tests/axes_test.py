import pytest

from flax_depthmup.axes import Axes, Kind, Role, kind_of
from flax_depthmup.errors import DepthMupError

BASE = {"embed": 64, "mlp": 256}


@pytest.mark.parametrize(
  ("text", "kind"),
  [
    ("embed -> mlp", Kind.HIDDEN),
    ("(inputs) -> embed", Kind.INPUT),
    ("(kh) (kw) embed -> embed", Kind.HIDDEN),
    ("embed -> (classes)", Kind.OUTPUT),
    ("-> embed", Kind.VECTOR),
    ("layers | embed -> mlp", Kind.HIDDEN),
    ("layers | -> embed", Kind.VECTOR),
    ("->", Kind.SCALAR),
    ("-> (classes)", Kind.SCALAR),
    ("inputs -> classes", Kind.SCALAR),
  ],
)
def test_kind_and_written_form(text, kind):
  axes = Axes.parse(text)
  assert kind_of(axes, BASE) is kind
  assert str(axes) == text
  assert Axes.parse(axes) is axes


def test_an_axis_without_base_size_is_finite():
  axes = Axes.parse("embed -> mlp")
  assert kind_of(axes, {"embed": 64}) is Kind.OUTPUT
  assert kind_of(axes, {"mlp": 64}) is Kind.INPUT


def test_a_stacked_axis_never_grows():
  axes = Axes.parse("embed | -> (classes)")
  assert kind_of(axes, BASE) is Kind.SCALAR


def test_sizes_and_stacking():
  axes = Axes.parse("embed -> heads head_dim")
  assert axes.sizes(Role.IN, (8, 3, 5)) == 8
  assert axes.sizes(Role.OUT, (8, 3, 5)) == 15
  stacked = axes.insert(0, "layers")
  assert str(stacked) == "layers | embed -> heads head_dim"
  assert stacked.sizes(Role.OUT, (7, 8, 3, 5)) == 15
  assert stacked.remove(0) == axes


@pytest.mark.parametrize(
  "text", ["embed", "embed mlp", "a -> b -> c", "a | b | -> c", "em-bed -> x", "(a -> b", 3]
)
def test_unreadable_axes(text):
  with pytest.raises(DepthMupError, match="axes"):
    Axes.parse(text)


def test_wrong_number_of_axes():
  with pytest.raises(DepthMupError, match="name 2 axes .* shape"):
    Axes.parse("embed -> mlp").check_shape((3, 4, 5))
