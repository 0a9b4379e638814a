import pytest

from tests.helpers import pods


@pytest.fixture
def world(tmp_path, monkeypatch):
  """A fake gcloud, in a folder of its own."""
  return pods.World(tmp_path, monkeypatch)
