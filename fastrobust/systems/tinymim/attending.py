"Queries, keys and values of one block, taken out of a forward pass; nothing stays behind"
from typing import NamedTuple
import torch
from torch import Tensor
from torch.nn import functional as F
from fastrobust.systems.tinymim.vits import head_norms, heads_name

__all__ = []

# what an attention may be called with that makes it another one
_ASIDE = dict(rope='rotary positions', position_embeddings='rotary positions', attn_mask='a mask',
              key_padding_mask='a mask', attention_mask='a mask', is_causal='a mask')

class QKV(NamedTuple):
    "Of one forward pass, (b,n,width) each, heads side by side"
    q:Tensor
    k:Tensor
    v:Tensor

class Enough(Exception):
    "Ends a forward pass of which no more is wanted"

class Hooked:
    "Within `with` there are hooks; afterwards, whatever happened, there are none"
    def _put(self):
        "Registers hooks, and yields the handle of each"
        raise NotImplementedError(f'{type(self).__name__}._put')

    def __enter__(self):
        if vars(self).setdefault('_hooks', []):
            raise ValueError("expected an object for each `with`, got one within its own. Make "
                             "another one.")
        try:
            for h in self._put(): self._hooks.append(h)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc):
        while self._hooks: self._hooks.pop().remove()

class Tap(Hooked):
    "Within `with`: Q, K and V of a block in the last forward pass, with its graph"
    def __init__(self,
        vit,            # `ViT`
        block=-1,       # Position; from the end where negative
        last=False      # Is the rest of the forward pass not wanted? It ends with `Enough` then
    ):
        self.vit,self.last = vit,last
        self.attention = vit.attention(block)
        self.qkv = None
        self._parts = {}

    def _put(self):
        a = self.attention
        yield a.module.register_forward_pre_hook(self._begin, with_kwargs=True)
        for l in a.layers: yield l.register_forward_hook(self._keep)
        yield a.module.register_forward_hook(self._done)

    def __exit__(self, *exc):
        super().__exit__()
        self._parts = {}

    def taken(self):
        "Q, K and V; refused where there are none, or not with the graph that they should have"
        if self.qkv is None:
            raise ValueError(f"expected a forward pass of {self.vit.who} through its block, got "
                             "none: it skips the block, or runs it as something else (torch.jit, "
                             "torch.fx). Give the network itself.")
        a = self.attention
        weights = [p for m in a.layers or (a.module,) for p in m.parameters(recurse=False)]
        learns = any(p.requires_grad for p in weights)
        if torch.is_grad_enabled() and learns and not self.qkv.q.requires_grad:
            raise ValueError(f"expected {self.vit.who} whose blocks keep their graph, got none of "
                             "it: under gradient checkpointing with use_reentrant=True there is "
                             "none. Switch it off, in timm with net.set_grad_checkpointing(False).")
        return self.qkv

    def keep(self, patches, prefix):
        "Leave the tokens before the patches and those of the positions `patches` (b,k) alone"
        first = torch.arange(prefix, device=patches.device).expand(len(patches), -1)
        at = torch.cat([first, patches+prefix], 1)[..., None]
        self.qkv = QKV(*(o.gather(1, at.expand(-1, -1, o.shape[-1])) for o in self.qkv))

    # nn.DataParallel gives the copies of a module one list of hooks: those of others are let through
    def _begin(self, module, args, kwargs):
        if module is not self.attention.module: return
        for k,what in _ASIDE.items():
            v = kwargs.get(k)
            if v is not None and v is not False: self.vit.refuse(module, what)
        self._parts,self.qkv = {},None
        if self.attention.layers: return
        x,key,value = self._inputs(args, kwargs)
        if not x is key is value: self.vit.refuse(module, 'keys of other tokens than its queries')
        self.qkv = QKV(*_projected(module, x))
        if self.last: raise Enough

    def _inputs(self, args, kwargs):
        "What an nn.MultiheadAttention is called with"
        names = ('query', 'key', 'value')[len(args):]
        return [*args[:3], *(kwargs[k] for k in names)]

    def _keep(self, layer, args, out):
        layers = self.attention.layers
        if layer not in layers: return
        self._parts[layer] = out
        if len(self._parts) < len(layers): return
        parts = [self._parts[l] for l in layers]
        if len(parts) == 1: parts = parts[0].chunk(3, -1)
        self.qkv = QKV(*parts)
        self._parts = {}
        if self.last: raise Enough

    def _done(self, module, args, out):
        "An attention that uses the weights of its layers without calling them is another one"
        if module is not self.attention.module or self.qkv is not None: return
        self.vit.refuse(module, 'queries and keys that no layer gives')

def _projected(m, x):
    "Q, K and V of an nn.MultiheadAttention that attends to its own input"
    if not m.batch_first: x = x.transpose(0, 1)
    biases = [None]*3
    if m.in_proj_bias is not None: biases = m.in_proj_bias.chunk(3)
    if m.in_proj_weight is None: weights = m.q_proj_weight,m.k_proj_weight,m.v_proj_weight
    else: weights = m.in_proj_weight.chunk(3)
    return [F.linear(x, w, b) for w,b in zip(weights, biases)]

def by_head(qkv, attention, heads):
    "Q, K and V as (b,heads,n,d) each, as the attention sees them"
    def cut(o): return o.unflatten(-1, (heads, -1)).transpose(1, 2)
    q,k,v = map(cut, qkv)
    norms = head_norms(attention.module)
    if norms: q,k = norms[0](q),norms[1](k)
    return QKV(q, k, v)

# --- heads ----------------------------------------------------------------------------------------
def head_counts(
    width   # Of a token
):
    "Numbers of heads that a width can be cut into"
    return [h for h in range(1, width+1) if width % h == 0]

def need_heads(vit, block, heads):
    "Refuse a number of heads that the block cannot have"
    a = vit.attention(block)
    if a.width % heads:
        few = [h for h in head_counts(a.width) if 2 <= h <= 64]
        raise ValueError(f"expected a width of {vit.who} that {heads} heads divide, got {a.width}, "
                         f"which is divided by {', '.join(map(str, few))}. Take a student of "
                         "another width, or a teacher with such a number of heads.")
    if heads != a.heads and head_norms(a.module):
        raise ValueError(f"expected {vit.who} without normalised queries and keys, or with {heads} "
                         f"heads as they are, got {a.heads}: the norms are of one head's width. "
                         "Take another network.")

def _cut(m, heads):
    "Set the number of heads of an attention module, and what follows from it"
    name = heads_name(m)
    old = getattr(m, name)
    setattr(m, name, heads)
    for k in ('head_dim', 'attention_head_size'):
        if hasattr(m, k): setattr(m, k, getattr(m, k)*old//heads)
    for k in ('scale', 'scaling'):
        if isinstance(getattr(m, k, None), float): setattr(m, k, getattr(m, k)*(heads/old)**.5)

def set_heads(vit, block, heads):
    "Cut the same queries, keys and values of a block into another number of heads, from now on"
    need_heads(vit, block, heads)
    _cut(vit.attention(block).module, heads)

def lend_heads(vit, block, heads):
    "`set_heads` that remembers, in the module and its copies, how many there were"
    m = vit.attention(block).module
    before = getattr(m, heads_name(m))
    set_heads(vit, block, heads)
    vars(m).setdefault('heads_before', before)

def end_loan(model, keep):
    "Forget how many heads there were; they are put back unless `keep`"
    for m in model.modules():
        before = vars(m).pop('heads_before', None)
        if before is not None and not keep: _cut(m, before)
