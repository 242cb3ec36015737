"LpNoise: which noise each image gets, patches, what it leaves alone, and its place in a fastai pipeline"
import math, pickle
import pytest, torch
from scipy import stats
from fastai.callback.mixup import MixUp
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.transforms import IndexSplitter, IntToFloatTensor, Normalize
from fastai.torch_core import TensorImage, TensorImageBW, set_seed
from fastai.vision.augment import Flip
from fastai.vision.data import ImageBlock
from fastai.vision.core import PILImageBW
from fastrobust.basics import RobustWarning
from fastrobust.images.lpballs import lp_std
from fastrobust.images.lpsets import lp_sets
from fastrobust.techniques.augmix import AugMixTransform
from fastrobust.techniques.lpnoise import LpNoise, draw_patches
from conftest import tiny_arrays, tiny_dls, tiny_learner

inf = math.inf
def grey(b=64, c=3, h=32, w=32): return TensorImage(torch.full((b, c, h, w), .5))
def moved(t, x=None):
    "Noise of each image, rows"
    x = grey() if x is None else x
    return (t.encodes(x)-x).as_subclass(torch.Tensor).flatten(1)
def norm(d, p): return torch.linalg.vector_norm(d.double(), ord=p, dim=1)

def test_one_set_for_each_image():
    "Three sets that cannot be confused: +-.5 on a tenth of the values; tiny and everywhere; up to .4"
    x = grey(600, 1, 10, 10)
    d = moved(LpNoise([(0, .1, 'sphere'), (2, .01), (inf, .4)]), x)
    kind = torch.where((d == 0).sum(1) == 90, 0, torch.where(d.abs().amax(1) < .02, 1, 2))
    assert stats.chisquare(torch.bincount(kind, minlength=3).numpy()).pvalue > .01
    assert (d[kind == 0].abs().unique() == torch.tensor([0, .5])).all() and (norm(d[kind == 1], 2) < .01001).all()
    assert (d[kind == 2].abs().amax(1) > .3).all() and (d[kind == 2].abs() <= .40001).all()
    assert len({tuple(o) for o in d[kind == 1].tolist()}) == (kind == 1).sum()      # and its own noise

def test_sizes_of_a_range_are_uniform_and_each_images_own():
    r = moved(LpNoise([(inf, (.1, .3))]), grey(400)).abs().amax(1)
    assert stats.kstest(((r-.1)/.2).numpy(), 'uniform').pvalue > .01
    n = (moved(LpNoise([(0, (0, .24), 'sphere')]), grey(400, 1, 20, 20)) != 0).sum(1)
    assert stats.kstest((n/400/.24).numpy(), 'uniform').pvalue > .001 and n.max() <= 96

def test_presets_and_their_scale():
    c2 = LpNoise('C2')
    assert c2.norms == ['L0', 'L2', 'Linf'] and c2.sets_for((3, 32, 32)) == lp_sets('C2')
    assert c2.sets_for((1, 28, 28)) == lp_sets('C2', (1, 28, 28)) and LpNoise(preset='C2').preset == 'C2'
    assert LpNoise('C2', scale=None).sets_for((1, 28, 28)) == lp_sets('C2')
    assert LpNoise().preset == 'modern' and LpNoise().norms == ['Linf', 'L2', 'L0']
    own = LpNoise([(2, 1.)])
    assert own.sets_for((1, 28, 28)) == own.sets_for((3, 64, 64)) == [(2, 1., 'ball')]

@pytest.mark.parametrize('size', [(1, 28, 28), (3, 32, 32), (1, 48, 48)])
def test_a_preset_has_the_same_noise_per_value_at_any_size(size):
    t = LpNoise('C2')
    d = moved(t, TensorImage(torch.full((1500, *size), .5)))
    d = d[(d.abs() != .5).all(1) & (d.abs().amax(1) > .3)]        # neither L0 nor Linf: the large ones of L2
    assert len(d) > 15
    top = max(s.eps for s in t.sets_for(size) if s.p == 2)
    assert norm(d, 2).max().item() == pytest.approx(top, rel=.01)
    assert lp_std(2, top, d.shape[1]) == pytest.approx(.0902, rel=.01)

@pytest.mark.parametrize('preset', ['C1', 'C2', 'C3', 'modern'])
@pytest.mark.parametrize('size', [(3, 32, 32), (1, 28, 28), (3, 64, 48), (3, 64, 64), (1, 9, 5)])
def test_any_size(preset, size):
    x = TensorImage(torch.rand(7, *size))
    y = LpNoise(preset).encodes(x)
    assert y.shape == x.shape and 0 <= y.min() and y.max() <= 1 and type(y) is TensorImage

# --- patches ---------------------------------------------------------------------------------------------------------
def test_patches_cover_their_share_anywhere():
    m = draw_patches(3000, 32, 48, .2, .7)
    share = m.float().mean((1, 2, 3))
    assert stats.kstest(((share-.2)/.5).numpy(), 'uniform').statistic < .06     # whole pixels: nearly uniform
    rows,cols = m.any(3)[:, 0],m.any(2)[:, 0]
    assert torch.equal(m[:, 0], rows[:, :, None] & cols[:, None])               # rectangles
    for side in (rows, cols): assert (side.int().diff(dim=1).abs().sum(1) <= 2).all()       # of one piece
    k = rows.sum(1)
    first = rows.int().argmax(1)
    at = (first + torch.rand(3000))/(32-k+1)
    assert stats.kstest(at.numpy(), 'uniform').pvalue > .01
    assert draw_patches(5, 8, 8, 1., 1.).all() and draw_patches(50, 3, 3, .01, .01).sum((1, 2, 3)).eq(1).all()

def test_nothing_moves_outside_the_patch():
    x = grey(50)
    y = LpNoise([(2, 10.)], patch=(.2, .3)).encodes(x)
    share = (y != x).any(1).float().mean((1, 2))
    assert (share > .15).all() and (share < .35).all()
    assert not torch.equal(LpNoise('modern', patch=(1, 1)).encodes(x), x)

# --- what it leaves alone, its place ---------------------------------------------------------------------------------
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_dtype_type_and_input_are_kept(dtype):
    x = torch.rand(9, 1, 8, 8).to(dtype).as_subclass(TensorImageBW)     # the constructor makes float32 of float64
    x0 = x.clone()
    y = LpNoise('C1').encodes(x)
    assert y.dtype == dtype and isinstance(y, TensorImageBW) and torch.equal(x, x0) and not torch.equal(x, y)

def test_the_seed_decides():
    x,t = grey(9),LpNoise('modern', patch=(.2, .7))
    set_seed(3); a = t.encodes(x)
    set_seed(3); b = t.encodes(x)
    assert torch.equal(a, b) and not torch.equal(a, t.encodes(x))

def test_training_only_after_augmix_before_normalize():
    dls = tiny_dls(batch_tfms=[LpNoise([(inf, .2)]), AugMixTransform(), Flip()])
    names = [type(f).__name__ for f in dls.train.after_batch.fs]
    assert names == ['IntToFloatTensor', 'Flip', 'AugMixTransform', 'LpNoise', 'Normalize']
    t = LpNoise([(inf, .2)])
    x = grey(4)
    assert not torch.equal(t(x, split_idx=0), x) and torch.equal(t(x, split_idx=1), x)
    a,b = dls.valid.one_batch()[0],tiny_dls().valid.one_batch()[0]
    assert torch.allclose(a, b, atol=1e-5)              # Flip resamples

def test_a_learner_trains_with_it_and_mixup():
    learn = tiny_learner(MixUp(), dls=tiny_dls(batch_tfms=[LpNoise('C2')]))
    learn.fit(2)
    assert torch.isfinite(torch.tensor(learn.recorder.losses)).all()
    t = pickle.loads(pickle.dumps(LpNoise('C1', patch=(.2, .7))))
    assert t.preset == 'C1' and t.patch == (.2, .7) and 'LpNoise' in str(t)

def block(*tfms):
    X,y = tiny_arrays(20)
    db = DataBlock(blocks=(ImageBlock(PILImageBW), CategoryBlock), get_x=lambda i: X[i], get_y=lambda i: int(y[i]),
                   splitter=IndexSplitter([0, 1, 2]), batch_tfms=[*tfms, Normalize.from_stats([.5], [.5], cuda=False)])
    return db.dataloaders(list(range(20)), bs=4, num_workers=0)

def test_two_in_one_datablock_are_merged_by_fastai_and_one_takes_a_list():
    dls = block(LpNoise('C1'), LpNoise([(2, 1.)]))
    assert [f.norms for f in dls.train.after_batch.fs if isinstance(f, LpNoise)] == [['L2']]
    dls = block(LpNoise([*lp_sets('C1', (1, 8, 8)), (2, 1.)]))
    assert len([f for f in dls.train.after_batch.fs if isinstance(f, LpNoise)][0].sets) == 91
    assert dls.one_batch()[0].shape == (4, 1, 8, 8)

def test_two_in_one_pipeline_say_so():
    with pytest.warns(RobustWarning, match='two LpNoise act one after the other'):
        tiny_dls(batch_tfms=[LpNoise('C1'), LpNoise([(2, 1.)])])

def test_normalize_in_the_wrong_place_is_found():
    class Late(LpNoise): order = 100
    dls = tiny_dls(batch_tfms=[Late([(2, 1.)])])
    with pytest.raises(ValueError, match='before Normalize'): dls.one_batch()
    u8 = TensorImage(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(TypeError, match='x.float'): LpNoise().encodes(u8)
    assert LpNoise.order < Normalize.order and LpNoise.order > IntToFloatTensor.order

def test_overlaps_names_corruptions_of_the_benchmark():
    from fastrobust.images.corruptions.tables import GROUPS, EXTRA_CORRUPTIONS
    assert LpNoise.overlaps == set(GROUPS['noise']) | {o for o in EXTRA_CORRUPTIONS if 'noise' in o}

@pytest.mark.parametrize('args,kw,err,match', [
    (('C5',), {}, ValueError, "Did you mean 'C"), (([],), {}, ValueError, 'at least one'),
    ((2,), {}, ValueError, 'as a list'),
    (([(2, 1.)], 'C1'), {}, ValueError, 'got both'), (([(2,)],), {}, TypeError, r'\(p, eps\)'),
    (([(-1, 1.)],), {}, ValueError, '`p` must'), ((), dict(patch=.5), ValueError, '`patch` must'),
    ((), dict(patch=(.7, .2)), ValueError, '`patch`'), ((), dict(patch=(0, .2)), ValueError, '`patch`'),
    ((), dict(table='cifra'), ValueError, "Did you mean 'cifar'"), ((), dict(scale=2), ValueError, "'dim' or None")])
def test_bad_input(args, kw, err, match):
    with pytest.raises(err, match=match): LpNoise(*args, **kw)
