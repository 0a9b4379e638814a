#!/usr/bin/env bash
# What a host of a Cloud TPU slice executes; tpu_vm.sh calls it over ssh.
#
#   setup_vm.sh install
#   setup_vm.sh start NAME START_ID GRACE_SECONDS ARGUMENTS OF BYOL_JAX...
#   setup_vm.sh status NAME
#   setup_vm.sh stop NAME GRACE_SECONDS
#
# Example, on a host:
#
#   byol_jax/current/launch/setup_vm.sh start byol 1 120 \
#     pretrain --distributed=gce --config=pretrain:1000 --workdir=gs://b/byol
#
# `install`: TPU VMs have Python 3.10 (Ubuntu 22.04), and jax 0.10.2 needs 3.11,
# so uv installs one. Each version of requirements-tpu.txt has an environment:
# an older commit keeps the packages that it ran with.
#
# `start` detaches the training. ~/byol_jax/jobs/NAME holds its `log`, `lock`
# (held while any process of it lives), `pid`, `start` (the START_ID),
# `exit_code` (written at the end) and `stopped` (if `stop` ended it). gcloud
# repeats a command whose connection failed, so each verb may run twice.
set -euo pipefail

readonly PYTHON=3.11.18 UV=0.13.9
tree=$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
home=$HOME/byol_jax
requirements=$tree/launch/requirements-tpu.txt
digest=$(sha256sum "$requirements" | cut -c1-12)
environment=$home/python-$PYTHON-$digest

install_packages() {
  mkdir -p "$home"
  exec 9>"$home/setup.lock"
  flock 9
  [[ ! -e $environment/complete ]] || return 0
  local uv=$home/uv-$UV/bin/uv
  python3 -m pip install --quiet --disable-pip-version-check \
    --only-binary=:all: --upgrade --target="$home/uv-$UV" "uv==$UV"
  export UV_PYTHON_INSTALL_DIR=$home/pythons
  "$uv" python install "$PYTHON"
  "$uv" venv --allow-existing --python="$PYTHON" "$environment"
  # `promise`, pure Python, is published without a wheel.
  "$uv" pip install --python="$environment/bin/python" --only-binary=:all: \
    --no-binary=promise --requirements="$requirements"
  touch "$environment/complete"
}

# --shared: two queries at once must not take each other for a training.
is_running() { ! flock --shared --nonblock "$job/lock" true; }

send_signal() { kill "-$1" "$(cat "$job/pid")" 2>/dev/null || true; }

end_training() { # GRACE_SECONDS
  is_running || return 0
  send_signal TERM
  flock --timeout "$1" "$job/lock" true && return
  send_signal KILL
  flock --timeout 30 "$job/lock" true
}

# Runs the training in the foreground and stores its exit code.
supervise() {
  local code=0
  trap '' HUP
  "$environment/bin/python" -m byol_jax "$@" &
  echo "$!" >"$job/pid"
  wait "$!" || code=$?
  echo "$code" >"$job/exit_code"
  echo "setup_vm: start $(<"$job/start") ended with exit code $code"
}

start() { # START_ID GRACE_SECONDS ARGUMENTS...
  [[ ! -e $job/start || $(<"$job/start") != "$1" ]] || return 0
  end_training "$2"
  # Held before ssh returns: a status right after it says running.
  exec 9>"$job/lock"
  flock --timeout 10 9
  rm -f "$job/exit_code" "$job/stopped" "$job/pid"
  echo "$1" >"$job/start"
  cd "$tree"
  # No silent training on the CPU where the TPU does not start.
  export JAX_PLATFORMS=tpu,cpu PYTHONUNBUFFERED=1
  supervise "${@:3}" </dev/null >>"$job/log" 2>&1 &
}

stop() { # GRACE_SECONDS
  ! is_running || touch "$job/stopped"
  end_training "$1"
}

status() {
  local state=absent
  if is_running; then
    state=running
  elif [[ -e $job/stopped ]]; then
    state=stopped
  elif [[ -e $job/start ]]; then
    # Without a code it was killed with its supervisor, or the host restarted.
    state=$(cat "$job/exit_code" 2>/dev/null || echo 137)
  fi
  echo "byol_jax: $HOSTNAME $state"
}

case ${1-} in
  install) install_packages ;;
  start | stop | status)
    job=$home/jobs/$2
    mkdir -p "$job"
    "$1" "${@:3}"
    ;;
  *) echo 'setup_vm: expected install, start, stop or status' >&2 && exit 2 ;;
esac
