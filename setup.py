"""Package metadata; the version is read as text, so nothing is imported."""

import pathlib
import re

from setuptools import find_packages, setup

_HERE = pathlib.Path(__file__).parent
_INIT = (_HERE / "flax_depthmup" / "__init__.py").read_text()

_EXPERIMENTS = [
  "grain",
  "jinja2",
  "matplotlib",
  "pillow",
  "scikit-learn",
  "tqdm",
]
_TEXT = ["datasets", "tensorboardX", "tokenizers", "warcio", "zstandard"]
_DOCS = [
  "ipykernel",
  "mkdocs<2",  # 2 drops the plugins
  "mkdocs-jupyter",
  "mkdocs-material>=9.5",
  "mkdocstrings[python]>=1.0",
  "nbclient",
]
_TEST = ["mypy==2.4.1", "pytest", "pytest-xdist", "ruff==0.17.6"]

setup(
  name="flax_depthmup",
  version=re.search(r'__version__ = "(.+)"', _INIT).group(1),
  description="Depth-muP and its whole class of parametrizations, for JAX",
  long_description=(_HERE / "README.md").read_text(),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  keywords="mup, depth-mup, hyperparameter transfer, tensor programs, jax, flax, optax",
  classifiers=[
    "Intended Audience :: Science/Research",
    "Programming Language :: Python :: 3",
    "Programming Language :: Python :: 3.11",
    "Programming Language :: Python :: 3.12",
    "Topic :: Scientific/Engineering :: Artificial Intelligence",
    "Typing :: Typed",
  ],
  python_requires=">=3.11",
  packages=find_packages(include=["flax_depthmup", "flax_depthmup.*"]),
  package_data={"flax_depthmup": ["py.typed"]},
  install_requires=[
    "absl-py",
    "etils[epath]",
    "flax>=0.12",
    "jax>=0.10",
    "numpy",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12",
    "pyyaml",
    "rich",
    "scipy>=1.15",
  ],
  extras_require={
    "experiments": _EXPERIMENTS,
    "text": _TEXT,
    "export": ["safetensors"],
    "docs": [*_DOCS, "matplotlib", "scikit-learn"],
    "test": [*_EXPERIMENTS, *_TEXT, *_DOCS, *_TEST, "safetensors"],
  },
)
