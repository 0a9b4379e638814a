"""A source of images in a list."""

from byol_jax.data.sources import base


class Listed(base.Source):
  """Encoded images or pixels in a list; reading None raises OSError."""

  name, fingerprint, class_names, labels = 'listed', 'x', None, None

  def __init__(self, images, num_classes=100):
    self._images = images
    self.num_classes = num_classes

  def __len__(self):
    return len(self._images)

  def read(self, index):
    """Returns the image, with its index as label."""
    if self._images[index] is None:
      raise OSError('the disk is gone')
    return self._images[index], index if self.num_classes else -1

  def file_name(self, index):
    """Returns 'file7' for index 7."""
    return f'file{index}'
