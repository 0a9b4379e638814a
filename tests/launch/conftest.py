import pytest

from tests.helpers import pods


@pytest.fixture
def pod(tmp_path):
  """A slice of two hosts, behind a fake gcloud."""
  made = pods.Pod(tmp_path)
  yield made
  made.close()
