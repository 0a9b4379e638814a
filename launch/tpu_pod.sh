#!/usr/bin/env bash
# Pretrains on every host of an existing Cloud TPU slice.
#
#   launch/tpu_pod.sh NAME ZONE --config=pretrain:1000 --workdir=DIR ...
#
# NAME and ZONE are the slice's; all else goes to `python -m byol_jax pretrain`.
# Each host needs this checkout in ~/byol_jax with its .venv (`make .venv/runtime`
# and `.venv/bin/pip install 'jax[tpu]==0.10.2'`), and DIR and the data must be
# folders that all hosts see (a mounted bucket). DRY_RUN=1 prints the command.
#
# The flags: https://cloud.google.com/sdk/gcloud/reference/compute/tpus/tpu-vm/ssh
set -euo pipefail

if (($# < 2)); then
  sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
name=$1
zone=$2
shift 2

# Quoted twice: for the remote shell, then as one argument of gcloud.
printf -v flags ' %q' "$@"
remote="cd ~/byol_jax && .venv/bin/python -m byol_jax pretrain --distributed=auto${flags}"
# All hosts at once, since each waits for the others before its first step:
# gcloud takes 64 at a time, which is v3-512.
command=(
  gcloud compute tpus tpu-vm ssh "$name" "--zone=$zone"
  --worker=all "--command=$remote"
)
if [[ -n ${DRY_RUN:-} ]]; then
  printf '%q ' "${command[@]}"
  echo
else
  exec "${command[@]}"
fi
