"The compiled loops of the corruptions against torch: the same numbers and bytes, whatever the threads"
import subprocess, sys, threading
from types import SimpleNamespace
import numpy as np, pytest, torch
from test_corruptions_front import ALL, images

from fastrobust.images.corruptions import digital, engine, filters, glass, loops
from fastrobust.images.corruptions.draws import Draws, stream_keys
from fastrobust.images.corruptions.front import corrupt
from fastrobust.images.corruptions.tables import PARAMS

CPU = torch.device('cpu')
needs_numba = pytest.mark.skipif(engine.loops_for(CPU) is None, reason='numba is not installed')

def by_torch(f):
    with pytest.MonkeyPatch.context() as m:
        m.setenv('FASTROBUST_NUMBA', '0')
        return f()

# --- the same numbers ------------------------------------------------------------------------------------------------
@needs_numba
@pytest.mark.parametrize('b,m', [(1, 1), (3, 1001), (700, 50), (2, 300_000), (4, 0), (0, 5)])
@pytest.mark.parametrize('start', [0, 12345, 2**31 - 20, 2**32 - 20, 2**32 + 3])
def test_streams_by_loops_and_by_torch(b, m, start):
    keys = stream_keys(9, torch.arange(b)*7, 'fog', 2)
    def numbers():
        r = Draws(keys)
        r.n = start
        out = [r.rand(m), r.randint(-3, 61, m), r.randn(m), r.rand(m, 1), r.randint(0, 2, 1, m)]
        assert r.n == start + 4*m + 2*((m+1)//2)
        return out,bool(r.loops)
    (got,a),(want,b) = numbers(),by_torch(numbers)
    assert a and not b
    for g,w in zip(got, want): assert g.dtype == w.dtype and g.shape == w.shape and torch.equal(g, w)

@needs_numba
@pytest.mark.parametrize('name', ALL)
@pytest.mark.parametrize('c,h,w', [(3, 32, 32), (1, 28, 33), (3, 64, 64), (3, 70, 130), (1, 3, 9)])
def test_bytes_by_loops_and_by_torch(name, c, h, w):
    x = images(3, c, h, w)
    for s in (1, 3, 5):
        def run(s=s): return corrupt(x, name, s, 'tiny', seed=4, ids=torch.tensor([5, 0, 9]))
        assert torch.equal(run(), by_torch(run)), s

# --- who computes ----------------------------------------------------------------------------------------------------
def test_loops_on_the_cpu_unless_switched_off(monkeypatch):
    assert engine.loops_for(CPU) in (loops, None)
    for other in ('cuda', 'mps', 'meta'): assert engine.loops_for(torch.device(other)) is None
    monkeypatch.setenv('FASTROBUST_NUMBA', '0')
    assert engine.loops_for(CPU) is None and Draws(torch.arange(2)).loops is None

BLOCKED = """
import sys
sys.modules['numba'] = None
import torch
from fastrobust.images.corruptions import engine, loops
from fastrobust.images.corruptions.front import corrupt
assert engine.loops_for(torch.device('cpu')) is None
x = torch.arange(2*3*40*40).view(2, 3, 40, 40).mul(7).byte()
print(*[int(corrupt(x, k, 3).sum()) for k in ('glass_blur', 'impulse_noise', 'shot_noise')])
"""

@pytest.mark.slow
def test_without_numba():
    r = subprocess.run([sys.executable, '-W', 'ignore', '-c', BLOCKED], capture_output=True, text=True)
    assert r.returncode == 0, r.stderr[-2000:]
    x = torch.arange(2*3*40*40).view(2, 3, 40, 40).mul(7).byte()
    want = [int(corrupt(x, k, 3).sum()) for k in ('glass_blur', 'impulse_noise', 'shot_noise')]
    assert [int(o) for o in r.stdout.split()] == want

def test_loops_are_python_too():
    "As they stand, they are what numba compiles"
    f = {k: getattr(getattr(loops, k), 'py_func', getattr(loops, k)) for k in ('mixed', 'uniform', 'below', 'exchange')}
    old = loops.mixed
    loops.mixed = f['mixed']
    try:
        with np.errstate(over='ignore'):
            lo,hi = np.uint32([1, 2**32-1]),np.uint32([7, 2**31])
            out,whole = np.empty((2, 9), np.float32),np.empty((2, 9), np.int64)
            f['uniform'](2**31 - 4, lo, hi, out)
            f['below'](2**31 - 4, lo, hi, 10, -5, whole)
    finally: loops.mixed = old
    r = Draws(torch.tensor([(7 << 32) + 1, (-2**31 << 32) + 2**32-1]))
    r.n = 2**31 - 4
    assert torch.equal(r.rand(9), torch.from_numpy(out))
    r.n = 2**31 - 4
    assert torch.equal(r.randint(-5, 5, 9), torch.from_numpy(whole))

@needs_numba
def test_nowhere_to_keep_it(monkeypatch):
    caching = pytest.importorskip('numba.core.caching')
    monkeypatch.setattr(caching.CompileResultCacheImpl, '_locator_classes', [])
    def twice(x): return 2*x
    assert loops.kept(twice)(3) == 6

# --- threads ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)

@pytest.mark.parametrize('name', ['jpeg_compression', 'glass_blur', 'pixelate', 'gaussian_noise'])
def test_threads_change_nothing(name, threads):
    x = images(9, 3, 130, 140)      # large enough to be worth it
    threads(1)
    want = corrupt(x, name, 4)
    for n in (2, 3, 16):
        threads(n)
        assert torch.equal(corrupt(x, name, 4), want)
    assert threading.active_count() < 8

def test_every_image_once_and_errors_come_out(threads):
    for n,worth in ((1, True), (3, True), (3, False)):
        threads(n)
        done,names = [],set()
        def one(i, done=done, names=names): done.append(i); names.add(threading.current_thread().name)
        engine.in_threads(one, 20, worth)
        assert sorted(done) == list(range(20))
        if n == 1 or not worth: assert names == {threading.current_thread().name} and done == sorted(done)
        else: assert threading.current_thread().name not in names
        engine.in_threads(one, 0, worth)
        with pytest.raises(MemoryError, match='too much'):
            def bad(i):
                if i == 7: raise MemoryError('too much')
            engine.in_threads(bad, 9, worth)

# --- matrices in blocks ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize('h,w', [(5, 40), (33, 16), (70, 70)])
@pytest.mark.parametrize('rows', [1, 7, 16, 500])
def test_blocks_of_any_height_multiply_alike(h, w, rows):
    x = torch.rand(2, 3, h, w, dtype=torch.float64)
    taps = filters.gaussian_taps(1.3, 5)
    m,q = (filters.filter_matrix(n, taps, 'mirror') for n in (h, w))
    def make(n, device): return filters.blocks(filters.filter_matrix(n, taps, 'mirror'), device, torch.float64, rows)
    torch.testing.assert_close(filters.separable(x, make), m @ x @ q.mT)

def test_the_smoothing_of_elastic_is_one_matrix_where_it_is_wide():
    for table in PARAMS:
        for p in PARAMS[table]['elastic_transform']:
            sigma = max(p[1], .001)*224*p[3]
            bands = digital._smoother(224, sigma, CPU)
            assert len(bands) == (1 if 12*sigma >= 224 else 7)
            whole = torch.cat([torch.nn.functional.pad(m, (lo, 224-hi)) for m,lo,hi in bands])
            torch.testing.assert_close(whole.sum(1), torch.ones(224, dtype=torch.float64))

# --- bytes in, bytes out ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize('name', ['jpeg_compression', 'pixelate'])
def test_bytes_stay_bytes(name):
    x = images(3, 3, 30, 34)
    last = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    y = digital.ON_BYTES[name](x, PARAMS['tiny'][name][2])
    assert y.dtype == torch.uint8 and y.shape == x.shape
    assert torch.equal(digital.ON_BYTES[name](last, PARAMS['tiny'][name][2]), y)
    assert torch.equal(corrupt(x, name, 3, 'tiny'), y) and torch.equal(corrupt(x/255., name, 3, 'tiny'), y/255.)

def test_glass_works_on_what_it_is_given():
    x = torch.rand(2, 3, 20, 22)
    r = SimpleNamespace(randint=lambda *a: torch.zeros(2, *a[2:], dtype=torch.int64), device=CPU)
    y = glass.exchanged(x.clone(), 1, 1, r)
    want = x.clone()                # each takes its upper left neighbour's value, the last first: all move on
    want[..., 2:20, 2:22] = x[..., 1:19, 1:21]
    assert torch.equal(y, want)
    assert torch.equal(by_torch(lambda: glass.exchanged(x.clone(), 1, 1, r)), want)
