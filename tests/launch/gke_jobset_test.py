"""gke_jobset.yaml, as it stands and as render_jobset.py fills it.

After an intended change, WRITE_GOLDEN=1 writes golden/* again; read the
difference.
"""

import re
import subprocess
import sys

import pytest
import yaml

from byol_jax.planning.topologies import TOPOLOGIES
from tests.helpers import pods

SLICES = {'v3-512': (), 'v6e-256': ('--spot',)}
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


def parts_of(manifest):
  """The specifications of the job and of its pods."""
  (replicated,) = manifest['spec']['replicatedJobs']
  job = replicated['template']['spec']
  return job, job['template']['spec']


@pytest.mark.parametrize('topology', SLICES)
def test_the_rendered_manifest_is_the_stored_one(topology):
  arguments = (*pods.ARGUMENTS, '--config.data_dir=/it\'s "my" $(DATA); é 😀')
  text = render(topology, *SLICES[topology], arguments=arguments)
  pods.check_golden(f'{topology}.yaml', text)
  job, pod = parts_of(yaml.safe_load(text))
  row = TOPOLOGIES[topology]
  assert job['parallelism'] == job['completions'] == row.hosts
  assert pod['nodeSelector'] == {
    'cloud.google.com/gke-tpu-accelerator': row.gke_accelerator,
    'cloud.google.com/gke-tpu-topology': row.grid,
    **({'cloud.google.com/gke-spot': 'true'} if SLICES[topology] else {}),
  }
  resources = pod['containers'][0]['resources']
  assert resources['limits'] == resources['requests']
  assert resources['limits']['google.com/tpu'] * row.hosts == row.chips
  assert 'MEGASCALE' not in text
  # A random text that all pods of the Job have, and no others.
  env = {each.pop('name'): each for each in pod['containers'][0]['env']}
  path = "metadata.labels['batch.kubernetes.io/controller-uid']"
  assert env['BYOL_JAX_JOB_TOKEN'] == {
    'valueFrom': {'fieldRef': {'fieldPath': path}}
  }


def test_the_file_as_it_stands_is_the_manifest_of_its_example():
  written = yaml.safe_load((pods.LAUNCH / 'gke_jobset.yaml').read_text())
  arguments = (*pods.ARGUMENTS[:2], '--workdir=gs://my-bucket/byol')
  assert written == yaml.safe_load(render('v3-512', arguments=arguments))


def expand(text):
  """As Kubernetes does: the value for $(NAME), and $ for $$."""
  values = {'HOME': '/root', 'DATA': '/data'}
  return re.sub(
    r'\$\$|\$\(([^)]*)\)',
    lambda found: values.get(found[1], found[0]) if found[1] else '$',
    text,
  )


def test_any_argument_arrives_unchanged():
  odd = ('\x7f\x85\u2028\ufeff\t', '$$$', '$$(HOME)', '$(HOME', '👩‍🚀')
  arguments = (*pods.ARGUMENTS, *pods.HOSTILE, *odd)
  _, pod = parts_of(yaml.safe_load(render('v3-8', arguments=arguments)))
  args = [expand(arg) for arg in pod['containers'][0]['args']]
  assert args == [arguments[0], '--distributed=gke', *arguments[1:]]
  assert render('v3-8', arguments=('knn', b'\xff'), code=2) == ''


def test_final_exit_codes_end_the_jobset_and_others_restart_it():
  manifest = yaml.safe_load(render('v3-8'))
  job, pod = parts_of(manifest)
  assert (job['backoffLimit'], pod['restartPolicy']) == (0, 'Never')
  (rule,) = job['podFailurePolicy']['rules']
  requirement = rule['onExitCodes']
  assert (rule['action'], requirement['operator']) == ('FailJob', 'In')
  assert requirement['containerName'] == pod['containers'][0]['name']
  assert {1, 2, 3, 4} <= {*requirement['values']} < {*range(1, 128)} - {42}
  (final,) = manifest['spec']['failurePolicy']['rules']
  assert final['action'] == 'FailJobSet'
  # A failed pod without that reason restarts all pods, and that is counted.
  reasons = sorted(final['onJobFailureReasons'])
  assert reasons == ['DeadlineExceeded', 'PodFailurePolicy']
  assert manifest['spec']['failurePolicy']['maxRestarts'] == 49
