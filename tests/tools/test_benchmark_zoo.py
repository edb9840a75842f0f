"""tools/benchmark_zoo.py: the numbers of tools/test.py, kept when it is stopped."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from tests.tools.runs import DETECTOR, ROOT, SEGMENTOR, evaluate, run, save_weights

TOOL = ROOT / 'tools' / 'benchmark_zoo.py'
METRICS = ('coco/bbox_mAP', 'coco/segm_mAP', 'mIoU')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('benchmark')
    (folder / 'detector.py').write_text(DETECTOR)
    (folder / 'segmentor.py').write_text(SEGMENTOR)
    for name in ('detector', 'segmentor'):
        save_weights(folder / f'{name}.pth', folder / f'{name}.py')
    return folder


def pairs(*names):
    return [f'{name}.py={name}.pth' for name in names]


def data(coco_root, ade_root):
    return ['--coco', coco_root, '--ade', ade_root]


@pytest.mark.slow
@pytest.mark.parametrize('how', [signal.SIGTERM, signal.SIGKILL])
def test_stopped_and_continued(folder, coco_root, ade_root, how):
    """Stopped during its second pair, it goes on with that one."""
    work_dir = folder / how.name
    roots = data(coco_root, ade_root)
    given = (TOOL, *pairs('detector', 'segmentor'), *roots, '--work-dir', work_dir)
    arguments = [str(argument) for argument in given]
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=folder, start_new_session=True,
        env=dict(os.environ, OMP_NUM_THREADS='2'), stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    results = work_dir / 'results.json'
    for _ in range(1200):
        if results.is_file() or process.poll() is not None:
            break
        time.sleep(0.1)
    process.send_signal(how)
    errors = process.communicate()[1]
    if how == signal.SIGTERM:
        assert errors.splitlines()[-1].endswith('stopped; the same command goes on where it was')
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)  # nothing of its session is left
    kept = json.loads(results.read_text())
    assert len(kept) == 1
    written = results.stat().st_mtime_ns

    done = run(*arguments, cwd=folder)
    assert results.stat().st_mtime_ns > written
    outcomes = json.loads(results.read_text())
    assert len(outcomes) == 2 and kept.items() <= outcomes.items()
    found = {}
    for name, root in (('detector', coco_root), ('segmentor', ade_root)):
        tested = work_dir / name
        evaluate(
            f'{name}.py', f'{name}.pth', '--data-root', root, '--work-dir', tested, cwd=folder
        )
        (path,) = tested.glob('*/*.json')
        found[name] = {k: v for k, v in json.loads(path.read_text()).items() if k in METRICS}
    both = [{k: v for k, v in o.items() if k in METRICS} for o in outcomes.values()]
    assert both == list(found.values()) and [len(part) for part in both] == [2, 1]

    table = (work_dir / 'table.md').read_text().splitlines()
    assert [row.split(' | ')[0] for row in table[2:]] == ['| detector', '| segmentor']
    assert f'| {found["segmentor"]["mIoU"]:.1f} | - |' in table[3] and table[0] in done.stdout
    again = run(*arguments, cwd=folder)
    assert 'Epoch(test)' not in again.stdout and 'Iter(test)' not in again.stdout


@pytest.mark.slow
def test_another_checkpoint_is_another_pair(folder, coco_root, ade_root):
    """The same name with other weights is evaluated anew; one that fails spares the others."""
    state = torch.load(folder / 'detector.pth')['state_dict']
    torch.save(dict(state_dict=dict(list(state.items())[:5])), folder / 'broken.pth')
    done = run(
        TOOL, 'detector.py=broken.pth', *pairs('segmentor'), *data(coco_root, ade_root),
        '--work-dir', 'other', cwd=folder, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith('benchmark_zoo.py: error: detector.py=broken.pth: broken.pth for ')
    assert len(json.loads((folder / 'other' / 'results.json').read_text())) == 1
    assert '| segmentor |' in (folder / 'other' / 'table.md').read_text()
