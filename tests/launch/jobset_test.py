"""The JobSet of GKE, parsed, for every slice."""

import json

import pytest
import yaml

from byol_jax.planning import topologies
from launch import exits, gke
from tests.helpers import pods

SLICES = tuple(topologies.TOPOLOGIES)
IMAGE = 'registry/byol@sha256:0'


def words(topology, *more, arguments=pods.ARGUMENTS):
  return [
    *('--name=byol', f'--topology={topology}', f'--image={IMAGE}', '--dry-run'),
    *(*more, '--', *arguments),
  ]


def load(capsys, topology, *more, **options):
  assert gke.main(words(topology, *more, **options)) == 0
  return yaml.safe_load(capsys.readouterr().out)


def job_of(manifest):
  (replicated,) = manifest['spec']['replicatedJobs']
  assert replicated['replicas'] == 1
  return replicated['template']['spec']


@pytest.mark.parametrize('topology', SLICES)
def test_one_pod_for_each_host_on_the_nodes_of_the_slice(capsys, topology):
  tpu = topologies.find_topology(topology)
  manifest = load(capsys, topology)
  assert manifest['apiVersion'] == 'jobset.x-k8s.io/v1alpha2'
  job = job_of(manifest)
  assert job['parallelism'] == job['completions'] == tpu.hosts
  assert job['completionMode'] == 'Indexed'
  pod = job['template']['spec']
  assert pod['nodeSelector'] == {
    'cloud.google.com/gke-tpu-accelerator': tpu.gke_accelerator,
    'cloud.google.com/gke-tpu-topology': tpu.grid,
  }
  (container,) = pod['containers']
  resources = container['resources']
  assert resources['limits'] == resources['requests']
  assert resources['limits']['google.com/tpu'] * tpu.hosts == tpu.chips
  # Pods find each other by names of a service without an address.
  assert manifest['spec']['network'] == {
    'enableDNSHostnames': True,
    'subdomain': 'byol',
  }


@pytest.mark.parametrize('topology', SLICES)
def test_a_slice_is_never_told_of_others(capsys, topology):
  assert 'MEGASCALE' not in json.dumps(load(capsys, topology))


def decided(manifest, code):
  """What becomes of the JobSet when a container leaves with `code`."""
  job = job_of(manifest)
  assert job['backoffLimit'] == 0
  assert job['template']['spec']['restartPolicy'] == 'Never'
  (rule,) = job['podFailurePolicy']['rules']
  assert rule['action'] == 'FailJob'
  requirement = rule['onExitCodes']
  assert requirement['operator'] == 'NotIn'
  assert requirement['containerName'] == 'byol'
  assert len(requirement['values']) <= 255
  reason = 'BackoffLimitExceeded'
  if code not in requirement['values']:
    reason = 'PodFailurePolicy'
  (final,) = manifest['spec']['failurePolicy']['rules']
  assert final['action'] == 'FailJobSet'
  # Where no rule matches, a JobSet is restarted, and that is counted.
  return 'failed' if reason in final['onJobFailureReasons'] else 'restarted'


def test_exit_codes_decide_as_everywhere(capsys):
  manifest = load(capsys, 'v3-32', '--max-attempts=7')
  for code in range(1, 256):
    expected = 'restarted' if exits.restarts(code) else 'failed'
    assert decided(manifest, code) == expected, code
  assert manifest['spec']['failurePolicy']['maxRestarts'] == 6


def test_a_pod_has_the_time_to_save_and_a_start_its_hours(capsys):
  manifest = load(capsys, 'v3-32', '--grace-seconds=77', '--max-hours=1.5')
  job = job_of(manifest)
  assert job['template']['spec']['terminationGracePeriodSeconds'] == 77
  assert job['activeDeadlineSeconds'] == 5400
  (final,) = manifest['spec']['failurePolicy']['rules']
  assert 'DeadlineExceeded' in final['onJobFailureReasons']


def test_arguments_are_what_they_were(capsys):
  arguments = (
    *pods.ARGUMENTS,
    *("--a=it's", '--b="$HOME" {x}', '--c=a\nb: - #', '--d=Größe ☃', '--e=yes'),
  )
  manifest = load(capsys, 'v3-32', arguments=arguments)
  (container,) = job_of(manifest)['template']['spec']['containers']
  verb, *rest = arguments
  assert container['command'] == [
    *('python', '-m', 'byol_jax', verb, '--distributed=gke', *rest)
  ]


def test_spot_asks_for_spot_nodes(capsys):
  pod = job_of(load(capsys, 'v6e-256', '--capacity=spot'))['template']['spec']
  assert pod['nodeSelector']['cloud.google.com/gke-spot'] == 'true'


def test_kubectl_gets_the_manifest(tmp_path, monkeypatch, capfd):
  pods.program(tmp_path / 'kubectl', f'echo "$@"; cat >{tmp_path}/got; exit 7')
  monkeypatch.setenv('PATH', f'{tmp_path}:/usr/bin:/bin')
  argv = words('v3-32')
  argv.remove('--dry-run')
  assert gke.main(argv) == 7
  assert capfd.readouterr().out == 'apply -f -\n'
  gke.main(words('v3-32'))
  assert (tmp_path / 'got').read_text() == capfd.readouterr().out


def test_what_gke_cannot_run_is_refused(capsys):
  assert gke.main(words('4x8')) == 2
  relative = ('pretrain', '--workdir=runs/pod')
  assert gke.main(words('v3-32', arguments=relative)) == 2
  assert 'gs://BUCKET' in capsys.readouterr().err
