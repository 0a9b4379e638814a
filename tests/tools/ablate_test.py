"""Rows of the paper's ablations: run once each, and compared."""

import json
import math
import xml.etree.ElementTree

from PIL import Image
import pytest

from byol_jax import __main__ as command, errors
from byol_jax.tools import ablate, ablation_table
from tests.tools.ablation_plan_test import EVALUATIONS, make_plan


class Lab:
  """Fakes of trainings and evaluations; the accuracy depends on the rate."""

  def __init__(self, patch):
    self.trained, self.evaluated = [], []
    self.preempt_at = None  # the number of a training
    patch.setattr(ablate.api, 'pretrain', self.pretrain)
    patch.setattr(ablate, '_evaluate', self.evaluate)
    patch.setattr(ablate.checkpointer, 'list_steps', lambda folder: [5])

  def pretrain(self, config, folder):
    self.trained.append(folder.name.rpartition('-')[0])
    folder.mkdir(exist_ok=True)
    if len(self.trained) == self.preempt_at:
      raise errors.Preempted('saved')
    spread = 0.9 if config.network.predictor else 0.01
    lines = [
      {'step': i, 'byol_loss': 1.0 if i < 5 else math.nan}
      | {'projection_std': spread, 'time': i}
      | {'images_per_second': 100 + i}
      for i in range(1, 6)
    ]
    text = '\n'.join(map(json.dumps, lines))
    (folder / 'scalars.jsonl').write_text(text + '\n')
    (folder / 'rate').write_text(str(config.schedule.base_rate))
    if config.schedule.base_rate > 6e-3:
      raise errors.DivergedError('not finite')

  def evaluate(self, folder, weights, evaluations):
    assert evaluations.keys() == EVALUATIONS.keys()
    self.evaluated.append((folder.name.rpartition('-')[0], weights))
    if weights != 'online':
      return {
        ablate.KNN: 11.0,
        ablate.LINEAR: {'random': 13.0, 'random_calibrated': 12.0}[weights],
      }
    rate = float((folder / 'rate').read_text())
    return {ablate.KNN: 20.0, ablate.LINEAR: 20 + 1e4 * rate}


@pytest.fixture
def lab(monkeypatch):
  return Lab(monkeypatch)


def test_runs_are_shared_resumed_and_not_repeated(lab, tmp_path):
  lines = []
  run = lambda plan, **more: ablate.run(
    plan, str(tmp_path / 'runs'), log=lines.append, **more
  )
  plan = make_plan('table15a', '0.3,0.1,1', '--config.seed=3', seeds=2)
  lab.preempt_at = 2
  with pytest.raises(errors.Preempted):
    run(plan)
  assert lab.trained == ['table15a-0.3-seed3', 'table15a-0.1-seed3']
  assert 'done before' not in str(lines)
  table = run(plan)  # goes on with the one that was stopped
  assert lab.trained[2:] == [
    *('table15a-0.1-seed3', 'table15a-1-seed3', 'table15a-0.3-seed4'),
    *('table15a-0.1-seed4', 'table15a-1-seed4'),
  ]
  # Both random encoders of a seed are measured once.
  starts = [name for name, weights in lab.evaluated if weights == 'random']
  assert starts == ['table15a-0.3-seed3', 'table15a-0.3-seed4']
  # 3e-3 is the rate of the base; 3e-3 / 0.3 diverges.
  ours = table['ours']
  assert ours['0.3']['linear'] == 50 and ours['0.3']['linear_gain'] == 37
  assert ours['0.1']['linear'] == pytest.approx(30)
  assert ours['1']['diverged'] == 2 and ours['0.3']['diverged'] == 0
  (first, second) = table['rows']['0.3']['runs']
  assert (first['seed'], second['seed'], first['steps']) == (3, 4, 5)
  assert first['curve'] == {
    'columns': ['step', 'byol_loss', 'projection_std'],
    'rows': [[i, 1.0 if i < 5 else None, 0.9] for i in range(1, 6)],
  }
  # The same configuration in another table is the same run.
  before = len(lab.trained)
  other = make_plan('table5b', 'byol,average_beta0', '--config.seed=3')
  table = run(other)
  assert lab.trained[before:] == ['table5b-average_beta0-seed3']
  run_of = lambda row: table['rows'][row]['runs'][0]
  assert run_of('byol')['run'] == first['run']
  assert run_of('average_beta0')['collapsed_at'] == 3
  assert run_of('byol')['collapsed_at'] is None
  again = run(other)
  assert again == table and len(lab.trained) == before + 1
  # Rows and seeds of earlier calls stay in the table.
  more = run(make_plan('table5b', 'byol', '--config.seed=3', seeds=2))
  assert [*more['rows']] == ['byol', 'average_beta0']
  assert more['ours']['byol']['runs'] == 2
  assert run(other)['rows'] == more['rows']
  # A key that does not change the result does not make another run.
  run(
    make_plan(
      'table5b', 'byol', '--config.seed=3', '--config.log.every_steps=9'
    )
  )
  assert len(lab.trained) == before + 1
  # Another evaluation is not taken for the one that was made.
  measured = len(lab.evaluated)
  plan = make_plan('table5b', 'byol', '--config.seed=3')
  run(plan._replace(evaluations=EVALUATIONS | {'linear': 'evals/linear'}))
  assert [weights for _, weights in lab.evaluated[measured:]] == [
    *('random', 'random_calibrated', 'online')
  ]
  written = json.loads((tmp_path / 'runs/table5b.json').read_text())
  assert written['rows'].keys() == {'byol'}
  text = (tmp_path / 'runs/table15a.md').read_text()
  assert '| `1`' in text and '2 of 2 diverged' in text
  svg = (tmp_path / 'runs/table15a.svg').read_text()
  texts = [x.text for x in xml.etree.ElementTree.fromstring(svg).iter()]
  assert {'72.5', '50.0', '34.8'} & {*texts} == {'72.5', '50.0'}


def test_parts_share_the_runs(lab, tmp_path):
  plan = make_plan('table15a')
  for part in ((0, 3), (2, 3), (1, 3)):
    found = ablate.run(plan, str(tmp_path), part, lambda text: None)
  assert len(lab.trained) == len({*lab.trained}) == 7
  assert all(ours['runs'] == 1 for ours in found['ours'].values())


def test_what_cannot_be_measured_is_not_trained(lab, tmp_path):
  (tmp_path / 'one').mkdir()
  for i in range(8):
    Image.new('RGB', (9, 9), (i, 0, 0)).save(tmp_path / f'one/{i}.png')
  plan = make_plan('table5b', 'byol', f'--config.dataset={tmp_path}/one')
  with pytest.raises(errors.DataError, match='the images have no labels, so'):
    ablate.run(plan, str(tmp_path / 'runs'))
  with pytest.raises(errors.ConfigError, match='a folder of this machine'):
    ablate.run(make_plan('table5b', 'byol'), 'gs://bucket/runs')
  plan = make_plan('table16', '4096,64')
  with pytest.raises(errors.ConfigError, match=r'row 64: batch_size: .*--rows'):
    ablate.run(plan, str(tmp_path / 'runs'))
  (tmp_path / 'k.py').write_text(
    'from configs.evals import knn\n\n\ndef get_config():\n'
    '  config = knn.get_config()\n  config.ks = (1,)\n  return config\n'
  )
  plan = make_plan('table5b', 'byol')
  plan = plan._replace(
    evaluations=EVALUATIONS | {'knn': str(tmp_path / 'k.py')}
  )
  with pytest.raises(errors.ConfigError, match='expected 20 among ks'):
    ablate.run(plan, str(tmp_path / 'runs'))
  assert not lab.trained


def make_rows(**values):
  """Rows of (the paper's top-1, ours of each seed)."""
  run = lambda x: {
    'results': {ablate.KNN: x, ablate.LINEAR: x},
    'random': {ablate.KNN: 10.0, ablate.LINEAR: 10.0},
    'diverged': None,
    'collapsed_at': None,
  }
  return {
    name: {'paper': {'top1': top1}, 'runs': [*map(run, ours)]}
    for name, (top1, *ours) in values.items()
  }


def test_pairs_are_compared_where_both_sides_tell_them_apart():
  rows = make_rows(
    a=(72.5, 50.0, 52.0),  # mean 51
    b=(70.9, 53.0),  # the reverse of a
    c=(70.7, 30.0),  # b and c are alike in the paper
    d=(0.3, 50.5),  # within a point of a; the reverse of c
    e=(5.5, 20.0),  # collapsed in the paper, as d
    f=(None, 60.0),
    g=(60.0,),  # not run
  )
  found = ablation_table.compare(rows)
  assert found['ours']['a']['linear'] == 51
  assert found['ours']['a']['linear_gain'] == 41
  assert found['pairs'] == {'same': 5, 'reverse': 2, 'close': 1}
  assert found['ours']['a']['reverse'] == ['b']
  assert found['ours']['d']['reverse'] == ['c']
  assert found['ours']['a']['close'] == ['d']
  assert found['ours']['e']['same'] == ['a', 'b', 'c']
  table = {'rows': rows} | found
  lines = ablation_table.format_table(table)
  assert len({len(line) for line in lines}) == 1  # aligned
  cells = [[x.strip() for x in line.split('|')[1:-1]] for line in lines]
  assert cells[2][:5] == ['`a`', '72.5', '51.0', '50.0, 52.0', '+41.0']
  assert [line[-1] for line in cells[2:]] == [
    *('no: b', 'no: a', 'no: d', 'no: c', 'yes', '-')
  ]


def test_the_verb_lists_rows_and_names_the_nearest(tmp_path, capsys):
  assert command.main(['ablate', '--list', '--table=5b']) == 0
  printed = capsys.readouterr().out
  assert (
    'simclr                   69.4   -      network.predictor=()' in printed
  )
  assert command.main(['ablate', '--list']) == 0
  printed = capsys.readouterr().out
  assert printed.index('ablations/table5a') < printed.index(
    'ablations/table14a'
  )
  assert '34.8 +-3  60.8   schedule.base_rate=0.01' in printed
  for words, expected in (
    (['--table=5c', '--list'], 'nearest: table5b, table5a'),
    (['--table=5b'], 'expected --table and --workdir, or --list'),
    (['--table=5b', '--rows=byol,simcrl', '--workdir=x'], 'nearest: simclr'),
    (['--table=5b', '--part=2/2', '--list'], 'expected I/N'),
  ):
    assert command.main(['ablate', *words]) == 2
    assert expected in capsys.readouterr().err
  assert not [*tmp_path.iterdir()]
