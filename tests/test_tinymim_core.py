"TinyMIM's relations against slow loops and the attention of each library, and what a fit with a teacher leaves alone"
import copy, math, pickle, warnings
from contextlib import nullcontext
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer, resnet18, swin_t
from fastai.callback.core import Callback
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.schedule import fine_tune, fit_one_cycle     # noqa: F401  (patch Learner)
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.data.transforms import Normalize
from fastai.imports import noop
from fastai.learner import Learner, load_learner
from fastai.optimizer import SGD
from fastai.torch_core import set_seed
from conftest import params, tiny_arrays, tiny_dls, tiny_learner
from fastrobust.basics import RobustWarning
from fastrobust.data.fromarrays import array_dls
from fastrobust.data.openset import aux_images
from fastrobust.stripping import strip
from fastrobust.systems.tinymim.attending import Tap, end_loan, lend_heads, set_heads
from fastrobust.systems.tinymim.distilling import TeacherImage
from fastrobust.systems.tinymim.held import Held, plain_net
from fastrobust.systems.tinymim.inside import Unlabelled
from fastrobust.systems.tinymim.mimic import RelationNet, TinyMIM, usual_block
from fastrobust.systems.tinymim.plain import need_plain
from fastrobust.systems.tinymim.relations import (RelationLoss, attn_relations, finite_kl, log_relation,
                                                   relation_kl)
from fastrobust.systems.tinymim.tinyvit import TinyViT, tiny_vit
from fastrobust.systems.tinymim.vits import ViT, bare
from fastrobust.techniques.alasca import ALASCA
from fastrobust.techniques.jocor import JoCoR
from fastrobust.techniques.logitclip import LogitClip
from fastrobust.techniques.odnl import ODNL
from fastrobust.training.callback import ObjectiveCallback
from fastrobust.training.surgery import has_surgery
from fastrobust.training.technique import Technique

# --- networks --------------------------------------------------------------------------------------------------------
def vit(*args, seed=0, **kw):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return tiny_vit(*args, **kw)
def student(seed=1, n_out=0, **kw): return vit(8, 2, 16, 2, 2, 1, n_out, seed=seed, **kw)
def teacher(seed=2, heads=4): return vit(8, 2, 32, 3, heads, 1, seed=seed)
def images(b=2, c=1, size=8):
    return torch.randn(b, c, size, size, generator=torch.Generator().manual_seed(0))

def tv():
    "torchvision's, its attention away from uniform"
    torch.manual_seed(0)
    net = VisionTransformer(image_size=32, patch_size=8, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=64)
    nn.init.normal_(net.heads.head.weight)      # zero at first
    return sharpen(net)

def sharpen(net, by=3.):
    "Fresh networks attend to everything alike: larger weights of queries, keys and values"
    with torch.no_grad():
        for k,p in net.named_parameters():
            if any(o in k for o in ('qkv', 'in_proj', 'query', 'key', 'value', 'q_proj', 'k_proj')): p.mul_(by)
    return net.eval()

def learner(*cbs, net=None, loss=None, **kw):
    "Without labels, unless a loss is given"
    net = student() if net is None else net
    return tiny_learner([*cbs], loss_func=loss or Unlabelled(), net=lambda c, n: net, **kw)

def timms(name='vit_tiny_patch16_224', **kw):
    timm = pytest.importorskip('timm')
    torch.manual_seed(0)
    return sharpen(timm.create_model(name, pretrained=False, **{'img_size': 32, 'depth': 2, **kw}))

class HFSelf(nn.Module):
    "Queries, keys and values as transformers' ViTSelfAttention has them; it gives a tuple"
    def __init__(self, d, h):
        super().__init__()
        self.num_attention_heads,self.attention_head_size,self.all_head_size = h,d//h,d
        self.query,self.key,self.value = (nn.Linear(d, d) for _ in range(3))
    def cut(self, o): return o.view(*o.shape[:2], self.num_attention_heads, self.attention_head_size).transpose(1, 2)
    def forward(self, x):
        q,k,v = (self.cut(l(x)) for l in (self.query, self.key, self.value))
        self.probs = (q @ k.transpose(-1, -2)/math.sqrt(self.attention_head_size)).softmax(-1)
        return (self.probs @ v).transpose(1, 2).flatten(2),self.probs

class HFOut(nn.Module):
    def __init__(self, d): super().__init__(); self.dense = nn.Linear(d, d)
    def forward(self, x): return self.dense(x)

class HFAttention(nn.Module):
    def __init__(self, d, h): super().__init__(); self.attention,self.output = HFSelf(d, h),HFOut(d)
    def forward(self, x): return self.output(self.attention(x)[0])

class HFLayer(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.attention,self.layernorm_before,self.layernorm_after = HFAttention(d, h),nn.LayerNorm(d),nn.LayerNorm(d)
        self.intermediate,self.output = nn.Linear(d, 2*d),nn.Linear(2*d, d)
    def forward(self, x):
        x = x + self.attention(self.layernorm_before(x))
        return x + self.output(F.gelu(self.intermediate(self.layernorm_after(x))))

class HFEncoder(nn.Module):
    def __init__(self, d, h, n): super().__init__(); self.layer = nn.ModuleList([HFLayer(d, h) for _ in range(n)])
    def forward(self, x):
        for l in self.layer: x = l(x)
        return x

class HFEmbeddings(nn.Module):
    def __init__(self, d, distilled=False):
        super().__init__()
        self.cls_token,self.mask_token = nn.Parameter(torch.randn(1, 1, d)),nn.Parameter(torch.zeros(1, 1, d))
        if distilled: self.distillation_token = nn.Parameter(torch.randn(1, 1, d))
        self.projection = nn.Conv2d(1, d, 2, 2)
    def forward(self, x):
        names = 'cls_token','distillation_token'
        first = [p.expand(len(x), -1, -1) for k,p in self.named_parameters() if k in names]
        return torch.cat([*first, self.projection(x).flatten(2).transpose(1, 2)], 1)

class HFViT(nn.Module):
    "The layout of transformers' ViTModel: encoder.layer[i].attention.attention.query"
    def __init__(self, d=16, h=2, n=2, **kw):
        super().__init__()
        self.embeddings,self.encoder,self.layernorm = HFEmbeddings(d, **kw),HFEncoder(d, h, n),nn.LayerNorm(d)
        self.pooler = nn.Linear(d, d)
    def forward(self, x): return self.pooler(self.layernorm(self.encoder(self.embeddings(x)))[:, 0])

class HubViT(TinyViT):
    "The layout of DINOv2 by torch.hub: blocks, cls_token, register_tokens, and no count of them"
    def __init__(self, registers=3):
        super().__init__(8, 2, 16, 2, 2, 1, 0, 0.)
        del self.num_prefix_tokens
        self.register_tokens = nn.Parameter(torch.randn(1, registers, 16)) if registers else None
        self.mask_token = nn.Parameter(torch.zeros(1, 16))
    def forward(self, x):
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        first = [self.cls_token] if self.register_tokens is None else [self.cls_token, self.register_tokens]
        x = torch.cat([*(o.expand(len(x), -1, -1) for o in first), x], 1)
        return self.norm(self.blocks(x))[:, 0]

class MAERepo(HubViT):
    "The layout of MAE's repository in pretraining: an encoder beside a decoder"
    def __init__(self):
        super().__init__(0)
        self.decoder_blocks = copy.deepcopy(self.blocks)

class Sequence(nn.Module):
    "nn.MultiheadAttention with the sequence first, as in CLIP, or with weights apart (vdim)"
    def __init__(self, d=16, h=2, **kw):
        super().__init__()
        self.attn,self.embed = nn.MultiheadAttention(d, h, **{'batch_first': False, **kw}),nn.Conv2d(1, d, 2, 2)
        self.class_embedding = nn.Parameter(torch.randn(d))
        self.layers = nn.ModuleList([_Residual(self.attn)])
        del self.attn
    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1)
        for l in self.layers: x = l(x)
        return x.mean(1)

class _Residual(nn.Module):
    def __init__(self, attn): super().__init__(); self.attn,self.norm = attn,nn.LayerNorm(attn.embed_dim)
    def forward(self, x):
        y = self.norm(x)
        if not self.attn.batch_first: y = y.transpose(0, 1)
        y = self.attn(y, y, y, need_weights=True, average_attn_weights=False)
        self.probs = y[1]
        return x + (y[0] if self.attn.batch_first else y[0].transpose(0, 1))

class Encoder(nn.Module):
    "torch's own, of tokens (b,n,16)"
    def __init__(self, heads):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, heads, 32, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    def forward(self, x): return self.encoder(x)

# --- relations against slow loops ------------------------------------------------------------------------------------
def loops(a, b, heads):
    "softmax(AB'/sqrt(d)) row by row, head by head, in float64 of (b,n,width)"
    a,b = a.detach().double(),b.detach().double()
    d = a.shape[-1]//heads
    out = torch.zeros(len(a), heads, a.shape[1], a.shape[1], dtype=torch.float64)
    for i in range(len(a)):
        for h in range(heads):
            A,B = a[i, :, h*d:(h+1)*d],b[i, :, h*d:(h+1)*d]
            for n in range(len(A)):
                e = [math.exp(float((A[n]*B[m]).sum())/math.sqrt(d)) for m in range(len(B))]
                out[i, h, n] = torch.tensor(e, dtype=torch.float64)/sum(e)
    return out

def norm_by_hand(x, l):
    return (x-x.mean(-1, keepdim=True))/(x.var(-1, unbiased=False, keepdim=True)+l.eps).sqrt()*l.weight+l.bias

def tiny_by_hand(net, x):
    "Q, K and V of the last block of a `tiny_vit`, with its sums written out"
    net,x = copy.deepcopy(net).double(),x.double()
    p,d,g = net.patch,net.dim,x.shape[-1]//net.patch
    w,b = net.patch_embed.weight.flatten(1),net.patch_embed.bias
    rows = []
    for i in range(g):
        for j in range(g):
            place = []
            for at in (i, j):
                waves = [at/10000**(k/(d//4)) for k in range(d//4)]
                place += [math.sin(o) for o in waves] + [math.cos(o) for o in waves]
            patch = x[:, :, i*p:(i+1)*p, j*p:(j+1)*p].flatten(1)
            rows.append(patch @ w.T + b + torch.tensor(place, dtype=torch.float64))
    x = torch.stack([net.cls_token[0, 0].expand(len(x), -1), *rows], 1)
    for i,block in enumerate(net.blocks):
        y = norm_by_hand(x, block.norm1)
        q,k,v = (y @ block.attn.qkv.weight.T + block.attn.qkv.bias).chunk(3, -1)
        if i == len(net.blocks)-1: break
        h = block.attn.num_heads
        R = loops(q, k, h)
        y = torch.cat([R[:, i] @ v.detach()[..., i*d//h:(i+1)*d//h] for i in range(h)], -1)
        x = x + y @ block.attn.proj.weight.T + block.attn.proj.bias
        y = F.gelu(norm_by_hand(x, block.norm2) @ block.mlp[0].weight.T + block.mlp[0].bias)
        x = x + y @ block.mlp[2].weight.T + block.mlp[2].bias
    return q,k,v

def test_tiny_vit_by_hand_in_float64():
    net,x = sharpen(student()),images()
    with attn_relations(net, kinds=('qk', 'vv', 'qq', 'kk')) as rel: net(x)
    q,k,v = tiny_by_hand(net, x)
    of = dict(q=q, k=k, v=v)
    for kind,log in rel.items():
        want = loops(of[kind[0]], of[kind[1]], 2)
        assert log.shape == (2, 2, 17, 17) and log.dtype == torch.float32 and log.requires_grad
        assert (log.exp().double()-want).abs().max() < 1e-5
        assert (log.exp().sum(-1)-1).abs().max() < 1e-5     # P3
    with attn_relations(net, heads=8, tokens='patch') as rel: net(x)
    want = loops(q[:, 1:], k[:, 1:], 8)
    assert rel['qk'].shape == (2, 8, 16, 16) and (rel['qk'].exp().double()-want).abs().max() < 1e-5

def own_of_timm(net, block=-1):
    "What the block's own softmax gives, fused attention off"
    got,attn = [],net.blocks[block].attn
    attn.fused_attn = False
    return got,attn.attn_drop.register_forward_pre_hook(lambda m, args: got.append(args[0]))

@pytest.mark.parametrize('kw', [dict(), dict(reg_tokens=4), dict(qk_norm=True), dict(global_pool='avg'),
                                dict(class_token=False, global_pool='avg'), dict(qkv_bias=False)], ids=str)
def test_timms_own_attention(kw):
    net,x = timms(**kw),images(2, 3, 32)
    if 'qk_norm' in kw: nn.init.uniform_(net.blocks[-1].attn.k_norm.weight, .5, 2.) # unlike the queries'
    got,hook = own_of_timm(net)
    with attn_relations(net) as rel: net(x)
    hook.remove()
    assert (rel['qk'].exp()-got[0]).abs().max() < 1e-5 and got[0].std() > 1e-3
    first = net.num_prefix_tokens
    with attn_relations(net, tokens='patch') as rel: net(x)
    assert rel['vv'].shape[-1] == 4 and ViT(net).prefix == first

@pytest.mark.parametrize('name', ['vit_tiny_patch16_224', 'vit_small_patch16_224'])
def test_both_of_timms_sizes_in_full(name):
    net,x = timms(name, img_size=224, depth=2),images(1, 3, 224)
    got,hook = own_of_timm(net, 0)
    with attn_relations(net, 0) as rel: net(x)
    hook.remove()
    assert rel['qk'].shape[-1] == 197 and (rel['qk'].exp()-got[0]).abs().max() < 1e-5

def test_torchvisions_own_attention():
    net,x = tv(),images(2, 3, 32)
    layer = net.encoder.layers[-1]
    seen = []
    hook = layer.self_attention.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    with attn_relations(net) as rel: net(x)
    hook.remove()
    want = layer.self_attention(*[seen[0]]*3, need_weights=True, average_attn_weights=False)[1]
    assert (rel['qk'].exp()-want).abs().max() <= 1e-6 and rel['qk'].shape == (2, 4, 17, 17)
    w,b = layer.self_attention.in_proj_weight[64:],layer.self_attention.in_proj_bias[64:]
    v = seen[0] @ w.T + b
    assert (rel['vv'].exp()-loops(v, v, 4)).abs().max() < 1e-5

def test_layouts_of_others():
    x = images()
    hf = sharpen(HFViT())
    with attn_relations(hf) as rel: hf(x)
    assert (rel['qk'].exp()-hf.encoder.layer[-1].attention.attention.probs).abs().max() < 1e-6
    inside = nn.Sequential(HFViT(), nn.Linear(16, 3)),nn.Sequential(student(), nn.Flatten())
    for net,n in ((hf, 1), (HFViT(distilled=True), 2), (HubViT(), 4), (HubViT(0), 1), (Sequence(), 1), (student(), 1),
                  (tv(), 1), *((o, 1) for o in inside)):
        assert ViT(net).prefix == n
    assert ViT(hf).norm is hf.layernorm and ViT(tv()).norm is not None and ViT(HubViT()).norm.normalized_shape == (16,)
    hub = HubViT()
    with attn_relations(hub, tokens='patch') as rel: hub(x)
    assert rel['qk'].shape[-1] == 16
    with pytest.raises(ValueError, match='one sequence of blocks, got MAERepo with more: decoder_blocks. .* alone'):
        ViT(MAERepo())

@pytest.mark.parametrize('kw', [dict(), dict(batch_first=True), dict(bias=False), dict(kdim=16, vdim=16)], ids=str)
def test_multihead_attention_of_every_kind(kw):
    net,x = sharpen(Sequence(**kw)),images()
    if 'kdim' in kw:    # torch keeps the weights apart only where they differ
        m = net.layers[0].attn
        apart = m.in_proj_weight.detach().chunk(3)
        for k,w in zip(('q_proj_weight', 'k_proj_weight', 'v_proj_weight'), apart): setattr(m, k, nn.Parameter(w))
        m._qkv_same_embed_dim,m.in_proj_weight = False,None
    for mode in (True, False):
        net.train(mode)
        with attn_relations(net) as rel: net(x)
        assert rel['qk'].shape == (2, 2, 17, 17)
        assert (rel['qk'].exp()-net.layers[0].probs).abs().max() < 1e-6

def test_torchs_own_encoder_takes_no_short_cut():
    "nn.TransformerEncoderLayer has a fast path around its attention, not where somebody looks"
    net,x = sharpen(Encoder(2)),torch.randn(2, 5, 16)
    with torch.no_grad(), attn_relations(net, 0) as rel: net(x)
    l = net.encoder.layers[0]
    y = l.norm1(x)
    want = l.self_attn(y, y, y, average_attn_weights=False)[1]
    assert (rel['qk'].exp()-want).abs().max() < 1e-6

# --- the loss: properties of the paper -------------------------------------------------------------------------------
def logs(*shape, seed=0, scale=1.):
    z = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)*scale
    return z.log_softmax(-1)

def test_kl_by_a_slow_loop():
    t,s = logs(2, 3, 4, 4),logs(2, 3, 4, 4, seed=1)
    total = 0.
    for i in range(2):
        for h in range(3):
            for n in range(4): total += sum(math.exp(a)*(a-b) for a,b in zip(t[i, h, n].tolist(), s[i, h, n].tolist()))
    assert relation_kl(t, s).item() == pytest.approx(total/24, abs=1e-12)
    assert finite_kl(t, s).item() == pytest.approx(total/24, abs=1e-12)
    want = F.kl_div(s, t, log_target=True, reduction='none').sum(-1).mean()
    assert relation_kl(t, s).item() == pytest.approx(want.item(), abs=1e-12)

def test_P1_alike_is_zero_and_has_no_gradient():
    z = torch.randn(2, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    loss = relation_kl(z.detach().log_softmax(-1), z.log_softmax(-1))
    loss.backward()
    assert abs(loss.item()) < 1e-12 and z.grad.abs().max() < 1e-12

def test_P2_not_negative_and_blind_to_constants_of_rows():
    for seed in range(20):
        t,s = logs(1, 2, 4, 4, seed=seed, scale=5.),logs(1, 2, 4, 4, seed=seed+99, scale=5.)
        shifted = (s + torch.randn(1, 2, 4, 1, dtype=torch.float64)*10).log_softmax(-1)
        assert relation_kl(t, s) >= 0 and (relation_kl(t, shifted)-relation_kl(t, s)).abs() < 1e-10

def test_P4_heads_in_another_order_in_both():
    t,s,p = logs(2, 4, 3, 3),logs(2, 4, 3, 3, seed=1),[2, 0, 3, 1]
    assert (relation_kl(t[:, p], s[:, p])-relation_kl(t, s)).abs() < 1e-12
    assert (relation_kl(t[:, p], s)-relation_kl(t, s)).abs() > 1e-3

def test_P5_of_a_uniform_student_it_is_the_entropy_that_lacks():
    t = logs(2, 2, 6, 6, scale=3.)
    uniform = torch.full_like(t, -math.log(6))
    H = -(t.exp()*t).sum(-1).mean()
    assert relation_kl(t, uniform).item() == pytest.approx(math.log(6)-H.item(), abs=1e-12)

def test_a_teacher_that_is_sure():
    "0 log 0 = 0, its gradient too"
    t = torch.tensor([[[[0., -math.inf], [-math.inf, 0.]]]])
    z = torch.zeros(1, 1, 2, 2, requires_grad=True)
    loss = relation_kl(t, z.log_softmax(-1))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2)) and torch.isfinite(z.grad).all()

def test_gradients_against_finite_differences():
    t = logs(1, 2, 3, 3)
    def f(a, b): return relation_kl(t, log_relation(a, b))
    a,b = (torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(f, (a, b))

def test_gradients_reach_the_student():
    net,x = student().double(),images().double()
    with torch.no_grad(), attn_relations(teacher(heads=2).double()) as told: told._model(x)
    def loss():
        with attn_relations(net) as rel: net(x)
        return RelationLoss()(rel, told)
    loss().backward()
    g = torch.Generator().manual_seed(3)
    for p in (net.patch_embed.weight, net.blocks[0].mlp[0].weight, net.blocks[1].attn.qkv.weight):
        v = torch.randn(p.shape, generator=g, dtype=torch.float64)
        ends = []
        for sign in (1, -1):
            with torch.no_grad(): p.add_(v, alpha=sign*1e-5)
            ends.append(loss().item())
            with torch.no_grad(): p.sub_(v, alpha=sign*1e-5)
        assert (ends[0]-ends[1])/2e-5 == pytest.approx((p.grad*v).sum().item(), rel=1e-5)
    assert net.blocks[1].attn.proj.weight.grad is None

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_finite_in_float32(dtype):
    z = torch.tensor([[[[0., 40.], [40., 0.]]]], dtype=dtype)
    if dtype == torch.float16: assert z.softmax(-1).log().isinf().any()     # what a network would give
    eye = torch.eye(2, dtype=dtype)[None, None]*2**.5
    log = log_relation(z, eye)
    assert log.dtype == torch.float32 and torch.isfinite(log).all() and log.min().item() == pytest.approx(-40, rel=1e-2)
    net = sharpen(student(), 20.).to(dtype)
    with attn_relations(net) as rel: net(images().to(dtype))
    for o in rel.values(): assert o.dtype == torch.float32 and torch.isfinite(o).all() and o.min() < -10
    with torch.autocast('cpu', dtype=torch.bfloat16), attn_relations(sharpen(student())) as rel: rel._model(images())
    assert rel['qk'].dtype == torch.float32

def test_RelationLoss_is_the_sum_of_its_parts():
    t,s = (dict(qk=logs(1, 2, 3, 3, seed=i), vv=logs(1, 2, 3, 3, seed=i+2)) for i in (0, 1))
    loss = RelationLoss()
    assert loss(s, t) == relation_kl(t['qk'], s['qk']) + relation_kl(t['vv'], s['vv'])
    assert RelationLoss('vv')(s, t) == relation_kl(t['vv'], s['vv']) and list(loss.parts(s, t)) == ['qk', 'vv']
    with pytest.raises(ValueError, match=r'one shape .*, got \(1, 2, 3, 3\) of the teacher and \(1, 2, 4, 4\)'):
        relation_kl(t['qk'], logs(1, 2, 4, 4))

# --- hooks -----------------------------------------------------------------------------------------------------------
def hooks(net):
    kinds = '_forward_hooks','_forward_pre_hooks','_forward_hooks_with_kwargs','_forward_pre_hooks_with_kwargs'
    return sum(len(getattr(m, k)) for m in net.modules() for k in kinds)

class Stops(nn.Module):
    def __init__(self, ex): super().__init__(); self.ex = ex
    def forward(self, x): raise self.ex

@pytest.mark.parametrize('ex', [KeyboardInterrupt(), RuntimeError('mine')], ids=lambda e: type(e).__name__)
def test_no_hook_survives(ex, monkeypatch):
    net,x = student(),images()
    with attn_relations(net) as rel:
        assert hooks(net) > 0
        net(x)
    assert hooks(net) == 0
    broken = copy.deepcopy(net)
    broken.blocks[1].mlp = Stops(ex)
    with pytest.raises(type(ex)):
        with attn_relations(broken): broken(x)
    assert hooks(broken) == 0
    was,left = nn.Module.register_forward_hook,[]      # in the middle of entering
    def some(*args, **kw):
        if not left: raise ex
        left.pop()
        return was(*args, **kw)
    monkeypatch.setattr(nn.Module, 'register_forward_hook', some)
    for n in range(4):
        left[:] = [1]*n
        with pytest.raises(type(ex)):
            with attn_relations(net): pass
        assert hooks(net) == 0
    monkeypatch.undo()
    with rel: net(x)        # and it can be used again
    assert hooks(net) == 0 and type(pickle.loads(pickle.dumps(net))) is type(net)

def test_several_at_once_on_one_block():
    net,x = student(),images()
    with attn_relations(net) as a, attn_relations(net, 0, 'vv') as b:
        with attn_relations(net, kinds=('vv', 'qq')) as c: net(x)
    assert torch.equal(a['vv'], c['vv']) and list(b) == ['vv'] and not torch.equal(b['vv'], a['vv'])
    with attn_relations(net) as a:
        net(x)
        first = a['qk']
        net(x+1)
        assert not torch.equal(a['qk'], first)      # of the last forward pass
        with pytest.raises(ValueError, match='an object for each `with`'), a: pass
        assert hooks(net) > 0
    assert hooks(net) == 0

def test_relations_of_a_network_that_others_hold():
    net,x = student(),images()
    with attn_relations(net) as want: net(x)
    inside = nn.Sequential(net, nn.Flatten())
    for holder in (inside, nn.DataParallel(net), RelationNet(net, 1, ('qk',), 2, 0)):
        with attn_relations(holder, tokens='patch') as rel: holder.eval()(x)
        assert rel['qk'].shape[-1] == 16
        with attn_relations(holder) as rel: holder.eval()(x)
        assert torch.equal(rel['qk'], want['qk'])
    assert bare(nn.DataParallel(RelationNet(net, 1, ('qk',), 2, 0))) is net

@pytest.mark.slow
def test_compiled_networks_are_refused_and_teachers_opened():
    net = torch.compile(student())
    with pytest.raises(ValueError, match=r'network that is not compiled, got .*_orig_mod'): attn_relations(net)
    inner = student()
    inner.blocks[0].compile()
    with pytest.raises(ValueError, match='that is not compiled'): attn_relations(inner)
    with pytest.raises(ValueError, match='the student that is not compiled'):
        learner(TinyMIM(teacher()), net=torch.compile(student()))
    assert plain_net(net) is net._orig_mod and type(TinyMIM(net).teacher) is TinyViT

def test_reentrant_checkpointing_is_refused():
    from torch.utils.checkpoint import checkpoint
    class Saves(nn.Module):
        def __init__(self, block, reentrant): super().__init__(); self.block,self.reentrant = block,reentrant
        def forward(self, x): return checkpoint(self.block, x, use_reentrant=self.reentrant)
    grads = []
    for reentrant in (None, False, True):
        net = student()
        if reentrant is not None: net.blocks = nn.Sequential(*[Saves(b, reentrant) for b in net.blocks])
        says = pytest.raises(ValueError, match='under gradient checkpointing') if reentrant else nullcontext()
        with says:
            with attn_relations(net) as rel: net(images())
            (rel['qk'].exp()**2).mean().backward()
            grads.append(net.patch_embed.weight.grad)
        assert hooks(net) == 0
    assert torch.allclose(*grads)

def test_a_frozen_attention_is_no_checkpointing():
    for names in (('attn.qkv',), ('patch_embed', 'cls_token', 'norm', 'blocks.0', 'attn.qkv', 'mlp')):
        net = student()
        for k,p in net.named_parameters(): p.requires_grad_(not any(o in k for o in names))
        with attn_relations(net) as rel: net(images())
        assert rel['qk'].requires_grad == (len(names) == 1)

def test_copies_with_the_same_hooks():
    "nn.DataParallel's replicas share the hooks of a module, and run at the same time"
    net,x = student(),images()
    m = net.blocks[1].attn
    twin = m._replicate_for_data_parallel()
    twin.qkv = m.qkv._replicate_for_data_parallel()
    twin.qkv.weight,twin.qkv.bias = m.qkv.weight,m.qkv.bias
    assert twin.qkv._forward_hooks is m.qkv._forward_hooks and twin.qkv is not m.qkv
    with attn_relations(net) as rel:
        net(x)
        before = rel['qk']
        twin(torch.randn(2, 17, 16))
        assert rel._tap.qkv is not None and rel['qk'] is before
        q = rel._tap.qkv.q
        twin(torch.randn(3, 17, 16))
        assert rel._tap.qkv.q is q

# --- heads -----------------------------------------------------------------------------------------------------------
def heads_of(net, block=-1): return ViT(net).attention(block).heads
NETS = dict(tiny=lambda: sharpen(vit(32, 8, 32, 2, 4, 3)), tv=tv, timm=lambda: timms(embed_dim=32, num_heads=4),
            hf=lambda: sharpen(HFViT(32, 4)), sequence=lambda: sharpen(Sequence(32, 4)))
def channels(kind): return 1 if kind in ('hf', 'sequence') else 3

@pytest.mark.parametrize('fused', [True, False])
@pytest.mark.parametrize('kind', NETS)
def test_a_block_with_other_heads_attends_as_by_hand(kind, fused):
    "The input of the output projection is softmax(QK'/sqrt(d)) V with that number of heads"
    net,x = NETS[kind](),images(2, channels(kind), 32 if channels(kind) == 3 else 8)
    n = sum(p.numel() for p in net.parameters())
    before = net(x)
    set_heads(ViT(net), -1, 8)
    assert heads_of(net) == 8 and heads_of(net, 0) == (4 if kind != 'sequence' else 8)
    assert sum(p.numel() for p in net.parameters()) == n        # P6
    m = ViT(net).attention(-1).module
    if hasattr(m, 'fused_attn'): m.fused_attn = fused
    seen = []
    hook = m.register_forward_hook(lambda m, args, out: seen.append(out[0] if isinstance(out, tuple) else out))
    with Tap(ViT(net)) as tap: after = net(x)
    hook.remove()
    q,k,v = tap.qkv
    R = loops(q, k, 8)
    d = v.shape[-1]//8
    out = torch.cat([R[:, h] @ v.detach().double()[..., h*d:(h+1)*d] for h in range(8)], -1).float()
    last = getattr(m, 'proj', getattr(m, 'out_proj', None))
    if last is not None: out = F.linear(out, last.weight, last.bias)
    got = seen[0].transpose(0, 1) if kind == 'sequence' else seen[0]
    assert (got-out).abs().max() < 1e-5 and (after-before).abs().max() > 1e-5
    set_heads(ViT(net), -1, 4)
    assert torch.allclose(net(x), before, atol=1e-6)
    need_plain(ViT(net), -1, x)

def test_heads_are_lent_and_given_back():
    net = student()
    start = {k: v for k,v in vars(net.blocks[1].attn).items() if k[0] != '_'}
    for keep,want in ((False, 2), (True, 8)):
        lend_heads(ViT(net), 1, 4)
        lend_heads(ViT(net), 1, 8)
        end_loan(copy.deepcopy(net), keep)
        assert heads_of(net) == 8
        end_loan(net, keep)
        assert heads_of(net) == want and 'heads_before' not in vars(net.blocks[1].attn)
    set_heads(ViT(net), 1, 2)
    assert {k: v for k,v in vars(net.blocks[1].attn).items() if k[0] != '_'} == start

def test_P9_a_width_that_heads_do_not_divide():
    with pytest.raises(ValueError, match='the student that 3 heads divide, got 16, .* by 2, 4, 8, 16. Take a student'):
        learner(TinyMIM(vit(8, 2, 36, 2, 3, 1)))
    net = student()
    with pytest.raises(ValueError, match='a network that 3 heads divide'): attn_relations(net, heads=3)
    qk = timms(qk_norm=True)
    with pytest.raises(ValueError, match='without normalised queries and keys, or with 1'): attn_relations(qk, heads=1)

# --- who is refused --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('name,says,kw', [
    ('eva02_tiny_patch14_224', 'rotary positions', dict(img_size=28)),
    ('vit_small_patch16_dinov3', 'rotary positions', dict(img_size=32)),
    ('vit_base_patch16_rope_224', 'rotary positions', dict(img_size=32, depth=2)),
    ('swin_tiny_patch4_window7_224', 'with more: ', {}), ('beit_base_patch16_224', 'a bias by position', dict(depth=2)),
    ('pit_ti_224', 'with more: ', {}), ('levit_128s', 'LevitDistilled|Levit, which has none', {}),
    ('xcit_nano_12_p16_224', 'with more: cls_attn_blocks', {}), ('resnet10t', 'ResNet, which has none', {})])
def test_who_attends_otherwise_is_refused_by_name(name, says, kw):
    timm = pytest.importorskip('timm')
    net = timm.create_model(name, pretrained=False, **kw)
    for make in (lambda: attn_relations(net), lambda: TinyMIM(net)):
        with pytest.raises(ValueError, match=says) as e: make()
        assert 'FeatureDistill(teacher)' in str(e.value)
    assert str(e.value).startswith('expected the teacher ') and hooks(net) == 0

def test_torchvisions_others_are_refused():
    for make,says in ((lambda: swin_t(), 'SwinTransformer with more'), (lambda: resnet18(), 'ResNet, which has none')):
        with pytest.raises(ValueError, match=says): attn_relations(make())

class Odd(nn.Module):
    "An attention whose names are those of a plain one, and that does something else"
    def __init__(self, d, h, how):
        super().__init__()
        self.num_heads,self.how = h,how
        self.qkv,self.proj = nn.Linear(d, 3*d),nn.Linear(d, d)
        self.bias,self.tau = torch.randn(17, 17),2.
    def forward(self, x):
        if self.how == 'interleaved': q,k,v = self.qkv(x).unflatten(-1, (self.num_heads, 3, -1)).permute(3, 0, 2, 1, 4)
        else: q,k,v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        if self.how == 'turned':
            at = torch.arange(q.shape[2])[:, None]*.5
            c,s = at.cos(),at.sin()
            def turn(o):
                a,b = o[..., ::2],o[..., 1::2]
                return torch.cat([a*c-b*s, b*c+a*s], -1)
            q,k = turn(q),turn(k)
        if self.how == 'cosine': q,k = F.normalize(q, dim=-1)*8,F.normalize(k, dim=-1)
        z = q @ k.transpose(-2, -1)*q.shape[-1]**-.5
        if self.how == 'bias': z = z + self.bias
        if self.how == 'temperature': z = z*self.tau
        if self.how == 'causal': z = z.masked_fill(torch.ones_like(z).triu(1).bool(), -math.inf)
        if self.how == 'sigmoid': R = z.sigmoid()/z.shape[-1]
        else: R = z.softmax(-1)
        out = (R @ v).transpose(1, 2).flatten(2)
        if self.how == 'skip': out = out + x
        return self.proj(out)

@pytest.mark.parametrize('how', ['interleaved', 'turned', 'cosine', 'bias', 'temperature', 'causal', 'sigmoid', 'skip',
                                 'plain'])
def test_what_an_attention_does_says_whether_it_is_plain(how):
    torch.manual_seed(0)
    net = student()         # as it starts: small weights
    net.blocks[1].attn = Odd(16, 2, how)
    x = images()
    state = torch.get_rng_state()
    def says():
        if how == 'plain': return nullcontext()
        return pytest.raises(ValueError, match="Odd with something beside softmax.*FeatureDistill")
    with says(): need_plain(ViT(net), 1, x)
    assert torch.equal(torch.get_rng_state(), state) and net.training and hooks(net) == 0
    net.eval()
    with says():
        with attn_relations(net): net(x)
    assert hooks(net) == 0
    with says(): learner(TinyMIM(teacher(heads=2)), net=net).fit(1)
    with says(): learner(TinyMIM(net)).fit(1)

@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
def test_plain_ones_pass_in_any_precision(dtype):
    x = images(2, 3, 32).to(dtype)
    for net in (tv(), timms(), timms(qk_norm=True, num_heads=3), sharpen(vit(32, 8, 32, 2, 4, 3), 10.)):
        for block in range(2): need_plain(ViT(net.to(dtype)), block, x)
    need_plain(ViT(sharpen(HFViT()).to(dtype)), -1, images().to(dtype))

class Sometimes(Odd):
    "Calls its layer once, and then uses its weights alone"
    def forward(self, x):
        out = super().forward(x)
        self.qkv.forward = lambda x: 1/0
        super().__setattr__('forward', lambda x: x @ self.qkv.weight[:16])
        return out

def test_a_later_pass_that_says_nothing_is_refused():
    net,x = student(),images()
    net.blocks[1].attn = Sometimes(16, 2, 'plain')
    with attn_relations(net) as rel:
        net(x)
        assert rel['qk'].shape == (2, 2, 17, 17)
        with pytest.raises(ValueError, match='Sometimes with queries and keys that no layer gives'): net(x)
    skips = student()
    skips.blocks[1] = nn.Sequential(nn.Identity(), skips.blocks[1].attn)
    skips.blocks[1].forward = lambda x: x
    with pytest.raises(ValueError, match='a forward pass of a network through its block, got none'):
        with attn_relations(skips): skips(x)
    assert hooks(net) == hooks(skips) == 0

# --- bad input -------------------------------------------------------------------------------------------------------
NO_BLOCK = [3, -4, '1', True, 1., None, float('nan'), float('inf')]

@pytest.mark.parametrize('bad', NO_BLOCK, ids=str)
def test_no_block(bad):
    net = teacher()
    with pytest.raises(ValueError, match='`block` must be a block of a network with 3: .* from -3 to 2, got'):
        attn_relations(net, bad)
    if bad is not None:
        with pytest.raises(ValueError, match='`teacher_block` must be a block of the teacher with 3'): TinyMIM(net, bad)
    with pytest.raises(ValueError, match='`student_block` must be'): learner(TinyMIM(net, None, bad))

@pytest.mark.parametrize('bad', ['qv', '', (), ('qk', 'qk'), 3, None, ['qk', 'w'], ('qk', 1), True], ids=str)
def test_kinds_misspelt(bad):
    for make in (lambda: attn_relations(student(), kinds=bad), lambda: RelationLoss(bad),
                 lambda: TinyMIM(teacher(), kinds=bad)):
        with pytest.raises(ValueError, match="`kinds` must be some of 'qk', 'vv', 'qq', 'kk', each once, got"): make()

@pytest.mark.parametrize('bad', ['patches', None, 1, True], ids=str)
def test_tokens_misspelt(bad):
    for make in (lambda: attn_relations(student(), tokens=bad), lambda: TinyMIM(teacher(), tokens=bad)):
        with pytest.raises(ValueError, match="`tokens` must be 'all' or 'patch'"): make()

@pytest.mark.parametrize('bad', ['2', True, float('nan'), float('inf'), 0, -1, 1.5], ids=str)
def test_no_number_of_heads_or_of_anything(bad):
    with pytest.raises(ValueError, match='`heads` must be a whole number from 1'): attn_relations(student(), heads=bad)
    for k in ('size', 'patch', 'dim', 'depth', 'heads', 'channels'):
        with pytest.raises(ValueError, match=f'`{k}` must be a whole number'): tiny_vit(**{k: bad})
    if bad == 0: return
    with pytest.raises(ValueError, match='`n_out` must be a whole number'): tiny_vit(n_out=bad)
    with pytest.raises((TypeError, ValueError), match='`drop_path`'): tiny_vit(drop_path=bad)

def test_sizes_that_do_not_fit():
    for kw,says in ((dict(size=30), 'a `patch` that divides `size`, got 4 and 30. Take 2, 3, 5, 6, 10, 15.'),
                    (dict(dim=66), 'a multiple of 4 and of `heads`, got 66 and 4'),
                    (dict(dim=20, heads=8), 'got 20 and 8')):
        with pytest.raises(ValueError, match=says): tiny_vit(**kw)
    with pytest.raises(ValueError, match='images that patches of 2x2 cover, got .9, 9.'): student()(images(size=9))
    assert student()(images(size=12)).shape == (2, 16)

@pytest.mark.parametrize('bad', [None, 'vit', 3, TinyViT, [1]], ids=str)
def test_no_teacher(bad):
    with pytest.raises(TypeError, match='expected `teacher` to be a network or a Learner, got'): TinyMIM(bad)
    with pytest.raises(TypeError, match=r'expected a network \(nn.Module\), got .*learn.model'): attn_relations(bad)
    with pytest.raises(TypeError, match='got a Learner. Of a Learner: learn.model'): attn_relations(learner())

def test_P11_other_grids_and_other_first_tokens():
    coarse = vit(8, 4, 16, 2, 2, 1)
    with pytest.raises(ValueError, match="got 5 and 17. Take patches .* teacher_size=16. Then tokens='patch' where"):
        learner(TinyMIM(coarse)).fit(1)
    with pytest.raises(ValueError, match='the same tokens, got 4 and 16. Take patches .* teacher_size=16.$'):
        learner(TinyMIM(coarse, tokens='patch')).fit(1)
    learn = learner(TinyMIM(coarse, teacher_size=16))       # as it says
    learn.fit(1)
    assert np.isfinite(learn.recorder.losses).all()
    hub = HubViT()
    with pytest.raises(ValueError, match="got 20 and 17. The patches are alike, .* tokens='patch' leaves them out"):
        learner(TinyMIM(hub)).fit(1)
    learn = learner(TinyMIM(hub, tokens='patch'))
    learn.fit(1)
    assert np.isfinite(learn.recorder.losses).all()

def test_a_teacher_that_is_shown_larger_images():
    t,seen = vit(8, 4, 16, 2, 2, 1),[]
    t.register_forward_pre_hook(lambda m, args: seen.append(args[0].clone()))
    learn = learner(TinyMIM(t, teacher_size=(16, 16)), dls=few())
    learn.metrics = []
    learn.fit(1)
    X = next(iter(learn.dls.train))[0]
    got = next(x for x in seen[2:] if len(x) == 2 and x.shape[-1] == 16)
    assert all(x.shape[-2:] == (16, 16) for x in seen) and got.shape == (2, 1, 16, 16)
    assert any(torch.allclose(F.interpolate(X, (16, 16), mode='bicubic', antialias=True), x) for x in seen)

@pytest.mark.parametrize('bad', ['8', True, 0, -1, 1.5, float('nan'), float('inf'), (8,), (8, 0), (8, 8, 8)], ids=str)
def test_no_size(bad):
    with pytest.raises(ValueError, match='`teacher_size` must be a whole number of pixels'):
        TinyMIM(teacher(), teacher_size=bad)

def test_images_that_the_teacher_does_not_take():
    colour = vit(8, 2, 32, 3, 4, 3)
    with pytest.raises(ValueError, match=r'images, .c,h,w. .1, 8, 8., got TinyViT, which says: .*channels=1'):
        learner(TinyMIM(colour)).fit(1)
    big = VisionTransformer(16, 2, 2, 2, 16, 32)
    dls,s = tiny_dls(channels=3),vit(8, 2, 16, 2, 2, 3)
    with pytest.raises(ValueError, match='got VisionTransformer, which says: .*vit_of.name, size=8, channels=3'):
        learner(TinyMIM(big), net=s, dls=dls).fit(1)
    learn = learner(TinyMIM(VisionTransformer(16, 4, 2, 2, 16, 32), teacher_size=16), net=s, dls=dls)
    learn.fit(1)
    assert np.isfinite(learn.recorder.losses).all()

def test_inputs_that_are_no_images():
    "Tokens: nothing can be tried before, and it trains"
    g = torch.Generator().manual_seed(0)
    items = [(torch.randn(5, 16, generator=g), 0) for _ in range(8)]
    dls = DataLoaders(DataLoader(items, bs=4), DataLoader(items, bs=4))
    learn = Learner(dls, Encoder(2), loss_func=Unlabelled(), cbs=TinyMIM(Encoder(4)))
    with learn.no_bar(), learn.no_logging(): learn.fit(3, 1e-2)
    losses = [v[0] for v in learn.recorder.values]
    assert heads_of(learn.model.net) == 4 and losses[-1] < losses[0] and hooks(learn.model) == 0

# --- a fit -----------------------------------------------------------------------------------------------------------
class Opening(Callback):
    "The first training batch and its loss"
    order = 60
    def after_loss(self):
        if self.training and not hasattr(self, 'seen'):
            self.seen = self.x.clone(),self.y.clone(),self.loss_grad.item(),self.loss.item()

def few():
    "Four images to train on, three for validation, in order"
    X,y = tiny_arrays(7)
    return array_dls(X[:4], y[:4], valid=(X[4:], y[4:]), vocab=[0, 1, 2], bs=2, device='cpu', shuffle=False)

def by_hand(t, s, x, heads, kinds=('qk', 'vv'), block=None):
    "Sum over kinds of the mean KL, head by head and row by row in float64"
    parts = []
    for net in (t, s):
        with torch.no_grad(), Tap(ViT(net), -1 if block is None or net is s else block) as tap: net(x)
        parts.append(dict(zip('qkv', tap.qkv)))
    total = {}
    for k in kinds:
        R_t,R_s = (loops(o[k[0]], o[k[1]], heads) for o in parts)
        kl = 0.
        for row_t,row_s in zip(R_t.flatten(0, 2), R_s.flatten(0, 2)): kl += float((row_t*(row_t/row_s).log()).sum())
        total[k] = kl/R_t[..., 0].numel()
    return total

def test_the_loss_of_the_first_batch_by_hand():
    t,s,first = sharpen(teacher()).train(),sharpen(student()).train(),Opening()
    start = copy.deepcopy(s)
    learn = learner(TinyMIM(t, lam=.5), net=s, dls=tiny_dls(bs=4, n=8))
    learn.fit(1, cbs=first)
    x,_,grad,loss = first.seen
    want = sum(by_hand(t, start, x, 4, block=usual_block(ViT(t), ViT(start))).values())
    assert grad == pytest.approx(.5*want, rel=1e-5) and loss == pytest.approx(.5*want, rel=1e-5)
    assert t.training     # as it was given

def test_beside_a_loss_on_labels():
    t,s,first = sharpen(teacher()),student(n_out=3),Opening()
    start = copy.deepcopy(s)
    lend_heads(ViT(start), -1, 4)
    learn = learner(TinyMIM(t, 1, kinds='vv', lam=2.), net=s, loss=nn.CrossEntropyLoss(), dls=tiny_dls(bs=4, n=8))
    learn.fit(1, cbs=first)
    x,y,grad,_ = first.seen
    want = F.cross_entropy(start(x), y.long()) + 2*by_hand(t, start, x, 4, ('vv',), 1)['vv']
    assert grad == pytest.approx(want.item(), rel=1e-5) and list(learn.recorder.metric_names).count('vv') == 1
    assert not [k for k,p in learn.model.named_parameters() if p.grad is None]

def test_columns_and_the_loss_of_validation():
    t,s = sharpen(teacher()),sharpen(student())
    learn = learner(TinyMIM(t), net=s, opt_func=SGD, dls=few())
    learn.fit(1, 0.)
    names,values = list(learn.recorder.metric_names),learn.recorder.values[-1]
    assert names == ['epoch', 'train_loss', 'valid_loss', 'accuracy', 'tinymim', 'qk', 'vv', 'time']
    row = dict(zip(names[1:], values))
    X = torch.cat([b[0] for b in learn.dls.valid])
    want = by_hand(t, s, X, 4, block=usual_block(ViT(t), ViT(s)))
    assert row['valid_loss'] == pytest.approx(sum(want.values()), rel=1e-5)
    T = torch.cat([b[0] for b in learn.dls.train])
    want = by_hand(t, s, T, 4, block=usual_block(ViT(t), ViT(s)))
    assert {k: row[k] for k in want} == pytest.approx(want, rel=1e-5)
    assert row['tinymim'] == pytest.approx(row['qk']+row['vv'], rel=1e-6)
    assert learn.validate()[0] == pytest.approx(row['valid_loss'], rel=1e-6)
    p,_,l = learn.get_preds(with_loss=True)
    assert p.shape == (3, 16) and l.tolist() == [0.]*3

class Jitter(Callback):
    "Pairs: the student's image is another one in training"
    order = -20
    def before_batch(self):
        x = self.x
        self.learn.yb = (TeacherImage(x.clone()),)
        if self.training: self.learn.xb = (-3*x.flip(2),)

def test_the_teacher_sees_the_second_of_a_pair():
    t,s = sharpen(teacher()),sharpen(student())
    asked = []
    t.register_forward_pre_hook(lambda m, args: asked.append(args[0].clone()))
    learn = learner(TinyMIM(t), net=s, opt_func=SGD, dls=tiny_dls(shuffle=False))
    learn.metrics = []
    plain = copy.deepcopy(learn)
    learn.fit(1, 0., cbs=Jitter())
    X = torch.cat([b[0] for b in learn.dls.train])
    at = [i for i,x in enumerate(asked) if len(x) == 16][:3]
    assert torch.equal(torch.cat([asked[i] for i in at]), X)
    plain.fit(1, 0.)
    a,b = (dict(zip(list(o.recorder.metric_names)[1:], o.recorder.values[-1])) for o in (learn, plain))
    assert a['valid_loss'] == pytest.approx(b['valid_loss'], rel=1e-6) and abs(a['qk']-b['qk']) > 1e-3

def test_P8_who_has_no_gradient():
    learn = learner(TinyMIM(teacher()), net=student(n_out=3))
    start = {k: v.clone() for k,v in learn.model.net.named_parameters()}
    learn.fit(1, wd=0.)
    none = {k for k,p in learn.model.net.named_parameters() if p.grad is None}
    last = ['attn.proj', 'norm2', 'mlp.0', 'mlp.2']
    want = {f'blocks.1.{k}.{w}' for k in last for w in ('weight', 'bias')}
    assert none == want | {f'{k}.{w}' for k in ('norm', 'head') for w in ('weight', 'bias')}
    for k,p in learn.model.net.named_parameters(): assert torch.equal(p, start[k]) == (k in none), k

@pytest.mark.parametrize('dim,want', [(192, 333_696), (384, 1_330_944), (768, 5_316_096)])
def test_how_many_have_none(dim, want):
    "Section 6, 6 of the specification: last proj, MLP, norm2 and final norm of T, S and B"
    d = dim
    assert (d*d+d) + (8*d*d+5*d) + 2*d + 2*d == want
    if dim > 192: return
    timm = pytest.importorskip('timm')
    net = timm.create_model('vit_tiny_patch16_224', img_size=32, num_classes=0, depth=2)
    with attn_relations(net) as rel: net(images(1, 3, 32))
    (rel['qk'].sum() + rel['vv'].exp().square().sum()).backward()
    assert sum(p.numel() for p in net.parameters() if p.grad is None) == want

def test_P1_a_teacher_of_the_same_weights_costs_nothing():
    s = student()
    learn = learner(TinyMIM(copy.deepcopy(s)), net=s, opt_func=SGD)
    start = params(learn)
    learn.fit(1, 1., wd=0.)
    assert max(learn.recorder.losses) < 1e-6 and (params(learn)-start).abs().max() < 1e-6

def test_an_output_that_nobody_uses_has_no_graph():
    "Several processes wait for the gradient of whatever has one"
    for loss in (None, nn.CrossEntropyLoss()):
        learn = learner(TinyMIM(teacher()), net=student(n_out=3), loss=loss)
        learn.fit(1)
        out = learn.model.train()(images())
        assert out.main.requires_grad == (loss is not None) and out.aux[0].logs[0].requires_grad
        assert learn.model.eval()(images()).shape == (2, 3)
    class Asks(Technique):
        def penalty(self, z, part): return (z**2).mean()
    learn = learner(TinyMIM(teacher()), Asks(), net=student(n_out=3))     # somebody does
    learn.fit(1)
    assert learn.model.net.head.weight.grad is not None

def test_depth_is_dropped_but_not_in_the_last_block():
    net = student(drop_path=.9)
    assert [type(b.drop_path).__name__ for b in net.blocks] == ['StochasticDepth', 'Identity']
    with pytest.raises(ValueError, match='`drop_path` must be in'): tiny_vit(drop_path=1.)
    learn = learner(TinyMIM(teacher()), net=net)
    learn.fit(1)
    x = images()
    assert torch.equal(learn.model.eval()(x), learn.model.eval()(x))

@pytest.mark.slow
def test_it_learns():
    learn = learner(TinyMIM(sharpen(teacher())), dls=tiny_dls(n=64))
    learn.fit_one_cycle(25, 1e-2)
    first,last = learn.recorder.values[0],learn.recorder.values[-1]
    assert last[0] < first[0]/2 and last[1] < first[1]/2

# --- the teacher -----------------------------------------------------------------------------------------------------
class Norms(nn.Module):
    "A teacher with statistics and dropout, to see that it rests"
    def __init__(self):
        super().__init__()
        self.bn,self.drop,self.inner = nn.BatchNorm2d(1),nn.Dropout(.5),teacher()
        self.bn.eval()
    def forward(self, x): return self.inner(self.drop(self.bn(x)))

def test_P7_the_teacher_rests():
    t = Norms()
    state,modes = copy.deepcopy(t.state_dict()),[m.training for m in t.modules()]
    seen = []
    t.inner.patch_embed.register_forward_hook(lambda m, args, out: seen.append((out.requires_grad, t.drop.training)))
    learn = learner(TinyMIM(t))
    learn.fit(2)
    learn.validate()
    assert set(seen) == {(False, False)} and [m.training for m in t.modules()] == modes and any(modes)
    assert all(torch.equal(v, state[k]) for k,v in t.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in t.parameters()) and hooks(t.inner.blocks) == 0

def test_it_draws_nothing():
    "A fit with a teacher leaves the random streams where one without would"
    ends = []
    for t in (teacher(heads=2), Norms()):
        if isinstance(t, Norms): t.inner = teacher(heads=2)
        learn = learner(TinyMIM(t))
        set_seed(5)
        learn.fit(1)
        ends.append(torch.rand(1))
    assert torch.equal(*ends)

def test_the_teacher_is_in_no_file_and_copies_share_it(tmp_path):
    t = vit(8, 2, 128, 3, 4, 1)
    weights = sum(p.numel() for p in t.parameters())*4
    learn = learner(TinyMIM(t), path=tmp_path)
    learn.fit(1)
    learn.save('m')
    learn.logger = noop     # the one of the tests cannot be written
    learn.export('whole.pkl')
    for f in (tmp_path/'models'/'m.pth', tmp_path/'whole.pkl'): assert f.stat().st_size < weights/4
    assert len(pickle.dumps(learn.tinymim.clone())) < 20_000
    names = {k for k in learn.model.state_dict() if not k.startswith(('RelationNet', 'net'))}
    assert names == set(student().state_dict())
    assert not {id(p) for p in learn.model.parameters()} & {id(p) for p in t.parameters()}
    opt = {id(p) for g in learn.opt.param_lists for p in g}
    assert not opt & {id(p) for p in t.parameters()} and len(opt) == len(list(student().parameters()))

    twin = copy.deepcopy(learn)
    assert twin.tinymim.teacher is t and twin.model is not learn.model and learn.tinymim.clone().teacher is t
    twin.fit(1)
    new = learner(learn.tinymim.clone(), net=student(5))
    new.fit(1)
    assert new.tinymim.teacher is t and pickle.loads(pickle.dumps(Held(t))).net is None

    back = load_learner(tmp_path/'whole.pkl')
    x = images(3)
    assert torch.allclose(back.model.eval()(x), learn.model.eval()(x))
    back.dls = tiny_dls()
    with back.no_bar(), back.no_logging():
        with pytest.raises(ValueError, match=r'with its teacher, got one from a file.* learn.remove_cb\(TinyMIM\)'):
            back.fit(1)
        assert 'no teacher' in repr(back.tinymim)
        back.remove_cb(back.tinymim)
        back.add_cb(TinyMIM(t))
        back.fit(1)
    assert heads_of(back.model.net) == 4

def test_a_teacher_that_is_the_student():
    s = student()
    for t in (s, nn.Sequential(s, nn.Linear(16, 3))):
        with pytest.raises(ValueError, match='a teacher with parameters of its own, got .*copy.deepcopy'):
            learner(TinyMIM(t), net=s)
    learn = learner(TinyMIM(teacher()), net=s)
    learn.model.net = learn.tinymim.teacher
    with pytest.raises(ValueError, match='parameters of its own'): learn.fit(1)

def test_a_learner_under_surgery_as_teacher():
    master = tiny_learner([JoCoR(.2)], net=lambda c, n: vit(8, 2, 32, 3, 4, 1, 3))
    model,kinds = master.model,[type(m) for m in master.model.modules()]
    t = TinyMIM(master)
    assert t.teacher is master.model.nets[0] and type(t.teacher) is TinyViT
    assert master.model is model and [type(m) for m in model.modules()] == kinds
    learn = learner(t)
    learn.fit(1)
    master.fit(1)
    odd = tiny_learner(net=lambda c, n: nn.Sequential(RelationNet(teacher(), 0, ('qk',), 4, 0), nn.Linear(32, 3)))
    assert not has_surgery(TinyMIM(odd).teacher) and has_surgery(odd.model)

def normalised(mean, std):
    X,y = tiny_arrays()
    dls = array_dls(X, y, valid=(X[:12], y[:12]), bs=16, device='cpu', shuffle=False, normalize=False)
    dls.add_tfms([Normalize.from_stats([mean], [std], cuda=False)], 'after_batch')
    return dls

def test_a_learners_own_normalisation():
    "The teacher gets the images as it learned them, whatever the student's are"
    master = tiny_learner(net=lambda c, n: teacher(), dls=normalised(.5, .25))
    master.metrics = []
    seen = []
    master.model.register_forward_pre_hook(lambda m, args: seen.append(args[0].clone()))
    learn = learner(TinyMIM(master), dls=normalised(.1, 2.))
    learn.metrics = []
    learn.fit(1)
    want = torch.cat([b[0] for b in master.dls.train])
    got = torch.cat([x for x in seen if len(x) == 16][:3])
    assert torch.allclose(got, want, atol=1e-5)
    seen.clear()
    learn = learner(TinyMIM(master.model), dls=normalised(.1, 2.))     # of a network nobody knows
    learn.metrics = []
    learn.fit(1)
    got = torch.cat([x for x in seen if len(x) == 16][:3])
    assert torch.allclose(got, torch.cat([b[0] for b in learn.dls.train]), atol=1e-6)

def test_a_teacher_in_half_precision():
    learn = learner(TinyMIM(teacher().to(torch.bfloat16)))
    learn.fit(1)
    assert np.isfinite(learn.recorder.losses).all() and next(learn.tinymim.teacher.parameters()).dtype == torch.bfloat16

@pytest.mark.parametrize('name', ['timm', 'torchvision', 'hf'])
def test_teachers_of_other_libraries(name):
    kw = dict(n=16, size=32, channels=3)
    make = dict(timm=lambda: timms('vit_small_patch16_224', patch_size=8), torchvision=tv, hf=lambda: HFViT(48, 6))
    t = make[name]()
    if name == 'hf': kw,s = dict(n=16),vit(8, 2, 24, 2, 2, 1)
    else: s = vit(32, 8, 24, 2, 2, 3)
    learn = learner(TinyMIM(t, lam=2.), net=s, dls=tiny_dls(**kw))
    heads = ViT(t).attention(-1).heads
    learn.fit(1)
    assert heads_of(learn.model.net) == heads != 2 and np.isfinite(learn.recorder.losses).all()
    assert repr(learn.tinymim).startswith(f'TinyMIM({type(t).__name__}, student_block=-1, ')

# --- ways in and out -------------------------------------------------------------------------------------------------
class CtrlC(nn.Module):
    "In the third forward pass in training"
    def __init__(self): super().__init__(); self.n = 0
    def forward(self, x):
        self.n += self.training
        if self.training and self.n == 2: raise KeyboardInterrupt
        return x

def test_P10_ctrl_c_in_the_forward_pass():
    s = student()
    s.blocks[1].drop_path = CtrlC()
    t = teacher()
    learn = learner(TinyMIM(t), net=s)
    with pytest.raises(KeyboardInterrupt): learn.fit(1)
    assert hooks(learn.model) == hooks(t) == 0
    twin = copy.deepcopy(learn)
    pickle.dumps(learn.model)
    twin.fit(1)
    learn.fit(1)
    assert hooks(learn.model) == hooks(twin.model) == hooks(t) == 0
    assert np.isfinite(learn.recorder.losses).all()

def test_heads_come_back_if_nothing_was_learned():
    learn = learner(TinyMIM(teacher()))
    assert heads_of(learn.model.net) == 4
    learn.remove_cb(TinyMIM)
    assert type(learn.model) is TinyViT and heads_of(learn.model) == 2
    learn.add_cb(TinyMIM(teacher()))
    learn.fit(1)
    learn.remove_cb(TinyMIM)
    assert heads_of(learn.model) == 4 and heads_of(learn.model, 0) == 2
    assert not any('heads_before' in vars(m) for m in learn.model.modules())

@pytest.mark.parametrize('first', [True, False])
def test_heads_of_two_networks(first):
    cbs = [TinyMIM(teacher()), JoCoR(.2)]
    learn = learner(*(cbs if first else cbs[::-1]), net=student(n_out=3), loss=nn.CrossEntropyLoss())
    assert [heads_of(m.net) for m in learn.model.nets] == [4, 4]
    if first: learn.remove_cb(JoCoR)
    learn.remove_cb(TinyMIM)
    nets = [learn.model] if first else list(learn.model.nets)
    assert [heads_of(m) for m in nets] == [2]*len(nets)
    late = learner(TinyMIM(teacher()), net=student(n_out=3), loss=nn.CrossEntropyLoss())
    late.add_cb(JoCoR(.2))
    assert [heads_of(m.net) for m in late.model.nets] == [4, 4]
    late.remove_cb(TinyMIM)
    assert [heads_of(m) for m in late.model.nets] == [2, 2]

def test_a_student_that_is_refused_is_as_it_was():
    "The second of two networks does not fit: the first gets its heads back"
    two = JoCoR(.2, second=lambda: vit(8, 2, 36, 2, 3, 1, 3))
    learn = learner(two, net=student(n_out=3), loss=nn.CrossEntropyLoss())
    before = learn.model
    with pytest.raises(ValueError, match='8 heads divide, got 36'): learn.add_cb(TinyMIM(teacher(heads=8)))
    assert learn.model is before and [heads_of(m) for m in before.nets] == [2, 3] and not has_surgery(before.nets[0])

def test_a_clone_is_for_any_student():
    t = TinyMIM(teacher())      # three blocks
    learner(t)
    assert t.teacher_block == 1 and 'teacher_block=1' in repr(t)
    deep = learner(t.clone(), net=vit(8, 2, 16, 4, 2, 1))
    assert deep.tinymim.teacher_block == 2 and deep.model.block == 3
    assert TinyMIM(teacher(), -1).teacher_block == -1
    for depth,want in ((24, 17), (12, 8), (4, 2), (3, 1)):
        assert usual_block(ViT(vit(8, 2, 8, depth, 2, 1)), ViT(student())) == want
    assert usual_block(ViT(student()), ViT(student())) == 1

@pytest.mark.parametrize('mix', [MixUp, CutMix])
def test_mixed_images_are_refused(mix):
    with pytest.raises(ValueError, match='tinymim compares images .*, (mix_up|cut_mix) mixes the student'):
        learner(TinyMIM(teacher())).fit(1, cbs=mix())

def test_a_network_that_was_replaced():
    learn = learner(TinyMIM(teacher()))
    learn.model = student(7)
    with pytest.raises(ValueError, match='TinyMIM expected a network that it looks into, got another: it was replaced'):
        learn.fit(1)

@pytest.mark.parametrize('company', ['LogitClip', 'JoCoR', 'ODNL'])
def test_company_trains_as_each_alone(company):
    "The relations are of the images and of each network, whatever else is in the batch"
    aux = aux_images('blob', 40, 8, 1)
    make = dict(LogitClip=lambda: LogitClip(1.), JoCoR=lambda: JoCoR(.3, gradual=.5), ODNL=lambda: ODNL(aux))
    first = Opening()
    t,s = sharpen(teacher()),student(n_out=3)
    starts = []
    class Nets(Callback):
        order = -30
        def before_train(self): starts.extend(copy.deepcopy(m.net) for m in self.learn.tinymim.inside)
    learn = learner(TinyMIM(t, kinds='qk'), make[company](), net=s, loss=nn.CrossEntropyLoss(), dls=tiny_dls(bs=4, n=8))
    learn.fit(1, cbs=[first, Nets()])
    found = first.seen[0][:4]
    want = [by_hand(t, o, found, 4, ('qk',), 1)['qk'] for o in starts]
    assert len(starts) == (2 if company == 'JoCoR' else 1)
    with_it = first.seen[2]
    plain = learner(make[company](), net=student(n_out=3), loss=nn.CrossEntropyLoss(), dls=tiny_dls(bs=4, n=8))
    for net in getattr(plain.model, 'nets', [plain.model]): lend_heads(ViT(net), -1, 4)
    other = Opening()
    plain.fit(1, cbs=other)
    assert with_it-other.seen[2] == pytest.approx(sum(want), rel=1e-4)

def test_alasca_needs_a_grid_that_shrinks():
    with pytest.raises(ValueError, match='ALASCA expected a convolutional net'):
        learner(TinyMIM(teacher()), ALASCA(), net=student(n_out=3), loss=nn.CrossEntropyLoss())

def test_lr_find_and_fine_tune_with_frozen_groups():
    split = lambda m: [list(m.patch_embed.parameters()), [p for k,p in m.named_parameters() if 'patch_embed' not in k]]
    learn = learner(TinyMIM(teacher()), splitter=split)
    learn.fine_tune(1)
    start = params(learn)
    learn.lr_find(num_it=4, show_plot=False)
    assert torch.equal(params(learn), start)
    learn.remove_cb(TinyMIM)
    assert heads_of(learn.model) == 4
    fresh = learner(TinyMIM(teacher()))
    fresh.lr_find(num_it=4, show_plot=False)
    fresh.remove_cb(TinyMIM)
    assert heads_of(fresh.model) == 2       # nothing was learned

def test_the_plain_student_is_stripped(tmp_path):
    net = nn.Sequential(nn.Conv2d(1, 3, 1), VisionTransformer(8, 2, 2, 2, 16, 32, num_classes=3))
    learn = learner(TinyMIM(teacher(), tokens='patch'), net=net, loss=nn.CrossEntropyLoss(), path=tmp_path)
    learn.fit(1)
    plain = strip(learn)
    assert not has_surgery(plain.model) and not [c for c in plain.cbs if isinstance(c, (TinyMIM, ObjectiveCallback))]
    assert torch.allclose(plain.model.eval()(images()), learn.model.eval()(images()), atol=1e-6)
    assert heads_of(plain.model) == 4

def test_the_schedule_weighs_validation_too():
    ends = []
    for lam in (1., lambda pct: .25):
        learn = learner(TinyMIM(teacher(), lam=lam))
        ends.append(learn.validate()[0])
    assert ends[1] == pytest.approx(ends[0]/4, rel=1e-5)

def test_no_warning_in_a_fit_without_labels():
    with warnings.catch_warnings():
        warnings.simplefilter('error', RobustWarning)
        learner(TinyMIM(teacher())).fit(1)
