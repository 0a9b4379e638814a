#!/usr/bin/env bash
# What runs on a host of a slice; see hosts.py, which calls it over ssh.
#
#   on_host.sh preflight WORKDIR
#   on_host.sh start NAME TOKEN GRACE_SECONDS PYTHON_ARGUMENTS...
#   on_host.sh status NAME
#   on_host.sh stop NAME GRACE_SECONDS
#   on_host.sh log NAME LINES [follow]
#
# A training belongs to a folder, BYOL_JAX_HOME/jobs/NAME: `token` (which start
# this is), `lock` (held as long as anything of it lives), `pid`, `exit_code`
# (written when it ends), `stopped` (a hand ended it) and `log`. ssh may come
# twice, so each verb bears it.
set -euo pipefail

tree=$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
home=${BYOL_JAX_HOME:-$HOME/byol_jax}
host=${BYOL_JAX_HOST:-$(hostname)}

python_path() {
  printf '%s/bin/python' "$("$tree/launch/setup_vm.sh" --where)"
}

# No silent training on the CPU where the TPU does not start.
prepare() {
  cd "$tree"
  export JAX_PLATFORMS=${JAX_PLATFORMS-tpu,cpu}
  export PYTHONUNBUFFERED=1 BYOL_JAX_REVISION=${tree##*/}
}

enter_job() {
  job=$home/jobs/$1
  mkdir -p "$job"
}

# Shared: two who ask at once must not take each other for a training.
is_running() {
  ! flock --shared --nonblock "$job/lock" true
}

read_or() {
  cat "$job/$1" 2>/dev/null || printf '%s' "$2"
}

report() {
  local state=absent code=null
  if is_running; then
    state=running
  elif [[ -e $job/token ]]; then
    state=exited
    [[ ! -e $job/stopped ]] || state=stopped
    # Without a code it was killed with its keeper, or the host restarted.
    code=$(read_or exit_code 137)
  fi
  printf 'byol_jax: {"host": "%s", "token": %s, "state": "%s", "code": %s}\n' \
    "$host" "$(read_or token 0)" "$state" "$code"
}

# Waits until nothing of the job lives, at most $1 seconds.
await_end() {
  flock --timeout "$1" "$job/lock" true
}

end_running() {
  local pid
  pid=$(read_or pid '')
  [[ -z $pid ]] || kill -TERM "$pid" 2>/dev/null || true
  if ! await_end "$1"; then
    [[ -z $pid ]] || kill -KILL "$pid" 2>/dev/null || true
    await_end 30
  fi
}

# Holds the lock, starts the training, writes down how it ended. SIGTERM, which
# a host sends to all when it shuts down, is left to the training.
keep() {
  local token=$1 code=0 python
  shift
  trap '' TERM INT HUP
  python=$(python_path)
  prepare
  # A trap that ignores is inherited, so the training gets its defaults back.
  env --default-signal=TERM,INT,HUP "$python" "$@" &
  printf '%s' "$!" >"$job/pid"
  wait "$!" || code=$?
  printf '%s' "$code" >"$job/exit_code.part"
  mv "$job/exit_code.part" "$job/exit_code"
  echo "on_host: start $token ended with exit code $code"
}

start() {
  enter_job "$1"
  local name=$1 token=$2 grace=$3
  shift 3
  if [[ $(read_or token 0) == "$token" ]]; then
    report
    return
  fi
  if is_running; then
    end_running "$grace"
  fi
  rm -f "$job/exit_code" "$job/stopped" "$job/pid"
  # The lock is taken before ssh leaves: a status right after it sees it.
  exec 9>"$job/lock"
  flock --timeout 10 9
  printf '%s' "$token" >"$job/token"
  setsid nohup "$tree/launch/on_host.sh" keep "$name" "$token" "$@" \
    </dev/null >>"$job/log" 2>&1 &
  exec 9>&-
  report
}

case ${1-} in
  preflight)
    python=$(python_path)
    prepare
    # Where the devices hang, the versions were printed before.
    timeout --kill-after=10 600 "$python" launch/preflight.py "$host" "$2"
    ;;
  start)
    shift
    start "$@"
    ;;
  keep)
    enter_job "$2"
    shift 2
    keep "$@"
    ;;
  status)
    enter_job "$2"
    report
    ;;
  stop)
    enter_job "$2"
    if is_running; then
      touch "$job/stopped"
      end_running "$3"
    fi
    report
    ;;
  log)
    enter_job "$2"
    tail --lines="$3" ${4:+--follow=name} "$job/log"
    ;;
  *)
    sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac
