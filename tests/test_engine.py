"The compiled loops of AugMix against torch's kernels: the same bytes, whatever the size, the threads, the worker"
import multiprocessing, subprocess, sys, threading, zlib
from pathlib import Path
from types import SimpleNamespace
import numpy as np, pytest, torch
from fastai.vision.core import TensorImage
from fastrobust.images import chains, engine, loops, ops
from fastrobust.images.augmixing import apply_augmix, augmix, draw_augmix, operation_args
from fastrobust.images.ops import AUGMIX_OPS, apply_ops

needs_numba = pytest.mark.skipif(engine.compiled_loops() is None, reason='numba is not installed')
SIZES = [(32, 32), (28, 28), (1, 1), (2, 7), (7, 2), (3, 3), (33, 17), (40, 48), (96, 64), (61, 130)]

def gen(seed=0): return torch.Generator().manual_seed(seed)

def by_torch(f, *args):
    with pytest.MonkeyPatch.context() as m:
        m.setenv('FASTROBUST_NUMBA', '0')
        return f(*args)

def pictures(b, c, h, w, seed=0):
    "Noise, noise within bounds, waves with an edge, a few values: a quarter each"
    g,i = gen(seed),torch.arange(b)[:, None, None, None]%4
    y,x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing='ij')
    u,f = torch.rand(b, c, h, w, generator=g),torch.rand(2, b, c, 1, 1, generator=g)
    wave = (127 + 120*torch.sin(2*f[0]*x + f[1]*y))*(x > w//3)
    lo = 200*f[0]
    some = torch.where(i == 1, lo + (255-lo)*f[1]*u, torch.where(i == 2, wave, (u*3).floor()*100*f[0]))
    return torch.where(i == 0, u*255.99, some).byte()

def drawn(b, severity, size, seed=0):
    "Every operation for every image: what AugMix draws"
    u = torch.rand(2, b, generator=gen(seed), dtype=torch.float64)
    args = operation_args(.1 + (severity-.1)*u[0], (u[1] > .5)*2. - 1, size)
    return torch.arange(13).repeat(b),args.flatten()

@needs_numba
@pytest.mark.parametrize('c', [1, 3])
@pytest.mark.parametrize('size', SIZES, ids=str)
def test_the_same_bytes(size, c):
    for severity in (1, 3, 10):
        x = pictures(8, c, *size, severity).repeat_interleave(13, 0)
        op,arg = drawn(8, severity, size, severity)
        got,want = apply_ops(x, op, arg),by_torch(apply_ops, x, op, arg)
        wrong = (got != want).flatten(1).any(1)
        assert not wrong.any(), {AUGMIX_OPS[o] for o in op[wrong]}

@needs_numba
@pytest.mark.parametrize('c', [1, 3])
def test_the_same_bytes_far_beyond_what_is_drawn(c):
    x = pictures(40, c, 20, 31)
    u = torch.linspace(-1, 1, 40, dtype=torch.float64)
    for name,args in dict(rotate=360*u, shear_x=3*u, shear_y=3*u, translate_x=40*u, translate_y=40*u, posterize=12*u,
                          solarize=300*u, brightness=3*u, color=3*u, contrast=3*u, sharpness=3*u).items():
        op = torch.full((40,), AUGMIX_OPS.index(name))
        for a in (args, args.round()): assert torch.equal(apply_ops(x, op, a), by_torch(apply_ops, x, op, a)), name

@needs_numba
@pytest.mark.parametrize('size', [(32, 32), (1, 5), (41, 23), (100, 90)], ids=str)
@pytest.mark.parametrize('c', [1, 3])
def test_the_same_mix(size, c):
    "Within two units of the last place: whether a product and a sum are rounded once or twice is up to the processor"
    for severity,width,depth in ((1, 3, -1), (3, 3, -1), (10, 4, 5), (3, 1, 1)):
        d = draw_augmix(20, severity, width, depth, all_ops=True, generator=gen(2), size=size)
        x = pictures(20, c, *size)
        assert (apply_augmix(x, d) - by_torch(apply_augmix, x, d)).abs().max() <= 2**-22

@needs_numba
def test_odd_parameters_read_nothing_outside():
    x = pictures(39, 3, 16, 9)
    for v in (float('nan'), float('inf'), -float('inf'), 1e300, -1e300, 2.**40):
        for i in (5, 6, 7, 8) + ((3,) if v == v and abs(v) < 1e300 else ()):
            got = apply_ops(x, torch.full((39,), i), torch.full((39,), v, dtype=torch.float64))
            assert i == 3 or not got.any()
    op = torch.tensor([-1, -7, 13, 99]).repeat(10)[:39]
    assert torch.equal(apply_ops(x, op, torch.zeros(39)), x)

def test_shapes_that_do_not_fit():
    x = pictures(4, 3, 8, 8)
    for n,m in ((3, 3), (4, 3), (5, 5)):
        with pytest.raises(ValueError, match='each of 4 images'): apply_ops(x, torch.zeros(n).long(), torch.zeros(m))
    d = draw_augmix(4, size=(8, 8))
    for bad in (dict(w=d.w[:, :2]), dict(m=d.m[:2]), dict(arg=d.arg[:, :1])):
        with pytest.raises(ValueError, match=r'must hold op and arg \(b,k,d\)'): apply_augmix(x, d._replace(**bad))

def test_operations_by_their_number():
    assert all(getattr(loops, k.upper()) == i for i,k in enumerate(AUGMIX_OPS))

# --- who computes ----------------------------------------------------------------------------------------------------
@pytest.fixture
def counted(monkeypatch):
    "How often the compiled loops were run"
    runs,run = [],engine.run
    monkeypatch.setattr(engine, 'run', lambda *args: runs.append(args[0]) or run(*args))
    return runs

@needs_numba
def test_loops_on_the_cpu_unless_switched_off(counted, monkeypatch):
    x = pictures(4, 3, 8, 8)
    augmix(x, generator=gen())
    ops.rotate(x, 10)
    assert counted == [chains.mix, chains.each]
    monkeypatch.setenv('FASTROBUST_NUMBA', '0')
    augmix(x, generator=gen())
    ops.rotate(x, 10)
    assert len(counted) == 2
    monkeypatch.setenv('FASTROBUST_NUMBA', '1')
    assert engine.loops_for(x) is chains
    for other in ('cuda', 'mps', 'meta'):
        assert engine.loops_for(SimpleNamespace(device=torch.device(other), numel=lambda: 9)) is None

def test_nothing_to_do(counted):
    for shape in ((0, 3, 8, 8), (0, 1, 5, 5)):
        x = torch.zeros(shape, dtype=torch.uint8)
        assert augmix(x).shape == shape and ops.equalize(x).shape == shape
    assert not counted

BLOCKED = """
import sys
sys.modules['numba'] = None
from fastrobust.all import *
from fastrobust.images import chains, engine, loops, ops
from fastrobust.testing.tiny import tiny_learner
import torch
assert engine.compiled_loops() is None and loops.njit is None
x = torch.arange(2*3*9*9).view(2, 3, 9, 9).mul(7).byte()
for name in ops.AUGMIX_OPS:
    f = getattr(ops, name)
    y = f(x) if name in ('autocontrast', 'equalize') else f(x, 3)
    assert y.shape == x.shape
print(int((augmix(x, all_ops=True, generator=torch.Generator().manual_seed(1))*255).sum()))
learn = tiny_learner(cbs=AugMix())
with learn.no_bar(), learn.no_logging(): learn.fit(1)
"""

@pytest.mark.slow
def test_without_numba():
    r = subprocess.run([sys.executable, '-W', 'ignore', '-c', BLOCKED], capture_output=True, text=True)
    assert r.returncode == 0, r.stderr[-2000:]
    x = torch.arange(2*3*9*9).view(2, 3, 9, 9).mul(7).byte()
    want = (augmix(x, all_ops=True, generator=gen(1))*255).sum()
    assert abs(int(r.stdout.split()[-1]) - want) < 2

def test_numba_that_is_broken_or_only_python(monkeypatch):
    engine.compiled_loops.cache_clear()
    monkeypatch.setitem(sys.modules, 'numba', None)
    assert engine.compiled_loops() is None
    engine.compiled_loops.cache_clear()
    monkeypatch.setitem(sys.modules, 'numba', SimpleNamespace(config=SimpleNamespace(DISABLE_JIT=1)))
    assert engine.compiled_loops() is None
    engine.compiled_loops.cache_clear()

def test_loops_are_python_too():
    "Without numba they are functions as they stand"
    f = getattr(loops.grey, 'py_func', loops.grey)
    assert callable(f) and callable(getattr(chains.each, 'py_func', chains.each))

# --- where compiled loops are kept -----------------------------------------------------------------------------------
@needs_numba
def test_the_cache_knows_of_both_files():
    stamp = f'{zlib.crc32(Path(loops.__file__).read_bytes()):x}'
    for f in (chains.each, chains.mix): assert f.py_func.__qualname__.endswith(stamp)

@needs_numba
def test_nowhere_to_keep_it(monkeypatch):
    caching = pytest.importorskip('numba.core.caching')
    monkeypatch.setattr(caching.CompileResultCacheImpl, '_locator_classes', [])
    def twice(x): return 2*x
    assert chains.kept(twice)(3) == 6
    monkeypatch.setattr(loops, '__file__', '/nowhere/loops.py')
    def thrice(x): return 3*x
    assert chains.kept(thrice)(3) == 9

# --- threads and workers ---------------------------------------------------------------------------------------------
@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)

@needs_numba
@pytest.mark.parametrize('b', [1, 2, 50])
def test_threads_change_nothing(b, threads, monkeypatch):
    x = pictures(b, 3, 24, 30)
    d = draw_augmix(b, 5, all_ops=True, generator=gen(1), size=(24, 30))
    threads(1)
    want,op = apply_augmix(x, d),d.op[:, 0, 0]
    rotated = apply_ops(x, op, d.arg[:, 0, 0])
    monkeypatch.setattr(engine, '_part', 1)
    for n in (2, 3, 7):
        threads(n)
        assert torch.equal(apply_augmix(x, d), want) and torch.equal(apply_ops(x, op, d.arg[:, 0, 0]), rotated)
    assert threading.active_count() < 7

@needs_numba
def test_an_error_in_a_thread_comes_out(threads, monkeypatch):
    monkeypatch.setattr(engine, '_part', 1)
    threads(3)
    def bad(*_): raise MemoryError('too much')
    with pytest.raises(MemoryError, match='too much'):
        engine.run(bad, pictures(9, 3, 8, 8), torch.zeros(9).long(), torch.zeros(9), torch.uint8)

@needs_numba
def test_two_threads_of_python_at_once(threads, monkeypatch):
    monkeypatch.setattr(engine, '_part', 1)
    threads(2)
    xs = [pictures(30, c, 32, 32, c) for c in (1, 3)]
    ds = [draw_augmix(30, 3, generator=gen(c), size=(32, 32)) for c in (1, 3)]
    want = [apply_augmix(x, d) for x,d in zip(xs, ds)]
    got = [[], []]
    def work(i):
        for _ in range(20): got[i].append(apply_augmix(xs[i], ds[i]))
    both = [threading.Thread(target=work, args=(i,)) for i in (0, 1)]
    for t in both: t.start()
    for t in both: t.join()
    assert all(len(g) == 20 and all(torch.equal(o, w) for o in g) for g,w in zip(got, want))

class Views(torch.utils.data.Dataset):
    def __init__(self, x): self.x = x
    def __len__(self): return len(self.x)
    def __getitem__(self, i): return apply_augmix(self.x[i:i+1], draw_augmix(1, 3, generator=gen(i), size=(32, 32)))[0]

@needs_numba
@pytest.mark.skipif('fork' not in multiprocessing.get_all_start_methods(), reason='no fork here')
def test_in_forked_workers_after_the_parent_used_it(threads, monkeypatch):
    monkeypatch.setattr(engine, '_part', 1)
    threads(2)
    ds = Views(pictures(24, 3, 32, 32))
    want = torch.stack([ds[i] for i in range(24)])
    augmix(ds.x)
    dl = torch.utils.data.DataLoader(ds, batch_size=6, num_workers=2, multiprocessing_context='fork', timeout=120)
    for _ in range(2): assert torch.equal(torch.cat(list(dl)), want)

# --- what comes in ---------------------------------------------------------------------------------------------------
def test_other_layouts_and_types():
    x = pictures(6, 3, 20, 24)
    d = draw_augmix(6, 3, generator=gen(3), size=(20, 24))
    want = apply_augmix(x, d)
    last = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    wide = torch.zeros(6, 3, 20, 48, dtype=torch.uint8)
    wide[..., ::2] = x
    for o in (last, x.contiguous(memory_format=torch.channels_last), wide[..., ::2], TensorImage(x)):
        got = apply_augmix(o, d)
        assert torch.equal(got, want) and type(got) is torch.Tensor and got.is_contiguous()
    same = x[:1].expand(6, 3, 20, 24)
    assert torch.equal(apply_augmix(same, d), apply_augmix(same.clone(), d))
    half = d._replace(op=d.op.int(), arg=d.arg.float(), w=d.w.double(), m=d.m.double())
    if engine.compiled_loops(): assert (apply_augmix(x, half) - want).abs().max() < 1e-2
    before = x.clone()
    op,arg = torch.arange(6),torch.ones(6)
    ops_before = op.clone(),arg.clone()
    apply_ops(x, op, arg)
    assert torch.equal(x, before) and torch.equal(op, ops_before[0]) and torch.equal(arg, ops_before[1])
    assert np.shares_memory(x.numpy(), before.numpy()) is False

@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here')
def test_the_gpu_keeps_torch(counted):
    x = pictures(8, 3, 32, 32).cuda()
    augmix(x)
    ops.equalize(x)
    assert not counted
