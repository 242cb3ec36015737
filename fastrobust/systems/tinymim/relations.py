"Relations of tokens, softmax(AB'/sqrt(d)) for A, B of queries, keys and values, and their loss"
# Ren, Wei, Zhang, Hu, TinyMIM, https://arxiv.org/abs/2301.01296
from contextlib import ExitStack
import torch
from torch import Tensor, nn
from fastrobust.basics import need_whole, shown
from fastrobust.systems.tinymim.attending import Tap, by_head, need_heads
from fastrobust.systems.tinymim.plain import Watch
from fastrobust.systems.tinymim.vits import ViT

__all__ = ['RelationLoss', 'attn_relations', 'relation_kl']

KINDS = 'qk','vv','qq','kk'

def need_kinds(kinds):
    "Names of relations as a tuple"
    ks = (kinds,)
    if isinstance(kinds, (list, tuple)): ks = tuple(kinds)
    if ks and all(ks.count(k) == 1 and k in KINDS for k in ks): return ks
    raise ValueError(f"`kinds` must be some of {', '.join(map(repr, KINDS))}, each once, got "
                     f"{kinds!r}. The paper takes ('qk', 'vv').")

def need_tokens(tokens):
    if tokens in ('all', 'patch'): return tokens
    raise ValueError(f"`tokens` must be 'all' or 'patch', those of patches alone, got {tokens!r}.")

def log_relation(
    a,  # (b,heads,n,d)
    b   # Of the same shape
)->Tensor:  # float32 (b,heads,n,n), or float64
    "log softmax(ab'/sqrt(d)) in float32: in half precision log 0 would be in it"
    if a.dtype != torch.float64: a,b = a.float(),b.float()
    with torch.autocast(a.device.type, enabled=False):
        return (a @ b.transpose(-2, -1)*a.shape[-1]**-.5).log_softmax(-1)

def relations_of(
    tap,            # `Tap` after a forward pass
    kinds,          # Some of 'qk', 'vv', 'qq', 'kk'
    heads,          # Number of heads to cut into
    skip=0          # Tokens at the front that are left out
):                  # kind -> log-probabilities (b,heads,n,n)
    "Relations of what a tap has seen"
    parts = by_head(tap.taken(), tap.attention, heads)
    of = {k: o[:, :, skip:] for k,o in zip('qkv', parts)}
    return {k: log_relation(of[k[0]], of[k[1]]) for k in kinds}

class attn_relations(dict):
    """Within `with`: after each forward pass kind -> log softmax(AB'/sqrt(d)) of a block

    Each is (b,heads,n,n), rows of queries, and has its graph. Of networks by timm and torchvision,
    `tiny_vit`, and others with plain attention, which is tried in evaluation; see
    https://arxiv.org/abs/2301.01296, eq. 2. Afterwards the network is as it was."""
    def __init__(self,
        model,              # A vision transformer
        block=-1,           # Position of the block; from the end where negative
        kinds=('qk', 'vv'), # Some of 'qk', 'vv', 'qq', 'kk': of queries and keys, values and values, ..
        heads=None,         # Heads to cut into, which divide the width; None: as many as the block has
        tokens='all'        # 'all', or 'patch': without those of the class and registers
    ):
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"expected a network (nn.Module), got {shown(model)}. Of a Learner: "
                            "learn.model.")
        vit = ViT(model)
        self._kinds = need_kinds(kinds)
        self._tap = Tap(vit, vit.at(block))
        if heads is None: heads = self._tap.attention.heads
        self._heads = need_whole('heads', heads, 1)
        need_heads(vit, block, self._heads)
        self._skip = vit.prefix if need_tokens(tokens) == 'patch' else 0
        self._model,self._hooks = model,None
        self._watch,self._due = Watch(self._tap),True

    def __enter__(self):
        with ExitStack() as hooks:
            hooks.enter_context(self._tap)
            if self._due: hooks.enter_context(self._watch)
            hooks.callback(self._model.register_forward_hook(self._read).remove)
            self._hooks = hooks.pop_all()
        return self

    def __exit__(self, *exc): self._hooks.close()

    def _read(self, model, args, out):
        "Without dropout the first pass also says whether the attention is plain"
        if self._due and not self._tap.attention.module.training:
            self._watch.compare()
            self._watch.__exit__()
            self._due = False
        self.update(relations_of(self._tap, self._kinds, self._heads, self._skip))

def finite_kl(log_t, log_s):
    "`relation_kl` of logarithms that are finite, as those of `log_relation`"
    return (log_t.exp()*(log_t - log_s)).sum(-1).mean()

def relation_kl(
    log_t,  # Log-probabilities of the teacher (b,heads,n,n)
    log_s   # Of the student, of the same shape
)->Tensor:
    "KL(teacher || student), mean over images, heads, queries (arxiv.org/abs/2301.01296, eq. 3)"
    if log_t.shape != log_s.shape:
        raise ValueError(f"expected relations of one shape (b,heads,n,n), got {tuple(log_t.shape)} "
                         f"of the teacher and {tuple(log_s.shape)} of the student. Heads: "
                         "attn_relations(.., heads=). Tokens: the same grid of patches, and "
                         "tokens='patch' where the tokens before them differ.")
    # 0 log 0 = 0
    t = log_t.exp()
    return torch.where(t > 0, t*(log_t - log_s), torch.zeros_like(t)).sum(-1).mean()

class RelationLoss(nn.Module):
    "Sum over kinds of `relation_kl`, the loss of TinyMIM (https://arxiv.org/abs/2301.01296, eq. 4)"
    def __init__(self,
        kinds=('qk', 'vv')  # Some of 'qk', 'vv', 'qq', 'kk'; the paper's
    ):
        super().__init__()
        self.kinds = need_kinds(kinds)

    def parts(self,
        rel_s,  # kind -> log-probabilities of the student, as of `attn_relations`
        rel_t   # Of the teacher
    ):          # kind -> scalar
        "The terms one by one"
        return {k: relation_kl(rel_t[k], rel_s[k]) for k in self.kinds}

    def forward(self, rel_s, rel_t): return sum(self.parts(rel_s, rel_t).values())
