"Two processes, gloo, fastai's own DistributedTrainer through accelerate: every technique, and what each rank remembers"
import os, socket, subprocess, sys
from pathlib import Path
import numpy as np
import pytest
import torch
from fastai.optimizer import SGD
import fastrobust
from conftest import params, tiny_dls, tiny_learner
from test_contract import ALL, SETTINGS, net_for
from test_ridge import rows
from fastrobust.inference.analytic import AnalyticHead
from fastrobust.noise.laws import NoisyLabels
from fastrobust.noise.block import add_label_noise

# Techniques that treat each item by itself, their losses means over the batch: on two ranks they do what one process
# does with the batches of both, side by side
SINGLE = [T.__name__ for T in ALL if T.__name__ in ('LogitClip', 'LogitNorm', 'ELR', 'ALASCA', 'TinyMIM')]

# How a script begins that trains on two processes without a GPU
ON_CPUS = '''
import os, sys, warnings
warnings.simplefilter('ignore')
import numpy as np, torch
torch.set_num_threads(1)
from fastai.distributed import DistributedDL
def to_all(self, t, rank):      # fastai sends the order of the items by way of the GPU
    t = torch.LongTensor(t)
    torch.distributed.broadcast(t, rank)
    return t.tolist()
DistributedDL._broadcast = to_all
'''
RANK = ON_CPUS+'''
from fastai.optimizer import SGD
from conftest import params, tiny_learner
from test_contract import ALL, SETTINGS, net_for
from test_distributed import dls_of_two
import fastrobust.all as fr
from fastrobust.labels.history import SampleHistory

learns,res = {T.__name__: [SETTINGS[T]['make']()] for T in ALL},{}
learns.update(history=[SampleHistory('eval'), fr.Memorisation('eval')], train=[SampleHistory(), fr.Memorisation()])
for name,cbs in learns.items():
    net = next((net_for(T) for T in ALL if T.__name__ == name), None)
    learn = tiny_learner(cbs, dls=dls_of_two(), opt_func=SGD, wd=0., net=net)
    with learn.distrib_ctx(sync_bn=False, cpu=True): learn.fit(1, .05)     # SyncBatchNorm is for GPUs
    assert type(learn.dls.train).__name__ == 'ArrayDL' and type(learn.model).__name__ != 'DistributedDataParallel'
    t = cbs[0]
    r = res[name] = dict(params=params(learn), preds=learn.get_preds()[0])
    if hasattr(t, 'judges'):
        r.update(selected=t.selected, seen=t._masks[-1][2], kept=t.history[-1]['kept'])
        if t.judges: r['score'] = t.score()
    elif hasattr(t, 'score') and name in ('ELR', 'ALASCA'): r.update(score=t.score(), seen=~np.isnan(t.score()))
    if name in ('history', 'train'):
        r.update(given=t.given, losses=t.losses, memorised=[list(o.values()) for o in cbs[1].history])
torch.save(res, f"{sys.argv[1]}/{os.environ['RANK']}.pt")
torch.distributed.destroy_process_group()
'''

def dls_of_two():
    "In order, so that everybody knows who sees what: rank 0 the first half, rank 1 the second"
    dls = tiny_dls(bs=8, shuffle=False)
    return add_label_noise(dls, NoisyLabels('symmetric', .2))

def run_ranks(code, d):
    "What two processes of `code`, which get the folder `d`, print"
    here = Path(__file__).parent
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    (d/'rank.py').write_text(code)
    path = os.pathsep.join([str(here), str(Path(fastrobust.__file__).parents[1]), os.environ.get('PYTHONPATH', '')])
    env = {**os.environ, 'PYTHONPATH': path, 'WORLD_SIZE': '2', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port),
           'OMP_NUM_THREADS': '1', 'ACCELERATE_USE_CPU': 'true', 'CUDA_VISIBLE_DEVICES': '', 'GLOO_SOCKET_IFNAME': 'lo'}
    ps = [subprocess.Popen([sys.executable, d/'rank.py', str(d)], env={**env, 'RANK': str(r), 'LOCAL_RANK': str(r)},
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for r in range(2)]
    try: said = [p.communicate(timeout=200) for p in ps]
    finally:
        for p in ps: p.kill()
    for p,(_,err) in zip(ps, said): assert p.returncode == 0, err[-3000:]
    return [out for out,_ in said]

@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    "What both ranks wrote down"
    pytest.importorskip('accelerate')
    d = tmp_path_factory.mktemp('ranks')
    said = run_ranks(RANK, d)
    return [dict(torch.load(d/f'{r}.pt', weights_only=False), said=said[r]) for r in range(2)]

@pytest.mark.slow
def test_every_technique_trains_one_network_on_two_ranks(ranks):
    a,b = ranks
    names = [T.__name__ for T in ALL]
    assert set(names) <= set(a) and set(a) == set(b)
    for k in names:
        T = dict(zip(names, ALL))[k]
        start = params(tiny_learner(SETTINGS[T]['make'](), dls=dls_of_two(), net=net_for(T)))
        assert torch.equal(a[k]['params'], b[k]['params']) and torch.isfinite(a[k]['params']).all(), k
        assert a[k]['params'].shape == start.shape and not torch.equal(a[k]['params'], start), k
        assert torch.equal(a[k]['preds'], b[k]['preds']) and a[k]['preds'].shape == (24, 3), k
    assert a['said'].count('fastrobust:') == len(names) and 'fastrobust:' not in b['said']

@pytest.mark.slow
@pytest.mark.parametrize('name', SINGLE)
def test_two_ranks_are_one_process_with_both_batches(ranks, name):
    T = next(T for T in ALL if T.__name__ == name)
    learn = tiny_learner(SETTINGS[T]['make'](), dls=dls_of_two(), opt_func=SGD, wd=0., net=net_for(T))
    both = [i for k in range(0, 24, 8) for i in [*range(k, k+8), *range(24+k, 32+k)]]
    learn.dls.train.bs = 16
    learn.dls.train.get_idxs = lambda: both
    learn.fit(1, .05)
    assert torch.allclose(params(learn), ranks[0][name]['params'], atol=1e-5)

@pytest.mark.slow
def test_each_rank_remembers_the_items_it_saw(ranks):
    half = np.arange(48) < 24
    with_memory = [T.__name__ for T in ALL if 'seen' in ranks[0][T.__name__]]
    assert {'SmallLoss', 'JoCoR', 'CoTeaching', 'CoTeachingPlus', 'Decoupling'} <= set(with_memory)
    for k in with_memory:
        for r,mine in ((ranks[0][k], half), (ranks[1][k], ~half)):
            assert (r['seen'] == mine).all(), k
            if 'selected' in r: assert not r['selected'][~mine].any() and 0 <= r['kept'] <= 1
            if 'score' in r: assert np.isnan(r['score'][~mine]).all() and not np.isnan(r['score'][mine]).any()
    for r in ranks:     # three batches of 8, the rate rising to .3 in the first half: 8, floor(.8*8), floor(.7*8) stay
        s = r['SmallLoss']
        assert s['selected'].sum() == 8+6+5 and abs(s['kept'] - 19/24) < 1e-6

@pytest.mark.slow
def test_each_rank_watches_its_items_or_all_of_them(ranks):
    y = dls_of_two().noise.y_noisy
    for r,mine in ((ranks[0], np.arange(48) < 24), (ranks[1], np.arange(48) >= 24)):
        h = r['train']
        assert (h['given'][mine] == y[mine]).all() and (h['given'][~mine] == -1).all()
        assert np.isnan(h['losses'][0]).tolist() == (~mine).tolist()
        assert (r['history']['given'] == y).all() and not np.isnan(r['history']['losses']).any()
    assert np.array_equal(ranks[0]['history']['losses'], ranks[1]['history']['losses'])

# --- closed-form heads: sums of sums ---------------------------------------------------------------------------------
HEADS = '''
import os, sys, torch
torch.set_num_threads(1)
import torch.distributed as dist
from fastrobust.inference.analytic import AnalyticHead
from fastrobust.inference.ranks import over_ranks
from test_ridge import rows
dist.init_process_group('gloo')
rank = dist.get_rank()
assert dist.get_world_size() == 2
Z,y = rows()
scaling = Z.mean(0),Z.std(0)
mine = y < 2 if rank == 0 else y >= 1       # class 1 in both, in other columns
mine &= torch.arange(240) % 2 == rank
res = {}
for b in (False, True):
    head = over_ranks(AnalyticHead(12, 30, standardise=scaling, balance=b, intercept=True).fit(Z[mine], y[mine]))
    res[b] = head.state_dict()
try: over_ranks(AnalyticHead(12, 30).fit(Z[mine], y[mine]))
except ValueError as e: res['error'] = str(e)
torch.save(res, f"{sys.argv[1]}/head{rank}.pt")
dist.destroy_process_group()
'''

@pytest.mark.slow
def test_two_processes_give_the_head_of_one(tmp_path):
    run_ranks(HEADS, tmp_path)
    Z,y = rows()
    of_0 = (y < 2) & (torch.arange(240) % 2 == 0)
    of_1 = (y >= 1) & (torch.arange(240) % 2 == 1)
    a,b = (torch.load(tmp_path/f'head{r}.pt') for r in (0, 1))
    for balance in (False, True):
        want = AnalyticHead(12, 30, standardise=(Z.mean(0), Z.std(0)), balance=balance, intercept=True)
        want.fit(Z[of_0], y[of_0]).fit(Z[of_1], y[of_1])
        for state in (a, b):
            got = AnalyticHead(12, 30, balance=balance, intercept=True)
            got.load_state_dict(state[balance])
            order = [got.classes.index(k) for k in want.classes]
            torch.testing.assert_close(got.W[:, order], want.W, atol=1e-10, rtol=0)
            torch.testing.assert_close(got.b[order], want.b, atol=1e-10, rtol=0)
            assert got.stats.n == want.stats.n
    assert 'same scaling' in a['error'] and a['error'] == b['error']
