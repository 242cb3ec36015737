"Features of a frozen body: every item once, in order, at rest; resumed, on disk, known again; nothing stays behind"
import gc
import numpy as np
import pytest, torch
from PIL import Image
from torch import nn
from fastai.learner import Learner
from fastai.torch_core import get_random_states
from fastai.vision.augment import Flip, Resize
from fastai.vision.data import ImageDataLoaders
from fastrobust.inference import features as module
from fastrobust.inference.features import Rows, digests, fill
from conftest import tiny_dls, tiny_learner

class Pixels(nn.Module):
    "Keeps what it sees"
    def __init__(self):
        super().__init__()
        self.bn,self.seen = nn.BatchNorm2d(1),[]
    def forward(self, x):
        self.seen.append(x.clone())
        return self.bn(x).flatten(1)

def trace(learn):
    s = get_random_states()
    return dict(random=s['random_state'], numpy=s['numpy_state'][1].tolist(), torch=s['torch_state'].tolist(),
                modes=[m.training for m in learn.model.modules()], rngs=[dl.rng.getstate() for dl in learn.dls],
                state={k: v.tolist() for k,v in learn.model.state_dict().items()}, attrs=sorted(vars(learn)),
                split=[(dl.dataset.split_idx, dl.after_batch.split_idx, list(vars(dl))) for dl in learn.dls])

def learner(**kw):
    learn = tiny_learner(dls=tiny_dls(size=8, channels=1, bs=20, batch_tfms=[Flip(p=1.)], **kw))
    learn.model = nn.Sequential(Pixels(), nn.Linear(64, 3))
    return learn

def test_every_item_once_in_order_at_rest():
    learn = learner()
    body = learn.model[0]
    dl = learn.dls.train
    assert dl.drop_last and dl.n % dl.bs and dl.shuffle
    before = trace(learn)
    rows = fill(Rows(dl.n), learn, body, dl)
    assert trace(learn) == before and body.bn.num_batches_tracked == 0
    x,y = dl.dataset.items.x,dl.dataset.items.y
    want = x.float()/255
    seen = torch.cat(body.seen).as_subclass(torch.Tensor)
    norm = dl.after_batch.fs[-1]
    torch.testing.assert_close(seen*norm.std+norm.mean, want, atol=1e-5, rtol=0, check_dtype=False)
    assert rows.done == len(rows) == dl.n and rows.f.dtype == torch.float32
    torch.testing.assert_close(rows.f, seen.flatten(1)/(1+1e-5)**.5)
    assert torch.equal(rows.y, y) and not rows.f.requires_grad and rows.keys is None

def test_some_positions_and_other_codes():
    learn = learner()
    dl = learn.dls.valid
    ids = np.array([5, 2, 9, 3])
    rows = fill(Rows(4), learn, learn.model[0], dl, ids, codes=torch.tensor([7, 8, 9]))
    seen = torch.cat(learn.model[0].seen)[:4].as_subclass(torch.Tensor)
    x = dl.new(shuffle=False, drop_last=False, bs=64).one_batch()[0].as_subclass(torch.Tensor)
    torch.testing.assert_close(seen, x[ids])
    assert rows.y.tolist() == (dl.dataset.items.y[ids]+7).tolist()
    blocks = list(rows.blocks(3))
    assert [len(f) for f,_ in blocks] == [3, 1] and torch.equal(torch.cat([y for _,y in blocks]), rows.y)

def test_goes_on_where_it_was():
    learn = learner()
    dl,body = learn.dls.train,learn.model[0]
    whole = fill(Rows(dl.n), learn, body, dl)
    n,was = [0],body.forward
    def stop(x):
        n[0] += 1
        if n[0] == 3: raise KeyboardInterrupt
        return was(x)
    rows = Rows(dl.n, keyed=True)
    before = trace(learn)
    with pytest.raises(KeyboardInterrupt): fill(rows, learn, stop, dl)
    assert rows.done == 2*dl.bs and trace(learn) == before
    body.seen.clear()
    fill(rows, learn, body, dl)
    assert sum(map(len, body.seen)) == dl.n-2*dl.bs
    torch.testing.assert_close(rows.f, whole.f)
    assert torch.equal(rows.y, whole.y) and (rows.keys > 0).all()
    body.seen.clear()
    assert fill(rows, learn, body, dl) is rows and not body.seen

def test_many_go_to_a_file_that_goes_with_them(monkeypatch, tmp_path):
    learn = learner()
    dl = learn.dls.train
    want = fill(Rows(dl.n), learn, learn.model[0], dl)
    monkeypatch.setattr(module, 'IN_MEMORY', 100)
    rows = fill(Rows(dl.n, tmp_path), learn, learn.model[0], dl)
    torch.testing.assert_close(rows.f, want.f)
    file, = tmp_path.iterdir()
    assert file.suffix == '.features' and file.stat().st_size == 4*dl.n*64
    del rows
    gc.collect()
    assert not list(tmp_path.iterdir())

def test_digests_know_images_again():
    x = torch.rand(6, 3, 100, 70, generator=torch.Generator().manual_seed(0))
    d = digests(x)
    assert d.dtype == np.uint64 and len(set(d.tolist())) == 6
    assert np.array_equal(digests(x[[2, 0]]), d[[2, 0]]) and np.array_equal(digests(x.clone()), d)
    odd = torch.rand(6, 1, 7, 9)        # an odd number of pixels, and a batch that begins in the middle of a word
    assert len(set(digests(odd).tolist())) == 6 and np.array_equal(digests(odd[1:]), digests(odd)[1:])

def test_worker_processes_read_the_same(tmp_path):
    g = np.random.default_rng(0)
    for k in ('a', 'b'):
        (tmp_path/k).mkdir()
        for i in range(5): Image.fromarray(g.integers(0, 255, (10, 12, 3), dtype=np.uint8)).save(tmp_path/k/f'{i}.png')
    found = []
    for w in (0, 2):
        dls = ImageDataLoaders.from_folder(tmp_path, valid_pct=.2, seed=0, item_tfms=Resize(8), bs=3, num_workers=w)
        learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(192, 2)))
        learn.remove_cbs(learn.progress)
        found.append(fill(Rows(5), learn, nn.Flatten(), dls.train, [6, 1, 0, 3, 2]))
    torch.testing.assert_close(found[0].f, found[1].f)
    assert torch.equal(found[0].y, found[1].y)

def test_mixed_precision_and_odd_outputs():
    learn = learner()
    learn.model.bfloat16()
    rows = fill(Rows(24), learn, learn.model[0], learn.dls.valid)
    assert rows.f.dtype == torch.float32
    for body,says in [(nn.Identity(), 'AdaptiveAvgPool2d'), (lambda x: (x, x), 'got tuple'),
                      (lambda x: x.flatten(1)[1:], 'each of'),
                      (lambda x: x.flatten(1)*np.inf, 'finite features, got NaN or inf among items 0 to')]:
        with pytest.raises(ValueError, match=says): fill(Rows(24), learn, body, learn.dls.valid, who='me')
