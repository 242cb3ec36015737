"Open-sampling and LogitAdjust on the long tail of digits (specification §4.6): above cross-entropy, at their floors"
import sys
from pathlib import Path
import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]/'nbs'/'benchmarks'))

def paired(runs, row, to='CE'):
    "Mean and t of the differences over the seeds"
    d = np.array([a['balanced']-b['balanced'] for a,b in zip(runs[row], runs[to])])
    return d.mean(),d.mean()/(d.std(ddof=1)/len(d)**.5)

@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_open_sampling_beats_cross_entropy():
    pytest.importorskip('sklearn')
    m = pytest.importorskip('long_tail_digits')
    torch.set_num_threads(1)
    runs = {row: [m.run(row, s) for s in range(8)] for row in ('CE', 'Open-sampling')}
    gain,t = paired(runs, 'Open-sampling')
    assert gain >= .010 and t > 2, (gain, t)
    aux = np.mean([r['aux'] for r in runs['Open-sampling']])
    assert abs(aux-2.0993) < .03 and runs['Open-sampling'][0]['floor'] == pytest.approx(2.0993, abs=1e-4)

@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_open_set_loss_tells_the_variants_apart():
    "Floors 2.0993, 2.1744 and 2.3026; and the balanced softmax is the baseline to beat"
    pytest.importorskip('sklearn')
    m = pytest.importorskip('long_tail_digits')
    torch.set_num_threads(1)
    runs = {row: [m.run(row, s) for s in range(2)] for row in ('CE', 'LogitAdjust')}
    for row,floor in (('Open-sampling, unweighted', 2.1744), ('ODNL (uniform labels)', 2.3026)):
        r = m.run(row, 0)
        assert abs(r['aux']-floor) < .03 and r['floor'] == pytest.approx(floor, abs=1e-4) == m.floor_of(row)
    assert paired(runs, 'LogitAdjust')[0] > .02
