#!/usr/bin/env bash
# Starts an entry point on every worker of a TPU pod slice.
#   docs/launch/tpu.sh NAME ZONE ENTRY [flags...]     ENTRY: train_lm, train_resnet, lr_transfer, proxy_tuning
# Expects a checkout with its .venv in ~/flax_depthmup on every worker.
set -euo pipefail
if (( $# < 3 )); then
  sed -n '2,4p' "$0" >&2
  exit 1
fi
name=$1 zone=$2 entry=$3
shift 3
flags=$(printf ' %q' "$@")
exec gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
  --command="cd ~/flax_depthmup && .venv/bin/python -m experiments.$entry --distributed$flags"
