"""The processes of a job: the ways to find them, and a start that agrees.

Real processes over loopback; the ways that clouds have are rehearsed by their
own variables and a metadata server of ours.
"""

import http.server
import threading

import pytest

from byol_jax import errors
from byol_jax.distributed import processes
from tests.helpers import jobs, tiny_run

WORKER = tiny_run.ROOT / 'tests' / 'helpers' / 'hosts_worker.py'


@pytest.mark.parametrize(
  'text',
  ('', 'all', 'host,1,0', 'host:1,2', 'host:1,two,0', 'a:1,2,3', 'a:1,2,2,4'),
)
def test_a_wrong_description_of_the_job_is_refused(text):
  with pytest.raises(errors.ConfigError, match='HOST:PORT'):
    processes.find(text, 1)


def test_none_is_a_job_of_one():
  assert processes.find('none', 1) is None
  result, described = processes.join_job('none', lambda: ('config', {}))
  assert result == 'config' and described.startswith('1 process, ')
  assert processes.gather('name', 'value') == ['value']
  assert processes.broadcast_json('name', {'a': 1}) == {'a': 1}


def test_an_address_says_it_all():
  found = processes.find('10.0.0.1:8476,64,63', 1)
  assert (found.address, found.count, found.index) == ('10.0.0.1:8476', 64, 63)


@pytest.mark.parametrize('way', ('auto', 'slurm', 'gke', 'gce'))
def test_where_there_is_no_cluster_that_is_said(way, monkeypatch):
  for name in (
    'SLURM_JOB_ID',
    'TPU_WORKER_HOSTNAMES',
    'KUBERNETES_SERVICE_HOST',
  ):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv('TPU_SKIP_MDS_QUERY', '1')
  with pytest.raises(errors.ConfigError, match=f'--distributed={way}: no clus'):
    processes.find(way, 1)


def test_alone_an_error_is_its_own():
  def fail():
    raise errors.DataError('no such folder')

  with pytest.raises(errors.DataError, match=r'^no such folder') as caught:
    processes.raise_on_all('name', fail)
  assert not caught.value.is_everywhere


def start(each, *, count=2, devices=(1, 1), **env):
  """Processes of `hosts_worker`; what each of them says of itself."""
  address = f'localhost:{tiny_run.free_port()}'
  processes = []
  for index, (way, *words) in enumerate(each):
    own = words.pop() if isinstance(words[-1], dict) else {}
    processes.append(
      tiny_run.start_python(
        WORKER,
        f'{address},{count},{index}' if way == 'here' else way,
        *words,
        JAX_NUM_CPU_DEVICES=str(devices[index]),
        **env,
        **own,
      )
    )
  return jobs.finish(processes, 120)


@pytest.mark.slow
def test_processes_that_are_alike_agree():
  for process in start([('here', 'a=1'), ('here', 'a=1')], devices=(2, 2)):
    assert process.code == 0, process
    assert '2 processes, 4 devices (cpu); the same' in process.output
    assert "gathered ['0', '1']; first says 0" in process.output
    # Bits as they were, the sign of zero and a payload of a NaN too.
    assert 'the same bits' in process.output


@pytest.mark.slow
def test_what_fails_on_one_is_raised_on_all():
  first, second = start([('here', 'a=1'), ('here', 'a=1', 'fail')])
  assert first.code == second.code == 3
  assert 'process 1 (' in first.output and 'no data here' in first.output
  assert 'process 1' not in second.output and 'no data' in second.output


@pytest.mark.slow
def test_another_configuration_is_refused_on_all():
  for process in start([('here', 'a=1'), ('here', 'a=2')]):
    assert process.code == 2, process
    assert 'the processes differ: a is 1 on process 0' in process.output


@pytest.mark.slow
def test_another_number_of_devices_is_refused_on_all():
  for process in start([('here', 'a=1'), ('here', 'a=1')], devices=(1, 2)):
    assert process.code == 1, process
    assert 'process 1' in process.output and 'has 2' in process.output


@pytest.mark.slow
def test_a_missing_process_is_named_after_the_start_up_time():
  (process,) = start([('here', 'a=1', 'startup=10')])
  assert process.code == 1
  assert 'after 10 s 1 of 2 processes have not reported: process 1' in (
    process.output
  )


@pytest.mark.slow
def test_slurm_is_found_by_its_variables():
  each = [('slurm', 'a=1', {'SLURM_PROCID': str(i)}) for i in range(2)]
  slurm = {
    'SLURM_JOB_ID': str(tiny_run.free_port()),
    'SLURM_STEP_NODELIST': 'localhost',
    'SLURM_NTASKS': '2',
    'SLURM_LOCALID': '0',
  }
  for process in start(each, **slurm):
    assert process.code == 0, process
    assert '2 processes, 2 devices' in process.output


TPU = {'JAX_FORCE_TPU_INIT': '1'}


@pytest.mark.slow
def test_gke_is_found_by_its_variables():
  each = [('gke', 'a=1', {'TPU_WORKER_ID': str(i)}) for i in range(2)]
  gke = {
    'TPU_WORKER_HOSTNAMES': 'localhost,localhost',
    'JAX_COORDINATOR_PORT': str(tiny_run.free_port()),
    # Else JAX asks the metadata server whether there are more slices.
    'MEGASCALE_COORDINATOR_ADDRESS': 'localhost',
    'MEGASCALE_NUM_SLICES': '1',
    'MEGASCALE_SLICE_ID': '0',
  }
  for process in start(each, **TPU, **gke):
    assert process.code == 0, process
    assert '2 processes, 2 devices' in process.output


class Metadata(http.server.BaseHTTPRequestHandler):
  """What a TPU VM's metadata server says of one worker."""

  def do_GET(self):
    values = {
      'agent-worker-number': str(self.server.index),
      'worker-network-endpoints': 'a:b:127.0.0.1,c:d:127.0.0.1',
      'tpu-env': "ACCELERATOR_TYPE: 'v3-16'\n",
    }
    name = self.path.rsplit('/', 1)[-1]
    self.send_response(200 if name in values else 404)
    self.end_headers()
    self.wfile.write(values.get(name, '').encode())

  def log_message(self, *arguments):
    """Says nothing."""


@pytest.mark.slow
def test_cloud_tpu_is_found_by_its_metadata():
  pytest.importorskip('requests', reason='a part of jax[tpu]')
  servers = []
  for index in range(2):
    server = http.server.HTTPServer(('127.0.0.1', 0), Metadata)
    server.index = index
    threading.Thread(target=server.serve_forever, daemon=True).start()
    servers.append(server)
  each = [
    ('gce', 'a=1', {'GCE_METADATA_IP': f'127.0.0.1:{s.server_address[1]}'})
    for s in servers
  ]
  port = {'JAX_COORDINATOR_PORT': str(tiny_run.free_port())}
  for process in start(each, **TPU, **port):
    assert process.code == 0, process
    assert '2 processes, 2 devices' in process.output
  for server in servers:
    server.shutdown()
