"Features, class tokens and painted pixels against loops over the equations; masks against forward passes by hand"
import copy, math, types
from functools import partial
import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from fastai.callback.core import Callback, CancelFitException
from fastai.learner import Learner, load_learner
from fastai.optimizer import Adam
from fastai.torch_core import set_seed
from conftest import Raise, params, tiny_arrays, tiny_dls, tiny_learner
from fastrobust.data.fromarrays import array_dls
from fastrobust.nets import small_cnn
from fastrobust.resting import at_rest
from fastrobust.systems.tinymim import masking
from fastrobust.systems.tinymim.distilling import TeacherImage
from fastrobust.systems.tinymim.features import (ClassDistill, ClassNet, FeatureDistill, FeatureNet, class_kl,
                                                 smooth_l1, summary)
from fastrobust.systems.tinymim.finding import find_place
from fastrobust.systems.tinymim.inside import Kept, Unlabelled, wrappers
from fastrobust.systems.tinymim.mae import Decoder, MAENet, MAEPretrain, image_of, normed, patches_of
from fastrobust.systems.tinymim.maepicture import painted, show_masked
from fastrobust.systems.tinymim.masking import MaskedInput, MaskedNet, hidden, masked, n_kept, random_keep
from fastrobust.systems.tinymim.mimic import TinyMIM
from fastrobust.systems.tinymim.tinyvit import sincos, tiny_vit
from fastrobust.systems.tinymim.tokens import Place, Tokens, resized, tokens_of
from fastrobust.systems.tinymim.vits import ViT
from fastrobust.training.surgery import Surgery

def student(n_out=3, channels=1): return tiny_vit(8, 2, 16, 2, 2, channels, n_out)
def teacher(channels=1, patch=2):
    with torch.random.fork_rng():
        torch.manual_seed(11)
        return tiny_vit(8, patch, 32, 3, 2, channels)

CONTRACT = {FeatureDistill: dict(make=lambda **kw: FeatureDistill(teacher(), **kw), net=student, weight='lam',
                                 colour=lambda: FeatureDistill(teacher(3)), deterministic=True),
            ClassDistill: dict(make=lambda **kw: ClassDistill(teacher(), **kw), net=student, weight='lam',
                               colour=lambda: ClassDistill(teacher(3)), deterministic=True),
            MaskedInput: dict(make=MaskedInput, net=student),
            MAEPretrain: dict(make=MAEPretrain, net=student)}    # its `lam` of 0 still masks
MINE = [*CONTRACT]
def make(T, **kw): return CONTRACT[T]['make'](**kw)

class Catch(Callback):
    "Images, labels and loss of the first training batch"
    order = 45
    def before_backward(self):
        self.images,self.labels = self.xb[0].as_subclass(torch.Tensor).clone(),self.yb[0].long()
        self.value = self.learn.loss_grad.item()
        raise CancelFitException

def first(learn):
    catch = Catch()
    learn.fit(1, cbs=catch)
    return catch

def unlabelled(cbs, net=None, dls=None, **kwargs):
    return tiny_learner(cbs, loss_func=Unlabelled(), net=net or (lambda c, ch: student(0, ch)), dls=dls, **kwargs)

@pytest.fixture
def one_mask(monkeypatch):
    "Every image shows patches 1, 6, 7 and 12 of 16"
    keep = torch.tensor([1, 6, 7, 12])
    monkeypatch.setattr(masking, 'random_keep', lambda b, n, *a: keep.expand(b, 4))
    return keep

def hooks_of(net):
    return [h for m in net.modules() for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]

# --- equations --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('beta', [2., .3])
def test_smooth_l1_in_a_slow_loop(beta):
    e = torch.cat([torch.randn(3, 4, 5).double()*3, torch.tensor(beta*np.array([-1, 1, 0, 1+1e-9]*5)).view(1, 4, 5)])
    want = [e_**2/(2*beta) if abs(e_) <= beta else abs(e_)-beta/2 for e_ in e.flatten().tolist()]
    assert smooth_l1(e, beta).item() == pytest.approx(sum(want)/len(want), rel=1e-12)
    assert smooth_l1(e, beta).item() == pytest.approx(F.smooth_l1_loss(e, torch.zeros_like(e), beta=beta).item())

def test_class_kl_in_a_slow_loop():
    t,s = torch.randn(3, 5).double(),torch.randn(3, 5).double()
    want = 0.
    for a,b in zip(t.tolist(), s.tolist()):
        za,zb = sum(map(math.exp, a)),sum(map(math.exp, b))
        want += sum(math.exp(i)/za*(math.log(math.exp(i)/za)-math.log(math.exp(j)/zb)) for i,j in zip(a, b))
    assert class_kl(t, s).item() == pytest.approx(want/3, rel=1e-12)
    assert class_kl(t, t+7.).item() == pytest.approx(0, abs=1e-12)
    half = class_kl(t.half()*40, s.half()*40)
    assert half.dtype == torch.float32 and torch.isfinite(half)

@pytest.mark.parametrize('patch,size', [(2, (4, 6)), ((2, 3), (4, 6)), (4, (4, 4))])
def test_patches_in_a_slow_loop(patch, size):
    x = torch.randn(2, 3, *size)
    p,q = (patch, patch) if isinstance(patch, int) else patch
    got = patches_of(x, patch)
    rows,columns = size[0]//p,size[1]//q
    assert got.shape == (2, rows*columns, p*q*3)
    for r in range(rows):
        for c in range(columns):
            pixels = [x[:, ch, r*p+i, c*q+j] for i in range(p) for j in range(q) for ch in range(3)]
            assert torch.equal(got[:, r*columns+c], torch.stack(pixels, 1))
    assert torch.equal(image_of(got, (rows, columns), patch), x)

def test_patches_that_do_not_fit():
    with pytest.raises(ValueError, match=r'patches of 3x3 cover, got \(8, 8\)'): patches_of(torch.zeros(1, 1, 8, 8), 3)

def test_each_patch_in_its_own_scale():
    p = torch.randn(2, 3, 4).double()
    p[0, 0] = 5.
    out,mean,scale = normed(p)
    for i in range(2):
        for j in range(3):
            m = sum(p[i, j].tolist())/4
            v = sum((o-m)**2 for o in p[i, j].tolist())/3
            assert torch.allclose(out[i, j], (p[i, j]-m)/(v+1e-6)**.5)
    assert not out[0, 0].any() and torch.allclose(out*scale + mean, p)

def test_the_decoder_by_hand():
    d = Decoder(6, 8, 1, 2, 5, (2, 3)).double().eval()
    front,seen,keep = torch.randn(2, 1, 6).double(),torch.randn(2, 2, 6).double(),torch.tensor([[0, 4], [2, 3]])
    got = d(Tokens(front, seen, (2, 3)), keep)
    for i in range(2):
        row = [d.mask_token[0, 0]]*6
        for k,at in enumerate(keep[i].tolist()): row[at] = d.embed(seen[i, k])
        x = torch.stack(row) + sincos((2, 3), 8)[0]
        x = torch.cat([d.embed(front[i]), x])[None]
        assert torch.allclose(got[i], d.pixels(d.norm(d.blocks[0](x)))[0, 1:], atol=1e-6)
    more = d(Tokens(front, seen, (3, 3)), keep)         # images of another size
    assert more.shape == (2, 9, 5)

def test_a_grid_brought_to_another():
    a = torch.randn(2, 1, 1, 3)
    two = torch.tensor([0., 4.]).view(1, 2, 1)
    assert torch.allclose(resized(two, (1, 2), (1, 4)).flatten(), torch.tensor([0., 1., 3., 4.]))
    four = torch.tensor([0., 1., 3., 4.]).view(1, 4, 1)
    # a triangle over 4 pixels of 1 each about the middle of the new one, cut at the border: 3:3:1 and 1:3:3
    assert torch.allclose(resized(four, (1, 4), (1, 2)).flatten(), torch.tensor([6/7, 22/7]))
    same = torch.randn(2, 6, 5)
    assert torch.allclose(resized(same, (2, 3), (2, 3)), same, atol=1e-6)
    const = a.expand(2, 4, 4, 3).flatten(1, 2)
    assert torch.allclose(resized(const, (4, 4), (3, 7)), a.expand(2, 3, 7, 3).flatten(1, 2), atol=1e-6)

# --- masks ------------------------------------------------------------------------------------------------------------
def test_random_masks():
    g = lambda: torch.Generator().manual_seed(3)
    before = torch.get_rng_state()
    keep = random_keep(4000, 10, .7, g())
    assert torch.equal(before, torch.get_rng_state()) and torch.equal(keep, random_keep(4000, 10, .7, g()))
    assert keep.shape == (4000, 3) and keep.dtype == torch.int64 and (keep.diff() > 0).all()
    assert keep.min() == 0 and keep.max() == 9
    share = torch.bincount(keep.flatten(), minlength=10)/4000
    assert (share-.3).abs().max() < 4.5*(.3*.7/4000)**.5        # of ten binomials
    assert len({tuple(o) for o in keep.tolist()}) == 120       # all subsets
    assert not torch.equal(random_keep(8, 10, .7), random_keep(8, 10, .7))
    rest = hidden(keep, 10)
    assert rest.shape == (4000, 7)
    assert (torch.cat([keep, rest], 1).sort(1).values == torch.arange(10)).all() and (rest.diff() > 0).all()

@pytest.mark.parametrize('n,ratio,k', [(196, .75, 49), (49, .75, 12), (10, .9, 1), (16, .5, 8)])
def test_how_many_stay(n, ratio, k): assert n_kept(n, ratio) == k

@pytest.mark.parametrize('n,ratio', [(4, .9), (1, .5), (16, 1e-9)])
def test_masks_that_leave_none_or_all(n, ratio):
    with pytest.raises(ValueError, match=f'keeps 1 to {n-1} of {n} patches'): n_kept(n, ratio)

def by_hand(tokens, keep, prefix):
    "Tokens before the patches, and those that stay, one by one"
    rows = [[*range(prefix), *(prefix+k for k in one)] for one in keep.tolist()]
    return torch.stack([t[r] for t,r in zip(tokens, rows)])

def tiny_case():
    net = student(5, 3)
    def forward(x, keep):
        t = net.patch_embed(x).flatten(2).transpose(1, 2) + net.pos_embed
        t = by_hand(torch.cat([net.cls_token.expand(len(x), -1, -1), t], 1), keep, 1)
        for b in net.blocks: t = b(t)
        return net.head(net.norm(t)[:, 1:].mean(1))
    return net,torch.randn(3, 3, 8, 8),16,forward,net.blocks

def torchvision_case():
    net = torchvision.models.VisionTransformer(16, 4, 2, 2, 16, 32, num_classes=5).eval()
    nn.init.normal_(net.heads.head.weight)
    def forward(x, keep):
        t = net._process_input(x)
        t = torch.cat([net.class_token.expand(len(x), -1, -1), t], 1) + net.encoder.pos_embedding
        t = net.encoder.layers(by_hand(t, keep, 1))
        return net.heads(net.encoder.ln(t)[:, 0])
    return net,torch.randn(3, 3, 16, 16),16,forward,net.encoder.layers

def timm_case(**kwargs):
    timm = pytest.importorskip('timm')
    net = timm.models.VisionTransformer(16, 4, embed_dim=16, depth=2, num_heads=2, num_classes=5, **kwargs).eval()
    nn.init.normal_(net.head.weight)
    def forward(x, keep):
        t = by_hand(net.norm_pre(net._pos_embed(net.patch_embed(x))), keep, net.num_prefix_tokens)
        for b in net.blocks: t = b(t)
        return net.forward_head(net.norm(t))
    return net,torch.randn(3, 3, 16, 16),16,forward,net.blocks

@pytest.mark.parametrize('case', [tiny_case, torchvision_case, timm_case, partial(timm_case, reg_tokens=4),
                                  partial(timm_case, class_token=False, global_pool='avg'),
                                  partial(timm_case, reg_tokens=2, no_embed_class=True, global_pool='avg')],
                         ids=['tiny', 'torchvision', 'timm', 'registers', 'no class', 'registers, pooled'])
def test_a_masked_forward_pass_by_hand(case):
    net,x,n,forward,blocks = case()
    keep = random_keep(len(x), n, .6)
    whole,seen = net(x),[]
    counters = [b.register_forward_hook(lambda m, a, out: seen.append(out.shape[1])) for b in blocks]
    seen.clear()
    with masked(net, keep) as m: got = net(x)
    for h in counters: h.remove()
    assert seen == [keep.shape[1]+ViT(net).prefix]*len(blocks) and keep.shape[1] == 6   # the rest costs nothing
    assert m.keep is keep and torch.allclose(got, forward(x, keep), atol=1e-5)
    assert torch.equal(net(x), whole) and not torch.allclose(got, whole, atol=1e-3)
    with masked(net, lambda b, n, device: torch.arange(n).expand(b, n)): assert torch.allclose(net(x), whole, atol=1e-5)
    assert hooks_of(net) == []

def test_masks_that_are_none():
    net,x = student(),torch.randn(2, 1, 8, 8)
    for bad in ([0, 1], torch.rand(2, 3), torch.zeros(3, dtype=torch.int64), torch.zeros(2, 0, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r'positions of patches \(b,k\), int64'): masked(net, bad)
    with pytest.raises(ValueError, match='from 0 on, got -1'): masked(net, torch.tensor([[-1]]))
    for bad in (torch.tensor([[16], [0]]), torch.tensor([[0]])):
        with pytest.raises(ValueError, match='from 0 to 15 for 2 images'):
            with masked(net, bad): net(x)
    assert hooks_of(net) == []

def test_networks_that_cannot_be_masked():
    with pytest.raises(ValueError, match='expected a network with blocks of attention'): masked(small_cnn(3), len)
    net = student()
    net.grad_checkpointing = True
    with pytest.raises(ValueError, match='set_grad_checkpointing'):
        with masked(net, len): pass
    net = student()
    inner = net.blocks.forward
    def forward(x):
        for b in net.blocks: x = b(x, mask=torch.ones(1))
        return x
    for b in net.blocks:
        old = b.forward
        b.forward = lambda x, mask=None, old=old: old(x)
    net.blocks.forward = forward
    with pytest.raises(ValueError, match='another input beside the tokens'):
        with masked(net, lambda b, n, device: random_keep(b, n, .5)): net(torch.zeros(2, 1, 8, 8))
    net.blocks.forward = inner
    assert hooks_of(net) == []

@pytest.mark.parametrize('name', ['eva02_tiny_patch14_224', 'swin_tiny_patch4_window7_224'])
def test_rotary_and_windowed_networks_are_refused_by_name(name):
    timm = pytest.importorskip('timm')
    small = dict(depth=2, img_size=28)
    if 'swin' in name: small = dict(img_size=56, depths=(2, 2), num_heads=(1, 2), embed_dim=8)
    net = timm.create_model(name, **small)
    with pytest.raises(ValueError, match='with (rotary positions|more: layers)'): masked(net, len)

@pytest.mark.parametrize('T', [MaskedInput, MAEPretrain])
def test_bad_masks_at_the_door(T):
    for bad,says in ((0, 'masks none'), (1., 'leaves no patch'), (-.1, 'masks none'), (float('nan'), '.75')):
        with pytest.raises(ValueError, match=says): T(bad)
    with pytest.raises(TypeError, match='`mask_ratio` must be a number'): T('.75')
    with pytest.raises(ValueError, match='keeps 1 to 15 of 16 patches, got 0.99'): tiny_learner(T(.99), net=student)
    with pytest.raises(ValueError, match='blocks of attention'): tiny_learner(T())      # a convolutional network

# --- where tokens come out --------------------------------------------------------------------------------------------
def found(net, x, **kwargs):
    net.eval()
    place = find_place(net, x, **kwargs)
    with at_rest(net): t = tokens_of(net, place, x)
    assert hooks_of(net) == [] and 'forward_features' not in vars(net)
    return place,t

def flat(maps): return maps.flatten(2).transpose(1, 2)

def test_features_of_torchvision():
    x = torch.randn(2, 3, 64, 64)
    tv = torchvision.models
    with torch.no_grad():
        net = tv.resnet18()
        _,t = found(net, x)
        body = nn.Sequential(*list(net.children())[:-2])
        assert t.grid == (2, 2) and torch.allclose(t.patches, flat(body(x)), atol=1e-5)
        net = tv.SwinTransformer([4, 4], 8, [2, 2], [1, 2], [2, 2])
        _,t = found(net, x)
        assert t.grid == (8, 8) and torch.allclose(t.patches, net.norm(net.features(x)).flatten(1, 2), atol=1e-5)
        net = tv.DenseNet(4, (1, 1), 8)
        _,t = found(net, x)
        assert torch.allclose(t.patches, flat(net.features(x)), atol=1e-5)
        net = tv.mobilenet_v3_small()       # pools in its blocks too
        _,t = found(net, x)
        assert torch.allclose(t.patches, flat(net.features(x)), atol=1e-5)
        net = tv.VisionTransformer(64, 16, 3, 2, 16, 32)
        place,t = found(net, x, block=1)
        y = torch.cat([net.class_token.expand(2, -1, -1), net._process_input(x)], 1) + net.encoder.pos_embedding
        y = net.encoder.layers[:2](y)
        assert torch.allclose(torch.cat([t.prefix, t.patches], 1), y, atol=1e-5) and t.grid == (4, 4)
        assert place.prefix == 1 and torch.equal(found(net, x)[1].patches, found(net, x, block=-1)[1].patches)

def test_features_of_timm():
    timm = pytest.importorskip('timm')
    x = torch.randn(2, 3, 64, 64)
    of = timm.create_model
    stages = dict(depths=(2, 2), num_heads=(1, 2), embed_dim=8)
    with torch.no_grad():
        net = of('swin_tiny_patch4_window7_224', img_size=64, window_size=2, **stages)
        _,t = found(net, x)
        assert t.grid == (8, 8) and torch.equal(t.patches, net.forward_features(x).flatten(1, 2))
        net = of('convnext_atto', depths=(1, 1, 1, 1), dims=(4, 4, 8, 8))
        _,t = found(net, x)
        assert torch.equal(t.patches, flat(net.forward_features(x))) and t.grid == (2, 2)
        net = of('cait_xxs24_224', img_size=64, depth=1)    # a class token from blocks of its own
        _,t = found(net, x)
        assert torch.equal(torch.cat([t.prefix, t.patches], 1), net.forward_features(x)) and t.prefix.shape[1] == 1
        for name,prefix in (('eva02_tiny_patch14_224', 1), ('vit_small_patch16_dinov3', 5)):
            size = 56 if '14' in name else 64
            net,y = of(name, img_size=size, depth=2),x[..., :size, :size]
            place,t = found(net, y)
            want = net.forward_intermediates(y, indices=[1], norm=False, intermediates_only=True, output_fmt='NLC')[0]
            assert place.prefix == prefix and torch.allclose(t.patches, want, atol=1e-5) and t.grid == (4, 4)

def test_features_of_others():
    x = torch.randn(2, 3, 32, 32)
    net = small_cnn(3, 3, 8)
    with torch.no_grad(): assert torch.allclose(found(net, x)[1].patches, flat(net[:-3](x)), atol=1e-6)
    with pytest.raises(ValueError, match='tokens .* or feature maps .*, got Sequential, in which none'):
        find_place(nn.Sequential(nn.Flatten(), nn.Linear(3072, 4)), x)
    with pytest.raises(ValueError, match='one sequence of blocks to take `teacher_block` from, got Sequential'):
        find_place(net, x, 3, name='teacher_block')
    class Merging(nn.Module):
        "A transformer that merges patches between its blocks"
        def __init__(self):
            super().__init__()
            self.embed = nn.Conv2d(3, 8, 8, 8)
            self.blocks = nn.ModuleList([nn.TransformerEncoderLayer(8, 2, 8, batch_first=True) for _ in range(2)])
        def forward(self, x):
            t = self.blocks[0](flat(self.embed(x)))
            return self.blocks[1](t.unflatten(1, (4, 4)).unflatten(2, (2, 2))[:, ::2].mean(3).flatten(1, 2)).mean(1)
    assert found(Merging(), x)[1].grid == (2, 2)
    dls = tiny_dls(channels=3, size=32, n=8, bs=4)
    with pytest.raises(ValueError, match='cuts images into patches, got Merging, which makes 4 tokens of .32, 32.'):
        unlabelled(MAEPretrain(), lambda c, ch: Merging(), dls)
    with pytest.raises(ValueError, match='a network that takes some of its tokens, got Merging'):
        unlabelled(MaskedInput(), lambda c, ch: Merging(), dls)

# --- first batches by hand --------------------------------------------------------------------------------------------
def ends(net, x):
    "Tokens after the last block"
    t = net.patch_embed(x).flatten(2).transpose(1, 2) + net.pos_embed
    return net.blocks(torch.cat([net.cls_token.expand(len(x), -1, -1), t], 1))

def test_feature_loss_by_hand():
    t = teacher()
    learn = tiny_learner(FeatureDistill(t, beta=.5, lam=.7), net=student)
    w = learn.model
    assert type(w) is FeatureNet and w.adapter.weight.shape == (32, 16) and w.front
    seen = first(learn)
    with torch.no_grad():
        mine = w.adapter(ends(w.net, seen.images)).double()
        theirs = ends(t.eval(), seen.images).double()
        theirs = (theirs-theirs.mean(-1, keepdim=True))/(theirs.var(-1, keepdim=True, unbiased=False)+1e-5).sqrt()
        e = (mine-theirs).abs()
        want = torch.where(e <= .5, e**2, e-.25).mean()
        ce = F.cross_entropy(w.net(seen.images), seen.labels)
    assert seen.value == pytest.approx((ce + .7*want).item(), rel=1e-5)
    assert all(p.grad is None for p in t.parameters())

def test_blocks_and_tokens_are_those_that_are_asked_for():
    t = teacher()
    learn = tiny_learner(FeatureDistill(t, 0, -2, tokens='patch'), net=student)
    w = learn.model
    seen = first(learn)
    def after_one(net):
        y = net.patch_embed(seen.images).flatten(2).transpose(1, 2) + net.pos_embed
        return net.blocks[0](torch.cat([net.cls_token.expand(len(y), -1, -1), y], 1))[:, 1:]
    with torch.no_grad():
        e = w.adapter(after_one(w.net)) - F.layer_norm(after_one(t.eval()), (32,))
        want = F.smooth_l1_loss(e, torch.zeros_like(e), beta=2.) + F.cross_entropy(w.net(seen.images), seen.labels)
    assert not w.front and seen.value == pytest.approx(want.item(), rel=1e-5)
    with pytest.raises(ValueError, match='`teacher_block` must be a block of the teacher with 3'):
        tiny_learner(FeatureDistill(t, 3), net=student)
    with pytest.raises(ValueError, match='`student_block` must be a block of the student with 2'):
        tiny_learner(FeatureDistill(t, student_block=2), net=student)

@pytest.mark.parametrize('masks', [MaskedInput, MAEPretrain])
def test_masked_features_by_hand(one_mask, masks):
    t = teacher()
    cbs = [FeatureDistill(t), masks(**(dict(lam=1e-12) if masks is MAEPretrain else {}))]
    learn = unlabelled(cbs)
    seen = first(learn)
    w,net = wrappers(learn.model, FeatureNet)[0],student(0)
    net.load_state_dict(learn.model.state_dict(), strict=False)
    at = [0, *(1+one_mask).tolist()]
    with torch.no_grad():
        y = net.patch_embed(seen.images).flatten(2).transpose(1, 2) + net.pos_embed
        y = torch.cat([net.cls_token.expand(len(y), -1, -1), y], 1)[:, at]
        e = w.adapter(net.blocks(y)) - F.layer_norm(ends(t.eval(), seen.images)[:, at], (32,))
    assert seen.value == pytest.approx(F.smooth_l1_loss(e, torch.zeros_like(e), beta=2.).item(), rel=1e-5)

def test_class_loss_by_hand():
    t = teacher()
    learn = tiny_learner(ClassDistill(t, lam=.7), net=student)
    w = learn.model
    seen = first(learn)
    with torch.no_grad():
        mine = w.adapter(w.net.norm(ends(w.net, seen.images))[:, 0]).double()
        theirs = t.norm(ends(t.eval(), seen.images))[:, 0].double()
        kl = F.kl_div(mine.log_softmax(1), theirs.softmax(1), reduction='batchmean')
        ce = F.cross_entropy(w.net(seen.images), seen.labels)
    assert seen.value == pytest.approx((ce + .7*kl).item(), rel=1e-5)

def test_no_adapter_where_widths_agree():
    learn = tiny_learner(ClassDistill(tiny_vit(8, 2, 16, 1, 2, 1)), net=student)
    assert type(learn.model.adapter) is nn.Identity and not learn.model.own()
    learn.fit(1)

def test_without_a_class_token_it_is_the_mean():
    cnn = small_cnn(3, 1, 8, depth=1).eval()
    x = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        t = tokens_of(cnn, find_place(cnn, x), x)
        assert torch.allclose(summary(cnn, t), cnn[:-3](x).mean((2, 3)), atol=1e-6)
    learn = unlabelled(ClassDistill(cnn))
    assert learn.model.adapter.weight.shape == (8, 16)
    learn.fit(1)
    timm = pytest.importorskip('timm')
    kw = dict(img_size=8, patch_size=2, in_chans=1, embed_dim=8, depth=1, num_heads=2, reg_tokens=2)
    net = timm.models.VisionTransformer(class_token=False, global_pool='avg', fc_norm=False, **kw).eval()
    with torch.no_grad():
        t = tokens_of(net, find_place(net, x), x)
        assert t.prefix.shape[1] == 2       # registers are no class
        assert torch.allclose(summary(net, t), net.norm(t.patches.mean(1)), atol=1e-6)

@pytest.mark.parametrize('norm_pix', [True, False])
def test_painted_pixels_by_hand(one_mask, norm_pix):
    learn = tiny_learner(MAEPretrain(dim=8, lam=.7, norm_pix=norm_pix), net=student)
    w = learn.model
    assert type(w) is MAENet and w.patch == (2, 2) and w.decoder.pixels.out_features == 4
    seen = first(learn)
    net,d = w.net,w.decoder
    with torch.no_grad():
        y = net.patch_embed(seen.images).flatten(2).transpose(1, 2) + net.pos_embed
        y = net.norm(net.blocks(torch.cat([net.cls_token.expand(len(y), -1, -1), y[:, one_mask]], 1)))
        ce = F.cross_entropy(net.head(y[:, 1:].mean(1)), seen.labels)     # of what it was shown
        y = d.embed(y)
        full = d.mask_token.expand(len(y), 16, -1).clone()
        full[:, one_mask] = y[:, 1:]
        pred = d.pixels(d.norm(d.blocks(torch.cat([y[:, :1], full + sincos((4, 4), 8)], 1))))[:, 1:].double()
        total,count = 0.,0
        for i,image in enumerate(seen.images[:, 0].double()):
            for k in range(16):
                if k in one_mask: continue
                patch = image[k//4*2:, k%4*2:][:2, :2].flatten()
                if norm_pix: patch = (patch-patch.mean())/(patch.var()+1e-6).sqrt()
                total,count = total + ((pred[i, k]-patch)**2).sum(),count+4
    assert seen.value == pytest.approx((ce + .7*total/count).item(), rel=1e-5)

def test_pixels_that_were_shown_have_no_part():
    learn = unlabelled(MAEPretrain())
    w,x = learn.model.train(),torch.rand(3, 1, 8, 8)
    grads = []
    w.decoder.pixels.register_forward_hook(lambda m, args, out: out.register_hook(grads.append) and None)
    torch.manual_seed(0)
    kept,seen = w(x).aux
    assert isinstance(kept, Kept) and kept.keep.shape == (3, 4)
    MAEPretrain().terms(seen, None)['mae'].backward()
    moved = grads[0].abs().sum(2) > 0
    assert not moved.gather(1, kept.keep).any() and moved.sum() == 36
    # an image that differs where it was not shown: the same paint, another loss
    y = x.clone()
    at = hidden(kept.keep, 16)[:, 0]
    for i,k in enumerate(at.tolist()): y[i, 0, k//4*2, k%4*2] += 1
    torch.manual_seed(0)
    again = w(y).aux[-1]
    assert torch.equal(again.pred, seen.pred) and not torch.equal(again.want, seen.want)

def test_it_paints_what_the_student_was_given():
    x,plain = torch.rand(2, 1, 8, 8),torch.zeros(2, 1, 8, 8)
    t = MAEPretrain()
    learn = unlabelled(t)
    seen = learn.model.eval().look(x)[1]
    assert t.terms(seen, TeacherImage(plain)) == t.terms(seen, x)
    assert torch.equal(seen.want, normed(patches_of(x, 2))[0].gather(1, hidden(random_keep(
        2, 16, .75, torch.Generator().manual_seed(0)), 16)[..., None].expand(-1, -1, 4)))

# --- teachers of other kinds ------------------------------------------------------------------------------------------
def test_any_teacher_teaches_as_the_refusals_say():
    dls = tiny_dls(channels=3, size=32, n=8, bs=4)
    net = lambda c, ch: tiny_vit(32, 4, 16, 1, 2, 3)
    tv = torchvision.models
    teachers = [small_cnn(3, 3, 8), tv.SwinTransformer([4, 4], 8, [2, 2], [1, 2], [2, 2])]
    try: from timm import create_model
    except ImportError: pass
    else: teachers.append(create_model('vit_small_patch16_dinov3', img_size=32, depth=1, embed_dim=48, num_heads=2))
    for t in teachers:
        for T in (FeatureDistill, ClassDistill):
            learn = unlabelled(T(t), net, dls)
            learn.fit(1)
            assert np.isfinite(learn.recorder.values[-1]).all() and t.training
        with pytest.raises(ValueError, match=r'the same patches, got .* and \(8, 8\).*resize=True'):
            unlabelled(FeatureDistill(t, resize=False), net, dls).fit(1)

def test_another_grid_by_hand():
    t = teacher(patch=4)        # 2x2 patches for a student of 4x4
    learn = unlabelled(FeatureDistill(t))
    seen,w = first(learn),learn.model
    with torch.no_grad():
        y = ends(t.eval(), seen.images)
        maps = y[:, 1:].transpose(1, 2).unflatten(2, (2, 2))
        maps = F.interpolate(maps, (4, 4), mode='bilinear')
        y = F.layer_norm(torch.cat([y[:, :1], flat(maps)], 1), (32,))
        e = w.adapter(ends(w.net, seen.images)) - y
    assert seen.value == pytest.approx(F.smooth_l1_loss(e, torch.zeros_like(e), beta=2.).item(), rel=1e-5)

def test_a_masked_student_of_a_teacher_with_another_grid(one_mask):
    "The teacher's map is brought to all patches of the student, then those that it saw are taken"
    cnn = small_cnn(3, 1, 8, depth=2)
    learn = unlabelled([FeatureDistill(cnn), MaskedInput()])
    seen = first(learn)
    w,net = wrappers(learn.model, FeatureNet)[0],student(0)
    net.load_state_dict(learn.model.state_dict(), strict=False)
    with torch.no_grad():
        y = net.patch_embed(seen.images).flatten(2).transpose(1, 2) + net.pos_embed
        y = net.blocks(torch.cat([net.cls_token.expand(len(y), -1, -1), y[:, one_mask]], 1))[:, 1:]
        maps = F.interpolate(cnn.eval()[:-3](seen.images), (4, 4), mode='bilinear')
        e = w.adapter(y) - F.layer_norm(flat(maps)[:, one_mask], (8,))
    assert seen.value == pytest.approx(F.smooth_l1_loss(e, torch.zeros_like(e), beta=2.).item(), rel=1e-5)

def test_convolutional_students_learn_features_too():
    learn = tiny_learner([FeatureDistill(teacher()), ClassDistill(teacher())])
    before = params(learn)
    learn.fit(1)
    assert not torch.equal(params(learn), before)
    names = learn.recorder.metric_names
    assert 'feature' in names and 'class_token' in names and np.isfinite(learn.recorder.values[-1]).all()

def test_tokens_before_the_patches():
    timm = pytest.importorskip('timm')
    kw = dict(img_size=8, patch_size=2, in_chans=1, embed_dim=8, depth=1, num_heads=2)
    for reg,front in ((0, True), (4, False)):
        learn = unlabelled(FeatureDistill(timm.models.VisionTransformer(reg_tokens=reg, **kw)))
        seen = learn.model.eval().look(torch.rand(1, 1, 8, 8))[1]
        assert learn.model.front is front and seen.tokens.shape[1] == 16+front
        learn.fit(1)

# --- company ----------------------------------------------------------------------------------------------------------
def row(learn): return dict(zip(learn.recorder.metric_names[1:-1], learn.recorder.values[-1], strict=True))

@pytest.mark.parametrize('masks', [MaskedInput, MAEPretrain])
@pytest.mark.parametrize('turned', [False, True])
def test_relations_of_the_same_patches(masks, turned):
    "Those of the first block are of each token alone: a teacher that is the student has the same, at the same patches"
    t = tiny_vit(8, 2, 16, 1, 2, 1)
    cbs = [TinyMIM(t), masks()]
    learn = unlabelled(cbs[::-1] if turned else cbs, lambda c, ch: copy.deepcopy(t))
    seen = []
    class Spy(Callback):
        def after_batch(self):
            if not seen: seen.append({k: float(s)/n for k,(s,n) in self.tinymim._sums.items()})
    learn.fit(1, cbs=Spy())
    assert set(seen[0]) == {'qk', 'vv'} and max(map(abs, seen[0].values())) < 1e-6

def test_columns_of_company():
    def both(*cbs):
        learn = unlabelled(list(cbs))
        learn.fit(1)
        assert np.isfinite(learn.recorder.values[-1]).all() and hooks_of(learn.model) == []
        return row(learn)
    got = both(TinyMIM(teacher()), MAEPretrain())
    assert set(got) >= {'mae', 'tinymim', 'qk', 'vv'} and got['tinymim'] == pytest.approx(got['qk']+got['vv'], rel=1e-5)
    assert both(MAEPretrain(), TinyMIM(teacher())) == got
    got = both(TinyMIM(teacher()), MaskedInput())
    assert 'mae' not in got and 'maskedinput' not in got
    got = both(FeatureDistill(teacher()), TinyMIM(teacher()), ClassDistill(teacher()))
    assert set(got) >= {'feature', 'tinymim', 'qk', 'vv', 'class_token'} and list(got).count('feature') == 1
    assert got['train_loss'] > 0

def test_the_column_is_the_mean_of_the_batches():
    learn,seen = unlabelled(MAEPretrain(lam=.5)),[]
    class Spy(Callback):
        order = 45
        def after_loss(self):
            if self.training: seen.append(self.loss.item()/.5)
    learn.fit(1, cbs=Spy())
    assert row(learn)['mae'] == pytest.approx(np.mean(seen), rel=1e-5)

def test_two_masks_are_refused():
    with pytest.raises(ValueError, match='maepretrain both choose the patches|maskedinput both choose the patches'):
        unlabelled([MaskedInput(), MAEPretrain()]).fit(1)

@pytest.mark.parametrize('order', [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_whoever_came_first_the_parameters_have_one_order(order):
    cbs = [FeatureDistill(teacher()), MAEPretrain(), ClassDistill(teacher())]
    net = unlabelled([cbs[i] for i in order]).model
    assert [type(m) for m in net.modules() if isinstance(m, Surgery)] == [MAENet, FeatureNet, ClassNet]
    assert torch.equal(torch.cat([p.flatten() for p in unlabelled(cbs_again()).model.parameters()]),
                       torch.cat([p.flatten() for p in net.parameters()]))

def cbs_again(): return [FeatureDistill(teacher()), MAEPretrain(), ClassDistill(teacher())]

@pytest.mark.parametrize('case', [torchvision_case, partial(timm_case, reg_tokens=4),
                                  partial(timm_case, class_token=False, global_pool='avg')],
                         ids=['torchvision', 'registers', 'no class'])
def test_students_of_other_libraries(case):
    case()      # is timm there?
    net = lambda c, ch: case()[0]
    dls = tiny_dls(channels=3, size=16, n=8, bs=4)
    t = tiny_vit(16, 8, 16, 1, 2, 3)
    learn = unlabelled([MAEPretrain(), FeatureDistill(t), TinyMIM(t, tokens='patch')], net, dls)
    with pytest.raises(ValueError, match='the same tokens'): learn.fit(1)       # relations need one grid
    learn.remove_cb(TinyMIM)
    learn.fit(1)
    assert np.isfinite(learn.recorder.values[-1]).all() and hooks_of(learn.model) == []
    assert len(show_masked(learn, 2).axes) == 6

# --- validation -------------------------------------------------------------------------------------------------------
def test_masks_in_validation_are_fixed():
    learn = unlabelled(MAEPretrain(lam=.5))
    learn.fit(1)
    a = learn.validate()[0]
    assert a == learn.validate()[0]
    w,total,count = learn.model.eval(),0.,0
    for b in learn.dls.valid:
        x = b[0].as_subclass(torch.Tensor)
        state = torch.get_rng_state()
        with torch.no_grad(): _,pred,keep = w.paint(x)
        assert torch.equal(state, torch.get_rng_state())
        assert torch.equal(keep, random_keep(len(x), 16, .75, torch.Generator().manual_seed(0)))
        want = normed(patches_of(x, 2))[0]
        hide = torch.ones(len(x), 16).scatter(1, keep, 0.)
        loss = (((pred-want)**2).mean(2)*hide).sum()/hide.sum()
        total,count = total + loss.item()*len(x),count+len(x)
    assert a == pytest.approx(.5*total/count, rel=1e-4)

def test_evaluation_sees_whole_images():
    for t in (MAEPretrain(), MaskedInput()):
        learn = tiny_learner(t, net=student)
        x = torch.rand(2, 1, 8, 8)
        inner = learn.model.net
        assert torch.equal(learn.model.eval()(x), inner.eval()(x))
        out = learn.model.train()(x)
        assert not torch.allclose(out.main, inner(x)) and isinstance(out.aux[0], Kept)

# --- coming and going -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('T', [FeatureDistill, ClassDistill, MAEPretrain])
def test_what_is_the_wrappers_own_trains_and_goes(T, tmp_path):
    learn = tiny_learner(make(T), net=student, path=tmp_path)
    w = learn.model
    mine = [p.detach().clone() for p in w.own()]
    assert mine and len(w.own()) == len(list(w.parameters())) - len(list(w.net.parameters()))
    learn.freeze()
    learn.fit(1, 1e-2)
    assert all(not torch.equal(a, b) for a,b in zip(mine, w.own()))
    learn.export('t.pkl')
    assert (tmp_path/'t.pkl').stat().st_size < 150_000
    x = tiny_arrays()[0][:5]
    want = learn.get_preds(dl=learn.dls.test_dl(x))[0]
    learn.save('with')
    for p in w.parameters(): p.data.zero_()
    learn.load('with')
    assert torch.equal(learn.get_preds(dl=learn.dls.test_dl(x))[0], want)
    back = load_learner(tmp_path/'t.pkl')
    assert torch.allclose(back.get_preds(dl=back.dls.test_dl(x))[0], want, atol=1e-6)
    if T is not MAEPretrain:
        with pytest.raises(ValueError, match='with its teacher, got one from a file'): back.fit(1)
    learn.remove_cb(T)
    assert learn.model is w.net and {k.split('.')[0] for k in learn.model.state_dict()} <= {
        'cls_token', 'patch_embed', 'blocks', 'norm', 'head'}
    assert torch.equal(learn.get_preds(dl=learn.dls.test_dl(x))[0], want)
    plain = tiny_learner(net=student, path=tmp_path)
    with pytest.raises(RuntimeError, match=f'of {T.__name__}: load with strict=False'): plain.load('with')
    plain.load('with', strict=False)
    assert torch.allclose(plain.get_preds(dl=plain.dls.test_dl(x))[0], want, atol=1e-6)
    learn.add_cb(make(T))
    learn.fit(1)

@pytest.mark.parametrize('T', MINE)
@pytest.mark.parametrize('event', ['after_pred', 'after_loss', 'inside'])
def test_a_ctrl_c_leaves_nothing(T, event):
    learn = tiny_learner(make(T), net=student)
    h = None
    if event == 'inside':
        def stop(*_): raise KeyboardInterrupt
        h = learn.model.net.blocks[-1].register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        learn.fit(1, cbs=None if h else Raise(KeyboardInterrupt(), event))
    if h: h.remove()
    nets = [learn.model] + ([learn.cbs.filter(lambda c: isinstance(c, T))[0].teacher] if hasattr(T, 'teacher') else [])
    assert all(hooks_of(n) == [] for n in nets)
    learn.fit(1)
    learn.remove_cb(T)
    assert not any(isinstance(m, Surgery) for m in learn.model.modules())

def test_a_convolutional_teacher_and_ctrl_c():
    class Timms(nn.Module):
        "A network as timm writes them, whose features are no module's output"
        def __init__(self):
            super().__init__()
            self.a,self.head = nn.Conv2d(1, 8, 2, 2),nn.Linear(8, 2)
        def forward_features(self, x): return self.a(x).relu()
        def forward(self, x): return self.head(self.forward_features(x).mean((2, 3)))
    t,x = Timms(),torch.rand(2, 1, 8, 8)
    place = find_place(t, x)
    assert place == Place(None) and torch.equal(tokens_of(t, place, x).patches, flat(t.forward_features(x)))
    t.forward_features = types.MethodType(lambda self, x: 1/0, t)   # a user's own
    mine = t.forward_features
    with pytest.raises(ZeroDivisionError): tokens_of(t, place, x)
    assert t.forward_features is mine

def test_a_replaced_network_is_noticed():
    learn = unlabelled(FeatureDistill(teacher()))
    w = learn.model
    w.net.blocks = nn.Sequential(*[nn.Identity(), w.net.blocks[0]])
    w.place = w.place._replace(name='head')
    with pytest.raises(ValueError, match='does not use the block'): learn.fit(1)

# --- bad input --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('kw,kind,says', [
    (dict(beta=0), ValueError, '`beta` must be positive'), (dict(beta='2'), TypeError, '`beta` must be a number'),
    (dict(tokens='cls'), ValueError, "'all' or 'patch'"), (dict(resize='yes'), TypeError, '`resize` must be True or'),
    (dict(teacher_block=1.5), ValueError, '`teacher_block` must be a whole number'),
    (dict(student_block=None), ValueError, '`student_block` must be a whole number'),
    (dict(lam=0), ValueError, '`lam` must be positive')])
def test_bad_settings_of_features(kw, kind, says):
    with pytest.raises(kind, match=says): FeatureDistill(teacher(), **kw)

@pytest.mark.parametrize('kw,kind,says', [
    (dict(dim=2), ValueError, '`dim` must be a whole number from 4'), (dict(depth=-1), ValueError, '`depth` must be'),
    (dict(heads=0), ValueError, '`heads` must be'), (dict(norm_pix=1), TypeError, '`norm_pix` must be True or False')])
def test_bad_settings_of_pixels(kw, kind, says):
    with pytest.raises(kind, match=says): MAEPretrain(**kw)

def test_truth_of_numpy_is_truth():
    t = MAEPretrain(norm_pix=np.bool_(False))
    assert t.norm_pix is False and FeatureDistill(teacher(), resize=np.True_).resize is True

def test_bad_company():
    for T in (FeatureDistill, ClassDistill):
        with pytest.raises(TypeError, match='`teacher` to be a network or a Learner'): T('vit_base')
    for kw in (dict(dim=10), dict(dim=16, heads=3)):
        with pytest.raises(ValueError, match='multiple of 4 and of `heads`'): unlabelled(MAEPretrain(**kw))
    one = lambda c, ch: tiny_vit(8, 1, 16, 1, 2, 1)
    with pytest.raises(ValueError, match='patches of one.*norm_pix=False'): unlabelled(MAEPretrain(), one)
    unlabelled(MAEPretrain(norm_pix=False), one).fit(1)
    mlp = lambda c, ch: nn.Sequential(nn.Flatten(), nn.Linear(64, c))
    for who,t,net in (('student', teacher(), mlp), ('teacher', mlp(3, 1), student)):
        cb = FeatureDistill(t)
        with pytest.raises(ValueError, match=f'expected the {who} with tokens'): tiny_learner(cb, net=net)
    rows = torch.utils.data.TensorDataset(torch.rand(8, 5), torch.zeros(8).long())
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader
    dls = DataLoaders(DataLoader(rows, bs=4), DataLoader(rows, bs=4))
    learn = Learner(dls, nn.Linear(5, 2), nn.CrossEntropyLoss())
    for T in MINE:
        with pytest.raises(ValueError, match='loaders of images|blocks of attention'): learn.add_cb(make(T))
    assert type(learn.model) is nn.Linear

# --- it learns --------------------------------------------------------------------------------------------------------
def digits():
    from sklearn.datasets import load_digits
    d = load_digits()
    return array_dls((d.images[:1200]*15).astype('uint8'), d.target[:1200], valid=.2, bs=64, device='cpu')

@pytest.mark.slow
def test_masked_digits_are_painted_better_and_better(tmp_path):
    pytest.importorskip('sklearn')
    set_seed(0)
    dls = digits()
    learn = unlabelled(MAEPretrain(dim=32), lambda c, ch: tiny_vit(8, 2, 32, 2, 2, 1), dls,
                       opt_func=partial(Adam, decouple_wd=True))
    before = learn.validate()[0]
    learn.fit_one_cycle(4, 1e-2)
    after = learn.validate()[0]
    x = torch.cat([b[0] for b in dls.valid]).as_subclass(torch.Tensor)
    assert after < .5*before and after < .93*normed(patches_of(x, 2))[0].square().mean()    # of the mean as paint
    fig = show_masked(learn, 3)
    assert len(fig.axes) == 9 and [a.get_ylabel() for a in fig.axes[::3]] == ['image', 'shown', 'painted']
    fig.savefig(tmp_path/'a.png')

def test_the_picture():
    learn = unlabelled(MAEPretrain())
    w,x = learn.model,torch.rand(3, 1, 8, 8)
    for p in w.decoder.pixels.parameters(): p.data.zero_()
    shown,paint = painted(w, x)
    keep = random_keep(3, 16, .75, torch.Generator().manual_seed(0))
    there = torch.zeros(3, 16, dtype=torch.bool).scatter(1, keep, True)
    per_pixel = there.view(3, 1, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(shown.isnan(), ~per_pixel) and torch.equal(shown[per_pixel], x[per_pixel])
    mean = F.avg_pool2d(x, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)     # paint of 0 in the patch's scale
    assert torch.equal(paint[per_pixel], x[per_pixel])
    assert torch.allclose(paint[~per_pixel], mean[~per_pixel], atol=1e-6)
    with pytest.raises(ValueError, match='with MAEPretrain, got one without'): show_masked(unlabelled(MaskedInput()))
    colour = unlabelled(MAEPretrain(norm_pix=False), dls=tiny_dls(channels=3))
    assert len(show_masked(colour, 2).axes) == 6
    assert isinstance(learn.model, MAENet) and not isinstance(learn.model, MaskedNet)
