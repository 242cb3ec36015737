"Where the tokens of a network come out, whoever wrote it: of a transformer's block, or as its last feature map"
from collections import Counter
from typing import NamedTuple
from torch import Tensor, nn
from torch.nn import functional as F
from fastrobust.pixels import peek_images
from fastrobust.resting import at_rest
from fastrobust.systems.tinymim.attending import Enough, Hooked
from fastrobust.systems.tinymim.inside import Inside
from fastrobust.systems.tinymim.vits import ViT
from fastrobust.training.auxheads import find_stages
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

# --- finding them ---------------------------------------------------------------------------------
def _name_of(net, module): return next(k for k,m in net.named_modules() if m is module)
def _is_map(o): return isinstance(o, Tensor) and o.ndim == 4

def _vit(net, who):
    try: return ViT(net, who)
    except ValueError: return None

def _prefix(net):
    "Tokens before the patches of what `forward_features` returns"
    n = getattr(net, 'num_prefix_tokens', None)
    return int(getattr(net, 'cls_token', None) is not None) if n is None else n

def _block_place(net, vit, block):
    name = _name_of(net, vit.blocks[block])
    # linear layers, so attention too, work on the last dimension
    return Place(name, first=_name_of(net, vit.blocks[0]), prefix=vit.prefix, channels=3)

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
            if _is_map(args[0]): self.found.append(Place(self.names[m], self._calls[m], taken=True))
        elif _is_map(out) and out.shape[2:].numel() > 1: self.found.clear()
        self._calls[m] += 1

def _map_place(net, x):
    "The last feature map of a convolutional network"
    with _Pools(net) as pools: net(x)
    if pools.found: return pools.found[0]
    stages = find_stages(net, x)
    return Place(stages[-1].name, stages[-1].call) if stages else None

def find_place(
    net,                # A network without wrappers
    x,                  # Images (b,c,h,w) to try it on
    block=None,         # Of a transformer; None: the last
    who='a network',    # Of whom errors speak
    name='block'        # Of the argument
)->Place:
    "Where a network gives its tokens: a block's output, else that of `forward_features`, else its last feature map"
    vit = _vit(net, who)
    if vit is None and block not in (None, -1):
        raise ValueError(f"expected {who} with one sequence of blocks to take `{name}` from, got "
                         f"{type(net).__name__}. Leave it out: the last features are taken.")
    with at_rest(net):
        if vit is not None: place = _block_place(net, vit, vit.at(-1 if block is None else block, name))
        else: place = _features_place(net)
        found = None if place is None else tokens_of(net, place, x)
        if found is None:
            place = _map_place(net, x)
            found = None if place is None else tokens_of(net, place, x)
    if found is not None:
        # blocks that merge patches
        merges = found.grid is not None and found.grid[0]*found.grid[1] != found.patches.shape[1]
        return place._replace(first=None) if merges else place
    raise ValueError(f"expected {who} with tokens (b,n,d) or feature maps (b,c,h,w), got {type(net).__name__}, in "
                     "which none were found. Take a vision transformer, or a convolutional network.")

# --- reading them ---------------------------------------------------------------------------------
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
        if p.name is None:
            yield _Returned(self.net, self._look)
            return
        module = self.net.get_submodule(p.name)
        if p.taken: yield module.register_forward_pre_hook(lambda m, args: self._look(args[0]))
        else: yield module.register_forward_hook(lambda m, args, out: self._look(out))

    def _begin(self, module, args): self._begun = True

    def _mark(self, conv, args, out):
        if _is_map(out) and not self._begun: self._grids.append(tuple(out.shape[2:]))

    def _look(self, out):
        if self._calls == self.place.call: self.take(out)
        self._calls += 1
        if self.last and self.tokens is not None: raise Enough

    def take(self, out):
        "Read tokens out of what was returned"
        if isinstance(out, (tuple, list)) and len(out): out = out[0]
        if _is_map(out):
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
    vit = _vit(net, 'a network')
    norm = None if vit is None else vit.norm
    if norm is not None and getattr(norm, 'weight', None) is not None and norm.weight.shape == (width,): return norm
    return nn.Identity()
