"""Which number of the paper belongs beside a result."""

from ml_collections import config_dict

from byol_jax.data import catalog
from byol_jax.evals import headlines, paper_results
from byol_jax.evaluation import origins, pretrained

# The share of a set's images that may differ: some cannot be read.
_TOLERANCE = 0.01


def describe_pretraining(
  pretrained_on: str | None, origin: origins.Origin
) -> paper_results.Pretraining | None:
  """Returns what was pretrained; None if that is not known, or a v2 encoder.

  The set is `pretrained_on`, a name of `data.catalog`, or what the origin says.
  """
  config, network = origin.config, origin.config.network
  dataset = pretrained_on
  if isinstance(origin, pretrained.Run):
    dataset = dataset or catalog.find_name(config.dataset)
    facts = catalog.find_facts(dataset or '')
    count = origin.training_set['num_examples']
    if facts and not pretrained_on and not _is_close(count, facts.num_train):
      return None
  elif origin.has_dataset:
    dataset = dataset or catalog.find_name(config.dataset)
  if dataset is None or network.version != 1:
    return None
  return paper_results.Pretraining(
    *(network.encoder, network.width, dataset),
    *(config.epochs, config.batch_size),
  )


def name_variant(config: config_dict.ConfigDict) -> str:
  """Returns which variant of table 7 a linear evaluation is, or ''."""
  is_augmented = config.augmentation == 'pretraining'
  is_regularised = (config.logit_clip, config.logit_penalty) == (20, 0.01)
  return {
    (True, False): 'pretrain_aug',
    (False, True): 'regularised',
    (True, True): 'both',
  }.get((is_augmented, is_regularised), '')


def find_paper_result(
  headline: headlines.Headline,
  trained: paper_results.Pretraining | None,
  dataset: str,
) -> paper_results.Result | None:
  """Returns the paper's number where encoder and both sets are the paper's.

  `dataset` is that of the evaluation: a name or a path.
  """
  name = catalog.TRANSFER_SETS.get(dataset) or catalog.find_name(dataset)
  facts = catalog.find_facts(name or '')
  if trained is None or name is None or facts is None:
    return None
  if not _is_close(headline.num_images, facts.num_test):
    return None
  return paper_results.find_result(trained, name, headline.name)


def _is_close(count: int, expected: int) -> bool:
  return abs(count - expected) <= _TOLERANCE * expected
