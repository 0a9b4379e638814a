"""Prints gke_jobset.yaml with the values of a job; see there for an example.

A script, since arguments need the quoting of YAML and of Kubernetes, and the
numbers of hosts and chips come from the table of slices. Limits (restarts,
seconds) are edited in the file. Needs Python 3.10 and only this checkout.
"""

import argparse
from collections.abc import Sequence
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from byol_jax.planning.topologies import TOPOLOGIES  # noqa: E402


def quote(text: str) -> str:
  """Returns a double-quoted YAML scalar; YAML has printable characters only."""
  text = re.sub(r'(["\\])', r'\\\1', text)
  parts = (c if c.isprintable() else f'\\U{ord(c):08x}' for c in text)
  return f'"{"".join(parts)}"'


def render(flags: argparse.Namespace, arguments: Sequence[str]) -> str:
  """Returns the manifest for a verb of byol_jax and its arguments."""
  row = TOPOLOGIES[flags.topology]
  args = [arguments[0], '--distributed=gke', *arguments[1:]]
  values = {
    'name': quote(flags.name),
    'image': quote(flags.image),
    'hosts': row.hosts,
    'chips': row.chips_per_host,
    'accelerator': quote(row.gke_accelerator),
    'grid': quote(row.grid),
    'spot': quote('true'),
    # Kubernetes expands $(NAME) in arguments, and takes $$ for $.
    'args': f'[{", ".join(quote(x.replace("$", "$$")) for x in args)}]',
  }
  text = (HERE / 'gke_jobset.yaml').read_text(encoding='utf-8')
  text = text[text.index('apiVersion:') :]
  if flags.spot:
    text = re.sub(r'# (.*# <spot>)', r'\1', text)
  return re.sub(
    r'(: )(?:[^:\n]|:(?! ))*  # <(\w+)>.*',
    lambda found: f'{found[1]}{values[found[2]]}',
    text,
  )


def main(argv: Sequence[str]) -> None:
  """Prints the manifest."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--name', required=True)
  parser.add_argument('--topology', required=True, choices=TOPOLOGIES)
  parser.add_argument('--image', required=True, help='of launch/Dockerfile')
  parser.add_argument('--spot', action='store_true')
  at = argv.index('--') if '--' in argv else len(argv)
  flags, arguments = parser.parse_args(argv[:at]), argv[at + 1 :]
  if not arguments:
    parser.error('expected -- VERB OF BYOL_JAX AND ITS ARGUMENTS at the end')
  try:
    ''.join(arguments).encode()
  except UnicodeEncodeError as error:
    parser.error(f'expected arguments in UTF-8, found {error.object!r}')
  sys.stdout.buffer.write(render(flags, arguments).encode())


if __name__ == '__main__':
  main(sys.argv[1:])
