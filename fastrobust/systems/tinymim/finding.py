"Where the tokens of a network come out, whoever wrote it: of a transformer's block, or as its last feature map"
from collections import Counter
from functools import partial
import torch
from torch import nn
from fastrobust.resting import at_rest
from fastrobust.systems.tinymim.attending import Hooked
from fastrobust.systems.tinymim.tokens import Place, is_map, tokens_of
from fastrobust.systems.tinymim.trial import not_taken, takes_one
from fastrobust.systems.tinymim.vits import vit_or_none
from fastrobust.training.auxheads import find_stages

__all__ = []

# What is taken of a transformer's block: all of it, what its attention returns, what its MLP returns, or its queries,
# keys and values
PARTS = 'block','attn','ffn','qkv'

def _name_of(net, module): return next(k for k,m in net.named_modules() if m is module)

def _prefix(net):
    "Tokens before the patches of what `forward_features` returns"
    n,first = getattr(net, 'num_prefix_tokens', None),getattr(net, 'cls_token', None)
    if n is not None or first is None: return n or 0
    # PiT has its token of distillation in there
    return first.shape[-2] if first.ndim > 1 else 1

def _block_place(net, vit, block):
    name = _name_of(net, vit.blocks[block])
    # linear layers, so attention too, work on the last dimension
    return Place(name, first=_name_of(net, vit.blocks[0]), prefix=vit.prefix, channels=3)

def _part_place(net, vit, block, at):
    "Of a part of a transformer's block, before what goes around it is added"
    place = _block_place(net, vit, block)
    if at == 'block': return place
    if at == 'qkv':
        vit.attention(block)    # says which have none
        return place._replace(qkv=block)
    module = vit.attending(block) if at == 'attn' else vit.mlp(block)
    return place._replace(name=_name_of(net, module))

def _features_place(net):
    "The place of what `forward_features` returns, where there is one"
    if not callable(getattr(net, 'forward_features', None)): return None
    last = getattr(net, 'output_fmt', None) == 'NHWC'
    return Place(None, prefix=_prefix(net), channels=3 if last else 1)

class _Pools(Hooked):
    "Within `with`: what the last pooling over a whole map is given, none where convolutions over a map come after it"
    kinds = nn.AdaptiveAvgPool2d,nn.AdaptiveMaxPool2d
    def __init__(self, net):
        self.names = {m: k for k,m in net.named_modules()}
        self.found,self._calls = [],Counter()

    def _put(self):
        for m in self.names:
            if isinstance(m, (nn.Conv2d, *self.kinds)): yield m.register_forward_hook(self._look)

    def _look(self, m, args, out):
        if isinstance(m, self.kinds):
            if is_map(args[0]): self.found.append(Place(self.names[m], self._calls[m], taken=True))
        elif is_map(out) and out.shape[2:].numel() > 1: self.found.clear()
        self._calls[m] += 1

class _Pairs(Hooked):
    "Within `with`: the last module that returned a map and more beside it, as stages of PiT do"
    def __init__(self, net): self.net,self.place,self._calls = net,None,Counter()

    def _put(self):
        for k,m in self.net.named_modules():
            if m is not self.net: yield m.register_forward_hook(partial(self._look, k))

    def _look(self, name, m, args, out):
        if isinstance(out, tuple) and out and is_map(out[0]): self.place = Place(name, self._calls[name])
        self._calls[name] += 1

def _map_place(net, x):
    "The last feature map of a network"
    with _Pools(net) as pools: net(x)
    if pools.found: return pools.found[0]
    stages = find_stages(net, x)
    if stages: return Place(stages[-1].name, stages[-1].call)
    with _Pairs(net) as pairs: net(x)
    return pairs.place

def _need_view(net, who, name, block, at):
    "`ViT` of a network, None of another; refused where a block or a part of one is asked for"
    vit = vit_or_none(net, who)
    if vit is not None: return vit
    if at != 'block':
        raise ValueError(f"expected {who} with one sequence of blocks of attention for at={at!r}, got "
                         f"{type(net).__name__}. Leave `at` out: the last features are taken.")
    if block in (None, -1): return None
    raise ValueError(f"expected {who} with one sequence of blocks to take `{name}` from, got "
                     f"{type(net).__name__}. Leave it out: the last features are taken.")

def _tried(net, place, x, at):
    "(a place, its tokens): that which is given, else of the last feature map; tokens None where there are none"
    with at_rest(net):
        found = None if place is None else tokens_of(net, place, x)
        if found is not None or at != 'block': return place,found
        place = _map_place(net, x)
        return place,None if place is None else tokens_of(net, place, x)

def find_place(
    net,                # A network without wrappers
    x,                  # Images (b,c,h,w) to try it on
    block=None,         # Of a transformer; None: the last
    who='a network',    # Of whom errors speak
    name='block',       # Of the argument
    at='block'          # Of a transformer: its block's output, or a part in `PARTS`
)->Place:
    "Where a network gives its tokens: a block or a part of it, else `forward_features`, else its last feature map"
    vit = _need_view(net, who, name, block, at)
    if vit is None: place = _features_place(net)
    else: place = _part_place(net, vit, vit.at(-1 if block is None else block, name), at)
    try: place,found = _tried(net, place, x, at)
    except torch.cuda.OutOfMemoryError: raise
    except (RuntimeError, TypeError, AssertionError) as e:
        if not takes_one(net): raise
        raise not_taken(who, net, x, e) from e
    if found is not None:
        # blocks that merge patches
        merges = found.grid is not None and found.grid[0]*found.grid[1] != found.patches.shape[1]
        return place._replace(first=None) if merges else place
    raise ValueError(f"expected {who} with tokens (b,n,d) or feature maps (b,c,h,w), got {type(net).__name__}, in "
                     "which none were found. Take a vision transformer, or a convolutional network; of another one, "
                     "a wrapper whose `forward_features(x)` returns them.")
