"""gke_jobset.yaml, as it stands and as render_jobset.py fills it.

After an intended change, `python -m tests.launch.gke_jobset_test` writes
golden/*.yaml again; read the difference.
"""

import pathlib
import subprocess
import sys

import pytest
import yaml

from byol_jax.planning.topologies import TOPOLOGIES
from tests.helpers import pods

GOLDEN = pathlib.Path(__file__).with_name('golden')
SLICES = {'v3-8': (), 'v3-512': (), 'v6e-256': ('--spot',)}
IMAGE = 'europe-docker.pkg.dev/my-project/byol/byol:1'


def render(topology, *flags, arguments=pods.ARGUMENTS, code=0):
  done = subprocess.run(
    [
      *(sys.executable, pods.LAUNCH / 'render_jobset.py', '--name=byol'),
      *(f'--topology={topology}', f'--image={IMAGE}', *flags, '--', *arguments),
    ],
    stdout=subprocess.PIPE,
    check=False,
  )
  assert done.returncode == code
  return done.stdout.decode()


def pod_of(manifest):
  (replicated,) = manifest['spec']['replicatedJobs']
  return replicated['template']['spec']['template']['spec']


@pytest.mark.parametrize('topology', SLICES)
def test_the_rendered_manifest_is_the_stored_one(topology):
  arguments = (*pods.ARGUMENTS, '--config.data_dir=/it\'s "my" $(DATA); é 😀')
  text = render(topology, *SLICES[topology], arguments=arguments)
  assert text == (GOLDEN / f'{topology}.yaml').read_text()
  manifest = yaml.safe_load(text)
  (replicated,) = manifest['spec']['replicatedJobs']
  job = replicated['template']['spec']
  row = TOPOLOGIES[topology]
  assert job['parallelism'] == job['completions'] == row.hosts
  pod = pod_of(manifest)
  assert pod['nodeSelector'] == {
    'cloud.google.com/gke-tpu-accelerator': row.gke_accelerator,
    'cloud.google.com/gke-tpu-topology': row.grid,
    **({'cloud.google.com/gke-spot': 'true'} if SLICES[topology] else {}),
  }
  resources = pod['containers'][0]['resources']
  assert resources['limits'] == resources['requests']
  assert resources['limits']['google.com/tpu'] * row.hosts == row.chips
  assert 'MEGASCALE' not in text


def test_the_file_as_it_stands_is_the_manifest_of_its_example():
  written = yaml.safe_load((pods.LAUNCH / 'gke_jobset.yaml').read_text())
  arguments = (*pods.ARGUMENTS[:2], '--workdir=gs://my-bucket/byol')
  assert written == yaml.safe_load(render('v3-512', arguments=arguments))


def expand(text):
  """Expands an argument as Kubernetes does, without variables."""
  assert '$(' not in text.replace('$$', '')
  return text.replace('$$', '$')


def test_any_argument_arrives_unchanged():
  arguments = (*pods.ARGUMENTS, *pods.HOSTILE, '\x7f\x85\u2028\ufeff\t', '$$$')
  args = pod_of(yaml.safe_load(render('v3-8', arguments=arguments)))[
    'containers'
  ][0]['args']
  verb, *rest = arguments
  assert [*map(expand, args)] == [verb, '--distributed=gke', *rest]
  assert render('v3-8', arguments=('knn', b'\xff'), code=2) == ''


def test_final_exit_codes_end_the_jobset_and_others_restart_it():
  manifest = yaml.safe_load(render('v3-8'))
  (replicated,) = manifest['spec']['replicatedJobs']
  job = replicated['template']['spec']
  assert (job['backoffLimit'], pod_of(manifest)['restartPolicy']) == (
    0,
    'Never',
  )
  (rule,) = job['podFailurePolicy']['rules']
  requirement = rule['onExitCodes']
  assert (rule['action'], requirement['operator']) == ('FailJob', 'In')
  assert (
    requirement['containerName'] == pod_of(manifest)['containers'][0]['name']
  )
  assert {1, 2, 3, 4} <= {*requirement['values']} < {*range(1, 128)} - {42}
  (final,) = manifest['spec']['failurePolicy']['rules']
  assert final['action'] == 'FailJobSet'
  # A failed pod without that reason restarts all pods, and that is counted.
  assert {*final['onJobFailureReasons']} == {
    *('PodFailurePolicy', 'DeadlineExceeded')
  }
  assert manifest['spec']['failurePolicy']['maxRestarts'] == 49


if __name__ == '__main__':
  ARGUMENTS = (*pods.ARGUMENTS, '--config.data_dir=/it\'s "my" $(DATA); é 😀')
  for name, more in SLICES.items():
    (GOLDEN / f'{name}.yaml').write_text(
      render(name, *more, arguments=ARGUMENTS)
    )
