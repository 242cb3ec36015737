"A vision transformer from whatever names it: timm, torchvision, a function, a network, a learner; with its weights"
from contextlib import contextmanager
import torchvision
from torch import nn
from torchvision.ops import StochasticDepth
from fastai.learner import Learner
from fastai.vision.core import imagenet_stats
from fastrobust.basics import nearest, need_truth, robust_warn, shown
from fastrobust.inference.archs import Arch, build_arch, family, timm_for
from fastrobust.inference.pretrained import arch_name, stats_for, torchvision_facts, torchvision_weights, with_channels
from fastrobust.pixels import pixel_space
from fastrobust.systems.tinymim.distilling import plain_net
from fastrobust.systems.tinymim.vitfiles import (file_channels, is_mae, load_file, need_patches,
                                                 read_state, resize_net)

__all__ = ['vit_of']

# packages whose errors mean that there is no connection
_HUBS = 'huggingface_hub','requests','urllib3','urllib','httpx','httpcore'

@contextmanager
def _fetching(name):
    "Weights come from the network of networks: what to do where there is none"
    try: yield
    except Exception as e:
        # a file that the user's own function reads
        if type(e) is FileNotFoundError: raise
        if not isinstance(e, OSError) and type(e).__module__.split('.')[0] not in _HUBS: raise
        raise ValueError(f"expected to fetch the weights of {name!r}, got {type(e).__name__}: "
                         f"{str(e)[:200]}. Without a connection fetch the file elsewhere and give "
                         "its path: `weights=` of vit_of, `teacher_weights=` of tinymim_learner; "
                         "without weights: pretrained=False.") from e

# --- timm -----------------------------------------------------------------------------------------
def _timm_net(timm, name, channels, pretrained):
    try:
        with _fetching(name):
            return timm.create_model(name, pretrained=pretrained, num_classes=0, in_chans=channels)
    except RuntimeError as e:       # a tag that it does not know, or a name without weights
        have = timm.list_pretrained(name.split('.')[0].split('/')[-1]+'*')
        raise ValueError(f"expected a timm name with weights, got {name!r}: {e} "
                         f"{nearest(name, have)} Or give a file: weights='model.pth'.") from e

def _of_timm(name, size, channels, pretrained, state, path):
    timm = timm_for(name)
    n_in = channels if state is None else file_channels(state)
    net = _timm_net(timm, name, n_in, pretrained and state is None)
    cfg = net.default_cfg
    stats = list(cfg['mean']),list(cfg['std'])
    if state is not None:
        # to the size that is wanted in one step
        if size: resize_net(net, size, name)
        load_file(net, state, path)
        with_channels(net, channels, True, name)
        if is_mae(state): stats = imagenet_stats
    elif size: resize_net(net, size, name)
    if not pretrained and state is None: stats = None
    return Arch(net, name, stats_for(stats, channels))

# --- torchvision ----------------------------------------------------------------------------------
def _of_torchvision(arch, size, channels, pretrained, state, member, path):
    name,stats = arch_name(arch),None
    side = {}
    if size and size[0] == size[1]: side = dict(image_size=size[0])
    net = arch(weights=None, **side)
    net.heads = nn.Identity()
    if state is None and (pretrained or member is not None):
        member = torchvision_weights(arch, member or 'DEFAULT')
        with _fetching(name): state,path = member.get_state_dict(progress=True),member.url.split('/')[-1]
        stats = torchvision_facts(arch, member)[0]
    elif state is not None: stats = imagenet_stats
    if size: resize_net(net, size, name)
    if state is not None:
        with_channels(net, file_channels(state), False, name)
        load_file(net, state, path)
    with_channels(net, channels, state is not None, name)
    return Arch(net, name, stats_for(stats, channels))

# --- whatever -------------------------------------------------------------------------------------
_FILES = '.pt','.pth','.bin','.safetensors','.tar','.ckpt'

def _is_path(weights): return hasattr(weights, '__fspath__') or str(weights).endswith(_FILES)

def _given(what, weights, state):
    "`Arch` of a network that is there, or of a learner with the statistics of its data"
    net,stats = plain_net(what),None
    if isinstance(what, Learner):
        space = pixel_space(what.dls) if len(what.dls.loaders) else None
        if space is not None and space.mean is not None:
            stats = space.mean.flatten().tolist(),space.std.flatten().tolist()
    if state is not None: load_file(net, state, weights)
    return Arch(net, type(net).__name__, stats)

def vit_arch(what, size=None, channels=3, *, pretrained=None, weights=None)->Arch:
    "`vit_of`, with its name and the statistics that its weights want"
    file = weights is not None and _is_path(weights)
    state = read_state(weights) if file else None
    if pretrained is None: pretrained = weights is None
    pretrained = need_truth('pretrained', pretrained, ' or None')
    if size is not None and not isinstance(size, tuple): size = (size, size)
    if isinstance(what, (Learner, nn.Module)):
        if weights is not None and not file:
            raise ValueError("expected `weights` of a network as the path of a file, got "
                             f"{weights!r}. Leave them out if it is trained.")
        arch = _given(what, weights, state)
        if size: need_patches(arch.net, size, arch.name)
        return arch
    if isinstance(what, str) and what in torchvision.models.list_models(module=torchvision.models):
        what = torchvision.models.get_model_builder(what)
    if isinstance(what, str):
        if weights is not None and not file:
            raise ValueError(f"expected `weights` of {what!r} as the path of a file, got "
                             f"{weights!r}. Which of timm's is in the name: "
                             "'vit_base_patch16_224.mae'.")
        return _of_timm(what, size, channels, pretrained, state, weights)
    if not callable(what):
        raise TypeError("expected a vision transformer: a timm name such as "
                        "'vit_base_patch16_224.mae', a torchvision function such as vit_b_16, a "
                        f"network or a Learner, got {shown(what)}. Give one of these.")
    if family(what) == 'vision_transformer':
        return _of_torchvision(what, size, channels, pretrained, state, None if file else weights, weights)
    with _fetching(arch_name(what)):
        arch = build_arch(what, channels, pretrained and state is None, None if file else weights)
    if state is not None: load_file(arch.net, state, weights)
    if size: need_patches(arch.net, size, arch.name)
    return arch

def vit_of(
    # timm name ('vit_base_patch16_224.mae', 'hf-hub:..'), torchvision function or name, network, Learner
    what,
    size=None,      # Height and width of the images, or a pair, in pixels; None: what it is made for
    channels=3,     # Of the images; of a network for colour the first layer is adapted
    *,
    pretrained=None, # With the weights that come with the name? None: if no `weights` are given
    # Path of a file (state_dict, MAE's checkpoint, safetensors), or a name of torchvision's weights
    weights=None
)->nn.Module:
    """A vision transformer without a classifier, with its weights, for images of any size that its patches cover

    Learned places are resampled by the library that it is from. A network or Learner comes as it is, `weights` are
    loaded into it."""
    return vit_arch(what, size, channels, pretrained=pretrained, weights=weights).net

def need_stats(
    arch,   # `Arch` of a teacher
    dls,    # Loaders of what it will see
    # What to write, with {} for mean and for deviation
    fix='mim_dls(.., stats=({}, {}))'
):
    "Warn where a teacher's weights want images normalised otherwise than they are"
    if arch.stats is None: return
    space = pixel_space(dls)
    mean,std = [0.],[1.]
    if space.mean is not None: mean,std = space.mean.flatten().tolist(),space.std.flatten().tolist()
    flat = [*mean, *std]
    want = [*arch.stats[0], *arch.stats[1]]
    if len(want) == len(flat) and max(abs(a-b) for a,b in zip(want, flat)) < .02: return
    has = 'are not normalised' if space.mean is None else f"have mean {_few(mean)} and std {_few(std)}"
    robust_warn(f"the weights of {arch.name} want images normalised by mean {_few(arch.stats[0])} "
                f"and std {_few(arch.stats[1])}, these {has}: the teacher sees them in odd "
                f"colours. Write {fix.format(*map(_few, arch.stats))}.")

def _few(v): return '['+', '.join(f'{o:.3g}' for o in v)+']'

def set_drop_path(
    net,    # A network of timm; in others it changes nothing
    rate    # Share of images for which a block is skipped, in [0,1)
)->bool:    # Are there such blocks?
    "One rate in all blocks but the last, whose relations are distilled, as in the paper; timm's own rises with depth"
    blocks,found = getattr(net, 'blocks', ()),False
    for i,block in enumerate(blocks):
        last = i == len(blocks)-1
        for k in ('drop_path', 'drop_path1', 'drop_path2'):
            if not hasattr(block, k): continue
            skip = StochasticDepth(rate, 'row') if rate and not last else nn.Identity()
            setattr(block, k, skip)
            found = True
    return found
