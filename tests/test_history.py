"SampleHistory: exact by item on plain learners of every kind, costs nothing it should not, and what it concludes"
import copy, pickle, tracemalloc
import numpy as np, pandas as pd
import pytest
import torch
from torch import nn

from fastai.callback.core import Callback, CancelEpochException, CancelFitException
from fastai.callback.mixup import MixUp
from fastai.callback import schedule     # noqa: F401 (Learner.fit_one_cycle, lr_find)
from fastai.data.block import CategoryBlock, DataBlock, MultiCategoryBlock, RegressionBlock, TransformBlock
from fastai.data.core import DataLoaders, Datasets
from fastai.data.transforms import ColReader, IndexSplitter
from fastai.imports import noop
from fastai.learner import Learner, load_learner
from fastai.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.tabular.all import Categorify, FillMissing, Normalize, TabularDataLoaders, tabular_learner
from fastai.torch_core import set_seed
from fastai.vision.augment import aug_transforms
from conftest import MiniTwin, tiny_dls, tiny_learner
from fastrobust.basics import RobustWarning
from fastrobust.data.fromarrays import array_dls
from fastrobust.noise.laws import NoisyLabels
from fastrobust.noise.block import add_label_noise
from fastrobust.labels.history import SampleHistory
from fastrobust.losses import GCELoss
from fastrobust.labels.memorisation import Memorisation
from fastrobust.labels.metrics import label_margin, memorisation
from fastrobust.techniques.augmix import AugMix

N,C = 90,4

class Lookup(nn.Module):
    "Logits by the image's own number and by how often training has begun, so all is known; its weight has no say"
    def __init__(self, Z):
        super().__init__()
        self.register_buffer('Z', torch.as_tensor(Z, dtype=torch.float32))
        self.w,self.e = nn.Parameter(torch.zeros(1)),0
    def forward(self, x): return self.Z[self.e][(x[:,0,0,0]*255).round().long()] + 0*self.w

class Tick(Callback):
    def before_fit(self): self.learn.model.e = 0
    def after_epoch(self): self.learn.model.e = min(self.learn.model.e+1, len(self.learn.model.Z)-1)
    order = 90

def numbered(n=N):
    X = np.zeros((n, 4, 4), np.uint8)
    X[:,0,0] = np.arange(n)
    return X

def noisy_dls(n=N, bs=16, rate=.4, **kw):
    dls = array_dls(numbered(n), np.arange(n)%C, valid=(numbered(40), np.arange(40)%C), bs=bs, normalize=False,
                    vocab=list('abcd'), **kw)
    return dls if rate is None else add_label_noise(dls, NoisyLabels('symmetric', rate, seed=0))

def logits(E=3, n=N, seed=0): return np.random.RandomState(seed).normal(0, 2, (E, n, C))

def quiet(learn):
    learn.remove_cb(learn.progress)
    learn.logger = noop
    return learn

def lookup(dls, Z=None, h=None, **kw):
    Z = logits() if Z is None else Z
    h = h or SampleHistory()
    return quiet(Learner(dls, Lookup(Z), loss_func=CrossEntropyLossFlat(), cbs=[h, Tick()], **kw)),h,Z

def facts(Z, y):
    "Loss, margin, prediction by loops in float64"
    res = []
    for z,k in zip(np.asarray(Z, dtype=float), y):
        others = [v for j,v in enumerate(z) if j != k]
        res.append((np.log(sum(np.exp(v) for v in z))-z[k], z[k]-max(others), int(z.argmax())))
    return [np.array(o) for o in zip(*res)]

# --- recording -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('source', ['train', 'eval'])
@pytest.mark.parametrize('workers', [0, 2])
def test_exact_by_item_whatever_the_order_of_batches(source, workers):
    dls = noisy_dls(drop_last=False, num_workers=workers, bs=16)
    learn,h,Z = lookup(dls, h=SampleHistory(source), metrics=accuracy)
    learn.loss_func = GCELoss()                 # the loss kept is cross-entropy all the same
    learn.fit(3)
    assert h.epochs == [1, 2, 3] and (h.given == dls.noise.y_noisy).all()
    for e in range(3):
        l,m,p = facts(Z[e], dls.noise.y_noisy)
        assert h.losses[e] == pytest.approx(l, abs=1e-5) and h.margins[e] == pytest.approx(m, abs=1e-5)
        assert (h.preds[e] == p).all() and h.p_given[e] == pytest.approx(np.exp(-l), abs=1e-5)
    assert h.losses.shape == h.margins.shape == h.preds.shape == (3, N)
    assert list(learn.recorder.metric_names) == 'epoch train_loss valid_loss accuracy time'.split()

def test_few_or_many_batches_at_a_time_are_the_same():
    learn,h,Z = lookup(noisy_dls(drop_last=False))
    h.hold = 1
    learn.fit(1)
    assert h.losses[0] == pytest.approx(facts(Z[0], h.given)[0], abs=1e-5) and h.facts == []

def test_items_left_out_by_drop_last_are_nan_and_means_skip_them():
    dls = noisy_dls(drop_last=True, bs=40)      # 80 of 90 a time
    learn,h,Z = lookup(dls)
    learn.fit(3)
    nan = np.isnan(h.losses)
    assert (nan.sum(1) == 10).all() and (nan == np.isnan(h.margins)).all() and (nan == (h.preds < 0)).all()
    want = np.array([np.mean([facts(Z[e,i:i+1], h.given[i:i+1])[1][0] for e in range(3) if not nan[e,i]] or [np.nan])
                     for i in range(N)])
    assert h.aum() == pytest.approx(want, abs=1e-5, nan_ok=True) and nan.any(0).sum() > 10

def test_every_second_epoch():
    learn,h,Z = lookup(noisy_dls(drop_last=False), h=SampleHistory('eval', every=2))
    with pytest.raises(ValueError, match='got none of 0. First train with this callback, at least 2 epochs'):
        _ = h.losses
    learn.fit(3); learn.fit(1)
    assert h.epochs == [2, 4] and h.losses[0] == pytest.approx(facts(Z[1], h.given)[0], abs=1e-5)
    assert h.losses[1] == pytest.approx(facts(Z[0], h.given)[0], abs=1e-5)

def small(dls, *cbs):
    set_seed(3)
    net = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(.3),
                        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, C))
    return quiet(Learner(dls, net, metrics=accuracy, cbs=list(cbs)))

@pytest.mark.parametrize('source', ['train', 'eval'])
def test_training_is_bitwise_the_same_with_and_without(source):
    def run(*cbs):
        set_seed(0)
        learn = small(noisy_dls(batch_tfms=aug_transforms(size=4)), *cbs)
        learn.fit_one_cycle(2, 1e-2)
        return learn,torch.rand(1),np.random.rand()
    (a,ta,na),(b,tb,nb) = run(),run(SampleHistory(source))
    for k,v in a.model.state_dict().items(): assert torch.equal(v, b.model.state_dict()[k]), k
    assert torch.equal(ta, tb) and na == nb and a.recorder.losses == b.recorder.losses

def test_fits_add_up_and_lr_find_validate_preds_leave_no_trace(tmp_path):
    learn = small(noisy_dls(path=tmp_path), h := SampleHistory())
    learn.fit(2); learn.lr_find(num_it=6, show_plot=False)
    learn.validate(); learn.get_preds(); learn.fit(1)
    assert h.epochs == [1, 2, 3] and len(h.losses) == 3
    learn.fit(1, cbs=Stop(CancelEpochException, epoch=0))
    assert h.epochs == [1, 2, 3]                                # nothing was seen in it
    before = h.n_epochs
    learn.fit(3, start_epoch=2)                                 # two epochs skipped are no epochs
    assert h.n_epochs == before+1 and len(h.rows) == 4

class Stop(Callback):
    order = -60
    def __init__(self, ex, epoch=1, it=0): self.ex,self.at,self.it = ex,epoch,it
    def before_batch(self):
        if self.training and (self.epoch, self.iter) == (self.at, self.it): raise self.ex()

def test_an_unfinished_epoch_is_dropped():
    learn,h,Z = lookup(noisy_dls())
    with pytest.raises(KeyboardInterrupt): learn.fit(3, cbs=Stop(KeyboardInterrupt, it=2))
    assert h.epochs == [1]
    learn.fit(3, cbs=Stop(CancelFitException, it=2))
    assert h.epochs == [1, 2] and not h.active and h.batches is None

def test_pickle_deepcopy_export(tmp_path):
    dls = noisy_dls(n=90, path=tmp_path)
    learn = small(dls, h := SampleHistory())
    learn.fit(2)
    back = pickle.loads(pickle.dumps(h))
    assert np.array_equal(back.losses, h.losses, equal_nan=True) and back.batches is None
    twin = copy.deepcopy(learn)
    twin.fit(1)
    assert len(twin.sample_history.rows) == 3 and len(h.rows) == 2
    learn.export('m.pkl')
    assert len(h.rows) == 2                                     # ours stays
    assert load_learner(tmp_path/'m.pkl').sample_history.rows == []
    assert h.given.tobytes() not in (tmp_path/'m.pkl').read_bytes()

@pytest.mark.filterwarnings('ignore:this loader')
def test_mixup_and_loaders_without_positions_are_looked_at_in_a_pass():
    dls = noisy_dls()
    learn,h,Z = lookup(dls)
    with pytest.warns(RobustWarning, match='mix_up trains on mixed images.*one more pass'): learn.fit(1, cbs=MixUp())
    assert h.losses[0] == pytest.approx(facts(Z[0], dls.noise.y_noisy)[0], abs=1e-5)    # all 90, clean
    with pytest.MonkeyPatch.context() as mp, pytest.warns(RobustWarning, match='sorts or streams'):
        real = h.__class__.before_batch.__globals__['epoch_idxs']
        mp.setattr('fastrobust.labels.history.epoch_idxs', lambda dl: None if dl.shuffle else real(dl))
        learn.fit(1)
    assert h.losses[1] == pytest.approx(facts(Z[0], dls.noise.y_noisy)[0], abs=1e-5)
    with pytest.MonkeyPatch.context() as mp, pytest.raises(ValueError, match='whose items have positions'):
        for m in ('labels.history', 'inference.passes'): mp.setattr(f'fastrobust.{m}.epoch_idxs', lambda dl: None)
        mp.setattr('fastrobust.inference.passes.batch_idxs', lambda *a: None)
        learn.fit(1)

def test_a_second_look_at_the_loader_inside_an_epoch_does_not_mix_up_the_ids():
    class Peek(Callback):
        order = 90
        def before_batch(self):
            if self.training and self.iter == 0: self.learn.dls.train.one_batch()
    learn,h,Z = lookup(noisy_dls(drop_last=False))
    learn.fit(1, cbs=Peek())
    assert h.losses[0] == pytest.approx(facts(Z[0], h.given)[0], abs=1e-5)

# --- other learners --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('source', ['train', 'eval'])
def test_techniques_with_two_networks_and_with_rows(source):
    for T in (MiniTwin(), AugMix()):
        learn = tiny_learner([T, h := SampleHistory(source)])
        got = []
        class Spy(Callback):
            order = 60
            def after_pred(self, got=got):
                if self.training: got.append((self.learn.pred.argmax(1), self.yb[0]))
        learn.fit(1, cbs=Spy())
        assert not np.isnan(h.losses).any()
        if source == 'train': assert sum((p == y).sum() for p,y in got) == (h.preds[0] == h.given).sum()
        else:
            z = torch.log(learn.get_preds(dl=learn.dls.train.new(shuffle=False, drop_last=False))[0])
            assert h.margins[0] == pytest.approx(label_margin(z, torch.tensor(h.given)).numpy(), abs=1e-3)

@pytest.mark.parametrize('source', ['train', 'eval'])
def test_tables(source):
    r = np.random.RandomState(0)
    df = pd.DataFrame(dict(a=r.normal(size=80), b=r.choice(['u', 'v'], 80)))
    df['y'] = np.where(df.a + (df.b == 'u') > .5, 'yes', 'no')
    dls = TabularDataLoaders.from_df(df, procs=[Categorify, FillMissing, Normalize], cat_names=['b'], cont_names=['a'],
                                     y_names='y', y_block=CategoryBlock(), valid_idx=list(range(60, 80)), bs=8)
    learn = quiet(tabular_learner(dls, layers=[8], cbs=(h := SampleHistory(source))))
    learn.fit(2, 1e-2)
    assert (h.given[h.given >= 0] == dls.train_ds.items.y.to_numpy()[h.given >= 0]).all() and h.losses.shape == (2, 60)
    t = h.table(warn=False)
    assert set(t.given.dropna()) <= {'yes', 'no'} and sorted(t.item) == list(range(60)) and t.name[0] == t.item[0]

def test_texts():
    from fastai.text.all import TextBlock, RandomSplitter
    r = np.random.RandomState(0)
    words = lambda: ' '.join(r.choice(['good', 'bad', 'so', 'film'], r.randint(3, 9)))
    df = pd.DataFrame(dict(text=[words() for _ in range(40)]))
    df['y'] = ['pos' if t.count('good') >= t.count('bad') else 'neg' for t in df.text]
    class Words:
        def __call__(self, items): return (t.split() for t in items)
    block = DataBlock((TextBlock.from_df('text', tok=Words(), seq_len=12), CategoryBlock()), get_x=ColReader('text'),
                      get_y=ColReader('y'), splitter=RandomSplitter(.2, seed=0))
    dls = block.dataloaders(df, bs=8, num_workers=0)
    class Bag(nn.Module):       # fastai's AWD_LSTM cannot train on the newest torch
        def __init__(self):
            super().__init__()
            self.emb,self.out = nn.Embedding(len(dls.vocab[0]), 8, padding_idx=1),nn.Linear(8, 2)
        def forward(self, x): return self.out(self.emb(x.long()).sum(1))
    learn = quiet(Learner(dls, Bag(), loss_func=CrossEntropyLossFlat(), cbs=(h := SampleHistory())))
    with pytest.warns(RobustWarning, match='sorts or streams'): learn.fit(1)
    assert not np.isnan(h.losses).any() and h.given.tolist() == [int(y) for _,y in dls.train_ds]
    z = torch.cat([learn.model.eval()(x[None].to(dls.device)) for x,_ in dls.train_ds]).detach().cpu()
    assert h.margins[0] == pytest.approx(label_margin(z, torch.tensor(h.given)).numpy(), abs=1e-4)
    assert set(h.table(warn=False).given) == {'pos', 'neg'}

def test_what_has_no_single_label_is_refused_at_the_first_batch():
    dls,steps = noisy_dls(),[]
    class Multi(Callback):
        order = -5
        def before_batch(self):
            steps.append(self.iter)
            self.learn.yb = (nn.functional.one_hot(self.y.long(), C).float(),)
    learn = quiet(Learner(dls, Lookup(logits()), loss_func=BCEWithLogitsLossFlat(), cbs=[SampleHistory(), Multi()]))
    with pytest.raises(ValueError, match='one whole-number label per item'): learn.fit(1)
    assert steps == [0]
    learn = quiet(Learner(dls, nn.Conv2d(1, 4, 1), loss_func=lambda p, y: p.mean(), cbs=SampleHistory('eval')))
    with pytest.raises(ValueError, match='leave it out here'): learn.fit(1)

@pytest.mark.parametrize('source', ['train', 'eval'])
def test_what_surely_has_no_single_label_is_refused_before_the_first_batch(source):
    df = pd.DataFrame(dict(u=np.arange(20.), l=['a b', 'b']*10))
    kw = dict(bs=4, num_workers=0, device=torch.device('cpu'))
    def block(b, get_y):
        return DataBlock((TransformBlock, b), get_x=lambda r: torch.full((3,), r.u), get_y=get_y,
                         splitter=IndexSplitter([0, 1])).dataloaders(df, **kw)
    table = TabularDataLoaders.from_df(df, cont_names=['u'], y_names='u', valid_idx=[0, 1], **kw)
    for dls,made in ((block(MultiCategoryBlock, lambda r: r.l.split()), 'made by MultiCategorize'),
                     (block(MultiCategoryBlock(True, list('ab')), lambda r: [1, 0]), 'made by EncodedMultiCategorize'),
                     (block(RegressionBlock, ColReader('u')), 'made by RegressionSetup'),
                     (table, r"\['u'\] of dtype float32")):
        steps = []
        net = nn.Linear(3, 2)
        net.register_forward_pre_hook(lambda *a, steps=steps: steps.append(1))
        learn = quiet(Learner(dls, net, loss_func=lambda *a: 0, cbs=SampleHistory(source)))
        with pytest.raises(ValueError, match=f'one single-label target, got .*{made}.*leave it out here'): learn.fit(1)
        assert not steps

def test_other_errors():
    with pytest.raises(ValueError, match="'train' .free. or 'eval'"): SampleHistory('valid')
    for bad in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match=r'a whole number from 1 on .epochs.'): SampleHistory(every=bad)
    learn,h,_ = lookup(noisy_dls())
    learn.fit(1)
    learn.dls = noisy_dls(n=80)
    with pytest.raises(ValueError, match='expected the 90 training items recorded so far, got 80'): learn.fit(1)
    learn.dls = noisy_dls(rate=None)
    with pytest.raises(ValueError, match='relabels or reorders'): learn.fit(1)
    h.reset(); learn.fit(1)
    assert h.epochs == [1]
    with pytest.raises(ValueError, match='`split..` and `table..` do without'): h.memorisation()

# --- what it tells ---------------------------------------------------------------------------------------------------
def filled(Z, y):
    "A history of logits (E,n,c), without a learner"
    h = SampleHistory()
    h.given = np.asarray(y)
    for z in Z:
        l,m,p = facts(z, y)
        h.rows.append(dict(losses=l, margins=m, preds=p)); h.epochs.append(len(h.rows))
    h.n_epochs = len(h.rows)
    return h

def test_margins_and_aum_of_spec_14_20():
    Z = np.array([[[1, 2, 3], [6, 5, 4]], [[0, 4, 1], [2, 5, 4]]], dtype=float)
    y = torch.tensor([1, 0])
    by_epoch = [label_margin(torch.tensor(z), y).tolist() for z in Z]
    assert by_epoch == [[-1, 1], [3, -3]] and [np.mean(o) for o in zip(*by_epoch)] == [1, -1]
    h = filled(Z, [1, 0])
    assert h.aum().tolist() == [1, -1] and h.aum(slice(1)).tolist() == [-1, 1]

def test_a_shift_changes_no_margin_and_a_scale_scales_it():
    Z,y = torch.randn(20, 5),torch.arange(20)%5
    m = label_margin(Z, y)
    assert torch.allclose(label_margin(Z+7, y), m, atol=1e-5) and torch.allclose(label_margin(3*Z, y), 3*m, atol=1e-5)
    assert torch.equal(m > 0, Z.argmax(1) == y)
    assert torch.isfinite(label_margin(torch.randn(1, 2), torch.tensor([1]))).all()     # a batch of one

def test_forgetting_by_hand():
    right = np.array([[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 1], [0, 0, 1, 1]], dtype=bool).T
    y = np.zeros(5, int)
    Z = np.stack([np.stack([np.where(r, [3., 0, 0], [0, 3., 0]) for r in e[:,None]]) for e in right])
    h = filled(Z, y)
    assert h.forgetting().tolist() == [0, 1, np.inf, 1, 0]
    h.rows[1]['preds'] = np.array([-1, -1, -1, -1, 0])          # four not seen in the second epoch
    assert h.forgetting().tolist() == [0, 0, np.inf, 1, 0]
    h.rows[2]['preds'] = np.array([-1, -1, -1, -1, 1])          # nor in the third; the fifth is lost there
    assert h.forgetting().tolist() == [0, 0, np.inf, 0, 1]

def test_suggestion_is_the_most_frequent_class_and_of_equals_the_later():
    h = filled(np.eye(3)[np.array([[0, 1], [2, 2], [2, 1], [1, 2]])]*5, [0, 0])
    code,share = h.suggested()
    assert code.tolist() == [2, 2] and share.tolist() == [.5, .5]
    h.rows[0]['preds'] = np.array([-1, 1]); h.rows[1]['preds'] = np.array([-1, -1])
    assert h.suggested()[1] == pytest.approx([.5, 2/3]) and h.suggested()[0].tolist() == [1, 1]

def synthetic(E, n, c, seed=0, seen=.8):
    "A history of random predictions, some items not seen in some epochs, some never"
    g,h = np.random.default_rng(seed),SampleHistory()
    h.given = g.integers(0, c, n)
    for e in range(E):
        ok = (g.random(n) < seen) & (np.arange(n) % 17 > 0)
        losses,margins = (np.where(ok, o, np.nan).astype(np.float32) for o in (g.gamma(1, 1, n), g.normal(0, 1, n)))
        preds = np.where(ok, g.integers(0, c, n), -1).astype(np.int32)
        h.rows.append(dict(losses=losses, margins=margins, preds=preds)); h.epochs.append(e+1)
    h.n_epochs = E
    return h

def test_suggestions_by_blocks_are_those_of_all_at_once(monkeypatch):
    for E,n,c,block in ((1, 5, 2, 2**26), (7, 301, 6, 8*6*50), (40, 200, 3, 1), (3, 90, 11, 8*11*45)):
        h = synthetic(E, n, c, seed=E)
        ps,rows = h.preds,np.arange(n)
        votes = np.zeros((n, ps.max()+1))
        for e,p in enumerate(ps): votes[rows[p >= 0],p[p >= 0]] += 1 + 1e-6*e
        monkeypatch.setattr('fastrobust.labels.recorded._BLOCK', block)
        code,share = h.suggested()
        assert (code == votes.argmax(1)).all() and code.dtype == votes.argmax(1).dtype
        assert np.array_equal(share, votes.max(1).astype(int)/np.maximum((ps >= 0).sum(0), 1))
    with pytest.raises(ValueError, match='at least one recorded epoch'): SampleHistory().suggested()

def test_a_table_of_many_classes_takes_little_memory():
    h = synthetic(3, 20_000, 1_000)
    tracemalloc.start()
    t = h.table(warn=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6 and len(t) == 20_000            # votes of all at once: 160 MB

def trained(source='train', rate=.3):
    "Wrong labels are fitted late: an easy two-group case"
    dls = noisy_dls(n=200, rate=rate, drop_last=False)
    rec,E = dls.noise,6
    r = np.random.RandomState(0)
    Z = np.zeros((E, 200, C))
    for e in range(E):
        Z[e] = r.normal(0, .1, (200, C)) + 4*np.eye(C)[rec.y_clean] + (e+1)*.6*np.eye(C)[rec.y_noisy]
    learn,h,_ = lookup(dls, Z, SampleHistory(source))
    learn.fit(E)
    return learn,h,rec

def test_split_score_table_and_ids():
    learn,h,rec = trained()
    s = h.split()
    assert s.separated and (s.clean == ~rec.is_noisy).all() and s.weights[1] == pytest.approx(.3, abs=.02)
    score = h.score()
    assert ((score >= 0) & (score <= 1)).all() and (score == s.posterior).all()
    assert h.score(3) == score[3] and (h.score([5, 2]) == score[[5, 2]]).all()
    assert h.mean_loss(2) == pytest.approx(h.losses[-2:].mean(0)) and h.mean_loss() == pytest.approx(h.losses.mean(0))
    assert h.split(1, warn=False).means[1] < s.means[1]         # by then the wrong labels are half memorised
    assert set(h.split(per_class=True, warn=False).classes) == {0, 1, 2, 3}
    t,n = h.table(),int(rec.is_noisy.sum())
    cols = 'item name given suggested share score aum loss forgotten flagged'
    assert list(t.columns) == cols.split() and list(t.index) == list(range(200))
    assert set(t.item[:n]) == set(np.flatnonzero(rec.is_noisy)) and t.flagged.sum() == n and t.flagged[:n].all()
    assert t.score.is_monotonic_increasing
    top = t[:n]
    assert [rec.vocab[k] for k in rec.y_noisy[top.item]] == list(top.given)
    assert [rec.vocab[k] for k in rec.y_clean[top.item]] == list(top.suggested)
    assert h.noisy_ids(5).tolist() == t.item[:5].tolist() and set(h.noisy_ids()) == set(np.flatnonzero(rec.is_noisy))
    h = filled(logits(), np.arange(N)%C)
    by_chance,strict = h.table(warn=False),h.table(warn=False, p=.2)
    assert strict.flagged.sum() == (strict.score <= .2).sum() == 1 < by_chance.flagged.sum()
    assert by_chance.score.is_monotonic_increasing and not by_chance.aum.is_monotonic_increasing

def test_names_of_files_and_a_history_without_its_learner(tmp_path):
    from PIL import Image
    from fastai.data.transforms import parent_label
    from fastai.vision.data import ImageBlock
    for i in range(12):
        (tmp_path/'ab'[i%2]).mkdir(exist_ok=True)
        Image.fromarray(np.full((4, 4), 20*i, np.uint8)).save(tmp_path/'ab'[i%2]/f'{i}.png')
    dls = DataBlock((ImageBlock, CategoryBlock), get_items=lambda p: sorted(p.rglob('*.png')), get_y=parent_label,
                    splitter=lambda o: (list(range(8)), list(range(8, 12)))).dataloaders(tmp_path, bs=4, num_workers=0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    learn = quiet(Learner(dls, net, loss_func=CrossEntropyLossFlat(), cbs=(h := SampleHistory())))
    learn.fit(1)
    t = h.table(warn=False)
    assert [str(dls.train_ds.items[i]) for i in t.item] == list(t.name) and set(t.given) <= {'a', 'b'}
    learn.remove_cb(h)
    t = h.table(warn=False)
    assert set(t.given) <= {0, 1} and (t.name == t.item).all()

def test_memorisation_is_that_of_the_callback():
    dls = noisy_dls(drop_last=True, bs=40)
    learn,h,Z = lookup(dls)
    learn.add_cb(Memorisation())
    learn.fit(3)
    t,m = h.memorisation(),learn.memorisation.table
    for k in ('clean_fit', 'memorised', 'recovered'): assert t[k].tolist() == pytest.approx(m[k].tolist())
    assert t[['memorised', 'recovered', 'other']].sum(1).tolist() == pytest.approx([1]*3) and list(t.index) == [1, 2, 3]
    dls.noise.is_open[:50] = True
    ok = np.flatnonzero((h.preds[0] >= 0) & (np.arange(N) >= 50))
    want = memorisation(h.preds[0][ok], dls.noise.y_noisy[ok], dls.noise.y_clean[ok])
    assert h.memorisation().iloc[0].tolist() == list(want) != t.iloc[0].tolist()
    dls.noise.y_noisy = (dls.noise.y_noisy+1)%C
    with pytest.raises(ValueError, match='labels recorded, got others'): h.memorisation()

def test_datasets_of_plain_fastai():
    ds = Datasets(list(range(40)), tfms=[[lambda i: torch.full((1, 2, 2), float(i))], [lambda i: torch.tensor(i%2)]],
                  splits=[list(range(30)), list(range(30, 40))])
    dls = DataLoaders.from_dsets(ds.train, ds.valid, bs=8, num_workers=0, device='cpu')
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    learn = quiet(Learner(dls, net, loss_func=CrossEntropyLossFlat(), cbs=(h := SampleHistory('eval'))))
    learn.fit(1)
    z = torch.cat([learn.model(b[0]) for b in dls.train.new(shuffle=False, drop_last=False)]).detach()
    assert h.margins[0] == pytest.approx(label_margin(z, torch.arange(30)%2).numpy(), rel=1e-4)
    assert tiny_dls().c == 3
