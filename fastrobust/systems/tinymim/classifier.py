"An ordinary classifier out of a pretrained vision transformer, with all of its blocks or those below the distilled one"
import copy
from collections import OrderedDict
from functools import partial
import torch
from torch import nn
from fastai.data.transforms import get_c
from fastai.learner import Learner
from fastrobust.basics import need_number, need_whole, robust_warn, shown
from fastrobust.data.copying import loader_like
from fastrobust.inference.anyarch import add_norm
from fastrobust.pixels import peek, pixel_space
from fastrobust.systems.tinymim.attending import end_loan, set_heads
from fastrobust.systems.tinymim.decay import adamw, vit_layers
from fastrobust.systems.tinymim.distilling import TeacherImage
from fastrobust.systems.tinymim.vitfiles import is_torchvision, need_images, resize_net
from fastrobust.systems.tinymim.vits import ViT, is_compiled

__all__ = []

def tokens_of(
    net,    # A vision transformer of timm or torchvision, or with `forward_features`
    x       # Images (b,c,h,w)
):          # (b,n,width)
    "The tokens that a network ends with, after its last norm"
    if not is_torchvision(net): return net.forward_features(x)
    x = net._process_input(x)
    first = net.class_token.expand(len(x), -1, -1)
    return net.encoder(torch.cat([first, x], 1))

def _timms_vit():
    "The class of timm's plain vision transformer, None where timm is not"
    try: from timm.models.vision_transformer import VisionTransformer
    except ImportError: return None
    return VisionTransformer

class ViTClassifier(nn.Module):
    "A vision transformer, a norm of its tokens, their mean (or that of the class), a linear layer"
    def __init__(self, net, norm, width, n_out, prefix, pool):
        super().__init__()
        self.net,self.norm,self.head = net,norm,nn.Linear(width, n_out)
        self.num_prefix_tokens,self.pool = prefix,pool
        nn.init.trunc_normal_(self.head.weight, std=.02)
        nn.init.zeros_(self.head.bias)

    @property
    def heads(self):
        "Heads of each block"
        vit = ViT(self)
        return tuple(vit.attention(i).heads for i in range(vit.depth))

    def plain(self):
        "The same network of torchvision's or timm's classes alone, with these parts; None where theirs is another"
        net,like = self.net,_timms_vit()
        if is_torchvision(net) and self.pool == 'class':
            net.encoder.ln,net.heads = self.norm,nn.Sequential(OrderedDict(head=self.head))
        elif like is not None and type(net) is like:
            net.norm,net.head = self.norm,self.head
            net.attn_pool,net.pool_include_prefix = None,False
            net.global_pool = 'token' if self.pool == 'class' else 'avg'
            net.num_classes = self.head.out_features
        else: return None
        return net

    def forward(self, x):
        t = self.norm(tokens_of(self.net, x))
        if self.pool == 'class': return self.head(t[:, 0])
        return self.head(t[:, self.num_prefix_tokens:].mean(1))

# --- parts of the network -------------------------------------------------------------------------
def _name_of(parent, child): return next(k for k,m in parent.named_children() if m is child)

def _keep_blocks(vit, n):
    "Leave the first `n` blocks"
    for k,m in vit.parent.named_children():
        inner = list(m.children())
        if inner and inner[0] is vit.blocks[0]: setattr(vit.parent, k, m[:n])

def _take_norm(vit):
    "The last norm, which goes out of the network; a new one where there is none"
    norm = vit.norm
    if norm is None: return nn.LayerNorm(vit.width, eps=1e-6)
    setattr(vit.parent, _name_of(vit.parent, norm), nn.Identity())
    return norm

def _drop_heads(net):
    for k in ('head', 'heads', 'head_drop', 'fc_norm', 'classifier', 'attn_pool'):
        if isinstance(getattr(net, k, None), nn.Module): setattr(net, k, nn.Identity())

def _restore(vit, block, heads, own):
    "Another number of heads in the block that was distilled"
    end_loan(vit.net, keep=True)
    if heads is None: return
    if heads != 'own': need_whole('heads', heads, 1, fix="'own' is what it had before.")
    set_heads(vit, block, own if heads == 'own' else heads)

def _view(net):
    "`ViT` of a student"
    try:
        vit = ViT(net, 'the student')
        vit.attention(-1)
    except ValueError as e:
        if is_compiled(net): raise
        raise ValueError("expected a student that is a plain vision transformer, of which to_classifier knows the "
                         f"tokens, got {type(net).__name__}. Fine-tune it as any network: with a linear layer on the "
                         "classes behind it, robust_learner(dls, nn.Sequential(learn.student, nn.Linear(width, "
                         "classes))), or in place of the layer that it ends with.") from e
    return vit

def _net(student, size, block, own, n_out, *, cut, pool, heads):
    "`ViTClassifier` out of a copy of the student"
    net = student
    vit = _view(net)
    prefix,width,norm = vit.prefix,vit.width,None
    if not hasattr(net, 'forward_features') and not is_torchvision(net):
        raise ValueError("expected a student of timm or torchvision, `tiny_vit`, or one with "
                         "`forward_features(x)` that gives its tokens (b,n,width), got "
                         f"{type(net).__name__}. Write that method.")
    if pool == 'class' and not prefix:
        raise ValueError("expected a student with a token of the class for pool='class', got one "
                         "without. Take pool='mean'.")
    if cut == 'last' and heads is not None:
        raise ValueError(f"expected no `heads` with cut='last', got {heads!r}: the block that they "
                         "are of is cut off. Keep it with cut=None.")
    if cut == 'last':
        n = vit.depth-1 if block is None else block
        if n < 1:
            raise ValueError("expected a student with a block before the one that was distilled, "
                             "got none, so that cut='last' would leave no block. Take cut=None.")
        _take_norm(vit)
        _keep_blocks(vit, n)
        norm = nn.LayerNorm(width, eps=1e-6)
    else:
        _restore(vit, -1 if block is None else block, heads, own)
        norm = _take_norm(vit)
    _drop_heads(net)
    resize_net(net, size, 'the student')
    return ViTClassifier(net, norm, width, n_out, prefix, pool)

# --- its data -------------------------------------------------------------------------------------
def _need_labels(dls):
    "(classes, (c,h,w) of the images) of labelled images"
    if not hasattr(dls, 'loaders'):
        raise TypeError(f"expected DataLoaders with labels, got {shown(dls)}. Make some with "
                        "ImageDataLoaders or array_dls.")
    x,*targets = peek(dls)
    n_out,pairs = get_c(dls),any(isinstance(o, TeacherImage) for o in targets)
    if pairs or not n_out or getattr(x, 'ndim', 0) != 4:
        got = 'pairs of mim_dls' if pairs else 'some without classes or images'
        raise ValueError(f"expected DataLoaders of images with labels for a classifier, got {got}. "
                         "Make some with ImageDataLoaders.from_folder or array_dls.")
    return n_out,tuple(x.shape[1:])

def _same_pixels(learn, dls):
    "`dls`, or a copy normalised as in pre-training where that is left open; say where it is done otherwise"
    was,now = pixel_space(learn.dls),pixel_space(dls)
    if was.mean is None: return dls
    stats = was.mean.flatten().tolist(),was.std.flatten().tolist()
    if now.mean is None:
        mine = copy.copy(dls)
        mine.loaders = [loader_like(dl, dl.dataset) for dl in dls.loaders]
        add_norm(mine, stats, averaged=False)
        return mine
    new = [*now.mean.flatten().tolist(), *now.std.flatten().tolist()]
    old = [*stats[0], *stats[1]]
    if len(new) == len(old) and max(abs(a-b) for a,b in zip(new, old)) < .05: return dls
    robust_warn(f"the student learned on images normalised by mean {_few(stats[0])} and std "
                f"{_few(stats[1])}, these are by {_few(now.mean.flatten())} and "
                f"{_few(now.std.flatten())}. Normalise both alike: learn from mim_dls(dls) of "
                "these loaders, or with mim_dls(.., stats=), or these with Normalize.from_stats.")
    return dls

def _few(v): return '['+', '.join(f'{o:.3g}' for o in v)+']'

def _need_form(cut, pool):
    if cut not in ('auto', 'last', None):
        raise ValueError(f"`cut` must be 'auto', 'last' or None, got {cut!r}.")
    if pool not in ('mean', 'class'):
        raise ValueError(f"`pool` must be 'mean' or 'class', got {pool!r}.")

def _need_decay(v):
    if v is None: return
    need_number('layer_decay', v)
    if not 0 < v <= 1:
        raise ValueError(f"`layer_decay` must be in (0,1], got {v}. None: one learning rate.")

def classifier_of(
    learn,          # `MIMLearner`
    student,        # A copy of its network, to be changed
    dls,            # Labelled images
    form,           # dict of `cut`, `pool`, `heads`
    layer_decay,    # In (0,1], or None
    **kwargs        # More for Learner
):
    "What `to_classifier` gives"
    n_out,shape = _need_labels(dls)
    _need_form(form['cut'], form['pool'])
    _need_decay(layer_decay)
    block = learn.trained_to
    if form['cut'] == 'auto': form = {**form, 'cut': None if block is None else 'last'}
    model = _net(student, shape[1:], block, learn.own_heads, n_out, **form)
    need_images(model.net, shape, 'a student')
    dls = _same_pixels(learn, dls)
    opt_func = partial(adamw, decay=layer_decay)
    recipe = dict(opt_func=opt_func, wd=.05, moms=(.9, .9, .9), splitter=vit_layers)
    return Learner(dls, model, **{**recipe, **kwargs})
