"""Hard floors for every test: four CPU devices, no silent broadcasting of ranks."""

import jax
import pytest
from absl import flags

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True)
def _parsed_flags():
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
