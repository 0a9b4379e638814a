#!/usr/bin/env bash
# The host's own Python and the pinned packages; a second time does nothing.
#
#   setup_vm.sh          install
#   setup_vm.sh --where  print the folder of the environment
#
# Ubuntu 22.04, which TPU VMs run, has Python 3.10, and jax 0.10.2 needs 3.11:
# uv, itself pinned, brings one. Each version of requirements-tpu.txt has an
# environment of its own, so an older tree of the code keeps what it ran with.
set -euo pipefail

readonly PYTHON=3.11.18 UV=0.13.9
here=$(cd -P "$(dirname "${BASH_SOURCE[0]}")" && pwd)
home=${BYOL_JAX_HOME:-$HOME/byol_jax}
digest=$(sha256sum "$here/requirements-tpu.txt" | cut -c1-12)
environment=$home/python-$PYTHON-$digest

if [[ ${1-} == --where ]]; then
  printf '%s\n' "$environment"
  exit
fi

check() {
  local found
  found=$("$environment/bin/python" -V)
  if [[ $found != "Python $PYTHON" ]]; then
    echo "setup_vm: $environment: expected Python $PYTHON, found $found;" \
      "delete that folder and run this again" >&2
    exit 1
  fi
}

if [[ -e $environment/complete ]]; then
  check
  exit
fi

mkdir -p "$home"
# One at a time: ssh may come twice.
exec 9>"$home/setup.lock"
flock 9
tools=$home/uv-$UV
if [[ ! -x $tools/bin/uv ]]; then
  python3 -m pip install --quiet --disable-pip-version-check \
    --only-binary=:all: --target="$tools" "uv==$UV"
fi
export UV_PYTHON_INSTALL_DIR=$home/pythons
"$tools/bin/uv" python install "$PYTHON"
"$tools/bin/uv" venv --allow-existing --python="$PYTHON" "$environment"
check
# `promise`, pure Python, is published without a wheel.
"$tools/bin/uv" pip install --python="$environment/bin/python" \
  --only-binary=:all: --no-binary=promise \
  --requirements="$here/requirements-tpu.txt"
touch "$environment/complete"
