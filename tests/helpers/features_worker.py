"""One process of a job: features and their neighbours; see `features_test`.

python features_worker.py OUT.npz HOST:PORT,PROCESSES,INDEX
"""

import sys

import jax
import numpy as np

from byol_jax.distributed import processes
from byol_jax.evals import features
from tests.evals import knn_test
from tests.helpers import fakes


def main(out, distributed):
  processes.join_job(distributed, lambda: (None, {}))
  images = np.random.default_rng(0).random((11, 16, 16, 3), np.float32)
  dataset = fakes.ImageSet(images[:, :1, :4], np.arange(11))
  process, local = jax.process_index(), jax.local_device_count()

  def own(batch):
    whole = {k: v.reshape(-1, *v.shape[2:]) for k, v in batch.items()}
    parts = {
      k: v.reshape(2, local, -1, *v.shape[1:])[process]
      for k, v in whole.items()
    }
    return parts | {'ids': parts['ids'] + 2**40}

  found = features.extract_features(
    fakes.pixels(12), (own(batch) for batch in dataset.eval_batches(8))
  )
  neighbours = knn_test.neighbours_of_noise().items()
  named = {f'{name}_of_knn': value for name, value in neighbours}
  np.savez(out, **found._asdict(), **named)


if __name__ == '__main__':
  main(*sys.argv[1:])
