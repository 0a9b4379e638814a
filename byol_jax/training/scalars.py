"""The scalars of a run: what each means, and how a healthy run looks.

`SCALARS` is the one table of them; TensorBoard and docs/logs.md show it.
"""

from collections.abc import Mapping
import contextlib
import fnmatch
import json
import pathlib
from typing import Any, NamedTuple

from byol_jax import errors, files


class Scalar(NamedTuple):
  """What a scalar means: sentences in Markdown."""

  meaning: str  # with its range, or its unit
  healthy: str
  otherwise: str  # what a value that is not healthy means


# By name, or a pattern of names, in the order in which a console line has them.
SCALARS = {
  'byol_loss': Scalar(
    'What BYOL minimises: the squared distance between predictions and'
    ' projections of unit length, summed over both orders of the views, in'
    ' [0, 8]; 4 for unrelated directions. Another `objective` has other'
    ' values.',
    'Falls from about 4 within hundreds of steps, then slowly; runs of'
    ' docs/results.md end between 0.5 and 0.8.',
    'Below 0.1: collapse, see `projection_std`. Near 4 for long: nothing is'
    ' learned; the learning rate is too low or too high.',
  ),
  'projection_std': Scalar(
    'Spread of the projections of a batch, scaled to unit length, in [0, 1]:'
    ' the square root of the sum of their variances. Of D numbers each has then'
    ' a standard deviation of about this share of 1/sqrt(D). 1: the directions'
    ' cancel; 0: all images have the same projection.',
    'From 0.65 to 1.',
    'Below 0.5 the network has collapsed: it answers all images alike.',
  ),
  'effective_rank': Scalar(
    'In how many directions these projections differ: of the eigenvalues of'
    ' their covariance, the square of the sum over the sum of the squares (the'
    ' participation ratio). From 1, one direction, to the width of the'
    ' projection; it cannot exceed the number of images in the batch.',
    'From 1.7 to 8 in runs of the small presets.',
    'Below 1.2 the projections differ along one line only; the representation'
    ' may still tell images apart.',
  ),
  'target_cosine': Scalar(
    'Mean cosine, in [-1, 1], of the predictions of view 1 with what they'
    ' predict: the projections of view 2 by the target network.',
    'Rises to 0.8 or more.',
    'Near 1 with a `target_margin` near 0: collapse. Near 0: nothing is'
    ' learned.',
  ),
  'target_margin': Scalar(
    'By how much `target_cosine` exceeds the mean cosine with the projections'
    ' of all images of the batch, in [-2, 2]: how well a prediction tells its'
    ' own image from others.',
    'Rises within 1,000 steps to 0.15 or more; ends from 0.15 to 0.8.',
    'Below 0.03 after 1,000 steps a prediction fits any image: nothing is'
    ' learned, or the network has collapsed.',
  ),
  'prediction_norm': Scalar(
    'Mean length of the predictions. The loss of BYOL does not depend on it, so'
    ' that it may drift.',
    'From 5 to 120 in runs of the small presets.',
    'It grows without end: the learning rate is too high. It falls to 0: the'
    ' weight decay is.',
  ),
  'dead_units': Scalar(
    'Share of the units of the representation, which follow a ReLU, that are'
    ' positive for no image of the batch, in [0, 1].',
    '0, or almost.',
    'Above 0.5 the encoder has lost most of its units: the learning rate is too'
    ' high.',
  ),
  'top1_accuracy': Scalar(
    'Share of training images, of view 1, that the online classifier gets'
    ' right, in [0, 1]; only of labelled images.',
    'Above one in the number of classes, and rising.',
    'At one in the number of classes: the representation says nothing of the'
    ' classes yet.',
  ),
  'top5_accuracy': Scalar(
    'The same, if the class is among the five best.',
    'Above five in the number of classes, and rising.',
    'As of `top1_accuracy`; 1 of at most five classes.',
  ),
  'classifier_loss': Scalar(
    'Cross entropy of the online classifier, which is trained on the'
    ' representation and does not change the encoder.',
    'Below the logarithm of the number of classes, and falling.',
    'As of `top1_accuracy`.',
  ),
  'total_loss': Scalar(
    'What the optimizer gets: `byol_loss` + `classifier_loss`.',
    'Falls; look at its parts.',
    'Look at its parts.',
  ),
  'labelled': Scalar(
    'Share of images with a label, where some have none.',
    'Constant but for chance.',
    '0: no batch had a label since the last line.',
  ),
  'learning_rate': Scalar(
    'Of the last step.',
    'Rises through the warm-up, then falls to 0 as a cosine.',
    '-',
  ),
  'tau': Scalar(
    'Decay of the target network in the last step, in [0, 1]: its share that'
    ' stays.',
    'From `target.base_tau` to 1.',
    '-',
  ),
  'skipped': Scalar(
    'Steps since the last line whose gradients were not finite: they changed'
    ' nothing. Absent if there are none.',
    'Absent.',
    'More than single ones: the learning rate is too high; see'
    ' `faults.max_skips`.',
  ),
  'images_per_second': Scalar(
    'Images of all devices, each in two views, since the last line.',
    'Constant.',
    'Falls with the time: another program uses the machine, or its disk.',
  ),
  'images_per_second_per_device': Scalar(
    'The same, of each device.',
    'Constant, and that of `byol-jax bench step` where `data_wait` is small.',
    'As of `images_per_second`.',
  ),
  'flop_utilization': Scalar(
    'Share, in [0, 1], of the peak of bfloat16 operations that the vendor'
    ' states for these devices: the operations of a step before the compiler'
    ' changes them, as it counts them itself. Absent where the peak is unknown,'
    ' as on CPUs.',
    'Constant; docs/speed.md has measured ones.',
    'Low with a low `data_wait`: the batch of a device is small, or a precision'
    ' other than bfloat16.',
  ),
  'data_wait': Scalar(
    'Share of the time spent waiting for images, in [0, 1].',
    'Below 0.2.',
    'Above 0.5 the input is the bottleneck; `byol-jax bench input` measures'
    ' it.',
  ),
  'knn_k*_t*': Scalar(
    'kNN accuracy on the test set, with k neighbours and that temperature, in'
    ' [0, 1]: of `eval.knn_every_steps` and of `watch`.',
    'Rises above that of a random encoder, see `byol-jax report`.',
    'At that of a random encoder, or falling: the run is too short, or the'
    ' augmentations remove what tells the classes apart.',
  ),
  'online_*': Scalar(
    'Accuracy of the online classifier on the test set, in [0, 1]: of `watch`.',
    'As of `knn_k*_t*`.',
    'As of `knn_k*_t*`.',
  ),
}
# Those that are measured by the clock.
RATES = (
  *('images_per_second', 'images_per_second_per_device'),
  *('flop_utilization', 'data_wait'),
)
# Names in scalars.jsonl of earlier versions: those of the official code.
OLD_NAMES = {
  'repr_loss': 'byol_loss',
  'classif_loss': 'classifier_loss',
  'loss': 'total_loss',
}


def describe(name: str) -> str:
  """Returns what a scalar means, as Markdown; '' of one that is unknown."""
  for pattern, scalar in SCALARS.items():
    if fnmatch.fnmatchcase(name, pattern):
      return (
        f'{scalar.meaning}\n\n**Healthy:** {scalar.healthy}\n\n'
        f'**Otherwise:** {scalar.otherwise}'
      )
  return ''


def order(values: Mapping[str, float]) -> dict[str, float]:
  """Returns scalars in the order of `SCALARS`, unknown ones last."""
  known = [name for name in SCALARS if name in values]
  others = [name for name in values if name not in SCALARS]
  return {name: values[name] for name in (*known, *others)}


def read(workdir: str | pathlib.Path) -> list[dict[str, Any]]:
  """Returns the lines of a run's scalars.jsonl, with the names of today.

  Numbers are float, also those that are not finite. Lines that are not
  complete are left out, as of a run that goes on.

  Raises:
    DataError: there is no such file.
  """
  path = pathlib.Path(workdir) / 'scalars.jsonl'
  if not path.exists():
    raise errors.DataError(f'{errors.quote(path)} does not exist')
  found = []
  for line in files.read_file(path).splitlines():
    with contextlib.suppress(ValueError, AttributeError, RecursionError):
      values = json.loads(line).items()
      found.append({OLD_NAMES.get(k, k): float(x) for k, x in values})
  return found
