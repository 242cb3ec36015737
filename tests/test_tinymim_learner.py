"From a teacher to a student to a classifier: recipes, files, resuming, and what is refused at the door"
import os, subprocess, sys
from functools import partial
from pathlib import Path
import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from fastai.callback.core import Callback
from fastai.callback.training import ShortEpochCallback
from fastai.callback.tracker import SaveModelCallback
from fastai.data.transforms import Normalize
from fastai.imports import noop
from fastai.losses import CrossEntropyLossFlat
from fastai.learner import Learner, load_learner
from fastai.metrics import accuracy
from fastai.torch_core import set_seed
from fastai.vision.augment import Resize
from fastai.vision.data import ImageDataLoaders
from fastrobust.basics import RobustWarning
from fastrobust.data.fromarrays import array_dls
from fastrobust.learner import robust_learner
from fastrobust.systems.tinymim.attending import set_heads
from fastrobust.systems.tinymim.decay import adamw, vit_layers
from fastrobust.systems.tinymim.features import FeatureDistill
from fastrobust.systems.tinymim.inside import Unlabelled
from fastrobust.systems.tinymim.learner import MIMLearner, tinymim_learner
from fastrobust.systems.tinymim.mimdata import mim_dls
from fastrobust.systems.tinymim.mimic import TinyMIM
from fastrobust.systems.tinymim.tinyvit import tiny_vit
from fastrobust.systems.tinymim.vits import ViT
from fastrobust.stripping import strip
from fastrobust.techniques.logitclip import LogitClip
from fastrobust.testing.tiny import params, tiny_arrays, tiny_dls
from fastrobust.training.surgery import has_surgery

def pairs(n=48, channels=1, **kwargs):
    set_seed(7)
    kw = dict(bs=16, crop=False, jitter=.4, valid=.2, device='cpu')
    return mim_dls(tiny_arrays(n, channels=channels)[0], **{**kw, **kwargs})

def teacher(channels=1): return tiny_vit(8, 2, 32, 4, 4, channels)
def student(channels=1): return tiny_vit(8, 2, 16, 2, 2, channels)

def quiet(learn):
    learn.remove_cb(learn.progress)
    learn.logger = noop
    return learn

def mim(dls=None, s=None, t=None, seed=3, **kwargs):
    set_seed(seed, reproducible=True)
    t,s = t or teacher(),s or student()
    return quiet(tinymim_learner(dls or pairs(), s, t, **kwargs))

def small_tv(size=8, dim=16, layers=3, classes=0):
    net = torchvision.models.VisionTransformer(size, 2, layers, 2, dim, 32, num_classes=max(classes, 1))
    net.conv_proj = nn.Conv2d(1, dim, 2, 2)
    if not classes: net.heads = nn.Identity()
    return net

def small_timm(**kwargs):
    timm = pytest.importorskip('timm')
    kw = dict(img_size=8, patch_size=2, in_chans=1, embed_dim=16, depth=3, num_heads=2, num_classes=0)
    return timm.models.vision_transformer.VisionTransformer(**{**kw, **kwargs})

# --- pre-training --------------------------------------------------------------------------------------------------
def test_a_fit_as_users_type_it():
    learn = mim(lr=None)
    assert isinstance(learn, MIMLearner) and isinstance(learn.loss_func.base, Unlabelled)
    assert learn.lr == 1.5e-4*16/256
    before = params(learn).clone()
    learn.fit_one_cycle(4, 3e-3)
    assert learn.recorder.metric_names[1:6] == ['train_loss', 'valid_loss', 'tinymim', 'qk', 'vv']
    values = np.array(learn.recorder.values)
    assert values[-1, 0] < values[0, 0] and values[-1, 1] < values[0, 1] and (params(learn) != before).any()
    assert type(learn.student).__name__ == 'TinyViT' and not has_surgery(learn.student)
    assert learn.student is next(m for m in learn.model.modules() if type(m).__name__ == 'TinyViT')

class Hypers(Callback):
    def after_step(self): self.seen.append(dict(self.opt.hypers[-1]))
    def before_fit(self): self.seen = []

def test_the_recipe():
    "AdamW with betas (.9, .95) all along, decay on matrices alone"
    learn = mim()
    look = Hypers()
    learn.fit_one_cycle(2, 1e-3, cbs=look)
    assert {(h['mom'], h['sqr_mom'], h['wd'], h['eps']) for h in look.seen} == {(.9, .95, .05, 1e-8)}
    assert max(h['lr'] for h in look.seen) == pytest.approx(1e-3, rel=.2)
    for name,p in learn.student.named_parameters():
        assert learn.opt.state[p].get('do_wd', True) == (p.ndim > 1), name

def test_adamw_is_torchs():
    set_seed(0)
    net = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 2)).double()
    import copy
    ref = copy.deepcopy(net)
    opt = adamw([list(net.parameters())], 1e-2, beta2=.95)
    groups = [dict(params=[p for p in ref.parameters() if p.ndim > 1], weight_decay=.05),
              dict(params=[p for p in ref.parameters() if p.ndim < 2], weight_decay=0)]
    want = torch.optim.AdamW(groups, 1e-2, (.9, .95))
    for _ in range(5):
        x = torch.randn(7, 5, dtype=torch.float64)
        for m,o in ((net, opt), (ref, want)):
            m(x).pow(2).mean().backward()
            o.step()
            o.zero_grad()
    for a,b in zip(net.parameters(), ref.parameters()): assert torch.allclose(a, b, atol=1e-12)

def test_settings_reach_the_technique():
    learn = mim(kinds='qq', teacher_block=1, student_block=0, tokens='patch', lam=.5)
    t = learn.tinymim
    assert (t.kinds, t.teacher_block, t.tokens, t.lam) == (('qq',), 1, 'patch', .5)
    assert learn.trained_to == 0 and learn.own_heads == 2
    mine = mim(s=student(), t=None, technique='relation')
    assert mine.tinymim.kinds == ('qk', 'vv') and mine.tinymim.teacher_block == 2       # three quarters of four

@pytest.mark.parametrize('name', ['feature', 'class', 'mae', 'list'])
def test_other_techniques_by_name(name):
    s,t = student(),teacher()
    set_seed(3)
    if name == 'list': learn = tinymim_learner(pairs(), s, technique=[TinyMIM(t)])
    else: learn = tinymim_learner(pairs(), s, None if name == 'mae' else t, name)
    quiet(learn).fit_one_cycle(1, 1e-3)
    assert np.isfinite(np.array(learn.recorder.values)).all()
    assert (learn.trained_to is None) == (name != 'list')
    assert len(learn.to_classifier(tiny_dls(), 'auto').heads) == 1 + (name != 'list')
    assert len(learn.to_classifier(tiny_dls()).heads) == 2

def test_labelled_data_serve_too():
    "Labels unused, student and teacher see the same"
    dls = tiny_dls()
    seen = []
    t = teacher()
    learn = mim(dls, t=t)
    t.register_forward_pre_hook(lambda m, x: seen.append(x[0]))
    class Look(Callback):
        order = 60
        def after_loss(self): seen.append(self.x)
    learn.fit(1, 1e-3, cbs=Look())
    assert len(seen) > 4
    for a,b in zip(seen[::2], seen[1::2]): assert torch.equal(a.as_subclass(Tensor), b.as_subclass(Tensor))

def test_names_give_untrained_students_and_learners_are_teachers():
    pytest.importorskip('timm')
    dls = pairs(12, 3, size=32, bs=4)
    learn = quiet(tinymim_learner(dls, 'test_vit', tiny_vit(32, 16, 64, 3, 2), teacher_block=2))
    s = learn.student
    assert isinstance(s.head, nn.Identity) and s.pos_embed.shape == (1, 5, 64)
    rates = [getattr(b.drop_path1, 'p', 0) for b in s.blocks]
    assert rates == [.1]*(len(rates)-1)+[0]
    learn.fit(1, 1e-3)
    fitted = Learner(dls, tiny_vit(32, 16, 64, 3, 2), loss_func=nn.MSELoss())
    again = tinymim_learner(dls, 'test_vit', fitted, drop_path=0)
    assert again.tinymim.teacher is fitted.model and again.student.blocks[0].drop_path1.__class__ is nn.Identity

def test_three_lines_of_names(tmp_path, monkeypatch):
    "What the README shows, with the smallest network of timm and weights that the test wrote"
    timm = pytest.importorskip('timm')
    from PIL import Image
    for i in range(12):
        im = np.random.default_rng(i).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        (tmp_path/'ab'[i % 2]).mkdir(exist_ok=True)
        Image.fromarray(im).save(tmp_path/'ab'[i % 2]/f'{i}.png')
    torch.save(timm.create_model('test_vit', num_classes=0).state_dict(), tmp_path/'w.pth')
    overlay = dict(file=str(tmp_path/'w.pth'), num_classes=0)
    monkeypatch.setattr(timm, 'create_model', partial(timm.create_model, pretrained_cfg_overlay=overlay))
    dls = mim_dls(tmp_path, 32, bs=4, num_workers=0, stats=([.5]*3, [.5]*3), device='cpu')
    learn = quiet(tinymim_learner(dls, student='test_vit', teacher='test_vit'))
    learn.fit_one_cycle(1, 1e-3)
    saved = torch.load(tmp_path/'w.pth')
    assert torch.equal(learn.tinymim.teacher.norm.weight, saved['norm.weight'])
    same = [torch.equal(p, saved[k]) for k,p in learn.student.named_parameters() if k.endswith('qkv.weight')]
    assert not any(same)        # untrained as it began
    labelled = ImageDataLoaders.from_folder(tmp_path, valid_pct=.25, item_tfms=Resize(32), bs=4, num_workers=0)
    clf = quiet(learn.to_classifier(labelled, metrics=accuracy))
    clf.fit_one_cycle(1, 1e-3)
    assert len(clf.predict(tmp_path/'a'/'0.png')[2]) == 2
    with pytest.raises(ValueError, match='show_batch'): learn.show_results()
    with pytest.warns(RobustWarning, match='the weights of test_vit want images normalised'):
        tinymim_learner(mim_dls(tmp_path, 32, bs=4, num_workers=0, device='cpu', stats=([.9]*3, [.1]*3)), student(3),
                        'test_vit', tokens='patch', technique='feature')

def test_a_convolutional_student_has_features_to_learn():
    pytest.importorskip('timm')
    learn = quiet(tinymim_learner(pairs(12, 3, size=32, bs=4), 'test_resnet', tiny_vit(32, 8, 16, 2, 2), 'feature'))
    learn.fit(1, 1e-3)
    with pytest.raises(ValueError, match='plain vision transformer.*got ResNet. Fine-tune it as any network'):
        learn.to_classifier(tiny_dls(channels=3))
    # what it says to do
    net = nn.Sequential(learn.student, nn.Linear(learn.student.num_features, 3))
    clf = quiet(robust_learner(tiny_dls(channels=3, size=32), net))
    clf.fit(1, 1e-3)
    assert learn.student in list(clf.model.modules()) and clf.get_preds()[0].shape[1] == 3

# --- files and interruptions ---------------------------------------------------------------------------------------
def test_half_a_fit_and_the_rest_are_a_fit(tmp_path):
    "One batch an epoch, so that the order of items decides nothing"
    kw,t = dict(bs=38, jitter=0),teacher()
    whole = mim(pairs(**kw), t=t)
    whole.fit_one_cycle(4, 3e-3)
    first = mim(pairs(**kw), t=t, path=tmp_path, model_dir='.')
    with pytest.raises(KeyboardInterrupt): first.fit_one_cycle(4, 3e-3, cbs=[Stop(2), SaveModelCallback(
        every_epoch=True, with_opt=True, fname='at')])
    rest = mim(pairs(**kw), t=t, seed=11, path=tmp_path, model_dir='.')
    rest.load('at_1', with_opt=True)
    rest.fit_one_cycle(4, 3e-3, start_epoch=2)
    # losses of validation: those of training are smoothed over a fit
    assert rest.recorder.values[-1][1] == pytest.approx(whole.recorder.values[-1][1], rel=1e-3)
    # keys move all scores of a row alike with their bias, whose gradient is rounding: AdamW makes steps of that
    bias = slice(16, 32)
    for net in (rest.student, whole.student, first.student):
        for b in net.blocks: b.attn.qkv.bias.data[bias] = 0
    assert torch.allclose(params(rest), params(whole), atol=1e-4)
    assert not torch.allclose(params(first), params(whole), atol=1e-3)

class Stop(Callback):
    "A Ctrl-C in training epoch `n`"
    order = 80
    def __init__(self, n): self.n = n
    def after_loss(self):
        if self.training and self.epoch == self.n: raise KeyboardInterrupt

def test_ctrl_c_keeps_what_was_learned():
    learn = mim()
    start = params(learn).clone()
    class Later(Callback):
        def before_batch(self):
            if self.training and self.iter == 1: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): learn.fit(1, 1e-3, cbs=Later())
    assert (params(learn) != start).any()
    assert not [m for m in learn.model.modules() if m._forward_hooks or m._forward_pre_hooks]
    kept = params(learn).clone()
    clf = quiet(learn.to_classifier(tiny_dls()))
    learn.fit(1, 1e-3)
    clf.fit(1, 1e-3)
    assert (params(learn) != kept).any()

def test_an_exported_learner_has_its_student_and_no_teacher(tmp_path):
    learn = mim(t=tiny_vit(8, 2, 64, 4, 4, 1), path=tmp_path)
    learn.fit(1, 1e-3)
    learn.export('mim.pkl')
    size = sum(p.numel()*4 for p in learn.tinymim.teacher.parameters())
    assert (tmp_path/'mim.pkl').stat().st_size < size/2
    back = load_learner(tmp_path/'mim.pkl')
    assert (back.trained_to, back.own_heads) == (1, 2)
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(back.model(x), learn.model.eval()(x))
    clf = quiet(back.to_classifier(tiny_dls()))
    clf.fit(1, 1e-3)

@pytest.mark.slow
def test_the_script_stops_and_goes_on(tmp_path):
    "nbs/examples/vit_base_to_tiny.py in processes of its own, as a user starts it"
    from PIL import Image
    g = np.random.default_rng(0)
    for i in range(60):
        (tmp_path/'images'/'ab'[i % 2]).mkdir(parents=True, exist_ok=True)
        im = g.integers(0, 120, (36, 40, 3), dtype=np.uint8)+(i % 2)*120
        Image.fromarray(im).save(tmp_path/'images'/'ab'[i % 2]/f'{i}.png')
    script = Path(__file__).parents[1]/'nbs/examples/vit_base_to_tiny.py'
    def call(*args):
        r = subprocess.run([sys.executable, script, tmp_path/'images', '--toy', '--out', tmp_path/'out', *args],
                           capture_output=True, text=True, env={**os.environ, 'CUDA_VISIBLE_DEVICES': ''})
        return r.stdout+r.stderr
    kw = '--epochs','3','--finetune','3'
    out = call(*kw, '--minutes', '0')
    assert 'time over after 0 of 3 epochs' in out and 'No epoch was finished' in out, out
    out = call(*kw)
    assert 'going on' not in out and 'linear probe: accuracy 1.000' in out, out
    assert [p.name for p in (tmp_path/'out').glob('*.pth')] == ['epoch_3.pth']
    (tmp_path/'out'/'epoch_3.pth').rename(tmp_path/'out'/'epoch_2.pth')     # as if stopped before
    out = call(*kw)
    assert 'going on after epoch 2 of 3' in out and 'held-out images' in out, out
    assert [p.name for p in (tmp_path/'out').glob('*.pth')] == ['epoch_3.pth']
    clf = load_learner(tmp_path/'out'/'classifier.pkl')
    assert clf.predict(next((tmp_path/'images'/'b').iterdir()))[0] == 'b'
    assert 'has a run with --epochs 3, this one is with 4' in call('--epochs', '4')

# --- what a teacher said -------------------------------------------------------------------------------------------
def counted(t):
    t.asked = 0
    def count(m, a): m.asked += len(a[0])
    t.register_forward_pre_hook(count)
    return t

@pytest.mark.parametrize('name', ['relation', 'feature', 'class'])
def test_kept_answers_are_those_of_the_teacher(name):
    values = []
    for keep in (None, 1.):
        set_seed(2)
        t = counted(teacher())
        dls = pairs(jitter=.4)
        learn = mim(dls, t=t, technique=name, keep=keep)
        before = t.asked
        set_seed(5)
        learn.fit(4, 1e-3)
        values.append(np.array(learn.recorder.values))
        n = t.asked-before
        if keep is None: assert n >= 4*(32+10)
        else: assert n <= 48+6      # each image once, and a few to see that all fits
        assert 'asked' not in vars(next(iter(learn.objective.techniques())))
    assert np.allclose(values[0][:, :2], values[1][:, :2], rtol=2e-3) and not np.allclose(values[0][0], values[0][-1])

def test_keeping_is_told_beforehand_and_refused(capsys):
    learn = mim(keep=1.)
    learn.fit(1, 1e-3)
    # two kinds of 17 x 17 relations in 4 heads, two bytes each
    size = 2*4*17*17*2
    assert f'48 images of {size/1024:.1f} KiB' in capsys.readouterr().out
    with pytest.raises(ValueError, match=f'into 1e-05 GiB, got 48 images of {size/1024:.1f} KiB.*keep='):
        mim(keep=1e-5).fit(1, 1e-3)
    with pytest.raises(ValueError, match='the same in every epoch.*CropEach, FlipEach in the loaders'):
        mim(pairs(crop=True), keep=1.).fit(1, 1e-3)
    with pytest.raises(ValueError, match='a technique with a teacher'):
        quiet(tinymim_learner(pairs(), student(), technique='mae', keep=1.)).fit(1, 1e-3)
    with pytest.raises(ValueError, match='`budget` must be positive'): mim(keep=0)

def test_images_that_change_behind_its_back_are_noticed():
    dls = tiny_dls()
    learn = mim(dls, keep=1.)
    learn.fit(1, 1e-3)
    dls.train_ds.items.x[:] = 255-dls.train_ds.items.x
    with pytest.raises(ValueError, match='got others than before'): learn.fit(1, 1e-3)

def test_a_learner_that_keeps_answers_is_copied_and_exported(tmp_path):
    learn = mim(keep=1., path=tmp_path)
    class Stopped(Callback):
        def after_loss(self): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): learn.fit(2, 1e-3, cbs=Stopped())
    learn.export('a.pkl')
    big = (tmp_path/'a.pkl').stat().st_size
    learn.lr_find(num_it=5, show_plot=False)
    learn.fit(1, 1e-3)
    learn.export('a.pkl')
    assert (tmp_path/'a.pkl').stat().st_size <= big+1000 and load_learner(tmp_path/'a.pkl').trained_to == 1

# --- the classifier ------------------------------------------------------------------------------------------------
FAMILIES = {'tiny_vit': student, 'torchvision': small_tv, 'timm': small_timm,
            'timm, pooled': lambda: small_timm(global_pool='avg', class_token=False),
            'timm, its head': lambda: small_timm(num_classes=9),
            'torchvision, its head': lambda: small_tv(classes=9)}

def run(net, x):
    "(tokens going into each block of a network) by hooks, whoever wrote it"
    from fastrobust.systems.tinymim.vits import ViT
    seen,vit = [],ViT(net)
    hooks = [b.register_forward_pre_hook(lambda m, a: seen.append(a[0])) for b in vit.blocks]
    with torch.no_grad(): net.eval()(x)
    for h in hooks: h.remove()
    return seen,vit

@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('pool', ['mean', 'class'])
def test_it_reads_what_goes_into_the_last_block(family, pool):
    net = FAMILIES[family]()
    n_tokens = 16 + (family != 'timm, pooled')
    t = teacher() if n_tokens == 17 else None
    learn = tinymim_learner(pairs(), net, t or teacher(), tokens='all' if t else 'patch')
    if pool == 'class' and not t:
        with pytest.raises(ValueError, match='a token of the class'): learn.to_classifier(tiny_dls(), pool=pool)
        return
    clf = learn.to_classifier(tiny_dls(), 'last', pool)
    x = torch.randn(3, 1, 8, 8)
    seen,vit = run(learn.student, x)
    tokens = seen[-1]
    z = (tokens-tokens.mean(-1, keepdim=True))/(tokens.var(-1, unbiased=False, keepdim=True)+1e-6).sqrt()
    f = z[:, vit.prefix:].mean(1) if pool == 'mean' else z[:, 0]
    want = f @ clf.model.head.weight.T
    with torch.no_grad(): got = clf.model.eval()(x)
    assert got.shape == (3, 3) and torch.allclose(got, want, atol=1e-5)
    assert len(clf.heads) == vit.depth-1 and not has_surgery(clf.model)
    assert not [m for m in clf.model.modules() if isinstance(m, nn.Linear) and m.out_features == 9]

@pytest.mark.parametrize('family', FAMILIES)
def test_all_of_it(family):
    "cut=None: the tokens after the last block, through the student's own last norm, which is untrained"
    learn = tinymim_learner(pairs(), FAMILIES[family](), teacher(), tokens='patch')
    clf = learn.to_classifier(tiny_dls())
    x,seen = torch.randn(2, 1, 8, 8),[]
    vit = run(learn.student, x)[1]
    hook = vit.blocks[-1].register_forward_hook(lambda m, a, out: seen.append(out))
    with torch.no_grad(): learn.student.eval()(x)
    hook.remove()
    with torch.no_grad():
        want = vit.norm(seen[0])[:, vit.prefix:].mean(1) @ clf.model.head.weight.T
        assert torch.allclose(clf.model.eval()(x), want, atol=1e-5)
    assert clf.heads[-1] == 4 and set(clf.heads[:-1]) == {2}

def test_it_is_a_copy():
    learn = mim()
    before = params(learn).clone()
    clf = quiet(learn.to_classifier(tiny_dls()))
    mine = {p.data_ptr() for p in learn.model.parameters()}
    assert type(clf) is Learner and not mine & {p.data_ptr() for p in clf.model.parameters()}
    clf.fit(1, 1e-2)
    assert torch.equal(params(learn), before) and learn.student.blocks[1].attn.num_heads == 4

def test_a_block_in_the_middle_is_the_last_that_is_kept():
    learn = mim(s=tiny_vit(8, 2, 16, 4, 2, 1), student_block=2)
    assert learn.trained_to == 2 and len(learn.to_classifier(tiny_dls(), 'auto').heads) == 2
    assert len(learn.to_classifier(tiny_dls(), cut=None).heads) == 4
    with pytest.raises(ValueError, match='would leave no block. Take cut=None'):
        mim(s=tiny_vit(8, 2, 16, 4, 2, 1), student_block=0).to_classifier(tiny_dls(), 'last')

def test_heads_are_explicit_and_come_back():
    learn = mim()
    assert learn.to_classifier(tiny_dls(), cut=None).heads == (2, 4)
    assert learn.to_classifier(tiny_dls(), cut=None, heads='own').heads == (2, 2)
    clf = learn.to_classifier(tiny_dls(), cut=None, heads=8)
    assert clf.heads == (2, 8) and clf.model.net.blocks[1].attn.num_heads == 8
    assert learn.student.blocks[1].attn.num_heads == 4      # the copy's alone
    learn.fit(1, 1e-3)
    learn.remove_cb(TinyMIM)
    assert learn.to_classifier(tiny_dls(), cut=None, heads='own').heads == (2, 2)
    with pytest.raises(ValueError, match='the block that they are of is cut off'):
        learn.to_classifier(tiny_dls(), 'last', heads=2)
    with pytest.raises(ValueError, match='width of the student that 3 heads divide'):
        learn.to_classifier(tiny_dls(), cut=None, heads=3)

@pytest.mark.parametrize('family', FAMILIES)
def test_rates_fall_from_layer_to_layer(family):
    learn = tinymim_learner(pairs(), FAMILIES[family](), teacher(), tokens='patch')
    clf = quiet(learn.to_classifier(tiny_dls()))
    clf.create_opt()
    blocks = len(clf.heads)
    groups = vit_layers(clf.model)
    ids = [id(p) for g in groups for p in g]
    assert len(groups) == blocks+2 and len(ids) == len(set(ids)) == len(list(clf.model.parameters()))
    assert all(p is not q for p in groups[0] for q in clf.model.head.parameters())
    assert {id(p) for p in groups[-1]} == {id(p) for m in (clf.model.norm, clf.model.head) for p in m.parameters()}
    clf.fit_one_cycle(1, 1e-3, cbs=[look := Rates(), hypers := Hypers()])
    assert {(h['mom'], h['sqr_mom'], h['wd']) for h in hypers.seen} == {(.9, .999, .05)}
    for r in look.seen: assert r == pytest.approx([r[-1]*.65**(blocks+1-i) for i in range(blocks+2)])
    assert max(r[-1] for r in look.seen) == pytest.approx(1e-3, rel=.2)

class Rates(Callback):
    def before_fit(self): self.seen = []
    def after_step(self): self.seen.append([float(h['lr']) for h in self.opt.hypers])

def test_other_rates():
    learn = mim()
    clf = quiet(learn.to_classifier(tiny_dls(), 'last', layer_decay=None))
    clf.fit(1, 1e-3, cbs=(look := Rates()))
    assert look.seen[-1] == [1e-3]*3
    clf = quiet(learn.to_classifier(tiny_dls(), 'last', layer_decay=.5))
    clf.fit(1, 8e-3, cbs=(look := Rates()))
    assert look.seen[-1] == pytest.approx([2e-3, 4e-3, 8e-3])
    clf.fit(1, slice(1e-4, 1e-2), cbs=look)         # fastai's, as it is written
    assert look.seen[-1] == pytest.approx([1e-4, 1e-3, 1e-2])
    clf.fine_tune(1, 1e-3)
    clf.freeze()
    assert not clf.model.net.blocks[0].attn.qkv.weight.requires_grad and clf.model.head.weight.requires_grad
    mine = learn.to_classifier(tiny_dls(), opt_func=adamw, wd=.1)
    mine.create_opt()
    assert type(mine.opt).__name__ == 'Optimizer' and mine.wd == .1

def test_the_export_loads_and_is_small(tmp_path):
    learn = mim(t=tiny_vit(8, 2, 64, 4, 4, 1))
    learn.fit(1, 1e-3)
    clf = quiet(learn.to_classifier(tiny_dls(), path=tmp_path))
    clf.fit(1, 1e-3)
    clf.export('clf.pkl')
    plain = Learner(tiny_dls(), student(), loss_func=CrossEntropyLossFlat(), path=tmp_path)
    plain.export('student.pkl')
    size = [(tmp_path/k).stat().st_size for k in ('clf.pkl', 'student.pkl')]
    head = 4*(16*3+3+2*16)
    assert size[0] <= size[1]+head+2000     # names of classes and of functions
    back = load_learner(tmp_path/'clf.pkl')
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(back.model(x), clf.model.eval()(x)) and back.heads == clf.heads
    assert back.predict(tiny_arrays()[0][0])[0] == clf.predict(tiny_arrays()[0][0])[0]

STRIPS = [('timm', 'mean'), ('timm', 'class'), ('timm, pooled', 'mean'), ('timm, its head', 'mean'),
          ('torchvision', 'class')]
@pytest.mark.parametrize('cut', [None, 'last'])
@pytest.mark.parametrize('family, pool', STRIPS)
def test_a_classifier_is_stripped_to_its_librarys_classes(family, pool, cut, tmp_path):
    learn = mim(s=FAMILIES[family](), tokens='patch')
    clf = quiet(learn.to_classifier(tiny_dls(), cut, pool, path=tmp_path))
    clf.fit(1, 1e-3)
    x = torch.rand(4, 1, 8, 8)
    with torch.no_grad(): want = clf.model.eval()(x)
    with pytest.warns(RobustWarning, match="optimizer is fastrobust's"): plain = strip(clf)
    assert not [m for m in plain.model.modules() if type(m).__module__.startswith('fastrobust')]
    assert sum(p.numel() for p in plain.model.parameters()) == sum(p.numel() for p in clf.model.parameters())
    with torch.no_grad():
        assert torch.allclose(plain.model.eval()(x), want, atol=1e-6)
        assert torch.equal(clf.model.eval()(x), want)
    quiet(plain).export('plain.pkl')
    assert b'fastrobust' not in (tmp_path/'plain.pkl').read_bytes()
    clf.export('ours.pkl')
    back = [load_learner(tmp_path/k).model(x) for k in ('plain.pkl', 'ours.pkl')]
    assert torch.allclose(*back, atol=1e-6)
    plain.fit(1, 1e-3)

@pytest.mark.parametrize('family', ['tiny_vit', 'torchvision'])
def test_classifiers_that_their_library_cannot_write_are_refused(family):
    clf = mim(s=FAMILIES[family]()).to_classifier(tiny_dls())
    with pytest.raises(ValueError, match='got .*ViTClassifier.* of fastrobust. Save this model'): strip(clf)

@pytest.mark.parametrize('family', FAMILIES)
def test_pictures_of_another_size(family):
    learn = tinymim_learner(pairs(), FAMILIES[family](), teacher(), tokens='patch')
    dls = tiny_dls(size=12)
    clf = quiet(learn.to_classifier(dls))
    clf.fit(1, 1e-3)
    assert clf.get_preds()[0].shape == (24, 3)
    with pytest.raises(ValueError, match='patches of 2x2 of the student cover, got 9x9'):
        learn.to_classifier(tiny_dls(size=9))
    if family == 'torchvision':
        from torchvision.models.vision_transformer import interpolate_embeddings
        want = interpolate_embeddings(12, 2, dict(learn.student.state_dict()))['encoder.pos_embedding']
        assert torch.equal(learn.to_classifier(dls).model.net.encoder.pos_embedding, want)

def test_what_learners_do_works():
    learn = mim(pairs(channels=3), student(3), teacher(3))
    clf = quiet(learn.to_classifier(tiny_dls(channels=3), metrics=accuracy, cbs=LogitClip(1.)))
    clf.fit_one_cycle(1, 1e-3)
    assert clf.recorder.metric_names[3] == 'accuracy' and clf.logitclip.tau == 1.
    clf.show_results(max_n=4)
    assert len(clf.predict(tiny_arrays(channels=3)[0][0])[2]) == 3

def test_a_classifier_learns():
    "Two classes that a mean tells apart"
    set_seed(0)
    g = np.random.default_rng(0)
    X,y = g.integers(0, 100, (80, 8, 8), dtype=np.uint8),np.arange(80) % 2
    X[y == 1] += 120
    clf = quiet(mim().to_classifier(array_dls(X, y, valid=.25, bs=10), metrics=accuracy))
    clf.fit_one_cycle(3, 1e-2)
    assert clf.recorder.values[-1][2] > .95

def test_normalisation_is_compared():
    learn = mim(pairs(stats=([.1], [.9])))
    with pytest.warns(RobustWarning, match="learned on images normalised by mean"): learn.to_classifier(tiny_dls())
    dls = tiny_dls(normalize=False)
    x = dls.valid.one_batch()[0]
    clf = learn.to_classifier(dls)
    t = next(t for t in clf.dls.train.after_batch.fs if isinstance(t, Normalize))
    assert t.mean.flatten().item() == pytest.approx(.1) and t.std.flatten().item() == pytest.approx(.9)
    # the user's loaders are as they were, twice too
    learn.to_classifier(dls)
    for dl,new in zip(dls.loaders, clf.dls.loaders):
        assert not any(isinstance(t, Normalize) for t in dl.after_batch.fs) and dl.one_batch()[0].min() >= 0
        assert sum(isinstance(t, Normalize) for t in new.after_batch.fs) == 1 and new.dataset is dl.dataset
    assert torch.allclose(clf.dls.valid.one_batch()[0], (x-.1)/.9, atol=1e-5)
    done = tiny_dls()
    assert mim(pairs(stats=None)).to_classifier(done).dls is done

# --- techniques that change ----------------------------------------------------------------------------------------
def cuts(learn): return learn.trained_to,len(learn.to_classifier(tiny_dls(), 'auto').heads)

def test_what_was_trained_is_of_the_last_fit():
    learn = mim()
    assert cuts(learn) == (1, 1)        # relations at the door
    learn.fit(1, 1e-3)
    learn.remove_cb(TinyMIM)
    learn.add_cb(FeatureDistill(teacher()))
    assert cuts(learn) == (1, 1)        # features have not trained anything yet
    learn.lr_find(show_plot=False, num_it=4)
    assert cuts(learn) == (1, 1)        # nor has a search
    mlp = learn.student.blocks[1].mlp[0].weight
    before = mlp.detach().clone()
    learn.fit(1, 1e-3)
    assert (mlp != before).any() and cuts(learn) == (None, 2)
    assert learn.to_classifier(tiny_dls(), heads='own').heads == (2, 2)
    assert learn.to_classifier(tiny_dls()).heads == (2, 4)
    learn.add_cb(TinyMIM(teacher()))
    learn.fit(1, 1e-3)
    assert cuts(learn) == (None, 2)     # beside features
    learn.remove_cb(FeatureDistill)
    learn.fit(1, 1e-3)
    assert cuts(learn) == (1, 1) and learn.own_heads == 2

def test_techniques_of_one_fit_count():
    learn = mim(technique='feature')
    learn.remove_cb(FeatureDistill)
    learn.fit(1, 1e-3, cbs=TinyMIM(teacher()))
    assert cuts(learn) == (1, 1) and learn.own_heads == 2

def test_a_fit_that_trains_nothing_is_refused():
    learn = mim()
    learn.remove_cb(TinyMIM)
    with pytest.raises(ValueError, match='expected a technique that says what is learned.*got none'): learn.fit(1, 1e-3)
    learn = mim(s=student().requires_grad_(False))
    with pytest.raises(ValueError, match='parameters are all frozen'): learn.fit(1, 1e-3)
    learn.student.requires_grad_(True)
    learn.fit(1, 1e-3)
    learn.student.requires_grad_(False)
    with pytest.raises(ValueError, match='parameters are all frozen'): learn.fit(1, 1e-3)

def test_heads_are_in_an_export_and_not_in_weights(tmp_path):
    "As docs say: the same weights in a new network are another function"
    learn = mim(path=tmp_path)
    learn.fit(1, 1e-2)
    learn.export('mim.pkl')
    x,net = torch.rand(2, 1, 8, 8),student()
    net.load_state_dict(learn.student.state_dict())
    want = learn.student.eval()(x)
    assert not torch.allclose(net.eval()(x), want, atol=1e-6)
    assert torch.allclose(load_learner(tmp_path/'mim.pkl').student.eval()(x), want, atol=1e-6)
    set_heads(ViT(net), -1, 4)
    assert torch.allclose(net(x), want, atol=1e-6)

@pytest.mark.parametrize('cut', ['last', None])
def test_a_pooling_by_attention_stays_behind(cut):
    s = small_timm(global_pool='map', class_token=False)
    n = sum(p.numel() for p in s.attn_pool.parameters())
    clf = mim(s=s, tokens='patch').to_classifier(tiny_dls(), cut)
    assert n and not any('attn_pool' in k for k,_ in clf.model.named_parameters())
    clf.loss_func(clf.model(torch.rand(4, 1, 8, 8)), torch.tensor([0, 1, 2, 0])).backward()
    assert all(p.grad is not None for p in clf.model.parameters())

# --- bad input -----------------------------------------------------------------------------------------------------
def refused(says, *args, err=ValueError, **kwargs):
    with pytest.raises(err, match=says): tinymim_learner(*args, **kwargs)

def test_refused_at_the_door():
    s,t,dls = student(),teacher(),pairs()
    refused('expected DataLoaders, got', 'folder', s, t, err=TypeError)
    refused('a teacher for technique=.relation.', dls, s)
    refused('no teacher for technique=.mae.', dls, s, t, technique='mae')
    refused("Did you mean 'relation'", dls, s, t, technique='relations')
    refused('Other callbacks: cbs=', dls, s, t, technique=LogitClip(1.), err=TypeError)
    refused('Write them into it: TinyMIM', dls, s, t, technique=TinyMIM(t))
    refused('settings of ClassDistill, got `kinds`', dls, s, t, 'class', kinds='qk', err=TypeError)
    refused('expected a teacher for the weights', dls, s, teacher_weights='x.pth')
    refused('`drop_path` must be in', dls, s, t, drop_path=1)
    refused('no `drop_path` with the student TinyViT', dls, s, t, drop_path=.5)
    refused('`student_block` must be a block of the student', dls, s, t, student_block=2)
    refused('`teacher_block` must be a block of the teacher', dls, s, t, teacher_block=4)
    refused('`lam` must be positive', dls, s, t, lam=0)
    refused('8 heads divide', dls, tiny_vit(8, 2, 12, 2, 2, 1), tiny_vit(8, 2, 32, 2, 8, 1))
    refused('a teacher for images of 1 channel.s., got one for 3', dls, s, teacher(3))
    refused('a student for images of 1 channel.s., got one for 3', dls, student(3), t)
    refused('the same tokens, got 5 and 17', dls, s, tiny_vit(8, 4, 32, 2, 4, 1))
    refused('patches of 4x4 of TinyViT cover, got 10x10. For example mim_dls.{5}size=8', pairs(size=10),
            tiny_vit(8, 4, 16, 2, 2, 1), t)

def test_a_teacher_without_attention():
    cnn = nn.Sequential(nn.Conv2d(1, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    refused('the teacher with blocks of attention.*FeatureDistill', pairs(), student(), cnn)

@pytest.mark.parametrize('make', [lambda: small_tv(16), lambda: small_timm(img_size=16)])
def test_a_network_for_another_size(make):
    refused('images of 16x16 pixels, for which a teacher is made, got 8x8', pairs(), student(), make())

def test_classifiers_want_labels():
    learn = mim()
    for dls,says in ((pairs(), 'got pairs of mim_dls'), (tiny_dls(channels=3), '3 channel')):
        with pytest.raises(ValueError, match=says): learn.to_classifier(dls)
    with pytest.raises(TypeError, match='expected DataLoaders with labels'): learn.to_classifier('folder')
    for kw in (dict(cut='first'), dict(pool='max'), dict(layer_decay=0), dict(layer_decay=2)):
        with pytest.raises(ValueError, match=f'`{next(iter(kw))}` must be'): learn.to_classifier(tiny_dls(), **kw)

def test_short_epochs_count_too():
    learn = mim()
    learn.fit(1, 1e-3, cbs=ShortEpochCallback(.5))
    assert np.isfinite(params(learn).detach().numpy()).all()
