"""The processes of a job: how they are found, and a start in agreement.

Real processes over loopback; clusters are played by their variables and by a
metadata server of the test.
"""

import concurrent.futures
import http.server
import threading

import pytest

from byol_jax import errors
from byol_jax.distributed import processes, rendezvous
from tests.helpers import jobs, tiny_run

WORKER = tiny_run.ROOT / 'tests' / 'helpers' / 'processes_worker.py'


@pytest.mark.parametrize(
  'text',
  (
    *('', 'all', 'host,1,0', 'host:1,2', 'host:1,two,0', 'a:1,2,2'),
    f'a:1,{10**20},0',
    *('a:1,2,2,4', 'a:0,2,0', 'a:65536,2,0', 'a:-1,2,0', ':1,2,0'),
    *('gce:0', 'gce:', 'slurm:65536', 'auto:x', 'gce:1:2'),
  ),
)
def test_a_wrong_description_of_the_job_is_refused(text):
  with pytest.raises(errors.ConfigError, match=r'expected .*HOST:PORT'):
    processes.find_address(text, 1)


@pytest.mark.parametrize(
  ('command', 'platforms', 'error'),
  [
    (('pretrain', '--workdir=x'), 'CPU', 'RuntimeError: Unable to initialize'),
    (('bench', 'step'), 'cuda', ''),
    (('views', 'shapes'), 'cuda', ''),
  ],
)
def test_a_platform_that_jax_cannot_have_is_one_line(command, platforms, error):
  process = tiny_run.start_python(
    *('-m', 'byol_jax', *command, '--config=shapes'),
    JAX_PLATFORMS=platforms,
    CUDA_VISIBLE_DEVICES='',
  )
  line = tiny_run.finish(process, code=errors.ConfigError.exit_code)
  assert line.startswith(
    f'byol_jax: JAX_PLATFORMS: no device of {platforms!r} ({error}'
  )
  assert 'give cpu' in line and line.count('\n') == 1


def test_a_job_of_one_process_needs_nobody():
  found = processes.find_address('10.0.0.1:8476,64,63', 1)
  assert found == rendezvous.ProcessAddress('10.0.0.1:8476', 64, 63)
  assert processes.find_address('none', 1) is None
  result, described = processes.join_job('none', lambda: ('config', {}))
  assert result == 'config' and described.startswith('1 process, ')
  assert processes.gather_strings('name', 'value') == ['value']
  assert processes.broadcast_json('name', {'a': 1}) == {'a': 1}

  def fail():
    raise errors.DataError('no such folder')

  with pytest.raises(errors.DataError, match=r'^no such folder') as caught:
    processes.raise_on_all('name', fail)
  assert not caught.value.is_everywhere


@pytest.mark.parametrize('way', ('auto', 'slurm', 'gke', 'gce'))
def test_a_missing_cluster_is_reported(way, monkeypatch):
  names = 'SLURM_JOB_ID', 'TPU_WORKER_HOSTNAMES', 'KUBERNETES_SERVICE_HOST'
  for name in names:
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv('TPU_SKIP_MDS_QUERY', '1')
  with pytest.raises(errors.ConfigError, match=f'--distributed={way}: no clus'):
    processes.find_address(way, 1)


class Metadata(http.server.BaseHTTPRequestHandler):
  """What a TPU VM's metadata server says of its second worker."""

  def do_GET(self):
    value = {
      'agent-worker-number': '1',
      'worker-network-endpoints': 'a:b:127.0.0.1,c:d:127.0.0.2',
      'tpu-env': "ACCELERATOR_TYPE: 'v3-16'\n",
    }.get(self.path.rsplit('/', 1)[-1])
    self.send_response(404 if value is None else 200)
    self.end_headers()
    self.wfile.write((value or '').encode())

  def log_message(self, *arguments):
    """Prints nothing."""


def test_gke_and_cloud_tpu_are_found():
  pytest.importorskip('requests', reason='a part of jax[tpu]')
  server = http.server.HTTPServer(('127.0.0.1', 0), Metadata)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  port = str(tiny_run.free_port())
  shared = {'JAX_FORCE_TPU_INIT': '1', 'JAX_COORDINATOR_PORT': port}
  cloud_tpu = tiny_run.start_python(
    *(WORKER, 'find', 'gce', 'auto', 'gce:8490'),
    **shared,
    GCE_METADATA_IP=f'127.0.0.1:{server.server_address[1]}',
  )
  gke = tiny_run.start_python(
    *(WORKER, 'find', 'gke'),
    **shared,
    TPU_WORKER_ID='1',
    TPU_WORKER_HOSTNAMES='localhost,other',
    # Else JAX asks the metadata server whether there are more slices.
    MEGASCALE_COORDINATOR_ADDRESS='localhost',
    MEGASCALE_NUM_SLICES='1',
    MEGASCALE_SLICE_ID='0',
  )
  output = tiny_run.finish(cloud_tpu) + tiny_run.finish(gke)
  server.shutdown()
  for way, address in {
    'gce': f'127.0.0.1:{port}',
    'auto': f'127.0.0.1:{port}',
    'gce:8490': '127.0.0.1:8490',
    'gke': f'localhost:{port}',
  }.items():
    where = f"address='{address}', count=2, index=1"
    assert f'{way} ProcessAddress({where}' in output


def join(facts, **options):
  """Each process's error, of processes that never reach JAX."""
  port = tiny_run.free_port()

  def one(index):
    with pytest.raises(errors.UserError) as caught:
      processes.join_job(
        f'localhost:{port},2,{index}', lambda: (None, facts[index]), **options
      )
    return caught.value

  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    return list(pool.map(one, range(len(facts))))


def test_another_configuration_or_a_missing_process_is_refused_on_all():
  for error in join([{'a': '1'}, {'a': '2'}]):
    assert error.exit_code == 2
    assert 'the processes differ: a is 1 on process 0' in str(error)
  (error,) = join([{'a': '1'}], startup_seconds=0.5)
  assert error.exit_code == 1
  assert 'after 0.5 s 1 of 2 processes have not reported: process 1' in (
    str(error)
  )


def start(ways, *, devices, **env):
  """Two processes of the worker, to their ends."""
  return jobs.finish(
    [
      tiny_run.start_python(
        *(WORKER, 'join', *ways[index]),
        JAX_NUM_CPU_DEVICES=str(devices[index]),
        SLURM_PROCID=str(index),
        **env,
      )
      for index in range(2)
    ],
    120,
  )


@pytest.mark.slow
def test_a_job_of_slurm_agrees_until_one_process_fails():
  first, second = start(
    [('slurm',), ('slurm', 'fail')],
    devices=(2, 2),
    SLURM_JOB_ID=str(tiny_run.free_port()),
    SLURM_STEP_NODELIST='localhost',
    SLURM_NTASKS='2',
    SLURM_LOCALID='0',
  )
  for process in (first, second):
    assert process.code == 3, process
    assert '2 processes, 4 devices (cpu); the same' in process.output
    assert "gathered ['0', '1']; first 0" in process.output
    # Bits as they were, the sign of zero and a payload of a NaN too.
    assert 'the same bits' in process.output
    assert 'mapped' in process.output
    assert 'everywhere: True' in process.output
  assert 'process 1 (' in first.output and 'no data here' in first.output
  assert 'process 1' not in second.output and 'no data' in second.output


@pytest.mark.slow
def test_another_number_of_devices_is_refused_on_all():
  """Also in an environment whose proxy reaches nothing: gRPC passes it by."""
  address = f'localhost:{tiny_run.free_port()}'
  ways = [(f'{address},2,{index}',) for index in range(2)]
  proxies = dict.fromkeys(
    ('grpc_proxy', 'https_proxy', 'http_proxy'),
    f'http://127.0.0.1:{tiny_run.free_port()}',
  )
  for process in start(ways, devices=(1, 2), no_proxy='example.org', **proxies):
    assert process.code == 1, process
    assert 'process 1' in process.output and 'has 2' in process.output
    assert 'proxy' not in process.output  # nor does JAX warn of it
