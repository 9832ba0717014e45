"""Floating-point work of a training step, and what a device could do at its best."""

import jax

import flax_depthmup as dmup

#: bf16 matrix products, operations per second of one chip, by `Device.device_kind`.
#: From the vendors' data sheets, without sparsity.
PEAKS = {
  "TPU v4": 275e12,
  "TPU v5 lite": 197e12,
  "TPU v5e": 197e12,
  "TPU v5": 459e12,
  "TPU v5p": 459e12,
  "TPU v6 lite": 918e12,
  "TPU v6e": 918e12,
  "NVIDIA A100-SXM4-40GB": 312e12,
  "NVIDIA A100-SXM4-80GB": 312e12,
  "NVIDIA H100 80GB HBM3": 989e12,
  "NVIDIA H200": 989e12,
}


def peak_flops(device: jax.Device, given_tflops: float | None = None) -> float | None:
  """Peak operations per second of one device; None where it is not known."""
  return given_tflops * 1e12 if given_tflops else PEAKS.get(device.device_kind)


def transformer_flops(model: dmup.Transformer, length: int) -> float:
  """Operations of forward and backward per token (Chowdhery et al., 2204.02311, B).

  6 per parameter of a matrix product (the embedding is looked up, the readout
  multiplied), and 6 per pair of positions, head and coordinate in attention, which
  sees half of the pairs (the source counts all of them). Recomputed blocks do not
  count: they are no work done.
  """
  sizes = model.sizes
  inner = sizes["heads"] * sizes["head_dim"]
  kv = sizes["kv_heads"] * sizes["head_dim"]
  matrices = 3 if model.gated else 2
  layer = model.width * (2 * inner + 2 * kv + matrices * sizes["mlp"])
  weights = model.depth * layer + model.width * model.vocab
  return 6.0 * weights + 6.0 * model.depth * inner * length


def resnet_flops(model: dmup.ResNet, shape: tuple[int, int, int]) -> float:
  """Operations of forward and backward per image of shape [height, width, channels]."""
  height, width, channels = shape
  stem = model.stem_kernel_size or model.patch
  height, width = height // model.patch, width // model.patch
  work = float(height * width * stem**2 * channels * model.width)
  blocks = model.kernel_size**2 * model.width**2 * model.block_depth
  for stage in range(model.stages):
    count = model.depth // model.stages + (stage < model.depth % model.stages)
    work += count * blocks * (height >> stage) * (width >> stage)
  return 6.0 * (work + model.width * model.outputs)
