"""Checkpoints in a bucket: a folder that etils reaches as gs://bucket.

No real bucket is in reach of the tests: what is held here is the order of the
requests to something that has an object or has not, and lists what it has.
"""

import contextlib
import errno

from etils import epath
import numpy as np
import pytest

from byol_jax import errors
from byol_jax.checkpoints import checkpointer, places
from tests.helpers.tiny_checkpoint import (
  DAMAGES,
  assert_same_bits,
  names,
  resume,
  save,
  states,
)

URL = 'gs://bucket/run/checkpoints'


class Stopped(BaseException):
  """A process dies here: no handler of errors sees it."""


@pytest.fixture
def bucket(tmp_path, monkeypatch):
  """The folder behind gs://bucket; `requests` are those that change it.

  There is no rename, and a folder is there as long as something is below it.
  """
  root = tmp_path / 'bucket'
  root.mkdir()
  os_backend = epath.backend.os_backend

  def local(path):
    return str(path).replace('gs://bucket', str(root), 1)

  class Bucket(type(os_backend)):
    requests = ()
    stop_at = None
    error = Stopped()

    def change(self, what, path):
      if self.stop_at is not None and len(self.requests) >= self.stop_at:
        raise self.error
      self.requests += ((what, str(path).removeprefix(URL + '/')),)

    def open(self, path, mode):
      if 'w' in mode:
        self.change('put', path)
      return super().open(local(path), mode)

    def exists(self, path):
      return super().exists(local(path))

    def isdir(self, path):
      return super().isdir(local(path))

    def listdir(self, path):
      return super().listdir(local(path))

    def makedirs(self, path, *, exist_ok=False, mode=None):
      super().makedirs(local(path), exist_ok=exist_ok)

    def remove(self, path):
      self.change('delete', path)
      super().remove(local(path))

    def rmtree(self, path):
      super().rmtree(local(path))

    # A bucket has no rename.
    rename = replace = copy = None

  fake = Bucket()
  fake.root = root / 'run' / 'checkpoints'
  monkeypatch.setattr(
    epath.gpath._GPath,
    '_backend',
    property(lambda path: fake if path._uri_scheme else os_backend),
  )
  return fake


@pytest.mark.parametrize('kind', [str, epath.Path])
def test_a_bucket_is_used_like_a_folder(bucket, kind):
  folder, saved = kind(URL), states(4)
  assert checkpointer.latest_step(folder) is None
  with pytest.raises(errors.DataError, match=r'gs://bucket/.* no checkpoint'):
    checkpointer.read(folder)
  for step, state in saved.items():
    assert save(folder, step, state, {'step': step}, keep=2)
    assert checkpointer.latest_step(folder) == step
  assert names(bucket.root) == ['3', '4']
  assert not save(folder, 4, saved[1])
  step, tree, meta = resume(folder, saved[1])
  assert (step, meta) == (4, {'step': 4})
  assert_same_bits(tree, saved[4])
  assert_same_bits(checkpointer.read(folder, 3)[0], saved[3])


def test_what_lies_in_a_bucket_is_what_lies_on_a_disk(bucket, tmp_path):
  """So a run may be copied from one to the other."""
  save(URL, 1, states(1)[1])
  assert_same_bits(checkpointer.read(bucket.root)[0], states(1)[1])
  assert 'unfinished' not in names(bucket.root / '1')


def test_the_manifest_comes_after_every_other_file(bucket):
  save(URL, 1, states(1)[1])
  before = len(bucket.requests)
  assert before > 8 and bucket.requests[0] == ('put', '1/unfinished')
  assert bucket.requests[-2:] == (
    ('put', '1/manifest.json'),
    ('delete', '1/unfinished'),
  )
  save(URL, 2, states(2)[2], keep=1)
  # And it is the first to go; the mark goes last.
  gone = [request for request in bucket.requests[before:] if '1/' in request[1]]
  assert gone[:2] == [('put', '1/unfinished'), ('delete', '1/manifest.json')]
  assert gone[-1] == ('delete', '1/unfinished')
  assert names(bucket.root) == ['2']


def test_the_manifest_is_last_whatever_else_there_is(bucket, tmp_path):
  stage = tmp_path / 'stage'
  (stage / 'z').mkdir(parents=True)
  for name in ('a', 'manifest.json', 'z/manifest.json'):
    (stage / name).write_text(name)
  places.at(URL).publish(stage, 1)
  assert [name for what, name in bucket.requests if what == 'put'] == [
    *('1/unfinished', '1/a', '1/z/manifest.json', '1/manifest.json')
  ]


def test_a_save_that_is_killed_at_any_request_costs_no_earlier_step(
  bucket, caplog
):
  """Also one that is killed while it deletes, or cleans up."""
  saved = states(4)
  save(URL, 1, saved[1], keep=1)
  start = len(bucket.requests)
  save(URL, 2, saved[2], keep=1)
  count = len(bucket.requests) - start
  step, seen = 2, set()
  for point in range(count):
    bucket.stop_at = len(bucket.requests) + point
    with contextlib.suppress(Stopped):
      save(URL, step + 1, saved[3], keep=1)
    bucket.stop_at = len(bucket.requests)  # dead: not one more request
    latest = checkpointer.latest_step(URL)
    assert latest in (step, step + 1)
    seen.add(latest - step)
    assert checkpointer.read(URL)[0]['w'].shape == (999,)
    bucket.stop_at += point % 3  # the next start is killed as well
    with contextlib.suppress(Stopped):
      resume(URL, saved[1], keep=1)
    bucket.stop_at = None
    found, tree, _ = resume(URL, saved[1], keep=1)
    assert found == latest
    assert_same_bits(tree, saved[3 if found > 2 else 2])
    step = found + 1
    save(URL, step, saved[3], keep=1)
    assert names(bucket.root) == [str(step)]
    saved[2] = saved[3]
  assert seen == {0, 1}
  assert not bucket.root.with_name('checkpoints.damaged').exists()


def test_a_bucket_that_fails_half_way_is_named_and_may_be_retried(bucket):
  saved = states(2)
  save(URL, 1, saved[1])
  bucket.error = OSError(errno.EIO, 'backend error')
  with contextlib.closing(checkpointer.Checkpoints(URL, keep=1)) as saver:
    bucket.stop_at = len(bucket.requests) + 5
    saver.save(2, saved[2], {})
    with pytest.raises(errors.DataError) as caught:
      saver.wait()
    for word in (URL, 'step 2', 'backend error'):
      assert word in str(caught.value)
    assert saver.latest() == 1
    bucket.stop_at = None
    assert saver.save(2, saved[2], {})
    saver.wait()
  assert names(bucket.root) == ['2']
  assert_same_bits(checkpointer.read(URL)[0], saved[2])


@pytest.mark.parametrize('damage', ['flipped', 'gone', 'manifest gone'])
def test_a_damaged_step_in_a_bucket_is_stepped_back_from(
  bucket, caplog, damage
):
  saved = states(3)
  for step, state in saved.items():
    save(URL, step, state)
  DAMAGES[damage][0](bucket.root / '3')
  assert resume(URL, saved[1])[0] == 2
  (line,) = caplog.messages
  assert 'checkpoint 3 is damaged' in line
  assert f'moved to {URL}.damaged/3; going on from step 2' in line
  assert names(bucket.root) == ['1', '2']
  assert names(bucket.root.with_name('checkpoints.damaged')) == ['3']
  for step in (1, 2):
    DAMAGES['flipped'][0](bucket.root / str(step))
  with pytest.raises(errors.DataError, match='does not start afresh'):
    resume(URL, saved[1])


def test_what_does_not_arrive_in_a_bucket_is_set_aside(bucket, monkeypatch):
  """It is read back before older steps go."""
  save(URL, 1, states(1)[1])
  publish = places.Bucket.publish

  def lose(self, stage, step):
    publish(self, stage, step)
    DAMAGES['flipped'][0](bucket.root / str(step))

  monkeypatch.setattr(places.Bucket, 'publish', lose)
  with pytest.raises(errors.DataError, match=r'step 2 .*expected sha256'):
    save(URL, 2, states(2)[2], keep=1)
  assert names(bucket.root) == ['1']
  assert names(bucket.root.with_name('checkpoints.damaged')) == ['2']


def test_a_bucket_that_does_not_answer_is_no_empty_one(bucket, monkeypatch):
  save(URL, 1, states(1)[1])
  opened = checkpointer.Checkpoints(URL, keep=1)

  def refuse(self, path):
    raise RuntimeError('403: no access\nand a page of HTML')

  for name in ('listdir', 'exists'):
    with monkeypatch.context() as patch:
      patch.setattr(type(bucket), name, refuse)
      for call in (
        lambda: opened.resume({'w': np.zeros(999)}),
        lambda: checkpointer.latest_step(URL),
        lambda: checkpointer.Checkpoints(URL, keep=1),
      ):
        with pytest.raises(errors.DataError, match='403: no access') as caught:
          call()
        assert '\n' not in str(caught.value) and URL in str(caught.value)
  assert resume(URL, {'w': np.zeros(999)})[0] == 1
