"Parts of a block that features are taken from, against attention written out in float64; what is left untrained"
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from fastai.callback import schedule    # noqa: F401 (gives Learner its fit_one_cycle)
from fastai.callback.core import Callback
from fastai.callback.fp16 import MixedPrecision
from fastai.torch_core import set_seed
from conftest import tiny_dls, tiny_learner
from fastrobust.compare.mimrows import mim_rows
from fastrobust.nets import small_cnn
from fastrobust.resting import at_rest
from fastrobust.systems.tinymim.features import ClassDistill, FeatureDistill, FeatureNet
from fastrobust.systems.tinymim.finding import PARTS, find_place
from fastrobust.systems.tinymim.inside import Unlabelled, wrappers
from fastrobust.systems.tinymim.learner import tinymim_learner
from fastrobust.systems.tinymim.mae import MAEPretrain
from fastrobust.systems.tinymim.masking import MaskedInput
from fastrobust.systems.tinymim.mimic import TinyMIM
from fastrobust.systems.tinymim.tinyvit import tiny_vit
from fastrobust.systems.tinymim.tokens import tokens_of
from fastrobust.systems.tinymim.trial import is_training_alike

# --- a block written out ---------------------------------------------------------------------------------------------
def parts_by_hand(x, norm1, q, k, v, out, heads, norm2, mlp):
    "Part -> (b,n,d) of a block without biases by position: queries, heads and softmax one by one"
    y = norm1(x)
    q,k,v = (F.linear(y, *o) for o in (q, k, v))
    d = q.shape[-1]//heads
    attended = torch.zeros_like(v)
    for b in range(len(x)):
        for h in range(heads):
            at = slice(h*d, h*d+d)
            for i in range(x.shape[1]):
                logits = torch.stack([q[b, i, at] @ k[b, j, at] for j in range(x.shape[1])])/d**.5
                w = logits.exp()/logits.exp().sum()
                attended[b, i, at] = (w[:, None]*v[b, :, at]).sum(0)
    attn = F.linear(attended, *out)
    ffn = mlp(norm2(x+attn))
    return dict(qkv=torch.cat([q, k, v], -1), attn=attn, ffn=ffn, block=x+attn+ffn)

def three(weight, bias): return list(zip(weight.chunk(3), bias.chunk(3)))
def linear(m): return m.weight,m.bias

def tokens_in(net, x):
    "What goes into the first block"
    seen = []
    first = net.encoder.layers[0] if hasattr(net, 'encoder') else net.blocks[0]
    h = first.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    with torch.no_grad(): net(x)
    h.remove()
    return seen[0]

def tiny():
    net = tiny_vit(8, 4, 8, 2, 2, 3).double().eval()
    b = net.blocks[0]
    return net,b,(b.norm1, *three(*linear(b.attn.qkv)), linear(b.attn.proj), 2, b.norm2, b.mlp)

def of_timm():
    timm = pytest.importorskip('timm')
    net = timm.models.VisionTransformer(8, 4, embed_dim=8, depth=2, num_heads=2, num_classes=0).double().eval()
    b = net.blocks[0]
    nn.init.normal_(b.attn.qkv.bias)
    def mlp(o): return b.mlp.fc2(F.gelu(b.mlp.fc1(o)))
    return net,b,(b.norm1, *three(*linear(b.attn.qkv)), linear(b.attn.proj), 2, b.norm2, mlp)

def of_torchvision():
    net = torchvision.models.VisionTransformer(8, 4, 2, 2, 8, 16).double().eval()
    b = net.encoder.layers[0]
    a = b.self_attention
    nn.init.normal_(a.in_proj_bias)
    return net,b,(b.ln_1, *three(a.in_proj_weight, a.in_proj_bias), linear(a.out_proj), 2, b.ln_2, b.mlp)

@pytest.mark.parametrize('make', [tiny, of_timm, of_torchvision])
def test_parts_of_a_block_by_hand(make):
    torch.manual_seed(0)
    net,_,hand = make()
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad(): want = parts_by_hand(tokens_in(net, x), *hand)
    for at in PARTS:
        place = find_place(net, x, 0, at=at)
        with at_rest(net): got = tokens_of(net, place, x)
        assert got.prefix.shape[1] == 1 and got.grid == (2, 2)
        assert torch.allclose(torch.cat([got.prefix, got.patches], 1), want[at], atol=1e-10), at
    assert len({float(o.sum()) for o in want.values()}) == 4
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())

def test_queries_of_three_layers():
    "As other libraries have them"
    torch.manual_seed(0)
    net,b,hand = tiny()
    class Apart(nn.Module):
        "The same attention with a layer for each"
        def __init__(self):
            super().__init__()
            self.num_heads = 2
            for k,(w,bias) in zip('qkv', hand[1:4]):
                m = nn.Linear(8, 8).double()
                m.weight.data,m.bias.data = w.data,bias.data
                setattr(self, f'{k}_proj', m)
            self.proj = b.attn.proj
        def forward(self, x):
            q,k,v = (o(x).unflatten(-1, (2, 4)).transpose(1, 2) for o in (self.q_proj, self.k_proj, self.v_proj))
            return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    want = tokens_of(net, find_place(net, x, 0, at='qkv'), x).patches
    b.attn = Apart()
    assert torch.allclose(tokens_of(net, find_place(net, x, 0, at='qkv'), x).patches, want, atol=1e-12)

# --- as a technique --------------------------------------------------------------------------------------------------
def student(n_out=0, channels=1, depth=2): return tiny_vit(8, 2, 16, depth, 2, channels, n_out)
def teacher(channels=1):
    with torch.random.fork_rng():
        torch.manual_seed(11)
        return tiny_vit(8, 2, 32, 3, 2, channels)

def unlabelled(cbs, net=lambda c, ch: student(0, ch), **kw):
    return tiny_learner(cbs, loss_func=Unlabelled(), net=net, **kw)

@pytest.mark.parametrize('at, width', [('attn', (16, 32)), ('ffn', (16, 32)), ('qkv', (48, 96))])
def test_the_loss_of_a_part(at, width):
    t = teacher()
    learn = unlabelled(FeatureDistill(t, teacher_block=0, beta=.5, at=at))
    w,x = learn.model.double().eval(),torch.rand(3, 1, 8, 8, dtype=torch.float64)
    assert type(w) is FeatureNet and (w.adapter.in_features, w.adapter.out_features) == width
    t.double()
    got = learn.featuredistill.terms(w.look(x)[1], x)['feature']
    def of(net, block):
        seen = []
        b = net.blocks[block]
        m = dict(attn=b.attn, ffn=b.mlp, qkv=b.attn.qkv)[at]
        h = m.register_forward_hook(lambda m, a, out: seen.append(out))
        with torch.no_grad(): net.eval()(x)
        h.remove()
        return seen[0]
    a,b = w.adapter(of(w.net, -1)),of(t, 0)
    b = (b-b.mean(-1, keepdim=True))/(b.var(-1, keepdim=True, unbiased=False)+1e-5).sqrt()
    e = (a-b).abs()
    assert got.item() == pytest.approx(torch.where(e <= .5, e**2, e-.25).mean().item(), rel=1e-9)
    got.backward()
    # the gradient goes to the queries, and no further than the part
    last = w.net.blocks[-1]
    assert last.attn.qkv.weight.grad.abs().sum() > 0
    assert (last.mlp[0].weight.grad is None) == (at != 'ffn') and (last.attn.proj.weight.grad is None) == (at == 'qkv')

@pytest.mark.parametrize('at', ['attn', 'ffn', 'qkv'])
def test_parts_train_alone_masked_and_beside_labels(at):
    for cbs in ([FeatureDistill(teacher(), at=at)], [FeatureDistill(teacher(), at=at), MaskedInput()],
                [FeatureDistill(teacher(), at=at), MAEPretrain()]):
        set_seed(0)
        learn = unlabelled(cbs)
        before = learn.validate()[0]
        learn.fit(2, 1e-2)
        assert learn.validate()[0] < before
    learn = tiny_learner(FeatureDistill(teacher(), at=at), net=student)
    learn.fit(1)
    assert 'feature' in learn.recorder.metric_names and wrappers(learn.model, FeatureNet)

def test_who_has_no_such_part_is_refused_by_name():
    with pytest.raises(ValueError, match="`at` must be one of 'block', 'attn', 'ffn', 'qkv', got 'mlp'"):
        FeatureDistill(teacher(), at='mlp')
    for bad in (None, ['attn'], 3):
        with pytest.raises(ValueError, match='`at` must be one of'): FeatureDistill(teacher(), at=bad)
    cnn = lambda c, ch: small_cnn(c, ch)
    with pytest.raises(ValueError, match="the student with one sequence.*at='attn', got Sequential. Leave `at` out"):
        unlabelled(FeatureDistill(teacher(), at='attn'), cnn)
    with pytest.raises(ValueError, match="the teacher with one sequence.*at='qkv', got Sequential. Leave `at` out"):
        unlabelled(FeatureDistill(small_cnn(3, 1), at='qkv'))
    net = teacher()
    for b in net.blocks: b.body,b.mlp = b.mlp,None
    with pytest.raises(ValueError, match="the teacher with an MLP in its blocks.*at='block'"):
        unlabelled(FeatureDistill(net, at='ffn'))

def test_attention_of_another_kind_has_parts_but_no_plain_queries():
    timm = pytest.importorskip('timm')
    t = timm.create_model('eva02_tiny_patch14_224', img_size=28, depth=1, num_classes=0)
    dls,net = tiny_dls(channels=3, size=28, n=8, bs=4),lambda c, ch: tiny_vit(28, 14, 16, 1, 2, 3)
    for at in ('attn', 'ffn'): unlabelled(FeatureDistill(t, at=at), net, dls=dls).fit(1)
    with pytest.raises(ValueError, match='rotary positions. Distil its features instead'):
        unlabelled(FeatureDistill(t, at='qkv'), net, dls=dls)

@pytest.mark.parametrize('name, at', [('feature', 'block'), ('feature:at=attn', 'attn'), ('feature:at=qkv', 'qkv'),
                                      ('feature:at=ffn, masked', 'ffn')])
def test_rows_of_a_study(name, at):
    made = mim_rows([name])[name].make(teacher())
    assert type(made[0]) is FeatureDistill and made[0].at == at and len(made) == 1+('masked' in name)

@pytest.mark.parametrize('name, says', [
    ('feature:at=mlp', "'mlp' is no part of a block"), ('relation:at=attn', "'relation' does not take 'at'"),
    ('feature:at', "'at' is no option"), ('feature:at=attn,at=ffn', 'each option once')])
def test_rows_that_are_none(name, says):
    with pytest.raises(ValueError, match=says): mim_rows([name])

# --- what is left untrained ------------------------------------------------------------------------------------------
@pytest.mark.parametrize('block, at, want', [(0, 'block', 1), (1, 'ffn', 2), (-1, 'block', None), (-1, 'ffn', None),
                                             (2, 'attn', 2), (-1, 'qkv', 2), (0, 'qkv', 0)])
def test_features_of_an_early_block_leave_the_rest_untrained(block, at, want):
    dls,s = tiny_dls(),student(depth=3)
    learn = tinymim_learner(dls, s, technique=FeatureDistill(teacher(), student_block=block, at=at), wd=0.)
    assert learn.trained_to == want
    start = [{k: v.clone() for k,v in b.state_dict().items()} for b in s.blocks]
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-2)
    assert learn.trained_to == want
    moved = [[k for k,v in b.state_dict().items() if not torch.equal(v, old[k])] for b,old in zip(s.blocks, start)]
    whole = [len(m) == len(old) for m,old in zip(moved, start)]
    assert whole == [want is None or i < want for i in range(3)]
    if want is not None: assert not any(moved[want+1:]) and bool(moved[want]) == (at in ('attn', 'qkv'))
    if want == 0: return
    clf = learn.to_classifier(tiny_dls(), 'auto')
    assert len(clf.heads) == (3 if want is None else want)

def test_all_of_them_count():
    t = teacher()
    def to(*ts): return tinymim_learner(tiny_dls(), student(depth=3), technique=list(ts)).trained_to
    early = lambda: FeatureDistill(t, student_block=0)
    assert to(early()) == 1 and to(FeatureDistill(t)) is None
    assert to(early(), ClassDistill(t)) is None and to(early(), MAEPretrain()) is None
    assert to(early(), TinyMIM(t)) == 2

def test_convolutional_students_are_trained_to_the_end():
    learn = tinymim_learner(tiny_dls(), small_cnn(3, 1, 8), technique=FeatureDistill(teacher()))
    assert learn.trained_to is None

# --- stages that return maps and more --------------------------------------------------------------------------------
@pytest.mark.parametrize('name', ['pit_ti_224', 'pit_ti_distilled_224'])
def test_maps_of_pit(name):
    timm = pytest.importorskip('timm')
    torch.manual_seed(0)
    net,x = timm.create_model(name, img_size=48, num_classes=0),torch.rand(2, 3, 48, 48)
    net.eval()
    with torch.no_grad():
        want = net.forward_intermediates(x, intermediates_only=True)[-1]
        got = tokens_of(net, find_place(net, x), x)
    assert got.grid == tuple(want.shape[2:]) and torch.equal(got.patches, want.flatten(2).transpose(1, 2))
    dls = tiny_dls(channels=3, size=48, n=8, bs=4)
    for T in (FeatureDistill, ClassDistill):
        learn = unlabelled(T(net), lambda c, ch: tiny_vit(48, 8, 16, 1, 2, 3), dls=dls)
        learn.fit(1)
        assert torch.isfinite(torch.tensor(learn.recorder.values[-1])).all()

def test_where_none_are_found_the_way_out_is_said():
    class Rows(nn.Module):
        "Gives one row an image"
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(64, 4)
        def forward(self, x): return self.a(x.flatten(1))
    with pytest.raises(ValueError, match=r'a wrapper whose `forward_features\(x\)` returns them'):
        find_place(Rows(), torch.rand(2, 1, 8, 8))
    class Wrapped(Rows):
        def forward_features(self, x): return x.flatten(2).transpose(1, 2)
        def forward(self, x): return self.a(self.forward_features(x).flatten(1))
    net,x = Wrapped(),torch.rand(2, 1, 8, 8)
    assert torch.equal(tokens_of(net, find_place(net, x), x).patches, x.flatten(2).transpose(1, 2))

# --- images that a network does not take -----------------------------------------------------------------------------
def of_size(size, channels=1, classes=0):
    net = torchvision.models.VisionTransformer(size, 2, 2, 2, 16, 32, num_classes=max(classes, 1))
    net.conv_proj = nn.Conv2d(channels, 16, 2, 2)
    return net

@pytest.mark.parametrize('T', [TinyMIM, MAEPretrain, FeatureDistill])
def test_a_student_for_other_images_is_refused_at_the_door(T):
    cbs = {TinyMIM: lambda: TinyMIM(teacher(), tokens='patch'), FeatureDistill: lambda: FeatureDistill(teacher()),
           MAEPretrain: MAEPretrain}[T]()
    says = r'the student for images \(c,h,w\) \(1, 8, 8\), got .*, which says: .*vit_of\(name, size=8, channels=1'
    with pytest.raises(ValueError, match=says): unlabelled(cbs, lambda c, ch: of_size(16)).fit_one_cycle(1)

def test_a_teacher_for_other_images_is_refused_at_the_door():
    with pytest.raises(ValueError, match=r'the teacher for images \(c,h,w\) \(1, 8, 8\), got TinyViT, which says'):
        unlabelled(FeatureDistill(teacher(3)))

def trained(learn, *cbs):
    learn.fit(1, cbs=[*cbs])
    assert torch.isfinite(torch.stack(learn.recorder.losses)).all()

def relations(net, t): return unlabelled(t, lambda c, ch: net)

def test_what_is_tried_is_not_always_what_trains():
    "Images that a callback makes, two inputs: the first batch decides, and it is right"
    class Larger(Callback):
        order = -5
        def before_batch(self): self.learn.xb = tuple(F.interpolate(x, (16, 16)) for x in self.xb)
    t = lambda: TinyMIM(tiny_vit(16, 2, 16, 2, 2, 1))
    trained(relations(of_size(16), t()), Larger())
    trained(relations(of_size(16), t()), Callback(before_batch=lambda cb: Larger.before_batch(cb)))
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = student(3)
        def forward(self, a, b): return self.net(a+b)
    class Twice(Callback):
        order = -5
        def before_batch(self): self.learn.xb = self.xb*2
    trained(tiny_learner(TinyMIM(teacher()), net=lambda c, ch: Two()), Twice())
    # a callback of fastai's that changes no image does not excuse it
    with pytest.raises(ValueError, match='the student for images'):
        relations(of_size(16), TinyMIM(tiny_vit(8, 2, 16, 2, 2, 1))).fit(1, cbs=MixedPrecision())

def test_what_is_no_fault_of_the_images_keeps_its_name():
    class Two(nn.Module):
        def forward(self, a, b): return a
    class Full(nn.Module):
        def forward(self, x): raise torch.cuda.OutOfMemoryError('full')
    x = torch.zeros(2, 1, 8, 8)
    with pytest.raises(TypeError, match="'b'"): find_place(Two(), x)
    with pytest.raises(torch.cuda.OutOfMemoryError, match='full'): find_place(Full(), x)

def test_a_network_in_two_precisions_is_left_to_the_first_batch():
    net = student()
    net.blocks[1].double()
    learn = relations(student(), TinyMIM(teacher()))
    assert is_training_alike(learn, student()) and not is_training_alike(learn, net)
