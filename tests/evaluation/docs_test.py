"""Every command of docs/evaluation.md runs, in order, on runs of seconds."""

import re
import shlex

import pytest

from byol_jax import __main__ as command
from tests.helpers import tiny_run

PAGE = (tiny_run.ROOT / 'docs/evaluation.md').read_text()
# What a comment before a block may add: a shorter run, nothing else.
SHORTER = re.compile(r'--config\.(epochs|lengths|schedule\.warmup_epochs)=\S+')


def list_commands():
  """[words of a command, with what its comment adds], in order."""
  found = []
  blocks = r'(?:^<!-- shorter: (.*?) -->\n)?^```\n(.*?)^```'
  for added, block in re.findall(blocks, PAGE, re.M | re.S):
    more = shlex.split(added)
    assert all(map(SHORTER.fullmatch, more)), added
    for line in block.replace('\\\n', ' ').splitlines():
      words = shlex.split(line, comments=True)
      while words and re.fullmatch(r'[A-Z_]+=\S*', words[0]):
        del words[0]  # a variable of the environment
      if words[:1] == ['byol-jax']:
        found.append(words[1:] + more)
  return found


@pytest.mark.slow
def test_every_command_runs(labelled, tmp_path, monkeypatch, capsys):
  folder, workdir = labelled
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'runs').mkdir()
  for name in ('demo', 'imagenet'):
    (tmp_path / 'runs' / name).symlink_to(workdir)
  places = {'~/Pictures': folder, '~/tensorflow_datasets': tmp_path}
  commands = list_commands()
  verbs = {words[0] for words in commands}
  assert verbs >= {'knn', 'linear', 'online', 'transfer', 'suite', 'watch'}
  for words in commands:
    for name, place in places.items():
      words = [word.replace(name, str(place)) for word in words]
    assert command.main(words) == 0, f'{words}: {capsys.readouterr()}'
    printed = capsys.readouterr().out
    shown = r' on \d+ images |all is evaluated'
    assert words[0] == 'pretrain' or re.search(shown, printed), words
