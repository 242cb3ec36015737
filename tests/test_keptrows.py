"Features in a folder: whatever stops the pass, the same call goes on, and never with another's features"
import errno, io, json, os, pickle
from pathlib import Path
import numpy as np
import pytest, torch
from PIL import Image
from torch import nn
from fastai.vision.augment import Resize
from fastai.vision.data import ImageDataLoaders
from fastrobust.basics import RobustWarning
from fastrobust.inference import keptrows as module
from fastrobust.inference.features import digests
from fastrobust.inference.keptrows import KeptRows
from fastrobust.labels.frozen import frozen
from conftest import tiny_dls

FILES = ['features.f32', 'features.json', 'features.u64']

class Net(nn.Module):
    "A body that counts the images of its batches, and stops where it is told"
    def __init__(self, seed=0, d=5):
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(torch.randn(64, d, generator=g))
    seen,stop = 0,None
    def forward(self, x):
        if Net.stop is not None and Net.stop <= Net.seen and len(x) > 2: raise KeyboardInterrupt
        if len(x) > 2: Net.seen += len(x)           # two images are looked at to find its last layer
        return torch.tanh(x.flatten(1) @ self.w)

@pytest.fixture(autouse=True)
def _none_seen():
    Net.seen,Net.stop = 0,None

def dls_(n=44, **kw): return tiny_dls(n, bs=8, **kw)

def pass_(path, net=None, dls=None, **kw):
    "(features, digests, images that passed the body) of a new judge, as after a restart"
    Net.seen = 0
    rows = frozen(net or Net(), path=path, **kw).features(dls or dls_(), verbose=False)
    return rows.f.clone(),rows.keys.copy(),Net.seen

def stopped(path, batches, net=None, dls=None):
    Net.seen,Net.stop = 0,8*batches
    with pytest.raises(KeyboardInterrupt): pass_(path, net, dls)
    Net.stop = None

def same(a, b): return torch.equal(a[0], b[0]) and np.array_equal(a[1], b[1])

def rows_of(path, n=10, marks=None): return KeptRows(n, path, marks or dict(body=1))

def batch(i, n=4, d=3):
    g = torch.Generator().manual_seed(i)
    return torch.randn(n, d, generator=g),torch.full((n,), i),torch.rand(n, 1, 4, 4, generator=g)

# --- stopped and gone on ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize('k', range(6))
def test_stopped_at_any_batch_it_goes_on_there(tmp_path, k):
    want = pass_(None)
    assert want[2] == 44
    stopped(tmp_path, k)
    got = pass_(tmp_path)
    assert same(got, want) and got[2] == 44-8*k
    again = pass_(tmp_path)
    assert same(again, want) and again[2] == 0 and sorted(os.listdir(tmp_path)) == FILES

def test_the_same_judge_goes_on_too(tmp_path):
    judge,dls = frozen(Net(), path=tmp_path),dls_()
    for k in (1, 3, 4):
        Net.stop = 8*k
        with pytest.raises(KeyboardInterrupt): judge.features(dls, verbose=False)
    Net.stop = None
    rows = judge.features(dls, verbose=False)
    assert Net.seen == 44 and torch.equal(rows.f, pass_(None)[0]) and judge.features(dls, verbose=False) is rows

def test_labels_after_a_restart_are_none(tmp_path):
    rows = rows_of(tmp_path, 8)
    rows.put(*batch(1))
    assert rows.y.tolist() == [1]*4+[0]*4
    new = rows_of(tmp_path, 8)
    new.put(*batch(2))
    assert new.y.tolist() == [-1]*4+[2]*4 and new.done == 8

# --- begins anew -----------------------------------------------------------------------------------------------------
def pictures(folder, n=10, size=9):
    g = np.random.default_rng(0)
    for i in range(n):
        (folder/'ab'[i%2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(g.integers(0, 255, (size+i%3, size, 3), dtype=np.uint8)).save(folder/'ab'[i%2]/f'{i}.png')
    return folder

class Wide(Net):
    def __init__(self, **kw):
        super().__init__(**kw)
        self.pool = nn.AdaptiveAvgPool2d(8)
    def forward(self, x): return super().forward(self.pool(x.mean(1, keepdim=True)))

def files_dls(folder, size=8, **kw):
    return ImageDataLoaders.from_folder(folder, valid_pct=.2, seed=0, item_tfms=Resize(size), bs=8, num_workers=0,
                                        device='cpu', **kw)

OTHERS = {'other weights': dict(net=lambda: Net(1)), 'other shape': dict(net=lambda: Net(0, 6)),
          'other size': dict(net=Wide, size=16), 'more images': dict(dls=lambda: dls_(52)),
          'other normalisation': dict(dls=lambda: dls_(normalize=False))}

@pytest.mark.parametrize('k', OTHERS)
def test_another_s_features_are_replaced(tmp_path, k):
    kw = dict(OTHERS[k])
    make = kw.get('net', Net)
    if make is Wide: pass_(tmp_path, Wide())
    else: pass_(tmp_path)
    new = dict(kw, net=make(), dls=kw['dls']() if 'dls' in kw else None)
    want = pass_(None, **new)
    got = pass_(tmp_path, **new)
    assert same(got, want) and got[2] == want[2] > 0

def test_a_network_with_the_same_weights_is_another(tmp_path):
    lin = nn.Linear(64, 5)
    a,b = (nn.Sequential(nn.Flatten(), lin, act, nn.Flatten()) for act in (nn.Tanh(), nn.ReLU()))
    assert not torch.equal(pass_(tmp_path, a)[0], pass_(tmp_path, b)[0])

@pytest.mark.parametrize('change', ['content', 'time', 'more', 'resized', 'nothing'])
def test_changed_files(tmp_path, change):
    src = pictures(tmp_path/'in')
    out,net = tmp_path/'out',Wide()
    n = len(files_dls(src).train_ds)
    assert pass_(out, net, files_dls(src))[2] == n
    file = files_dls(src).train_ds.items[3]
    if change == 'content': Image.new('RGB', (9, 9)).save(file)
    if change == 'time': os.utime(file, ns=(1, 1))
    if change == 'more': pictures(src, 15)
    dls = files_dls(src, 6 if change == 'resized' else 8)
    got,want = pass_(out, net, dls),pass_(None, net, dls)
    assert same(got, want) and got[2] == (0 if change == 'nothing' else want[2])

# --- damaged files ---------------------------------------------------------------------------------------------------
CUT = [('features.f32', 20*17+3, 16), ('features.f32', 20*43, 40), ('features.f32', 0, 0), ('features.u64', 8*9+1, 8),
       ('features.u64', 8*24, 24), ('features.u64', None, 0), ('features.f32', None, 0), ('features.json', None, 0)]

@pytest.mark.parametrize('file,left,done', CUT)
def test_the_whole_batches_of_a_cut_file_are_used(tmp_path, file, left, done):
    want = pass_(tmp_path)
    if left is None: (tmp_path/file).unlink()
    else: os.truncate(tmp_path/file, left)
    got = pass_(tmp_path)
    assert same(got, want) and got[2] == 44-done

@pytest.mark.parametrize('text', ['', '{', 'null', '[]', '7', '{}', '{"marks": {}}', '\xff\xfe'])
def test_marks_that_cannot_be_read(tmp_path, text):
    want = pass_(tmp_path)
    (tmp_path/'features.json').write_bytes(text.encode('latin1'))
    got = pass_(tmp_path)
    assert same(got, want) and got[2] == 44

@pytest.mark.parametrize('d', [0, -1, None, 'x'])
def test_a_length_that_makes_no_sense(tmp_path, d):
    want = pass_(tmp_path)
    old = json.loads((tmp_path/'features.json').read_text())
    (tmp_path/'features.json').write_text(json.dumps(dict(old, d=d)))
    got = pass_(tmp_path)
    assert same(got, want) and got[2] == 44

class FullDisk:
    "Files of the module that take so many bytes in all"
    def __init__(self, room): self.room = room
    def __call__(self, *args):
        file = open(*args)
        disk,write = self,file.write
        class Wrapped:
            seek,close = file.seek,file.close
            def __enter__(self): return self
            def __exit__(self, *exc): file.close()
            def write(self, data):
                n = min(len(data), disk.room)
                disk.room -= n
                write(data[:n])
                if n < len(data): raise OSError(errno.ENOSPC, 'No space left on device')
        return Wrapped()

@pytest.mark.parametrize('room', [0, 100, 160, 190, 3*224+7, 3*224+160+9])
@pytest.mark.parametrize('restart', [True, False])
def test_a_full_disk(tmp_path, monkeypatch, room, restart):
    "A batch has 8*5*4 = 160 bytes of features and 64 of digests; what is there whole is used, half a batch is not"
    want = pass_(None)
    judge,dls = frozen(Net(), path=tmp_path),dls_()
    monkeypatch.setattr(module, 'open', FullDisk(room), raising=False)
    with pytest.raises(OSError, match='No space left') as e: judge.features(dls, verbose=False)
    assert e.value.errno == errno.ENOSPC
    monkeypatch.setattr(module, 'open', io.open)
    Net.seen = 0
    rows = (frozen(Net(), path=tmp_path) if restart else judge).features(dls_() if restart else dls, verbose=False)
    assert Net.seen == 44-8*(room//224)
    assert torch.equal(rows.f, want[0]) and np.array_equal(rows.keys, want[1])

def test_stopped_between_the_two_files(tmp_path, monkeypatch):
    rows = rows_of(tmp_path)
    rows.put(*batch(0))
    with monkeypatch.context() as m:
        write = KeptRows._write
        def one(self, name, a):
            if name == 'features.u64': raise KeyboardInterrupt
            write(self, name, a)
        m.setattr(KeptRows, '_write', one)
        with pytest.raises(KeyboardInterrupt): rows.put(*batch(7, 5))
    assert rows.done == 4
    new = rows_of(tmp_path)
    for r in (rows, new):
        for i in (1, 2): r.put(*batch(i, 3))
        assert torch.equal(r.f, torch.cat([batch(0)[0], batch(1, 3)[0], batch(2, 3)[0]]))
        x = [batch(0)[2], batch(1, 3)[2], batch(2, 3)[2]]
        assert np.array_equal(r.keys, np.concatenate([digests(o) for o in x]))

# --- several at once -------------------------------------------------------------------------------------------------
def test_a_last_batch_of_fewer_is_whole_too(tmp_path):
    rows = rows_of(tmp_path, 9)
    for i,n in ((0, 4), (1, 4), (2, 1)): rows.put(*batch(i, n))
    assert rows_of(tmp_path, 9).done == 9

def test_two_runs_of_the_same(tmp_path):
    "Both write the same numbers to the same places"
    a,b = rows_of(tmp_path, 12),rows_of(tmp_path, 12)
    a.put(*batch(0))
    c = rows_of(tmp_path, 12)
    a.put(*batch(1))
    c.put(*batch(1))
    c.put(*batch(2))
    a.put(*batch(2))
    want = torch.cat([batch(i)[0] for i in range(3)])
    assert torch.equal(a.f, want) and torch.equal(c.f, want) and c.done == 12
    b.put(*batch(0))            # begins anew, and the finished ones keep what they have read
    assert torch.equal(a.f, want) and rows_of(tmp_path, 12).done == 4

def test_another_judge_in_the_folder_meanwhile(tmp_path):
    a = rows_of(tmp_path, 12)
    a.put(*batch(0))
    b = rows_of(tmp_path, 12, dict(body=2))
    for i in (5, 6, 7): b.put(*batch(i))
    with pytest.raises(RuntimeError, match='replaced.*folder of its own'): a.put(*batch(1))
    with pytest.raises(RuntimeError, match='4 items'): len(a.f)
    assert torch.equal(b.f, torch.cat([batch(i)[0] for i in (5, 6, 7)]))
    late = rows_of(tmp_path, 12, dict(body=2))
    assert late.done == 12 and torch.equal(late.f, b.f)

def test_one_that_starts_late_leaves_nothing_of_the_other(tmp_path):
    late = rows_of(tmp_path, 12)
    other = rows_of(tmp_path, 12, dict(body=2))
    for i in (5, 6, 7): other.put(*batch(i))
    late.put(*batch(0))
    assert rows_of(tmp_path, 12).done == 4

def test_two_judges_take_turns(tmp_path):
    nets = Net(0),Net(1)
    want = [pass_(None, n) for n in nets]
    judges,dls = [frozen(n, path=tmp_path) for n in nets],dls_()
    Net.seen,Net.stop = 0,16
    with pytest.raises(KeyboardInterrupt): judges[0].features(dls, verbose=False)
    Net.stop = None
    assert torch.equal(judges[1].features(dls, verbose=False).f, want[1][0])
    for j,w in zip(judges, want): assert torch.equal(j.features(dls, verbose=False).f, w[0])

def test_a_folder_that_is_gone_is_made_again(tmp_path):
    judge,dls = frozen(Net(), path=tmp_path/'a'/'b'),dls_()
    Net.stop = 16
    with pytest.raises(KeyboardInterrupt): judge.features(dls, verbose=False)
    Net.stop = None
    for f in (tmp_path/'a'/'b').iterdir(): f.unlink()
    (tmp_path/'a'/'b').rmdir()
    Net.seen = 0
    assert torch.equal(judge.features(dls, verbose=False).f, pass_(None)[0])

def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path/'a').write_text('mine')
    with pytest.raises(NotADirectoryError): pass_(tmp_path/'a')
    assert (tmp_path/'a').read_text() == 'mine'

# --- what it is ------------------------------------------------------------------------------------------------------
def test_changes_of_the_features_do_not_reach_the_file(tmp_path):
    rows = rows_of(tmp_path, 4)
    assert rows.f.shape == (0, 0)
    rows.put(*batch(0))
    rows.f.zero_()
    assert torch.equal(rows_of(tmp_path, 4).f, batch(0)[0])

def test_a_copy_finds_the_files(tmp_path):
    rows = rows_of(tmp_path, 8)
    rows.put(*batch(0))
    data = pickle.dumps(rows)
    assert len(data) < 3000
    new = pickle.loads(data)
    assert torch.equal(new.f, rows.f) and new.done == 4 and np.array_equal(new.keys, rows.keys)
    new.put(*batch(1))
    assert torch.equal(new.f, torch.cat([batch(0)[0], batch(1)[0]])) and len(list(new.blocks(3))) == 3

def test_drop_leaves_nothing_of_its_own(tmp_path):
    judge,dls = frozen(Net(), path=tmp_path/'f'),dls_()
    rows = judge.features(dls, verbose=False)
    want = rows.f.clone()
    rows.drop()
    assert not (tmp_path/'f').exists()
    rows.drop()                                         # again: nothing to do, nothing to say
    Net.seen = 0
    assert torch.equal(judge.features(dls, verbose=False).f, want) and Net.seen == 44
    (tmp_path/'f'/'mine.txt').write_text('')
    with pytest.warns(RobustWarning, match='other files'): judge.features(dls, verbose=False).drop()
    assert os.listdir(tmp_path/'f') == ['mine.txt']

def test_the_path_may_be_a_string(tmp_path):
    pass_(str(tmp_path/'x'))
    assert sorted(os.listdir(Path(tmp_path)/'x')) == FILES
