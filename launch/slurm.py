"""Runs byol_jax under SLURM: a batch script, one process for each GPU.

  python launch/slurm.py --name=byol --topology=4x8
      [--sbatch=--partition=gpu ...] [--dry-run]
      -- pretrain --config=pretrain:300 --workdir=/shared/run

submits it with sbatch from this checkout, whose folder all nodes must see;
--dry-run prints it. --topology=4x8 is four nodes of eight GPUs; a TPU slice has
one process for each host. Afterwards: squeue, scancel.

Options: https://slurm.schedmd.com/sbatch.html, .../srun.html, .../scontrol.html
"""

import argparse
from collections.abc import Sequence
import pathlib
import shlex
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from byol_jax import errors  # noqa: E402
from launch import exits, job as jobs, runner as runners  # noqa: E402

_SCRIPT = """\
#!/usr/bin/env bash
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={tasks}
{gpus}#SBATCH --time={time}
# The processes, not this script, hear SIGTERM so many seconds before the end;
# they save and leave with 42.
#SBATCH --signal=TERM@{grace_seconds}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={name}-%j.log
{more}set -euo pipefail

# Arguments are quoted so that the shell leaves them alone.
# shellcheck disable=SC2016
arguments=(
{arguments}
)
code=0
# Who ends first does not end the others: process 0 may be saving.
srun --kill-on-bad-exit=0 --wait={wait_seconds} \\
  .venv/bin/python "${{arguments[@]}}" \\
  || code=$?

restarts=${{SLURM_RESTART_COUNT:-0}}
echo "start $((restarts + 1)) of {max_attempts} ended with exit code $code"
is_restarted=$((code == {preempted} || code >= 127))
if ((is_restarted && restarts + 1 < {max_attempts})); then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""
_SPARE_SECONDS = 180  # for others to notice that a process ended


def script(job: jobs.Job, options: Sequence[str] = ()) -> str:
  """The batch script.

  Args:
    job: its hosts are nodes.
    options: further ones of sbatch.
  """
  minutes = round(job.max_hours * 60)
  tasks = 1 if job.slice else job.devices_per_host
  gpus = '' if job.slice else f'#SBATCH --gpus-per-node={tasks}\n'
  return _SCRIPT.format(
    name=job.name,
    nodes=job.hosts,
    tasks=tasks,
    gpus=gpus,
    time=f'{minutes // 60}:{minutes % 60:02d}:00',
    grace_seconds=job.grace_seconds,
    more=''.join(f'#SBATCH {option}\n' for option in options),
    wait_seconds=job.grace_seconds + _SPARE_SECONDS,
    arguments='\n'.join(f'  {shlex.quote(x)}' for x in job.program('slurm')),
    max_attempts=job.max_attempts,
    preempted=exits.PREEMPTED,
  )


def main(argv: Sequence[str] | None = None) -> int:
  """Prints or submits the script; the exit code."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  jobs.add_flags(parser)
  parser.add_argument(
    '--sbatch', action='append', default=[], metavar='OPTION', help='one more'
  )
  words, arguments = jobs.split(sys.argv[1:] if argv is None else argv)
  flags = parser.parse_args(words)
  try:
    if any('\n' in option for option in flags.sbatch):
      raise errors.ConfigError('--sbatch: expected one option in one line')
    text = script(jobs.from_flags(flags, arguments), flags.sbatch)
  except errors.UserError as error:
    print(f'slurm: {error}', file=sys.stderr)
    return error.exit_code
  if flags.dry_run:
    print(text, end='')
    return 0
  # Without a file's name sbatch reads its standard input.
  return runners.Runner(str(ROOT))(['sbatch'], text=text, shown=True).code


if __name__ == '__main__':
  sys.exit(main())
