"""What the exact limits cost, over steps T and depth L, and how it grows."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_depthmup.diagnostics import fit_power_law
from flax_depthmup.limits import (
  deep_linear_limit,
  linear_residual,
  nonlinear_ode,
  nonlinear_residual,
  one_hidden_limit,
  particle_limit,
  residual_ntk,
  sobol_net,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
  """What is measured.

  Attributes:
    steps: T of the residual solvers, at `depth`.
    depth: L where T is varied.
    depths: L of the residual solvers, at `length`.
    length: T where L is varied.
    mlp_steps: T of the solvers of MLPs.
    mlp_depths: hidden layers of theirs.
    particles: of each of two groups.
  """

  steps: tuple[int, ...] = (5, 10, 20, 40)
  depth: int = 64
  depths: tuple[int, ...] = (64, 128, 256, 512, 1024)
  length: int = 10
  mlp_steps: tuple[int, ...] = (4, 8, 16, 32)
  mlp_depths: tuple[int, ...] = (2, 4, 8)
  particles: int = 2**12


#: (T, L) -> a function that solves once and blocks.
Solver = Callable[[int, int], Callable[[], Any]]


def measurements(c: Limits) -> dict[str, Callable[[], dict[str, Any]]]:
  """Name -> a function that measures it and gives an entry of the summary."""
  found = {}
  for name, solver in _residual_solvers().items():
    found[name] = _grows(name, solver, c.steps, c.depths, c.length, c.depth)
  for name, solver in _mlp_solvers(c.particles).items():
    deep = "one hidden" not in name
    layers = c.mlp_depths if deep else ()
    found[name] = _grows(name, solver, c.mlp_steps, layers, c.mlp_steps[0], 2)
  found["residual NTK"] = lambda: {"limits residual NTK": _over_depth(_ntk, c.depths)}
  return found


def _grows(
  name: str,
  solver: Solver,
  steps: Sequence[int],
  depths: Sequence[int],
  length: int,
  depth: int,
) -> Callable[[], dict[str, Any]]:
  def measure() -> dict[str, Any]:
    by_steps = _timed({t: solver(t, depth) for t in steps})
    entry = {f"over T at L={depth}": by_steps}
    if depths:
      entry[f"over L at T={length}"] = _timed({d: solver(length, d) for d in depths})
    return {f"limits {name}": entry}

  return measure


def _over_depth(solver: Callable[[int], Callable[[], Any]], depths: Sequence[int]) -> Any:
  return {"over L": _timed({depth: solver(depth) for depth in depths})}


def _timed(solvers: dict[int, Callable[[], Any]]) -> dict[str, Any]:
  """Seconds of the best of three by size, their exponent, and what bytes are known."""
  seconds, memory = {}, {}
  for size, solve in solvers.items():
    solve()  # compiles
    times = []
    for _ in range(3):
      begin = time.perf_counter()
      solve()
      times.append(time.perf_counter() - begin)
    seconds[str(size)] = min(times)
    if hasattr(solve, "bytes"):
      memory[str(size)] = solve.bytes
  entry: dict[str, Any] = {"seconds": seconds}
  sizes = [float(size) for size in seconds]
  if len(sizes) > 2:
    entry["exponent"] = fit_power_law(sizes, [*seconds.values()])[0]
  if memory:
    entry["bytes"] = memory
    if len(sizes) > 2:
      entry["exponent of bytes"] = fit_power_law(sizes, [*memory.values()])[0]
  return entry


class _Compiled:
  """A program that is run with the arrays it was compiled for; knows its memory."""

  def __init__(self, function: Callable[..., Any], *arrays: Any):
    self._arrays = arrays
    self._program = jax.jit(function).lower(*arrays).compile()
    analysis = self._program.memory_analysis()
    self.bytes = int(analysis.temp_size_in_bytes + analysis.output_size_in_bytes)

  def __call__(self) -> Any:
    return jax.block_until_ready(self._program(*self._arrays))


def _run(steps: int) -> tuple[np.ndarray, np.ndarray]:
  """Inputs of norm one and targets [T, 1, 1]."""
  rng = np.random.default_rng(0)
  return rng.choice([-1.0, 1.0], (steps, 1, 1)), 0.1 * rng.normal(size=(steps, 1, 1))


def _square(f: Any, y: Any) -> Any:
  return f - y


def _residual_solvers() -> dict[str, Solver]:
  def compiled(solve: Callable[..., Any]) -> Solver:
    def at(steps: int, depth: int) -> Callable[[], Any]:
      fields = {"depth": depth, "loss_derivative": _square, "learning_rate": 0.1}
      arrays = (jnp.asarray(a, jnp.float32) for a in _run(steps))
      return _Compiled(lambda x, y: solve(x, y, **fields), *arrays)

    return at

  return {
    "linear residual": compiled(linear_residual),
    "tanh residual": compiled(lambda x, y, **f: nonlinear_residual(x, y, jnp.tanh, **f)),
    "abs residual": compiled(lambda x, y, **f: nonlinear_residual(x, y, "abs", **f)),
  }


def _mlp_solvers(particles: int) -> dict[str, Solver]:
  def deep(steps: int, layers: int) -> Callable[[], Any]:
    given = (*_run(steps), _square, 0.02)
    return lambda: deep_linear_limit(*given, hidden_layers=layers, d_out=1)

  def by_particles(steps: int, layers: int) -> Callable[[], Any]:
    given = (*_run(steps), _square, 0.02, jnp.tanh)
    fields = {"hidden_layers": layers, "d_out": 1, "particles": particles, "groups": 2}
    return lambda: particle_limit(*given, **fields)

  def one_hidden(steps: int, layers: int) -> Callable[[], Any]:
    del layers
    net = sobol_net(1, 1, 2**14, 1.0, 1.0)
    given = (*_run(steps), _square, 0.02, jnp.tanh)
    return lambda: one_hidden_limit(net, *given)

  def ode(steps: int, layers: int) -> Callable[[], Any]:
    fields = {"depth": 8 * layers, "loss_derivative": _square, "learning_rate": 0.1}
    fields |= {"particles": particles, "groups": 2}
    return lambda: nonlinear_ode(*_run(steps), jnp.tanh, **fields)

  return {
    "deep linear": deep,
    "tanh MLP by particles": by_particles,
    "tanh, one hidden layer": one_hidden,
    "tanh ODE by particles": ode,
  }


def _ntk(depth: int) -> Callable[[], Any]:
  rng = np.random.default_rng(0)
  x = rng.normal(size=(8, 30))
  k0 = x @ x.T / 30
  multipliers = [depth**-0.5] * depth
  return lambda: residual_ntk(k0, multipliers, "relu", mean_subtraction=True)
