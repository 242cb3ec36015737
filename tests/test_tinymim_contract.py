"TinyMIM through the contract of all techniques, on a transformer; alone and in company"
import pytest
import torch
from fastai.optimizer import SGD
from conftest import params, tiny_dls, tiny_learner
from fastrobust.systems.tinymim.inside import Unlabelled
from fastrobust.systems.tinymim.mimic import TinyMIM
from fastrobust.systems.tinymim.tinyvit import tiny_vit
from fastrobust.testing import check_technique
from fastrobust.testing.case import Case

def student(n_out, channels): return tiny_vit(8, 2, 16, 2, 2, channels, n_out)
def teacher(heads=2, channels=1):
    with torch.random.fork_rng():
        torch.manual_seed(11)
        return tiny_vit(8, 2, 32, 3, heads, channels)

def make(**kw): return TinyMIM(teacher(), **kw)
CONTRACT = {TinyMIM: dict(make=make, colour=lambda: TinyMIM(teacher(channels=3)), net=student, weight='lam',
                          deterministic=True)}

def test_what_is_no_maker_of_networks():
    with pytest.raises(TypeError, match='a function that makes a network, got a TinyViT. Pass `net=lambda'):
        Case(TinyMIM, net=student(3, 1))

def test_a_transformers_technique_by_the_public_door(capsys):
    check_technique(TinyMIM, **CONTRACT[TinyMIM], only=['repeats', 'docs'])
    assert [o.split()[0] for o in capsys.readouterr().out.splitlines()] == ['repeats', 'docs']

# --- two processes ---------------------------------------------------------------------------------------------------
RANKS = '''
from fastai.distributed import DistributedTrainer
from fastai.callback.core import Callback
from fastai.optimizer import SGD
from conftest import params, tiny_dls
from test_tinymim_contract import on_two
class Spy(Callback):
    "What accelerate was told before it wrapped the network"
    order = DistributedTrainer.order+1
    def before_fit(self):
        self.unused = self.learn.model.find_unused_parameters
        self.wrapped = type(self.learn.model).__name__
res = {}
for labels in (True, False):
    learn,spy = on_two(labels),Spy()
    with learn.distrib_ctx(sync_bn=False, cpu=True): learn.fit(2, .05, cbs=spy)
    none = [k for k,p in learn.model.net.named_parameters() if p.grad is None]
    res[labels] = dict(params=params(learn), unused=spy.unused, wrapped=spy.wrapped, none=none,
                       log=[list(o) for o in learn.recorder.values], loss=[o.item() for o in learn.recorder.losses])
torch.save(res, f"{sys.argv[1]}/{os.environ['RANK']}.pt")
torch.distributed.destroy_process_group()
'''

def on_two(labels):
    kw = dict() if labels else dict(loss_func=Unlabelled())
    return tiny_learner(TinyMIM(teacher(4)), dls=tiny_dls(bs=8, shuffle=False), opt_func=SGD, wd=0., net=student, **kw)

@pytest.mark.slow       # two processes start
def test_two_processes_are_one_with_both_batches(tmp_path):
    "Without labels some parameters have no gradient, and nobody waits for one"
    pytest.importorskip('accelerate')
    from test_distributed import ON_CPUS, run_ranks     # which reads the CONTRACT of this file
    said = run_ranks(ON_CPUS+RANKS, tmp_path)
    a,b = (torch.load(tmp_path/f'{r}.pt', weights_only=False) for r in (0, 1))
    assert said[0].count('TinyMIM') == 2 and 'TinyMIM' not in said[1]
    for labels in (True, False):
        one = on_two(labels)
        both = [i for k in range(0, 24, 8) for i in [*range(k, k+8), *range(24+k, 32+k)]]
        start = params(one)
        one.dls.train.bs = 16
        one.dls.train.get_idxs = lambda both=both: both
        one.fit(2, .05)
        r = a[labels]
        assert r['wrapped'] == 'DistributedDataParallel' and r['unused'] is (not labels)
        assert torch.equal(r['params'], b[labels]['params']) and not torch.equal(r['params'], start)
        assert torch.allclose(r['params'], params(one), atol=1e-5)
        last = [k for k,p in one.model.net.named_parameters() if p.grad is None]
        assert bool(last) is (not labels)
        assert all(torch.isfinite(torch.tensor(o)).all() for o in r['log'])
