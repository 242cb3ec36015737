"Feature and class-token distillation: a small network learns what tokens a large one has, of any architecture"
# Ren, Wei, Zhang, Hu, TinyMIM: An Empirical Study of Distilling MIM Pre-trained Models,
# https://arxiv.org/abs/2301.01296
# Stages: surgery + penalty. Alone on images without labels, or beside a loss on labels.
from typing import NamedTuple
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from fastrobust.basics import as_f32, need_number, need_truth, shown
from fastrobust.resting import at_rest
from fastrobust.systems.tinymim.distilling import Distil
from fastrobust.systems.tinymim.finding import PARTS, find_place
from fastrobust.systems.tinymim.inside import Inside
from fastrobust.systems.tinymim.mimic import need_block
from fastrobust.systems.tinymim.relations import need_tokens
from fastrobust.systems.tinymim.tokens import (Outlet, end_norm, gathered, patch_of, put_in, resized,
                                               tokens_of, two_images)
from fastrobust.systems.tinymim.vits import bare, vit_or_none

__all__ = ['ClassDistill', 'FeatureDistill']

def need_positive(name, v, paper):
    need_number(name, v)
    if 0 < v < float('inf'): return v
    raise ValueError(f"`{name}` must be positive and finite, got {v}. {paper}")

def smooth_l1(
    e,      # Errors, of any shape
    beta=2. # Where it turns from a square into a line, > 0; the paper's
)->Tensor:  # scalar
    "Mean of e^2/(2 beta) where |e| <= beta, else |e| - beta/2 (https://arxiv.org/abs/2301.01296)"
    size = e.abs()
    return torch.where(size <= beta, e*e/(2*beta), size - beta/2).mean()

def class_kl(
    z_t,    # Of the teacher (b,d)
    z_s     # Of the student (b,d)
)->Tensor:  # scalar
    "KL(softmax teacher || softmax student) over the d channels, mean over images"
    log_t,log_s = as_f32(z_t).log_softmax(1),as_f32(z_s).log_softmax(1)
    return (log_t.exp()*(log_t - log_s)).sum(1).mean()

def need_part(at):
    "Refuse what is no part of a block"
    if isinstance(at, str) and at in PARTS: return at
    raise ValueError(f"`at` must be one of {', '.join(map(repr, PARTS))}, got {shown(at)}. The paper's is 'block'.")

# --- wrappers -------------------------------------------------------------------------------------
class Features(NamedTuple):
    "Tokens of a student as the adapter makes them, and where they come from"
    tokens:Tensor   # (b,n,width of the teacher)
    grid:Tensor     # (height, width) of all patches for each image (b,2), zeros where it is not known

class Summary(NamedTuple):
    "One row for each image, as the adapter makes it"
    row:Tensor      # (b,width of the teacher)

class AdapterNet(Inside):
    "A student whose tokens go through a linear layer of the wrapper's own"
    def __init__(self, net, place, adapter):
        super().__init__(net)
        self.place,self.adapter = place,adapter

    def tokens(self, *xb):
        with Outlet(bare(self.net), self.place) as o: out = self.net(*xb)
        if o.tokens is None:
            raise ValueError("expected the network that the technique was added to, got one that does not use the "
                             "block it looks at. Remove the technique with `remove_cb` and add it again.")
        return out,o.tokens

class FeatureNet(AdapterNet):
    "A student that in training also gives its tokens, in the width of a teacher's"
    def __init__(self, net, place, adapter, front, patch):
        super().__init__(net, place, adapter)
        self.front = front  # Are the tokens before the patches compared too?
        self.patch = patch  # (height, width) in pixels of a transformer's, which may be given some; None: a map's

    def look(self, *xb):
        out,t = self.tokens(*xb)
        tokens = torch.cat([t.prefix, t.patches], 1) if self.front else t.patches
        grid = t.grid or (0, 0)
        if self.patch is not None: grid = [a//b for a,b in zip(xb[0].shape[2:], self.patch)]
        return out,Features(self.adapter(tokens), torch.tensor(grid).expand(len(tokens), 2))

class ClassNet(AdapterNet):
    "A student that in training also gives its class token, in the width of a teacher's"
    def look(self, *xb):
        out,t = self.tokens(*xb)
        return out,Summary(self.adapter(summary(bare(self.net), t)))

def summary(
    net,    # A network without wrappers
    tokens  # `Tokens` of its end
):          # (b,d)
    "Its class token, where it has none the mean over patches; after the last norm, if that is one of tokens"
    has = getattr(net, 'has_class_token', None)
    if has is None: has = tokens.prefix.shape[1] > 0
    row = tokens.prefix[:, 0] if has else tokens.patches.mean(1)
    return end_norm(net, row.shape[-1])(row)

# --- techniques -----------------------------------------------------------------------------------
class Adapted:
    "What techniques share that compare tokens after a linear layer"
    _place = None   # Where the teacher's come out
    teacher_block,student_block,at = None,-1,'block'

    @property
    def column(self): return self.names[0]

    def prepare(self, learn):
        self._need_apart(learn)
        put_in(learn, self.surgery, self.wrap)

    def ask(self, x, kept=None):
        "Its tokens, all of them: who asks gathers what is compared"
        if self._place is None:
            self._place = find_place(self.teacher, x, self.teacher_block, 'the teacher', 'teacher_block', self.at)
        return tokens_of(self.teacher, self._place, x)

    def both(self, net):
        "(two images, the student's place, its tokens, those of the teacher)"
        x = two_images(self.learn, net, type(self).__name__)
        inner = bare(net)
        place = find_place(inner, x, self.student_block, 'the student', 'student_block', self.at)
        with at_rest(inner): mine = tokens_of(inner, place, x)
        return x,place,mine,self.asked(x)

    def adapter(self, a, b):
        return nn.Linear(a.shape[-1], b.shape[-1]).to(a.device, a.dtype)

class FeatureDistill(Adapted, Distil):
    """Add lam times the smooth L1 of Linear(student's tokens) and the layer-normed tokens of a teacher

    As in the study of https://arxiv.org/abs/2301.01296, which takes what the last block of each returns, or a part of
    it (`at`). The teacher may be any network with tokens or feature maps: a transformer gives the output of a block,
    before the last norm, others of timm what `forward_features` returns, and convolutional ones their last feature
    map. Beside masked images the same patches are compared."""
    kind,surgery = Features,FeatureNet
    names = 'feature',
    def __init__(self,
        teacher,            # A network, or a fitted Learner
        teacher_block=None, # Of a transformer: position from 0, from the end where negative; None: the last
        student_block=-1,   # Position, from the end where negative; the paper's is the last
        beta=2.,            # Where the square turns into a line, > 0; the paper's
        lam=1.,             # Weight > 0, or a schedule of pct_train; the paper's
        *,
        tokens='all',       # 'all': those before the patches too, where both have as many of them; or 'patch'
        resize=True,        # A teacher's grid that is another is brought to the student's; False: refused
        # Of the blocks, of transformers: 'block', what they return; 'attn' or 'ffn', what their attention or MLP
        # returns; 'qkv', queries, keys and values side by side
        at='block'
    ):
        self.student_block = need_block('student_block', student_block)
        self.teacher_block = None if teacher_block is None else need_block('teacher_block', teacher_block)
        self.beta = need_positive('beta', beta, "The paper takes 2.")
        super().__init__(teacher, lam)
        self.tokens,self.resize = need_tokens(tokens),need_truth('resize', resize)
        self.at = need_part(at)

    def trained_to(self, net):
        vit = vit_or_none(net)
        if vit is None: return None
        block = vit.at(self.student_block, 'student_block')
        # the rest of the block after its attention is untrained, or the blocks after it
        if self.at in ('block', 'ffn'): block += 1
        return block if block < vit.depth else None

    def wrap(self, net):
        x,place,mine,told = self.both(net)
        alike = mine.prefix.shape[1] == told.prefix.shape[1]
        front = self.tokens == 'all' and alike
        patch = patch_of(x, mine) if place.first else None
        return FeatureNet(net, place, self.adapter(mine.patches, told.patches), front, patch)

    def terms(self, seen, x, kept=None):
        told = self.asked(x)
        front = self.inside[0].front
        there = seen.tokens.shape[1] - (told.prefix.shape[1] if front else 0)
        t = self._placed(told, tuple(seen.grid[0].tolist()), there, kept)
        if front: t = torch.cat([told.prefix.to(t.dtype), t], 1)
        target = F.layer_norm(as_f32(t), t.shape[-1:])
        return {'feature': smooth_l1(as_f32(seen.tokens) - target, self.beta)}

    def _placed(self, told, grid, there, kept):
        "The teacher's patches (b,there,d) at the places of those that the student gave"
        t = told.patches
        total = grid[0]*grid[1]
        if not total: total = t.shape[1] if kept is not None else there
        known = told.grid is not None and grid != (0, 0)
        other = told.grid != grid if known else t.shape[1] != total
        if other: t = self._resized(told, grid, total, known)
        return t if kept is None else gathered(t, kept)

    def _resized(self, told, grid, total, known):
        if known and self.resize: return resized(told.patches, told.grid, grid)
        fix = "Take patches of such a size that both have the same grid"
        fix += ", or FeatureDistill(.., resize=True)." if known else "."
        theirs,mine = told.patches.shape[1],total
        if known: theirs,mine = told.grid,grid
        raise ValueError(f"expected a teacher and a student with the same patches, got {theirs} and {mine}. {fix}")

class ClassDistill(Adapted, Distil):
    """Add lam times KL(softmax(teacher's class token) || softmax(student's)), over channels and after the last norm

    As in the study of https://arxiv.org/abs/2301.01296, where it does worse than features and relations. Where the
    widths differ, the student's goes through a linear layer. A network without a class token gives the mean over its
    patches. The teacher sees the whole image, also where the student does not."""
    kind,surgery = Summary,ClassNet
    names = 'class_token',
    def __init__(self,
        teacher,    # A network, or a fitted Learner
        lam=1.      # Weight > 0, or a schedule of pct_train; the paper's
    ):
        super().__init__(teacher, lam)

    def ask(self, x, kept=None): return summary(self.teacher, super().ask(x))

    def wrap(self, net):
        _,place,mine,told = self.both(net)
        same = mine.patches.shape[-1] == told.shape[-1]
        return ClassNet(net, place, nn.Identity() if same else self.adapter(mine.patches, told))

    def terms(self, seen, x, kept=None): return {'class_token': class_kl(self.asked(x), seen.row)}
