"""A transformer written out in numpy, float64, one position and head at a time."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import flax_depthmup as dmup

#: Axes of a base net of width 8; `transformer` is four times as wide and deep.
BASE = dmup.axis_sizes(width=8, heads=2, kv_heads=1, mlp=16)
VOCAB = 11
TOKENS = jnp.asarray(np.random.default_rng(5).integers(0, VOCAB, (2, 6)))

#: Compiles in half the time; the programs of these tests run once.
quick_jit = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)


def transformer(preset: Any = dmup.complete_p, rule: Any = None, **fields: Any):
  """A small net, wider and deeper than its base net, no multiplier of it 1."""
  kwargs = {} if rule is None else {"width_rule": rule}
  p = preset(base_width=BASE, base_depth=1, **kwargs)
  wide = {"width": 16, "heads": 4, "kv_heads": 2, "head_dim": 6, "mlp": 24, "depth": 2}
  numbers = {"attention_multiplier": 5.0, "block_multiplier": 1.5, "readout_multiplier": 3}
  return dmup.Transformer(
    **({"vocab": VOCAB, "parametrization": p} | wide | numbers | fields)
  )


def drawn(model: Any, seed: int = 0) -> Any:
  """Parameters and scales; every parameter random, of its init's std, gains about 1."""
  shapes, scales = dmup.abstract_init(model, jax.random.key(0), TOKENS)
  rng = np.random.default_rng(seed)

  def draw(path: Any, x: Any, s: Any) -> np.ndarray:
    gain = path[-1].key == "scale"
    w = rng.normal(0, 0.2 if gain else s.init_std, x.shape) + gain
    return w.astype(np.float32)

  return jax.tree_util.tree_map_with_path(draw, shapes, scales), scales


def attention(params: Any, x: Any, multiplier: float, base: float = 10_000.0) -> Any:
  """Causal attention of x [length, width], without the norm, [length, width]."""

  def project(name: str) -> Any:
    y = np.einsum("lw,whd->lhd", x, params[name]["kernel"])
    return y + params[name].get("bias", 0)

  query, key, value = (project(name) for name in ("query", "key", "value"))
  length, heads, dim = query.shape
  share = heads // key.shape[1]  # query heads per key head
  y = np.zeros((length, heads, dim))
  for i in range(length):
    for head in range(heads):
      logits = np.array(
        [
          _turned(query[i, head], i, base) @ _turned(key[j, head // share], j, base)
          for j in range(i + 1)
        ]
      )
      weights = np.exp(logits * multiplier / dim)
      y[i, head] = weights @ value[: i + 1, head // share] / weights.sum()
  out = params["out"]
  return np.einsum("lhd,hdw->lw", y, out["kernel"]) + out.get("bias", 0)


def _turned(x: Any, position: int, base: float) -> Any:
  """x as complex numbers, each turned by its own angle."""
  half = len(x) // 2
  z = x[:half] + 1j * x[half:]
  z = z * np.exp(1j * position * base ** (-np.arange(half) / half))
  return np.concatenate([z.real, z.imag])


_PHI = {
  "relu": lambda x: np.maximum(x, 0),
  "gelu": lambda x: x / (1 + np.exp(-2 * (2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))),
}


def _mlp(params: Any, x: Any, activation: str) -> Any:
  def dense(name: str, x: Any) -> Any:
    return x @ params[name]["kernel"] + params[name].get("bias", 0)

  h = dense("up", x)
  h = _PHI[activation](dense("gate", x)) * h if "gate" in params else _PHI[activation](h)
  return dense("down", h)


def _norm(params: Any, x: Any, kind: str) -> Any:
  x = x - x.mean(-1, keepdims=True) if kind == "layer_norm" else x
  x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
  return x * params.get("scale", 1) + params.get("bias", 0)


def logits(
  model: dmup.Transformer, params: Any, text: Any, branch: float, ins: float, outs: float
) -> Any:
  """Logits [length, vocab] of one text.

  Args:
    model: its fields alone are read.
    params: plain arrays.
    text: tokens [length].
    branch, ins, outs: the multipliers of branches, embedding and readout, by hand.
  """
  params = jax.tree.map(lambda w: np.asarray(w, np.float64), params)
  table = params["embed"]["embedding"]
  x = ins * table[np.asarray(text)]
  for i in range(model.depth):
    layer = jax.tree.map(lambda w, i=i: w[i], params["layers"])
    part = layer["attention"]
    h = _norm(part.get("norm", {}), x, model.norm)
    x = x + branch * attention(part, h, model.attention_multiplier, model.rope_base)
    part = layer["mlp"]
    h = _norm(part.get("norm", {}), x, model.norm)
    x = x + branch * _mlp(part, h, model.activation)
  x = _norm(params.get("norm", {}), x, model.norm)
  readout = table.T if model.tied else params["readout"]["kernel"]
  return outs * x @ readout
