"The tokens of a network, whoever wrote it, at a place in it: read in a forward pass, resized, gathered"
from typing import NamedTuple
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from fastrobust.pixels import peek_images
from fastrobust.systems.tinymim.attending import Enough, Hooked, Tap
from fastrobust.systems.tinymim.inside import Inside
from fastrobust.systems.tinymim.vits import ViT, vit_or_none
from fastrobust.training.surgery import wrap_each

__all__ = []

class Place(NamedTuple):
    "Where a network gives its tokens: names and numbers alone, so that files may hold it"
    name:str|None       # Of a module, as in `named_modules`; None: what timm's `forward_features` returns
    call:int=0          # Which of its calls in a forward pass, from 0
    taken:bool=False    # Is it what the module is given, and not what it returns?
    first:str|None=None # Name of a transformer's first block: convolutions before it show the grid
    prefix:int=0        # Tokens before the patches
    channels:int=1      # Dimension of a feature map that holds its channels
    qkv:int|None=None   # Position of the block whose queries, keys and values are taken, side by side

class Tokens(NamedTuple):
    "Of one forward pass, with its graph"
    prefix:Tensor       # Those of class and registers (b,p,d)
    patches:Tensor      # (b,n,d)
    grid:tuple|None     # (height, width) of all patches, also where the network was given some; None: not known

def two_images(
    learn,  # A Learner
    net,    # Their device and precision are those of its parameters
    who     # Technique, for the message
):          # (2,c,h,w), or as many as there are
    "Images to try a network on"
    x = peek_images(learn.dls)
    if x is None:
        raise ValueError(f"{who} expected loaders of images (b,c,h,w), got other inputs. Build them with an "
                         "ImageBlock, `array_dls` or `mim_dls`.")
    p = next(net.parameters(), x)
    return x[:2].as_subclass(Tensor).to(p.device, p.dtype)

def put_in(
    learn,  # A Learner
    kind,   # Class of the wrapper
    wrap    # Makes it around a network
):
    "Wrap its network, or each of two, in an order by name: parameters come in one order, whoever came first"
    def put(net):
        if not isinstance(net, Inside) or type(net).__name__ < kind.__name__: return wrap(net)
        net.net = put(net.net)
        return net
    learn.model = wrap_each(learn.model, put)

# --- reading them ---------------------------------------------------------------------------------
def is_map(o): return isinstance(o, Tensor) and o.ndim == 4

class _Returned:
    "A hook on what timm's `forward_features` returns, which is no module"
    def __init__(self, net, look):
        inner = net.forward_features
        self.net,self.before = net,vars(net).get('forward_features')
        def looked_at(*args, **kwargs):
            out = inner(*args, **kwargs)
            look(out)
            return out
        net.forward_features = looked_at

    def remove(self):
        del self.net.forward_features
        if self.before is not None: self.net.forward_features = self.before

class Outlet(Hooked):
    "Within `with`: the tokens at a place in the last forward pass, with its graph; no hook stays, no copy has one"
    def __init__(self,
        net,        # A network without wrappers
        place,      # `Place` in it
        last=False  # Is the rest of the forward pass not wanted? It ends with `Enough` then
    ):
        self.net,self.place,self.last = net,place,last
        self.tokens = None
        self._grids,self._calls,self._begun = [],0,False

    def _put(self):
        p = self.place
        for m in self.net.modules():
            if isinstance(m, nn.Conv2d): yield m.register_forward_hook(self._mark)
        if p.first is not None: yield self.net.get_submodule(p.first).register_forward_pre_hook(self._begin)
        if p.qkv is not None:
            yield from self._put_tap(p.qkv)
            return
        if p.name is None:
            yield _Returned(self.net, self._look)
            return
        module = self.net.get_submodule(p.name)
        if p.taken: yield module.register_forward_pre_hook(lambda m, args: self._look(args[0]))
        else: yield module.register_forward_hook(lambda m, args, out: self._look(out))

    def _put_tap(self, block):
        "The hooks of a `Tap`, and one that takes what it found"
        tap = Tap(ViT(self.net), block)
        yield from tap._put()
        look = lambda m, args, out: self._look(torch.cat(tap.taken(), -1))
        yield tap.attention.module.register_forward_hook(look)

    def _begin(self, module, args): self._begun = True

    def _mark(self, conv, args, out):
        if is_map(out) and not self._begun: self._grids.append(tuple(out.shape[2:]))

    def _look(self, out):
        if self._calls == self.place.call: self.take(out)
        self._calls += 1
        if self.last and self.tokens is not None: raise Enough

    def take(self, out):
        "Read tokens out of what was returned"
        if isinstance(out, (tuple, list)) and len(out): out = out[0]
        if is_map(out):
            maps = out.movedim(self.place.channels, -1)
            patches = maps.flatten(1, 2)
            self.tokens = Tokens(patches[:, :0], patches, tuple(maps.shape[1:3]))
        elif isinstance(out, Tensor) and out.ndim == 3 and out.shape[1] > self.place.prefix:
            front,patches = out.split([self.place.prefix, out.shape[1]-self.place.prefix], 1)
            self.tokens = Tokens(front, patches, self._grid(patches.shape[1]))

    def _grid(self, n):
        "Of all patches: the last before the first block; else one of `n` patches, a square where nothing shows it"
        grids = self._grids[::-1]
        if self._begun: grids = [g for g in grids[:1] if g[0]*g[1] >= n]
        else: grids = [g for g in grids if g[0]*g[1] == n]
        if grids: return grids[0]
        side = round(n**.5)
        return (side, side) if side*side == n else None

def tokens_of(
    net,        # A network without wrappers
    place,      # `Place` in it
    x           # Images (b,c,h,w)
)->Tokens|None: # None: there are none
    "The tokens of a network at a place; the forward pass ends there"
    with Outlet(net, place, last=True) as o:
        try: net(x)
        except Enough: pass
    return o.tokens

def patch_of(
    x,      # Images (b,c,h,w)
    tokens  # `Tokens` of them, of all patches
):          # (height, width) in pixels; None: these are no patches of one size
    "How large the patches are that a network cuts images into"
    grid,size = tokens.grid,tuple(x.shape[2:])
    if grid is None or grid[0]*grid[1] != tokens.patches.shape[1]: return None
    if any(a % b for a,b in zip(size, grid)): return None
    return size[0]//grid[0],size[1]//grid[1]

def resized(
    patches,    # (b,n,d)
    grid,       # Their (height, width)
    to          # That of the result
):              # (b,height*width,d) float32
    "Tokens of patches on another grid: bilinear, and where it shrinks over all that a new patch covers"
    maps = patches.float().transpose(1, 2).unflatten(2, grid)
    return F.interpolate(maps, to, mode='bilinear', antialias=True).flatten(2).transpose(1, 2)

def gathered(
    tokens, # (b,n,d)
    keep    # Positions (b,k)
):          # (b,k,d)
    "Some tokens of each image"
    return tokens.gather(1, keep[..., None].expand(-1, -1, tokens.shape[-1]))

def end_norm(
    net,    # A network without wrappers
    width   # Of a token
):
    "A transformer's normalisation after the last block, where it is one of tokens; else nothing"
    vit = vit_or_none(net)
    norm = None if vit is None else vit.norm
    if norm is not None and getattr(norm, 'weight', None) is not None and norm.weight.shape == (width,): return norm
    return nn.Identity()
