"""How long a run trains, and what it keeps of that."""

import os
from typing import Dict, NamedTuple, Optional

from mmengine.config import Config

from ..config import dicts, type_name
from .facts import Fact, Facts


class Plan(NamedTuple):
    """A training in figures.

    Attributes:
        batch: images that a process takes an iteration.
        processes: of the run.
        iterations: of an epoch; None where wrappers of the data set hide their number.
        length: epochs or iterations of the whole run; None where the loop is of another kind.
        by_epoch: which of the two it is.
    """

    batch: Optional[int]
    processes: int
    iterations: Optional[int]
    length: Optional[int]
    by_epoch: bool

    @property
    def facts(self) -> Facts:
        """The figures as lines of a summary."""
        facts = [Fact('batch', f'{self.batch} x {self.processes} process(es)')]
        if self.iterations is not None:
            facts.append(Fact('iterations per epoch', f'{self.iterations:,}'))
        return facts


def plan(cfg: Config, counts: Dict[str, int]) -> Plan:
    """Figures of the training of a config.

    Args:
        cfg: config of the run.
        counts: samples of each data set by its dotted key.
    """
    loop, loader = cfg.get('train_cfg') or {}, cfg.get('train_dataloader') or {}
    by_epoch = loop.get('max_epochs') is not None
    processes = 1
    if cfg.get('launcher', 'none') != 'none':
        names = ('WORLD_SIZE', 'SLURM_NTASKS', 'OMPI_COMM_WORLD_SIZE')
        processes = next((int(os.environ[name]) for name in names if name in os.environ), 1)
    batch = loader.get('batch_size')
    samples = _samples('train_dataloader.dataset', loader.get('dataset'), counts)
    iterations = None
    if samples and batch:
        share = -(-samples // processes)
        iterations = share // batch if loader.get('drop_last') else -(-share // batch)
    length = loop.get('max_epochs') if by_epoch else loop.get('max_iters')
    return Plan(batch, processes, iterations, length, by_epoch)


def _samples(where: str, dataset: Optional[dict], counts: Dict[str, int]) -> Optional[int]:
    """Samples of a data set, those of the usual wrappers too."""
    if where in counts:
        return counts[where]
    kind = type_name(dataset or {})
    if kind == 'ConcatDataset':
        parts = [
            _samples(f'{where}.datasets.{index}', part, counts)
            for index, part in enumerate(dataset['datasets'])
        ]
        return None if None in parts else sum(parts)
    if kind in ('RepeatDataset', 'MultiImageMixDataset'):
        inner = _samples(f'{where}.dataset', dataset.get('dataset'), counts)
        return None if inner is None else inner * dataset.get('times', 1)
    return None


def schedule(cfg: Config, planned: Plan) -> Facts:
    """Length, optimizer and learning rate of a training as lines of a summary."""
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    schedulers = ', '.join(
        f'{type_name(part)} {part.get("begin", 0)} to {part.get("end", "the end")}'
        f'{"" if part.get("by_epoch", True) else " (iterations)"}'
        for _, part in dicts(cfg.get('param_scheduler'), '')
        if type_name(part)
    )
    unit = 'epochs' if planned.by_epoch else 'iterations'
    meant = (cfg.get('auto_scale_lr') or {}).get('base_batch_size')
    rate = f'{type_name(optimizer)}, lr {optimizer.get("lr")}'
    if meant and not cfg.auto_scale_lr.get('enable'):
        rate += f' (meant for a total batch of {meant:g})'
    facts = [
        Fact('length', f'{planned.length:,} {unit}' if planned.length else 'as its loop says')
    ]
    facts.append(Fact('optimizer', rate))
    if schedulers:
        facts.append(Fact('schedule', schedulers))
    return facts
