"What a vision transformer is made of, whoever wrote it: blocks, attention, tokens before patches"
from typing import NamedTuple
from torch import Tensor, nn
from fastrobust.basics import is_whole
from fastrobust.training.surgery import Surgery

__all__ = []

# names that libraries give to three linear layers of an attention
_APART = (('q_proj', 'k_proj', 'v_proj'), ('query', 'key', 'value'), ('q', 'k', 'v'),
          ('to_q', 'to_k', 'to_v'))
_HEADS = 'num_heads','num_attention_heads','n_heads','heads'
# what only an attention has that does more than softmax(QK'/sqrt(d)) V, and what that is
_BIAS,_TURN = 'a bias by position','rotary positions'
_MORE = {'relative_position_bias_table': _BIAS, 'rel_pos': _BIAS, 'rel_pos_h': _BIAS,
         'rope': _TURN, 'rotary_emb': _TURN, 'window_size': 'windows', 'mask_unit_attn': 'windows',
         'proj_l': 'heads that talk to each other', 'temperature': 'attention between channels',
         'sr_ratio': 'fewer keys than queries', 'gate': 'a gate',
         'bias_k': 'keys that are no token'}
# parameters that are put before the patches: timm, torchvision, DINOv2 and MAE, Hugging Face, CLIP
_FIRST = ('cls_token', 'class_token', 'class_embedding', 'dist_token', 'distillation_token',
          'reg_token', 'register_tokens', 'storage_tokens')
_TURNED = 'rope','rope_embed','rotary_emb'
_NORMS = 'norm','ln','layernorm','fc_norm','ln_post','post_layernorm'
# modules of two linear layers, as libraries call them
_MLPS = 'mlp','ffn','feed_forward'
INSTEAD = "Distil its features instead: FeatureDistill(teacher)."

class Attention(NamedTuple):
    "The attention of one block"
    module:nn.Module
    # One layer that gives Q, K and V side by side, or three; none: nn.MultiheadAttention
    layers:tuple
    heads:int

    @property
    def width(self):
        "Of the queries of all heads"
        if not self.layers: return self.module.embed_dim
        return self.layers[0].out_features//(3 if len(self.layers) == 1 else 1)

def _layers(m):
    "The linear layers of Q, K and V of an attention module, None if it is none"
    if isinstance(m, nn.MultiheadAttention): return ()
    # at every batch, where `getattr` would be slow
    inner = m._modules
    if isinstance(inner.get('qkv'), nn.Linear): return (m.qkv,)
    for names in _APART:
        if names[0] not in inner: continue
        found = [inner.get(k) for k in names]
        if all(isinstance(l, nn.Linear) for l in found): return tuple(found)
    return None

def heads_name(module):
    "The attribute in which an attention module counts its heads"
    names = [k for k in _HEADS if is_whole(getattr(module, k, None))]
    return names[0] if names else None

def head_norms(module):
    "What is applied to the queries and keys of each head, None if nothing is"
    q,k = getattr(module, 'q_norm', None),getattr(module, 'k_norm', None)
    if q is None or isinstance(q, nn.Identity): return None
    return q,k

def _attentions(block):
    "The attention modules within a module, outermost alone"
    if _layers(block) is not None: return [block]
    return [a for m in block.children() for a in _attentions(m)]

def _block_lists(net):
    "Every list of modules with an attention each: (its name, the module that holds it, the list)"
    found = []
    for at,parent in net.named_modules():
        for k,m in parent.named_children():
            if not isinstance(m, (nn.Sequential, nn.ModuleList)) or not len(m): continue
            if any(len(_attentions(b)) != 1 for b in m): continue
            found.append((f'{at}.{k}'.strip('.'), parent, m))
    return found

def bare(net):
    "A network without what is around it: several processes or devices, wrappers of techniques"
    parallel = nn.DataParallel,nn.parallel.DistributedDataParallel
    while isinstance(net, (Surgery, *parallel)):
        net = net.inner() if isinstance(net, Surgery) else net.module
    return net

def is_compiled(net):
    "Does a part of it run as torch.compile made it, without hooks?"
    return any('_orig_mod' in m._modules or m._compiled_call_impl for m in net.modules())

class ViT:
    "A view of a vision transformer: it holds no weights and changes nothing"
    def __init__(self,
        net,            # timm's or torchvision's, `tiny_vit`, or one like them
        who='a network' # Of whom errors speak
    ):
        self.net,self.who = bare(net),who
        name = type(self.net).__name__
        if is_compiled(self.net):
            raise ValueError(f"expected {who} that is not compiled, got {name}: what torch.compile "
                             "makes cannot be looked into. Give the network itself (net._orig_mod), "
                             "and compile it after training.")
        lists = _block_lists(self.net)
        if not lists:
            raise ValueError(f"expected {who} with blocks of attention, a vision transformer of "
                             f"timm or torchvision, got {name}, which has none. {INSTEAD}")
        _,self.parent,blocks = max(lists, key=lambda o: len(o[2]))
        within = set(blocks.modules())
        others = [k for k,_,m in lists if m not in within]
        if others:
            raise ValueError(f"expected {who} with one sequence of blocks, got {name} with more: "
                             f"{', '.join(others)}. Of an encoder beside a decoder or a text "
                             "network, give the encoder alone; stages of different grids have no "
                             f"relations to compare. {INSTEAD}")
        self.blocks = list(blocks)
        self.depth = len(self.blocks)

    def _around(self):
        "The modules outside of the blocks, what holds the blocks first"
        within = {m for b in self.blocks for m in b.modules()}
        within.add(self.parent)
        return [self.parent, *[m for m in self.net.modules() if m not in within]]

    @property
    def prefix(self):
        "Tokens before the patches: of the class, registers"
        around = self._around()
        for m in around:
            n = getattr(m, 'num_prefix_tokens', None)
            if is_whole(n): return n
        first = [getattr(m, k, None) for m in around for k in _FIRST]
        return sum(1 if p.ndim == 1 else p.shape[-2] for p in first if isinstance(p, Tensor))

    @property
    def norm(self):
        "The normalisation after the last block, None where none is found"
        found = [getattr(m, k, None) for m in self._around() for k in _NORMS]
        norms = [m for m in found if isinstance(m, nn.Module) and not isinstance(m, nn.Identity)]
        return norms[0] if norms else None

    @property
    def width(self):
        "Of a token"
        a = self.attention(-1)
        return a.module.embed_dim if not a.layers else a.layers[0].in_features

    def at(self, block, name='block'):
        "Position 0..depth-1 of a block that may be counted from the end"
        if is_whole(block) and -self.depth <= block < self.depth: return int(block) % self.depth
        raise ValueError(f"`{name}` must be a block of {self.who} with {self.depth}: a whole "
                         f"number from {-self.depth} to {self.depth-1}, got {block!r}.")

    def attending(self, block):
        "The attention module of a block, of any kind"
        return _attentions(self.blocks[self.at(block)])[0]

    def mlp(self, block):
        "The module of a block that is its MLP"
        b = self.blocks[self.at(block)]
        found = [m for k in _MLPS if isinstance(m := getattr(b, k, None), nn.Module)]
        if found: return found[0]
        raise ValueError(f"expected {self.who} with an MLP in its blocks, {' or '.join(_MLPS)}, got "
                         f"{type(b).__name__} with {', '.join(k for k,_ in b.named_children())}. Take what the block "
                         "returns, at='block'.")

    def attention(self,
        block   # Position; from the end where negative
    ):
        "`Attention` of a block; refused where it is not plain softmax(QK'/sqrt(d)) V"
        m = self.attending(block)
        for k,what in _MORE.items():
            if getattr(m, k, None) is not None: self.refuse(m, what)
        if any(getattr(o, k, None) is not None for o in self._around() for k in _TURNED):
            self.refuse(m, 'rotary positions')
        if getattr(m, 'add_zero_attn', False): self.refuse(m, 'keys that are no token')
        layers = _layers(m)
        if len(layers) == 3 and len({l.out_features for l in layers}) > 1:
            self.refuse(m, 'fewer keys than queries')
        name = heads_name(m)
        if name is None: self.refuse(m, 'no number of heads that one could find')
        a = Attention(m, layers, getattr(m, name))
        norms = head_norms(m)
        if norms and any(p.numel() != a.width//a.heads for o in norms for p in o.parameters()):
            self.refuse(m, 'queries and keys normalised over all heads')
        return a

    def refuse(self, module, what):
        raise ValueError(f"expected {self.who} with plain attention over all tokens, whose "
                         f"relations are softmax(QK'), got {type(module).__name__} with {what}. "
                         f"{INSTEAD}")

def vit_or_none(net, who='a network'):
    "`ViT` of a network, None of one that is no transformer"
    try: return ViT(net, who)
    except ValueError: return None
