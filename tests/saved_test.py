import json

from byol_jax import saved


def test_a_run_of_an_earlier_version_gets_the_keys_it_lacks(tmp_path):
  """As of the first version, whose sections were smaller."""
  config = {
    'data': {'holdout': 'official', 'heldout_share': 0.1},
    'input': {'threads': 3},
    'training_set': {'num_examples': 5},
  }
  (tmp_path / 'config.json').write_text(json.dumps(config))
  found = saved.read_config(tmp_path)
  assert found.data.holdout == 'official' and found.input.threads == 3
  assert found.data.resident is False and found.data.decoding == 'once'
  assert found.input.cache == 'none'
