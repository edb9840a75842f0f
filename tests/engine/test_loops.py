"""Stopped and resumed runs have the same weights, losses and samples, bit for bit."""

import contextlib
import multiprocessing
import pickle
import random
import shutil
import signal

import numpy as np
import pytest
import torch
from mmengine.hooks import EarlyStoppingHook, Hook
from mmengine.runner import Runner
from torch.utils.data import BatchSampler, DataLoader, WeightedRandomSampler

from mmrest.checkpoint import CheckpointError, read_checkpoint
from mmrest.engine import checkpoint_hooks
from mmrest.engine.building import build_runner
from mmrest.engine.checkpoint_hooks import newest_checkpoint
from mmrest.engine.config import make_resumable
from mmrest.engine.data_loading import ResumableLoader, SeededDataset
from mmrest.engine.resuming import ScheduleHook
from mmrest.errors import Interrupted, UsageError
from tests.engine.toy import EPOCHS, SAMPLES, Numbers, Toy, config
from tests.torch_versions import needs_torch


class Watch(Hook):
    """Hook that records losses and indices, and stops the run in one of four places.

    Args:
        place: where, and at which iteration.
        by_signal: send SIGTERM, in place of ending at once.
    """

    priority = 'LOWEST'

    def __init__(self, place=None, by_signal=False):
        self.place, self.by_signal = place, by_signal
        self.losses, self.indices, self.evaluations = {}, {}, {}

    def arrive(self, place, runner):
        if (place, runner.iter) == self.place:
            self.place = None
            if not self.by_signal:
                raise KeyboardInterrupt
            signal.raise_signal(signal.SIGTERM)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses[runner.iter] = float(outputs['loss'].detach())
        self.indices[runner.iter] = [int(index) for index in data_batch['index']]
        self.arrive('training', runner)

    def after_train_epoch(self, runner):
        self.arrive('before an evaluation', runner)

    def after_val_iter(self, runner, **kwargs):
        self.arrive('in an evaluation', runner)

    def after_val_epoch(self, runner, metrics=None):
        self.evaluations[runner.iter] = metrics['mean']
        self.arrive('after an evaluation', runner)


def trained(cfg, **watching):
    """Return the hook and the runner of a run that may be stopped."""
    Numbers.loaded.clear()
    runner, watch = build_runner(cfg), Watch(**watching)
    runner.register_hook(watch)
    with contextlib.suppress(KeyboardInterrupt):
        runner.train()
    return watch, runner


def gone_on(folder, **kwargs):
    """Return the hook and the runner of the run that resumes in a folder."""
    # What came before in this process must not matter.
    random.seed(99), np.random.seed(99), torch.manual_seed(99)
    return trained(config(folder, load_from=newest_checkpoint(folder), resume=True, **kwargs))


def checkpoints(folder):
    return sorted(path.name for path in folder.glob('*.pth'))


def same(run, whole):
    watch, runner = run
    expected, reference = whole
    assert all(expected.losses[i] == loss for i, loss in watch.losses.items())
    assert all(expected.indices[i] == indices for i, indices in watch.indices.items())
    assert all(expected.evaluations[i] == value for i, value in watch.evaluations.items())
    for name, tensor in reference.model.state_dict().items():
        assert torch.equal(tensor, runner.model.state_dict()[name]), name


KINDS = {
    'epochs': {},
    'iterations': dict(by_epoch=False, endless=True),
    'iterations of passes': dict(by_epoch=False),
}


@pytest.fixture(scope='module', params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.fixture(scope='module')
def whole(kind, tmp_path_factory):
    """An uninterrupted run."""
    return trained(config(tmp_path_factory.mktemp('whole'), **kind))


BEST = dict(save_best='mean', rule='less')
BEST_OF_TWO = dict(BEST, save_best=['mean', 'deviation'])
ONE_NAME = dict(filename_tmpl='latest.pth', max_keep_ckpts=1)
QUICK = [(('training', i), 0) for i in (2, 3, 7)]
QUICK += [(('training', 3), 2), (('in an evaluation', 8), 0)]
SLOW = [(('training', i), 0) for i in (0, 5, 14)] + [(('training', 5), 2)]


@pytest.mark.parametrize(
    'place, workers', [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]
)
def test_stopped_and_resumed(kind, whole, place, workers, tmp_path):
    trained(config(tmp_path, workers=workers, **kind), place=place)
    run = gone_on(tmp_path, workers=workers, **kind)
    same(run, whole)
    where, iteration = place
    assert min(run[0].losses) == iteration + (where == 'training')
    if where == 'in an evaluation':
        assert min(run[0].evaluations) == iteration  # it is made up for
    if workers == 0:  # nothing that was trained on before is loaded again
        in_training = [i for batch in run[0].indices.values() for i in batch]
        evaluated = SAMPLES * len(run[0].evaluations)
        assert len(Numbers.loaded) == len(in_training) + evaluated


@pytest.mark.parametrize(
    'options, newest, kept',
    [
        (dict(checkpoint=dict(EPOCHS, max_keep_ckpts=1, **BEST_OF_TWO)), 'epoch_1.pth', 3),
        (dict(custom_hooks=[dict(EPOCHS, filename_tmpl='pass_{:03d}.pth')]), 'iter_6.pth', 20),
        ({'train_dataloader.sampler.seed': 5}, 'iter_6.pth', 16),
        (dict(checkpoint=dict(EPOCHS, **ONE_NAME)), 'latest.pth', 1),
    ],
    ids=['best of two metrics', 'two checkpoint hooks', 'a seed of the sampler', 'one name'],
)
def test_other_configs(tmp_path, options, newest, kept):
    whole = trained(config(tmp_path / 'whole', **options))
    trained(config(tmp_path / 'run', **options), place=('training', 5))
    assert newest_checkpoint(tmp_path / 'run').endswith(newest)
    same(gone_on(tmp_path / 'run', **options), whole)
    assert checkpoints(tmp_path / 'run') == checkpoints(tmp_path / 'whole')
    assert len(checkpoints(tmp_path / 'run')) == kept


@pytest.mark.parametrize('place, start', [
    (('training', 5), 4),  # half of an epoch, which then has three batches
    (('before an evaluation', 4), 3),
])  # fmt: skip
def test_epochs_of_another_length(place, start, tmp_path):
    """The run continues at the same place of its data and schedule."""
    cosine = dict(type='CosineAnnealingLR', T_max=4, end=4, convert_to_iter_based=True)
    options = dict(param_scheduler=[dict(cosine, by_epoch=True)])
    if place[0] != 'training':
        options['checkpoint'] = EPOCHS
    trained(config(tmp_path, **options), place=place)
    options.update({'custom_hooks': [dict(type=ScheduleHook)], 'train_dataloader.batch_size': 4})
    _, whole = trained(config(tmp_path / 'whole', **options))
    watch, runner = gone_on(tmp_path, **options)
    assert list(watch.losses) == list(range(start, 12))
    assert list(watch.evaluations) == [i for i in (3, 6, 9, 12) if i >= start]
    assert runner.optim_wrapper.get_lr() == whole.optim_wrapper.get_lr()


class Fewer(BatchSampler):
    """Batch sampler that yields one batch less than its length, as some of mmdet's do."""

    def __init__(self, sampler, batch_size):
        super().__init__(sampler, batch_size, drop_last=True)

    def __len__(self):
        return super().__len__() + 1


@pytest.mark.parametrize('place, left, checkpoint', [
    (('before an evaluation', 3), 9, EPOCHS),
    (('training', 7), 4, None), (('training', 8), 3, None),
])  # fmt: skip
def test_epochs_shorter_than_their_length(tmp_path, place, left, checkpoint):
    options = {'train_dataloader.batch_sampler': dict(type=Fewer), 'checkpoint': checkpoint}
    trained(config(tmp_path, **options), place=place)
    watch, runner = gone_on(tmp_path, **options)
    assert runner.epoch == 4 and len(watch.losses) == left


@pytest.mark.parametrize('options, later, evaluations', [
    # The epoch has begun, even if its batches are rounded down to none.
    ({}, {'train_dataloader.batch_size': 6}, [4, 6, 8]),
    ({'by_epoch': False, 'train_cfg.val_interval': 1}, {}, list(range(5, 17))),  # it was not done
])  # fmt: skip
def test_evaluations_after_a_stop_in_training(tmp_path, options, later, evaluations):
    trained(config(tmp_path, **options), place=('training', 4))
    watch, _ = gone_on(tmp_path, **options, **later)
    assert list(watch.evaluations) == evaluations


@pytest.mark.parametrize('iteration', [4, 12])
def test_killed_before_patience_is_counted(tmp_path, monkeypatch, iteration):
    """After the checkpoint was saved again, with a new best metric; the count goes on."""
    monkeypatch.setattr(Watch, 'priority', 'VERY_LOW')  # that of the checkpoint hook
    patience = dict(monitor='mean', rule='less', patience=100, min_delta=9)
    options = dict(custom_hooks=[dict(type='EarlyStoppingHook', **patience)])
    options['checkpoint'] = dict(EPOCHS, **BEST)
    trained(config(tmp_path, **options), place=('after an evaluation', iteration))
    _, runner = gone_on(tmp_path, **options)
    assert [hook.wait_count for hook in runner.hooks if isinstance(hook, EarlyStoppingHook)] == [3]


def test_resumed_by_more_processes(tmp_path, monkeypatch):
    """A further process evaluates and shuffles like the others."""
    whole, _ = trained(config(tmp_path / 'whole', checkpoint=EPOCHS))
    trained(config(tmp_path, checkpoint=EPOCHS), place=('before an evaluation', 8))
    monkeypatch.setattr(checkpoint_hooks.dist, 'get_rank', lambda: 1)
    watch, _ = gone_on(tmp_path, checkpoint=EPOCHS)
    assert list(watch.evaluations) == [8, 12, 16]
    assert watch.indices == {i: whole.indices[i] for i in range(8, 16)}


def test_best_checkpoint_of_another_folder(tmp_path):
    """A run that branches off leaves it alone."""
    checkpoint = dict(EPOCHS, save_best='mean', rule='greater')
    trained(config(tmp_path / 'first', checkpoint=checkpoint), place=('training', 13))
    before = checkpoints(tmp_path / 'first')
    branch = dict(load_from=newest_checkpoint(tmp_path / 'first'), resume=True)
    checkpoint['rule'] = 'less'  # so that the next one is the best
    trained(config(tmp_path / 'branch', checkpoint=checkpoint, **branch))
    assert checkpoints(tmp_path / 'first') == before
    assert sum(name.startswith('best') for name in before) == 1
    assert sum(name.startswith('best') for name in checkpoints(tmp_path / 'branch')) == 1


def test_best_checkpoint_of_another_metric(tmp_path):
    """It is kept, and its score is not compared."""
    trained(config(tmp_path, checkpoint=dict(EPOCHS, **BEST)), place=('training', 13))
    (first,) = tmp_path.glob('best_mean_*')
    gone_on(tmp_path, checkpoint=dict(EPOCHS, save_best='deviation', rule='greater'))
    assert first.is_file() and len([*tmp_path.glob('best_deviation_*')]) == 1


def test_iterations_continued_by_epochs(tmp_path):
    """At the epoch of the iteration."""
    trained(config(tmp_path, by_epoch=False), place=('training', 13))
    watch, _ = gone_on(tmp_path)
    assert list(watch.losses) == [14, 15]


def test_ranks_evaluate_what_is_saved(tmp_path, monkeypatch):
    """Namely the statistics of rank 0, whose batch norms have seen other images."""
    monkeypatch.setattr(checkpoint_hooks.dist, 'broadcast', lambda buffer: buffer.fill_(7))
    _, runner = trained(config(tmp_path), place=('in an evaluation', 4))
    assert (runner.model.net[1].running_mean == 7).all()


def test_a_validation_reads_no_training_data(tmp_path, monkeypatch):
    """In a program that calls mmengine's Runner with a config of mmrest."""
    monkeypatch.delattr(Runner, 'build_train_loop')
    cfg = config(tmp_path)
    make_resumable(cfg)
    assert Runner.from_cfg(cfg).val().keys() == {'mean', 'deviation'}


@pytest.mark.parametrize('place', [None, ('training', 6)])
def test_workers_end_with_their_run(tmp_path, place):
    """Persistent ones; those of a later evaluation do not ignore signals."""
    workers = dict(num_workers=1, persistent_workers=True)
    cfg = config(tmp_path, val_dataloader=workers, train_dataloader=workers)
    before = multiprocessing.active_children()
    with contextlib.suppress(Interrupted):
        trained(cfg, place=place, by_signal=True)
    assert multiprocessing.active_children() == before
    runner = build_runner(config(tmp_path, val_dataloader=workers))
    runner.val()
    (worker,) = [c for c in multiprocessing.active_children() if c not in before]
    worker.terminate()
    worker.join(10)
    assert worker.exitcode is not None
    runner.val_dataloader._iterator = None


def test_compiled_with_an_old_torch(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, '__version__', '2.6.0')
    with pytest.raises(UsageError, match=r'compile needs torch 2\.7 or later, this is 2\.6\.0'):
        trained(config(tmp_path / 'run', compile=True))


@needs_torch(2, 7, 'compiler that takes these runs')
def test_compiled(tmp_path):
    """With mmengine's `compile`, also where parameters have their own weight decay."""
    options = {
        'optim_wrapper.optimizer.weight_decay': 0.1,
        'optim_wrapper.paramwise_cfg': dict(norm_decay_mult=0),
    }
    whole, _ = trained(config(tmp_path / 'whole', **options))
    run, _ = trained(config(tmp_path / 'run', compile=dict(backend='eager'), **options))
    assert run.losses == pytest.approx(whole.losses, rel=1e-2)


def test_random_seed(tmp_path):
    """A run without a configured seed resumes in its own order."""
    without = dict(randomness=dict(seed=None))
    whole = trained(config(tmp_path / 'whole', **without))
    path = str(tmp_path / 'whole' / 'iter_6.pth')
    run = trained(config(tmp_path / 'again', load_from=path, resume=True, **without))
    same(run, whole)
    assert min(run[0].losses) == 6


@pytest.mark.parametrize('place, iteration, saved', [
    ('training', 5, 6),
    ('before an evaluation', 8, 8),
    ('in an evaluation', 8, 8),
    ('after an evaluation', 8, 9),
])  # fmt: skip
def test_a_request_to_stop(place, iteration, saved, tmp_path):
    """The training weights are saved, not the EMA weights, which are evaluated."""
    checkpoint = dict(EPOCHS, interval=10, **BEST)
    options = dict(custom_hooks=[dict(type='EMAHook', momentum=0.1)], checkpoint=checkpoint)
    whole = trained(config(tmp_path / 'whole', **options))
    said = rf'stopped by SIGTERM after iteration {saved}; .*interrupted\.pth: .* --resume'
    with pytest.raises(Interrupted, match=said):
        trained(config(tmp_path / 'run', **options), place=(place, iteration), by_signal=True)
    assert newest_checkpoint(tmp_path / 'run').endswith(checkpoint_hooks.INTERRUPTED)
    same(gone_on(tmp_path / 'run', **options), whole)
    assert checkpoints(tmp_path / 'run') == checkpoints(tmp_path / 'whole')
    end, of_whole = (read_checkpoint(str(tmp_path / n / 'epoch_4.pth')) for n in ('run', 'whole'))
    for key in ('state_dict', 'ema_state_dict'):
        assert all(torch.equal(tensor, end[key][n]) for n, tensor in of_whole[key].items())


@pytest.mark.parametrize('by_epoch', [True, False])
@pytest.mark.parametrize('bad, interval', [('nan', 50), ('inf', 1)])
def test_a_run_that_diverges(tmp_path, monkeypatch, by_epoch, bad, interval):
    """The third loss is invalid; the fourth, before a checkpoint, is valid again."""
    checkpoint = dict(EPOCHS, by_epoch=by_epoch, interval=1 if by_epoch else 2)
    hook = dict(type='InvalidLossHook', interval=interval)
    runner = build_runner(config(tmp_path, False, by_epoch, 0, checkpoint, custom_hooks=[hook]))
    forward, added = Toy.forward, iter([0, 0, float(bad)])

    def diverging(self, *args, mode, **kwargs):
        found = forward(self, *args, mode=mode, **kwargs)
        return dict(loss=found['loss'] + next(added, 0)) if mode == 'loss' else found

    monkeypatch.setattr(Toy, 'forward', diverging)
    with pytest.raises(UsageError, match=rf'the loss is {bad} after iteration 3; resume from'):
        runner.train()
    assert checkpoints(tmp_path) == ([] if by_epoch else ['iter_2.pth'])


def test_checkpoints_elsewhere(tmp_path):
    hook = dict(EPOCHS, out_dir=str(tmp_path / 'far'), filename_tmpl='pass_{:03d}.pth')
    trained(config(tmp_path / 'run', checkpoint=dict(hook)), place=('training', 9))
    expected = str(tmp_path / 'far' / 'run' / 'pass_002.pth')
    assert newest_checkpoint(tmp_path / 'run', hook) == expected
    (tmp_path / 'run' / 'last_checkpoint').unlink()
    assert newest_checkpoint(tmp_path / 'run', hook) == expected


def test_newest_checkpoint_of_a_copy(tmp_path):
    """It is the folder's own, if there is one."""
    run, copy = tmp_path / 'run', tmp_path / 'copy'
    trained(config(run), place=('training', 10))
    run.rename(copy)
    assert newest_checkpoint(copy) == str(copy / 'iter_11.pth')
    shutil.copytree(copy, run, copy_function=shutil.copyfile)
    assert newest_checkpoint(copy) == str(copy / 'iter_11.pth')
    (copy / 'iter_11.pth').write_text('broken')
    with pytest.raises(CheckpointError, match=r'iter_11\.pth cannot be read as a checkpoint'):
        gone_on(copy)
    for path in copy.glob('iter_*.pth'):
        path.unlink()
    (copy / 'iter_10-d77de378.pth').touch()  # published: weights only
    assert newest_checkpoint(copy) == str(run / 'iter_11.pth')
    shutil.rmtree(run)
    with pytest.raises(CheckpointError, match='last_checkpoint names '):
        newest_checkpoint(copy)
    assert newest_checkpoint(tmp_path / 'absent') is None


def test_hooks_can_change_the_dataset():
    inner = Numbers()
    inner.dataset, inner.seed = 'of a wrapper', 1
    dataset = SeededDataset(inner, 3)
    dataset.pipeline, dataset.seed = 'another', 2
    assert inner.pipeline == dataset.pipeline == 'another'
    assert dataset.dataset == 'of a wrapper' and inner.seed == dataset.seed == 2
    assert len(pickle.loads(pickle.dumps(dataset))) == SAMPLES
    assert dataset[0].keys() == inner[0].keys()  # without an epoch, as hooks read one


def test_draws_of_a_sampler_of_torch():
    """Each draw has its own random numbers, and each epoch its own order, however often read."""
    sampler = WeightedRandomSampler([1.0] * SAMPLES, SAMPLES)
    loader = DataLoader(Numbers(), batch_size=4, sampler=sampler, num_workers=1)
    loader, epochs = ResumableLoader(loader, 3), []
    # Hooks change its weights, and mmpretrain's PreciseBNHook reads the batch size.
    assert loader.sampler is sampler and loader.batch_size == 4
    for epoch in (0, 1, 0):
        loader.batch_sampler.epoch = epoch
        epochs.append(torch.cat([batch['inputs'] for batch in loader]))
    first, second, again = epochs
    assert torch.equal(first, again) and not torch.equal(first[:, 0], second[:, 0])
    assert len(first[:, 0].unique()) < SAMPLES  # some indices are drawn twice
    assert len(torch.cat([first, second])[:, 1].unique()) == 2 * SAMPLES
