"""Every block of shell and Python in README and docs/ runs, page by page.

`tests/helpers/doc_blocks.py` says what a comment before a block may change.
"""

import re
import shlex

import numpy as np
from PIL import Image
import pytest

import byol_jax
from byol_jax import api, configuration
from tests.helpers import compiled_once, doc_blocks, tiny_folder, tiny_run

DOCS = tiny_run.ROOT / 'docs'
# Their own tests run their blocks: tests/python_docs_test.py and
# tests/tools/export_docs_test.py.
ELSEWHERE = ('python.md', 'export.md')
FIRST = (tiny_run.ROOT / 'README.md', DOCS / 'tutorial.md')
PAGES = [path for path in FIRST if path.exists()]
PAGES += [
  path
  for path in sorted(DOCS.glob('*.md'))
  if path.name not in ELSEWHERE and path not in FIRST
]
# What an evaluation prints of its results.
SHOWN = {
  **dict.fromkeys(('knn', 'linear', 'online', 'suite'), r' on \d+ images '),
  **dict.fromkeys(('finetune', 'transfer'), r' on \d+ images '),
  'semisup': r'(?s)digest [0-9a-f]{16}\n.* on \d+ images ',
  'watch': r' on \d+ images |all is evaluated',
}
# Commands that ran: pages repeat some, on the same home.
DONE = set()


@pytest.fixture(scope='module')
def home(labelled, tmp_path_factory):
  """A home with photographs in albums, and a folder for runs."""
  folder = tmp_path_factory.mktemp('home')
  generator = np.random.default_rng(0)
  for i in range(96):
    path = folder / f'Pictures/{tiny_folder.CLASSES[i % 3]}/{i}.jpg'
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = np.roll([200, 60, 60], i % 3)
    tiny_folder.picture(generator, colour, 'RGB').save(path)
  (folder / 'tensorflow_datasets').mkdir()
  for name in ('a.jpg', 'b.png'):
    Image.new('RGB', (40, 30), 'red').save(folder / name)
  (folder / 'runs').mkdir()
  for name in ('demo', 'imagenet'):
    (folder / 'runs' / name).symlink_to(labelled[1])
  with pytest.MonkeyPatch.context() as patch, compiled_once.shared():
    patch.setenv('HOME', str(folder))
    patch.chdir(folder)
    yield folder


@pytest.mark.slow
@pytest.mark.parametrize('path', PAGES, ids=lambda path: path.stem)
def test_every_block_runs(path, home, monkeypatch, capsys):
  variables = {}
  for block in doc_blocks.read_page(path):
    more = shlex.split(block.note) if block.kind == 'shorter' else []
    if block.language == 'python' and block.kind == 'not run':
      compile(block.text, str(path), 'exec')
    elif block.language == 'python':
      values = [word.removeprefix('--config.').split('=') for word in more]
      with monkeypatch.context() as patch:
        patch.setattr(byol_jax, 'pretrain', shorten(values), raising=False)
        exec(compile(block.text, str(path), 'exec'), variables)
    else:
      for words in doc_blocks.list_commands(block.text):
        command = (*words, *more)
        if block.kind == 'not run' or command in DONE:
          doc_blocks.parse_command(words)
          continue
        DONE.add(command)
        doc_blocks.run_command(words, more)
        printed = capsys.readouterr().out
        assert re.search(SHOWN.get(words[1], ''), printed), words


def shorten(values):
  """Returns `byol_jax.pretrain` with other values, texts of numbers."""
  changed = {key: float(text) for key, text in values}

  def pretrain(config, workdir, overrides=None, **options):
    known = configuration.flatten(configuration.read_preset('pretrain'))
    typed = {key: type(known[key])(x) for key, x in changed.items()}
    return api.pretrain(
      config, workdir, {**(overrides or {}), **typed}, **options
    )

  return pretrain


def test_links_of_the_pages_exist():
  """Of README and docs/: files, and headings of Markdown files."""
  for page in (*PAGES, *(DOCS / name for name in ELSEWHERE)):
    text = re.sub(r'^```.*?^```', '', page.read_text(), flags=re.M | re.S)
    for link in re.findall(r'\]\(([^)\s]+)\)', text):
      if link.startswith('http'):
        continue
      file, _, anchor = link.partition('#')
      target = page.parent / file if file else page
      assert target.exists(), f'{page.name}: {link}'
      if anchor:
        titles = re.findall(r'^#+ (.*)', target.read_text(), re.M)
        assert anchor in map(make_anchor, titles), f'{page.name}: {link}'


def make_anchor(title):
  """Returns GitHub's anchor of a heading."""
  words = re.sub(r'[^\w\- ]', '', title.lower())
  return words.replace(' ', '-')


def test_the_index_has_every_page():
  text = (DOCS / 'index.md').read_text()
  for path in DOCS.glob('*.md'):
    assert path.name == 'index.md' or f']({path.name})' in text, path.name
