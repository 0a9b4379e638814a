"""Reads the blocks of code of a page, and runs or only parses them.

A comment directly before a block may hold, and nothing else:

    <!-- with: WORD=PATH ... -->         a word of the block stands for a path
    <!-- shorter: --config.steps=2 -->   is added to each command, or overrides
    <!-- not run: REASON -->             hardware, network, hours: only parsed
"""

import pathlib
import re
import shlex
from typing import NamedTuple

from byol_jax import __main__ as command, configuration
from byol_jax.cli import console, verbs
from tests.helpers import tiny_run

BLOCK = re.compile(
  r'(?:^<!-- (with|shorter|not run): ([^\n]*?) -->\n)?'
  r'^( *)```(\w*)\n(.*?)^ *```',
  re.M | re.S,
)
LANGUAGES = {
  **dict.fromkeys(('', 'sh', 'bash'), 'shell'),
  'python': 'python',
  **dict.fromkeys(('text', 'mermaid', 'json'), ''),
}
# What a comment may make smaller: the length of a training.
SHORTER = re.compile(
  r'--config\.(\w+\.)?(steps|epochs|lengths|warmup_epochs)=\S+'
)
# Programs that commands in blocks that are not run may start.
OTHERS = ('tfds', 'git', 'cd', '.', 'tensorboard', 'ssh', 'nvidia-smi')


class Block(NamedTuple):
  """A block of a page."""

  language: str
  text: str
  kind: str  # of its comment, '' without one
  note: str


def read_page(path: pathlib.Path) -> list[Block]:
  """Returns the blocks of shell and of Python, in order."""
  found = []
  for kind, note, indent, name, text in BLOCK.findall(path.read_text()):
    language = LANGUAGES[name]  # name the language of another kind of block
    if kind == 'with':
      for pair in note.split():
        text = text.replace(*pair.split('='))
    if kind == 'shorter':
      assert all(map(SHORTER.fullmatch, shlex.split(note))), note
    if language:
      text = re.sub(f'^{indent}', '', text, flags=re.M)
      found.append(Block(language, text, kind, note))
  return found


def list_commands(text: str) -> list[list[str]]:
  """Returns the words of each command, without variables before it."""
  found = []
  for line in text.replace('\\\n', ' ').replace(' && ', '\n').splitlines():
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r'export|[A-Z_]+=\S*', words[0]):
      del words[0]
    if words:
      found.append(words)
  return found


def parse_command(words: list[str]) -> None:
  """Checks a command as far as it goes without running it."""
  program, *words = words
  if program == 'byol-jax':
    verb, arguments = console.parse(words, verbs.VERBS)
    if verb.preset:
      spec, overrides = arguments['spec'], arguments['overrides']
      kind = None if words[0] == 'config' else verb.preset
      configuration.load(spec, overrides, kind)
  elif program == 'make':
    targets = (tiny_run.ROOT / 'Makefile').read_text()
    for word in words:
      name, equals, value = word.partition('=')
      if equals:
        assert name in ('PYTHON', 'EXTRA', 'SEED', 'WORKDIR'), word
        assert name != 'EXTRA' or value in list_extras(), word
      else:
        assert re.search(rf'^{re.escape(word)}( [.\w]+)*:', targets, re.M), word
  elif program in ('pip', 'python'):
    for word in words:
      for extra in re.findall(r'\[(\w+)\]', word):
        assert extra in list_extras(), word
      assert not word.endswith('.py') or (tiny_run.ROOT / word).is_file(), word
  else:
    assert program in OTHERS, program


def list_extras() -> set[str]:
  """Returns the extras of setup.py."""
  text = (tiny_run.ROOT / 'setup.py').read_text()
  return {*re.findall(r"^    '(\w+)': ", text, re.M)}


def run_command(words: list[str], more: list[str]) -> None:
  """Runs a command of ours in this process."""
  assert words[0] == 'byol-jax', f'{words}: only byol-jax can be run'
  assert command.main(words[1:] + more) == 0, words
