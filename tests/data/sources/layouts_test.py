from tests.helpers.made import names, opened, refused
from tests.helpers.tars import tar


def test_one_image_can_be_embedded_but_is_no_set_for_training(tmp_path):
  for name in ('one.PNG', 'two.png'):
    (tmp_path / name).write_bytes(name.encode())
  assert names(opened(tmp_path / 'one.PNG', 'all')) == ['one.PNG']
  assert 'expected at least 2' in refused(tmp_path / 'one.PNG', 'train')


def test_a_set_with_labels_of_its_own_is_given_alone(tmp_path):
  shard = tar(tmp_path / 'x.tar', {'1.jpg': b'1', '1.cls': b'1', '2.jpg': b''})
  for folder in ('a', 'b'):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / '1.jpg').write_bytes(b'1')
  (tmp_path / 'a/labels.csv').write_text('file,label\n1.jpg,x\n')
  for path in (shard, tmp_path / 'a'):
    assert 'give it alone' in refused(f'{path},{tmp_path / "b"}')
  together = f'{tmp_path / "a"},{tmp_path / "b"}'
  assert len(opened(together, labels='folders')) == 2
