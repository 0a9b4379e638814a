"""The description of a job: what is refused before anything is asked for."""

import argparse
import dataclasses

import pytest

from byol_jax import errors
from byol_jax.planning import topologies
from launch import job as jobs

ARGUMENTS = ('pretrain', '--config=shapes', '--workdir=gs://bucket/run')


def make(*flags, arguments=ARGUMENTS, name='byol', topology='v3-32'):
  parser = argparse.ArgumentParser()
  jobs.add_flags(parser)
  words = [f'--name={name}', f'--topology={topology}', *flags]
  return jobs.from_flags(parser.parse_args(words), arguments)


def test_a_job_cannot_change_under_who_runs_it():
  job = make()
  with pytest.raises(dataclasses.FrozenInstanceError):
    job.name = 'other'


@pytest.mark.parametrize('name', topologies.TOPOLOGIES)
def test_a_slice_has_the_hosts_and_devices_of_the_table(name):
  job = make(topology=name)
  assert job.slice is topologies.find_topology(name)
  assert job.devices == job.slice.devices
  assert job.hosts == job.slice.hosts


def test_nodes_with_gpus_need_no_table():
  job = make(topology='4x8')
  assert (job.hosts, job.devices, job.slice) == (4, 32, None)


def test_the_program_is_the_arguments_with_the_way_to_find_the_others():
  assert make().program('gce') == [
    *('-m', 'byol_jax', 'pretrain', '--distributed=gce'),
    *ARGUMENTS[1:],
  ]
  assert make().workdir == 'gs://bucket/run'


@pytest.mark.parametrize(
  'what, given',
  [
    ('--name', {'name': 'Byol'}),
    ('--name', {'name': 'byol-'}),
    ('--name', {'name': '9byol'}),
    ('--name', {'name': 'b; rm -rf ~'}),
    ('--name', {'name': 'b' * 41}),
    ('topology', {'topology': 'v3-500'}),
    ('topology', {'topology': '0x8'}),
    ('-- VERB', {'arguments': ()}),
    ('-- VERB', {'arguments': ('--workdir=/run',)}),
    ('--workdir', {'arguments': ('pretrain', '--config=shapes')}),
    ('--distributed', {'arguments': (*ARGUMENTS, '--distributed=none')}),
  ],
)
def test_what_cannot_run_is_refused_with_the_flag_named(what, given):
  with pytest.raises(errors.ConfigError, match=what):
    make(**given)


@pytest.mark.parametrize('flag', ['max-attempts', 'max-hours', 'grace-seconds'])
def test_limits_are_above_zero(flag):
  with pytest.raises(errors.ConfigError, match=f'--{flag}: expected more'):
    make(f'--{flag}=0')


def test_a_slice_writes_where_its_hosts_are_outlived():
  need = jobs.need_slice
  assert need(make()).name == 'v3-32'
  assert need(make(arguments=('pretrain', '--workdir=/mnt/run')))
  with pytest.raises(errors.ConfigError, match='gs://BUCKET'):
    need(make(arguments=('pretrain', '--workdir=runs/pod')))
  with pytest.raises(errors.ConfigError, match='4x8'):
    need(make(topology='4x8'))
