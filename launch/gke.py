"""Runs byol_jax on a TPU slice of GKE: a JobSet of one pod for each host.

  python launch/gke.py --name=byol --topology=v3-512 --image=IMAGE
      [--dry-run] -- pretrain --config=pretrain:1000 --workdir=gs://...

applies the manifest with kubectl; --dry-run prints it. The cluster needs the
JobSet controller and a node pool of that slice. Afterwards: kubectl get jobset
NAME, kubectl logs -l jobset.sigs.k8s.io/jobset-name=NAME, kubectl delete
jobset NAME.

Fields: https://jobset.sigs.k8s.io/docs/reference/jobset.v1alpha2/,
https://kubernetes.io/docs/tasks/job/pod-failure-policy/,
https://cloud.google.com/kubernetes-engine/docs/how-to/tpus
"""

import argparse
from collections.abc import Sequence
import json
import pathlib
import sys
import textwrap

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from byol_jax import errors  # noqa: E402
from launch import exits, job as jobs, runner as runners  # noqa: E402

# A pod that fails ends its Job (backoffLimit 0), and that restarts all pods: a
# host of a pod cannot come back alone. What is no use to restart ends the
# JobSet, through the reason PodFailurePolicy. Where several pods fail, the
# first one seen decides. No MEGASCALE_*: it is one slice.
_MANIFEST = """\
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: {name}
  annotations:
    # One slice's node pool is this JobSet's alone.
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: {max_restarts}
    rules:
      - name: final
        action: FailJobSet
        onJobFailureReasons: [PodFailurePolicy, DeadlineExceeded]
  network:
    enableDNSHostnames: true
    subdomain: {name}
  replicatedJobs:
    - name: hosts
      replicas: 1
      template:
        spec:
          parallelism: {hosts}
          completions: {hosts}
          completionMode: Indexed
          backoffLimit: 0
          # Of one start.
          activeDeadlineSeconds: {deadline_seconds}
          podFailurePolicy:
            rules:
              - action: FailJob
                onExitCodes:
                  containerName: byol
                  operator: NotIn
                  values: [
{restarted}
                  ]
          template:
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: {grace_seconds}
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: {accelerator}
                cloud.google.com/gke-tpu-topology: {grid}
{spot}              containers:
                - name: byol
                  image: {image}
                  command: {command}
                  env:
                    - {{name: JAX_PLATFORMS, value: "tpu,cpu"}}
                    - {{name: PYTHONUNBUFFERED, value: "1"}}
                  ports:
                    # libtpu's, and that of JAX's coordinator.
                    - containerPort: 8471
                    - containerPort: 8482
                  securityContext:
                    privileged: true
                  resources:
                    requests:
                      google.com/tpu: {chips}
                    limits:
                      google.com/tpu: {chips}
"""
_SPOT = '                cloud.google.com/gke-spot: "true"\n'


def manifest(job: jobs.Job, image: str) -> str:
  """The JobSet, as YAML.

  Raises:
    ConfigError: GKE has no such slice.
  """
  tpu = jobs.need_slice(job)
  if tpu.gke_accelerator is None:
    raise errors.ConfigError(f'--topology: GKE has no {tpu.name}')
  codes = ', '.join(map(str, exits.RESTARTED))
  # JSON is YAML, and its strings need no thought about quotes.
  return _MANIFEST.format(
    name=job.name,
    max_restarts=job.max_attempts - 1,
    hosts=job.hosts,
    deadline_seconds=round(job.max_hours * 3600),
    restarted=textwrap.indent(textwrap.fill(codes, 58), 20 * ' '),
    grace_seconds=job.grace_seconds,
    accelerator=tpu.gke_accelerator,
    grid=tpu.grid,
    spot=_SPOT if job.capacity == 'spot' else '',
    image=json.dumps(image),
    command=json.dumps(['python', *job.program('gke')]),
    chips=tpu.chips_per_host,
  )


def main(argv: Sequence[str] | None = None) -> int:
  """Prints or applies the manifest; the exit code."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  jobs.add_flags(parser)
  parser.add_argument(
    '--image', required=True, help='with byol_jax and its jax[tpu]'
  )
  words, arguments = jobs.split(sys.argv[1:] if argv is None else argv)
  flags = parser.parse_args(words)
  try:
    text = manifest(jobs.from_flags(flags, arguments), flags.image)
  except errors.UserError as error:
    print(f'gke: {error}', file=sys.stderr)
    return error.exit_code
  if flags.dry_run:
    print(text, end='')
    return 0
  runner = runners.Runner(str(ROOT))
  return runner(['kubectl', 'apply', '-f', '-'], text=text, shown=True).code


if __name__ == '__main__':
  sys.exit(main())
