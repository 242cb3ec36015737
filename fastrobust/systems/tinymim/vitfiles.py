"Weights of vision transformers in files, as their authors left them; and networks for images of another size"
import pickle
from argparse import Namespace
from pathlib import Path
import torch
from torch import nn
from torchvision.models import VisionTransformer
from torchvision.models.vision_transformer import interpolate_embeddings
from fastrobust.basics import robust_warn
from fastrobust.inference.pretrained import load_fitting, state_of

__all__ = []

# what torch.compile and several processes put in front of names, and networks around a body
_PREFIXES = 'module.','_orig_mod.','backbone.'
_HEADS = 'head','heads','head_dist','fc','classifier','pre_logits'

def is_torchvision(net): return isinstance(net, VisionTransformer)
def _is_timm(net): return type(net).__module__.startswith('timm.')

# --- files ----------------------------------------------------------------------------------------
def read_state(
    path    # .pt, .pth, .bin or .safetensors: a state_dict, alone or as 'model' or 'state_dict' beside others
):          # name -> tensor
    "The weights in a file; with 'module.' in front of all names they come without it"
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"expected a file of weights, got {str(path)!r}, which is none. Look at the path.")
    if path.suffix == '.safetensors':
        from safetensors.torch import load_file
        state = load_file(path)
    else:
        # MAE's files hold the settings of their run too
        with torch.serialization.safe_globals([Namespace]):
            try: state = state_of(path)
            except pickle.UnpicklingError as e:
                raise ValueError(f"expected tensors in {str(path)!r}, got other objects, which are not loaded from a "
                                 "file of unknown origin. Save it anew: torch.save({'model': net.state_dict()}, "
                                 "path).") from e
    for p in _PREFIXES:
        if all(k.startswith(p) for k in state): state = {k.removeprefix(p): v for k,v in state.items()}
    return state

def is_mae(state): return any(k.startswith('decoder_embed') for k in state)

def file_channels(state):
    "Channels of the images that the weights are for"
    return next((v.shape[1] for v in state.values() if v.ndim == 4), 3)

def _translated(net, state):
    "The weights under the names of `net`, places resampled to its grid as its library does it"
    if is_torchvision(net):
        k = 'encoder.pos_embedding'
        if k not in state or state[k].shape == net.encoder.pos_embedding.shape: return state
        return interpolate_embeddings(net.image_size, net.patch_size, dict(state))
    if not _is_timm(net) or not hasattr(net, 'patch_embed'): return state
    from timm.models.vision_transformer import VisionTransformer as TimmViT, checkpoint_filter_fn
    return checkpoint_filter_fn(state, net) if isinstance(net, TimmViT) else state

def load_file(
    net,    # A network; it is changed
    state,  # name -> tensor
    path    # Where that is from, for messages
):
    "Load weights into a network: a decoder and a head that do not fit stay behind, anything else must be there"
    left = []
    if is_mae(state):
        left = [k for k in state if k.startswith('decoder_') or k == 'mask_token']
        state = {k: v for k,v in state.items() if k not in left}
    state = _translated(net, state)
    own = net.state_dict()
    odd = load_fitting(net, state)
    is_head = lambda k: k.split('.')[0] in _HEADS
    # a head of the network that the file does not have stays as it was drawn, as any head before training
    lost = [k for k in odd if k in own and not is_head(k)]
    if lost:
        more = f" and {len(lost)-5} more" if len(lost) > 5 else ''
        raise ValueError(f"expected weights of {type(net).__name__} in {str(path)!r}, got none "
                         f"that fit {', '.join(lost[:5])}{more}. The file has "
                         f"{', '.join(list(state)[:3])}, ..: name the architecture it was saved "
                         "from.")
    heads = [k for k in odd if is_head(k)]
    parts = [f'{len(left)} tensors of its decoder'] if left else []
    if heads: parts.append(f"the head ({', '.join(heads)})")
    if parts: print(f"{Path(path).name}: left out {' and '.join(parts)}")
    others = [k for k in odd if k not in own and not is_head(k)]
    if others:
        robust_warn(f"{str(path)!r} has more than {type(net).__name__} takes, left out: "
                    f"{', '.join(others[:5])}. If that matters, name the architecture it was saved "
                    "from.")

# --- sizes ----------------------------------------------------------------------------------------
def patch_of(net):
    "(height, width) of a patch, None where it cannot be told"
    for m in net.modules():
        if isinstance(m, nn.Conv2d): return m.kernel_size if m.kernel_size == m.stride else None
    return None

def need_patches(net, size, who):
    "Refuse images that patches do not cover"
    patch = patch_of(net)
    if patch is None or all(a % p == 0 for a,p in zip(size, patch)): return
    near = [max(1, round(a/p))*p for a,p in zip(size, patch)]
    near = near[0] if near[0] == near[1] else tuple(near)
    raise ValueError(f"expected images that patches of {patch[0]}x{patch[1]} of {who} cover, got "
                     f"{size[0]}x{size[1]}. For example mim_dls(.., size={near}).")

def resize_net(
    net,    # A vision transformer; it is changed
    size,   # (height, width) of the images in pixels
    who     # What to call it
):
    "Learned places resampled for images of another size, as timm and torchvision do it; others stay as they are"
    need_patches(net, size, who)
    if is_torchvision(net):
        if size == (net.image_size,)*2: return
        if size[0] != size[1]:
            raise ValueError(f"expected square images for {who}, a network of torchvision, got "
                             f"{size[0]}x{size[1]}. Cut them square, or take one of timm.")
        state = interpolate_embeddings(size[0], net.patch_size, dict(net.state_dict()))
        net.image_size,net.seq_length = size[0],state['encoder.pos_embedding'].shape[1]
        net.encoder.pos_embedding = nn.Parameter(state['encoder.pos_embedding'])
    elif _is_timm(net):
        embed = getattr(net, 'patch_embed', None)
        now = getattr(embed, 'img_size', None)
        if now is None or tuple(now) == tuple(size): return
        if hasattr(net, 'set_input_size'): net.set_input_size(img_size=size)
        elif getattr(embed, 'strict_img_size', False):
            raise ValueError(f"expected images of {now[0]}x{now[1]} pixels, for which {who} is made and whose places "
                             f"timm does not resample, got {size[0]}x{size[1]}. Take that size, "
                             f"mim_dls(.., size={now[0]}), or another network.")

def need_images(
    net,    # A network that is given
    shape,  # (c,h,w) of the images
    who     # Of whom errors speak
):
    "Refuse a network for other images, before torch does it in words of its own"
    c,*size = shape
    conv = next((m for m in net.modules() if isinstance(m, nn.Conv2d)), None)
    if conv is not None and conv.in_channels != c:
        raise ValueError(f"expected {who} for images of {c} channel(s), got one for "
                         f"{conv.in_channels}. Read images otherwise, mim_dls(.., "
                         f"channels={conv.in_channels}), or build it for {c}: vit_of(name, "
                         f"channels={c}).")
    need_patches(net, size, who)
    made = None
    if is_torchvision(net): made = (net.image_size,)*2
    embed = getattr(net, 'patch_embed', None)
    if getattr(embed, 'strict_img_size', False): made = embed.img_size
    if made is None or tuple(made) == tuple(size): return
    raise ValueError(f"expected images of {made[0]}x{made[1]} pixels, for which {who} is made, got "
                     f"{size[0]}x{size[1]}. Take mim_dls(.., size={made[0]}), or resample its "
                     f"places: vit_of(name, size={size[0]}).")
