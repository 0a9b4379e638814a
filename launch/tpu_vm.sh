#!/usr/bin/env bash
# Runs byol_jax on a Cloud TPU slice, through queued resources.
#
#   launch/tpu_vm.sh VERB FLAGS [-- VERB OF BYOL_JAX AND ITS ARGUMENTS]
#
#   create   request the slice
#   setup    send a commit of this checkout to all hosts and install it
#   run      create, setup, train; restart until a final exit code
#   status   of the slice, and of the training on each host
#   logs     of the training on --worker=0 (or another), until Ctrl-C
#   stop     let the training save and exit; the slice stays
#   delete   the slice, if it has the label byol-jax-launch=NAME
#
#   --name=NAME --project=PROJECT --zone=ZONE --topology=v3-512   required
#   --capacity=on-demand|spot|reserved                            on-demand
#   --commit=COMMIT  default: HEAD of a checkout without changes
#   --max-attempts=50 --max-hours=48  limits of one `run`
#   --grace-seconds=120  from SIGTERM to SIGKILL, for saving the state
#   --poll-seconds=30 --delete-at-end  of `run`
#   --create-flag=FLAG --ssh-flag=FLAG  further flags of gcloud, repeatable
#   --dry-run  print the commands of a run without failures; execute none
#
# Example:
#
#   launch/tpu_vm.sh run --name=byol --project=my-project \
#     --zone=europe-west4-a --topology=v3-512 --capacity=spot -- \
#     pretrain --config=pretrain:1000 --workdir=gs://my-bucket/byol \
#     --config.data_dir=gs://my-bucket/data
#
# The training is detached on the hosts: after Ctrl-C it continues, and the same
# command finds it again. Its exit code decides: 42 (preempted) and 128 or more
# (killed, crashed) start it again; all others are final. A slice that was
# preempted or failed is deleted and created again. This command exits with the
# final code, with 1 at a limit, with 2 where a flag is wrong.
#
# Needs bash 4.4, gcloud, git, timeout and Python 3.10: Cloud Shell has them.
set -euo pipefail

cd -P "$(dirname "${BASH_SOURCE[0]}")/.."
label=byol-jax-launch
on_host=byol_jax/current/launch/setup_vm.sh
name='' project='' zone='' topology='' commit='' capacity=on-demand worker=0
max_attempts=50 max_hours=48 grace_seconds=120 poll_seconds=30
dry_run=0 delete_at_end=0 create_flags=() ssh_flags=() arguments=()
timeout_flags=() state='' training=0 described=0 start_time=0
planned_state=ACTIVE scratch=/dev/null # of a dry run

log() { ((dry_run)) || echo "tpu_vm: $*" >&2; }
die() { echo "tpu_vm: $*" >&2 && exit 2; }

# Prints one line of POSIX shell that yields exactly these words.
quote() {
  local word line='' tick="'" escaped="'\\''" LC_ALL=C
  for word; do
    [[ $word =~ ^[A-Za-z0-9@%+=:,./_-]+$ ]] || word="'${word//$tick/$escaped}'"
    line+=" $word"
  done
  printf '%s' "${line# }"
}

# SECONDS COMMAND...
execute() {
  if ((dry_run)); then
    printf '%s\n' "$(quote "${@:2}")" >&3
  else
    timeout "${timeout_flags[@]}" "$@" </dev/null
  fi
}

# SECONDS VERB ARGUMENTS...
queued_resources() {
  execute "$1" gcloud compute tpus queued-resources "${@:2}" \
    "--project=$project" "--zone=$zone" --quiet
}

# SECONDS WORKER COMMAND. --batch-size=all: hosts wait for each other.
ssh_hosts() {
  queued_resources "$1" ssh "$name" "--worker=$2" --batch-size=all \
    "--command=$3" "${ssh_flags[@]}"
}

# Sets `state`: the slice's own, NOT_FOUND, or UNKNOWN where gcloud failed.
read_state() {
  local node='tpu.nodeSpec[0].node' fields description owner type reason
  fields=state.state,$node.labels.$label,$node.acceleratorType
  fields+=,state.failedData.error.message
  if ! description=$(queued_resources 120 describe "$name" \
    "--format=value[separator=\"|\"]($fields)" 2>"$scratch"); then
    state=NOT_FOUND
    grep -q NOT_FOUND "$scratch" && return
    ((described)) || die "gcloud describe failed: $(tail -n 1 "$scratch")"
    state=UNKNOWN
    return
  fi
  described=1 state=$planned_state
  ((!dry_run)) || return 0
  IFS='|' read -r state owner type reason <<<"$description"
  [[ $owner == "$name" ]] || die "--name: $name exists in $zone without the" \
    "label $label=$name: not created by this script"
  [[ $type == "$topology" ]] || die "--topology: $name is a $type," \
    "expected $topology; delete it or take another name"
  [[ -z $reason ]] || log "$name: $reason"
}

create() {
  queued_resources 600 create "$name" "--node-id=$name" \
    "--accelerator-type=$topology" "--labels=$label=$name" \
    "--runtime-version=$runtime_version" "${create_flags[@]}" &&
    planned_state=ACTIVE
}

# `read_state` checks the label. Without --force only a slice that has no hosts
# yet can be deleted.
delete() {
  read_state
  [[ $state != UNKNOWN ]] || return 1
  [[ $state == NOT_FOUND ]] || queued_resources 1800 delete "$name" --force
}

# Returns 0 once the slice is ACTIVE, 1 if one was requested in vain.
obtain() {
  local last='' created=0
  while true; do
    read_state
    [[ $state == "$last" ]] || log "$name: $state"
    last=$state
    case $state in
      ACTIVE) return 0 ;;
      NOT_FOUND)
        create || return 1
        created=1
        ;;
      SUSPENDED | FAILED)
        delete || pause
        ((!created)) || return 1
        ;;
      *) pause ;;
    esac
  done
}

# Only what is committed is sent.
resolve_commit() {
  if ((dry_run)); then commit=${commit:-HEAD} && return; fi
  [[ -n $commit || -z $(git status --porcelain) ]] ||
    die 'changes are not committed: commit them, or take --commit=HEAD'
  commit=$(git rev-parse --verify "${commit:-HEAD}^{commit}") ||
    die '--commit: no such commit in this checkout'
}

# Each commit gets a folder, as a whole or not at all. gcloud repeats a command
# whose connection failed, so what runs on a host may run twice.
setup() {
  resolve_commit
  local archive=${TMPDIR:-/tmp}/byol_jax-$commit.tar.gz
  execute 600 git archive --format=tar.gz "--output=$archive" "$commit" &&
    queued_resources 600 scp "$archive" "$name:" --worker=all \
      --batch-size=all "${ssh_flags[@]}" &&
    ssh_hosts 1800 all "c=$commit && mkdir -p byol_jax && cd byol_jax &&\
 { test -d \$c || { rm -rf part && mkdir part &&\
 tar -xzf ~/byol_jax-\$c.tar.gz -C part && mv -T part \$c; }; } &&\
 ln -sfn \$c current && current/launch/setup_vm.sh install"
}

# ATTEMPT. The token is new for each start: only its processes may report.
start() {
  local token=TOKEN
  ((dry_run)) || token=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
  ssh_hosts 600 all "BYOL_JAX_JOB_TOKEN=$token $(quote "$on_host" start \
    "$name" "$1-$start_time" "$grace_seconds" "${arguments[0]}" \
    --distributed=gce "${arguments[@]:1}")"
}

logs() {
  timeout_flags=(--foreground) # else Ctrl-C does not reach it
  ssh_hosts 604800 "$worker" "tail -n 50 -F byol_jax/jobs/$name/log"
}

stop() {
  ssh_hosts $((grace_seconds + 120)) all \
    "$(quote "$on_host" stop "$name" "$grace_seconds")"
}

# Prints a line "HOST STATE" for each host of --worker that answers.
ask_hosts() {
  ssh_hosts 120 "$1" "$(quote "$on_host" status "$name")" |
    sed -n 's/^byol_jax: //p' | sort -u || true
}

is_restarted() { (($1 == 42 || $1 >= 128)); }

# Prints one exit code for all hosts. A final one explains those of the others,
# which lost a process.
combine_codes() {
  local code
  for code in 2 3 4 1 "$@"; do
    if [[ " $* " == *" $code "* && $code != 0 ]] && ! is_restarted "$code"; then
      echo "$code"
      return
    fi
  done
  printf '%s\n' "$@" | sort -n | tail -n 1
}

# Polls until the training has ended; sets `code`, 137 if the slice was lost.
# Process 0 is asked: if another one dies, JAX ends it too.
await_end() {
  local report silent_polls=0
  code=137
  while pause; read_state; [[ $state == ACTIVE || $state == UNKNOWN ]]; do
    report=$(ask_hosts 0 2>"$scratch")
    ((!dry_run)) || report='host 0'
    case $report in
      *running) silent_polls=0 ;;
      *stopped)
        log 'stopped on request; the same command continues it'
        finish 42
        ;;
      *[0-9])
        mapfile -t codes < <(ask_hosts all | sed -n 's/.* \([0-9]*\)$/\1/p')
        code=$(combine_codes "${report##* }" "${codes[@]}")
        return
        ;;
      *)
        ((++silent_polls >= 10)) || continue
        log "the first host lost the training: $(tail -n 1 "$scratch")"
        delete || true
        return
        ;;
    esac
  done
  log "the slice is $state"
}

# Sleeps between two polls; ends the run when its hours are over.
pause() {
  ((!dry_run)) || return 0
  if (($(date +%s) >= start_time + max_hours * 3600)); then
    log "gave up after $max_hours hours"
    ((!training)) || stop || true
    finish 1
  fi
  sleep "$poll_seconds"
}

finish() {
  if ((delete_at_end)); then
    delete || log 'not deleted; see the verb delete'
  else
    log "$name stays, and is billed; see the verb delete"
  fi
  exit "$1"
}

run() {
  local attempt code
  for ((attempt = 1; attempt <= max_attempts; attempt++)); do
    ((attempt == 1)) || pause
    training=0 code=137
    if obtain; then
      if [[ $(ask_hosts 0) == *running ]]; then
        log 'the training runs already'
      else
        setup && start "$attempt"
      fi && training=1 && await_end
    fi
    log "attempt $attempt of $max_attempts ended with exit code $code"
    is_restarted "$code" || finish "$code"
  done
  log "gave up after $max_attempts attempts"
  finish 1
}

# FLAG VALUE PATTERN WHAT
require() { [[ $2 =~ ^($3)$ ]] || die "$1: expected $4, found '$2'"; }

verb=${1-}
while shift && (($#)); do
  case $1 in
    --name=* | --project=* | --zone=* | --topology=* | --capacity=* | \
      --commit=* | --worker=* | --max-attempts=* | --max-hours=* | \
      --grace-seconds=* | --poll-seconds=*)
      flag=${1%%=*} flag=${flag#--}
      printf -v "${flag//-/_}" %s "${1#*=}"
      ;;
    --create-flag=*) create_flags+=("${1#*=}") ;;
    --ssh-flag=*) ssh_flags+=("${1#*=}") ;;
    --delete-at-end) delete_at_end=1 ;;
    --dry-run) dry_run=1 ;;
    --)
      arguments=("${@:2}")
      break
      ;;
    *) die "no flag $1; the first lines of $0 list them" ;;
  esac
done
require VERB "$verb" 'create|setup|run|status|logs|stop|delete' \
  'create, setup, run, status, logs, stop or delete'
require --name "$name" '[a-z]([-a-z0-9]{0,38}[a-z0-9])?' \
  'at most 40 of a-z, 0-9 and -, first a letter'
require --project "$project" .+ 'a project'
require --zone "$zone" .+ 'a zone'
require --capacity "$capacity" 'on-demand|spot|reserved' 'one of these'
[[ $capacity == on-demand ]] || create_flags+=("--$capacity")
for flag in max_attempts max_hours grace_seconds poll_seconds; do
  require "--${flag//_/-}" "${!flag}" '[1-9][0-9]{0,6}' 'a whole number above 0'
done
if [[ $verb == run ]]; then
  require VERB "${arguments[0]-}" '[a-z].*' 'a verb of byol_jax after --'
  require --workdir " ${arguments[*]}" '.* --workdir=(gs://|/).*' \
    'gs://BUCKET/... or the full path of a mounted folder, which outlives hosts'
fi
# The table of slices needs no package beside this checkout.
runtime_version=$(python3 -c '
import sys
from byol_jax.planning.topologies import TOPOLOGIES
row = TOPOLOGIES.get(sys.argv[1]) or sys.exit(f"known: {[*TOPOLOGIES]}")
print(row.runtime_version)' "$topology") ||
  die "--topology: expected a slice such as v3-512, found '$topology'"

exec 3>&1
if ((!dry_run)); then
  scratch=$(mktemp)
  trap 'rm -f "$scratch"' EXIT
  trap 'log "interrupted; a training continues"; exit 130' INT
  start_time=$(date +%s)
fi
[[ $verb != run && $verb != create ]] || planned_state=NOT_FOUND
case $verb in
  run) resolve_commit && run ;;
  delete) delete ;;
  create)
    read_state
    [[ $state != NOT_FOUND ]] || create
    ;;
  status)
    read_state
    log "$name: $state"
    [[ $state != ACTIVE ]] || ask_hosts all
    ;;
  *)
    read_state
    [[ $state == ACTIVE ]] || die "$name: expected ACTIVE, found $state"
    "$verb"
    ;;
esac
