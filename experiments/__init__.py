"""Entry points: run each as `python -m experiments.NAME --workdir=DIR`."""
