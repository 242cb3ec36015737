"Random transforms that should be in a loader once, AugMix over AugMixTransform, and sets of corruptions"
import warnings
import pytest, torch
from fastai.data.core import DataLoaders, TfmdDL
from fastai.data.transforms import IntToFloatTensor, ToTensor
from fastai.vision.augment import Flip
from fastai.vision.core import TensorImage
from fastrobust.basics import RobustWarning
from fastrobust.data.fromarrays import array_dls
from fastrobust.images.corruptions.tables import CORRUPTIONS, EXTRA_CORRUPTIONS, listed
from fastrobust.learner import robust_learner
from fastrobust.losses import GCELoss
from fastrobust.nets import small_cnn
from fastrobust.shift.corruptionreport import corruption_report
from fastrobust.shift.metrics import mean_corruption_error
from fastrobust.shift.pictures import show_corruptions
from fastrobust.techniques.augloss import AugLoss
from fastrobust.techniques.augmix import AugMix, AugMixTransform
from fastrobust.techniques.bases.pipes import train_transforms, transforms
from fastrobust.techniques.corruption import CorruptionTransform
from fastrobust.techniques.lpnoise import LpNoise
from fastrobust.testing import tiny_arrays, tiny_dls, tiny_learner

ALL = CORRUPTIONS + EXTRA_CORRUPTIONS

def messages(f):
    "What `f` warns of"
    with warnings.catch_warnings(record=True) as got:
        warnings.simplefilter('always')
        f()
    return [str(o.message) for o in got if issubclass(o.category, RobustWarning)]

def test_corruptions_are_for_batches():
    x = TensorImage(torch.zeros(3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r'batch of images.*got shape \(3, 8, 8\).*batch_tfms'):
        CorruptionTransform('fog')(x, split_idx=0)

# --- two of a kind ---------------------------------------------------------------------------------------------------
PAIRS = [(lambda: [AugMixTransform(), AugMixTransform(2)], 'two AugMixTransform act .*Keep one'),
         (lambda: [CorruptionTransform('fog'), Flip(), CorruptionTransform('snow')],
          'two CorruptionTransform act .*name all of them in a single'),
         (lambda: [LpNoise('C1'), LpNoise([(2, 1.)])], 'two LpNoise act .*a single LpNoise all the sets')]

@pytest.mark.parametrize('make,match', PAIRS, ids=['augmix', 'corruption', 'lp'])
def test_two_in_one_pipeline_both_act_and_say_so(make, match):
    with pytest.warns(RobustWarning, match=match): dls = tiny_dls(batch_tfms=make())
    kind = type(make()[0])
    assert len([o for o in dls.train.after_batch.fs if isinstance(o, kind)]) == 2
    for one in make():
        X,y = tiny_arrays()
        def run(one=one, X=X, y=y): tiny_dls(batch_tfms=[one]); array_dls(X, y, .2, batch_tfms=[one]).new(bs=4)
        assert messages(run) == []
    assert messages(lambda: tiny_dls(batch_tfms=[LpNoise(), AugMixTransform(), CorruptionTransform('fog')])) == []

def test_one_for_items_and_one_for_batches():
    ds = [(torch.zeros(3, 8, 8, dtype=torch.uint8), 0)]*4
    def loader(items, batches):
        return TfmdDL(ds, bs=2, num_workers=0, after_item=[ToTensor(), *items],
                      after_batch=[IntToFloatTensor(), *batches])
    a,b = AugMixTransform(),AugMixTransform(1)
    with pytest.warns(RobustWarning, match='two AugMixTransform'): dl = loader([a], [b])
    assert [o for o in transforms(dl) if isinstance(o, AugMixTransform)] == [a, b]
    assert messages(lambda: loader([a], [])) == messages(lambda: loader([], [b])) == []

# --- AugMix over AugMixTransform -------------------------------------------------------------------------------------
@pytest.mark.parametrize('T', [AugMix, lambda: AugLoss(GCELoss())], ids=['AugMix', 'AugLoss'])
def test_augmix_over_augmixed_images_is_warned_of_by_name(T):
    def fit(t, *tfms):
        learn = tiny_learner(t, dls=tiny_dls(batch_tfms=tfms))
        with learn.no_bar(), learn.no_logging(): learn.fit(1)
    with pytest.warns(RobustWarning, match=f'{T().name} takes the images of AugMixTransform for the clean.*Remove'):
        fit(T(), AugMixTransform())
    assert messages(lambda: fit(T(), Flip(), LpNoise())) == messages(lambda: fit(None, AugMixTransform())) == []

def test_the_recipe_says_so_and_transforms_are_found_everywhere():
    dls = tiny_dls(size=16, batch_tfms=[AugMixTransform()])
    with pytest.warns(RobustWarning, match='augmix takes the images of AugMixTransform'):
        learn = robust_learner(dls, small_cnn(dls.c), recipe='corruption')
    assert any(isinstance(o, AugMixTransform) for o in train_transforms(learn))
    learn.dls = DataLoaders()
    assert train_transforms(learn) == []

# --- sets of names ---------------------------------------------------------------------------------------------------
def test_a_set_comes_in_the_order_of_the_benchmark():
    "The order of a set of strings is another in every process"
    for kind in (set, frozenset):
        assert listed(kind(ALL)) == list(ALL)
        assert CorruptionTransform(kind(ALL)).names == list(ALL)
    assert listed({'b', 'snow', 'a', 'fog'}) == ['snow', 'fog', 'a', 'b']
    for o in (['snow', 'fog', 'snow'], ('snow', 'fog'), dict(snow=1, fog=2).keys(), iter(['snow', 'fog'])):
        assert listed(o)[:2] == ['snow', 'fog']
    assert listed('fog') == ['fog'] and listed(3) == [3] and listed(set()) == []
    assert CorruptionTransform(['snow', 'fog'], {5, 1}).names == ['snow', 'fog']
    assert CorruptionTransform('fog', {5, 1, 3}).severity == [1, 3, 5]
    with pytest.raises(ValueError, match="Did you mean 'fog'"): CorruptionTransform({'fogg', 'snow'})

def test_sets_at_the_other_doors():
    learn = tiny_learner()
    names = {'zoom_blur', 'fog', 'contrast', 'gaussian_noise', 'pixelate', 'snow'}
    want = [o for o in CORRUPTIONS if o in names]
    rep = corruption_report(learn, names=names, severities={2})
    assert rep.names == want and list(rep.table.index[:6]) == want
    fig = show_corruptions(tiny_arrays()[0][0], names, {1})
    assert [o.get_text().replace(' ', '_') for o in fig.axes[0].get_yticklabels()] == want
    e = {k: .05*i for i,k in enumerate(ALL)}
    assert mean_corruption_error(e, names) == mean_corruption_error(e, want)
