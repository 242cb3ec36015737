"Image files of 16 bits: what their white is, and loaders that open them as if they had 8"
from operator import itemgetter
from pathlib import Path
import numpy as np
from PIL import Image
from fastrobust.basics import need_whole

__all__ = []

WHITE = 65535
# files that are looked at
_MANY = 32

def eight_bits(
    im,     # Pillow image of whole numbers of 16 bits, mode 'I', 'I;16' or the like
    name,   # Of its file
    white=WHITE # Its largest pixel, which becomes 255
)->Image.Image: # Mode 'L'
    "An image of 8 bits; Pillow would make white of all that is over 255"
    px = np.asarray(im).astype(np.int64)
    lo,hi = px.min(),px.max()
    if lo < 0 or hi > white:
        told = f"Say white={hi}, or leave `white` out."
        fix = told if lo >= 0 and white < hi <= WHITE else 'Save it with 8 or 16 bits.'
        raise ValueError(f"expected pixels in [0,{white}] in {name!r}, got {lo} to {hi}. {fix}")
    return Image.fromarray(((2*255*px + white)//(2*white)).astype(np.uint8))

def _deep(path):
    "Pixels of a file of whole numbers of more than 8 bits, None of others and of what does not open"
    try:
        with Image.open(path) as im:
            if im.mode.startswith('I'): return np.asarray(im)
    except (OSError, SyntaxError, Image.DecompressionBombError): pass
    return None

def _some(n): return np.unique(np.linspace(0, n-1, min(n, _MANY)).round().astype(int)).tolist()

def need_white(
    files,  # Paths
    white   # Pixel value of white in those of 16 bits; None: 65535
)->int:
    "`white`; refused where it is left open and all that are looked at are far darker"
    if white is not None: return need_whole('white', white, 255, WHITE, fix='For files of 12 bits 4095.')
    found = [(int(px.max()), files[i]) for i in _some(len(files)) if (px := _deep(files[i])) is not None]
    hi,name = max(found, key=itemgetter(0), default=(WHITE, ''))
    if hi > WHITE//4: return WHITE
    bits = max(8, hi.bit_length())
    raise ValueError(f"expected files of 16 bits with pixels up to {WHITE}, got at most {hi} ({str(name)!r}), which "
                     f"would be dark images: at most {255*hi//WHITE} of 255. If {bits} bits are used, say "
                     f"white={2**bits-1}; if they are as dark as that, white={WHITE}.")

def _opened(tl, i):
    "(path, Pillow image) of an item of a list as its transforms open it; None for what there is not"
    o,path = getattr(tl.items, 'iloc', tl.items)[i],None
    for f in tl.tfms.fs:
        if isinstance(o, (str, Path)) and Path(o).is_file(): path = o
        if isinstance(o, Image.Image): break
        o = f(o)
    return path,o if isinstance(o, Image.Image) else None

def need_eight_bits(
    tl  # `TfmdLists` of images
):
    "Refuse loaders that make white of all over 255 in files of 16 bits, as fastai's do"
    for i in _some(len(tl)):
        try: path,im = _opened(tl, i)
        except Exception: return    # what is wrong with it, the first batch will say
        if path is None or im is None: continue
        px = _deep(path)
        if px is None or px.shape != im.size[::-1]: continue
        over = px > 255
        if len(np.unique(px[over])) < 2 or (np.asarray(im)[over] < 255).any(): continue
        raise ValueError(f"expected loaders that open files of 16 bits as such, got some that make white of all over "
                         f"255 in {str(path)!r}. Give mim_dls the folder or the list of files, which it brings to 8 "
                         "bits; for a classifier too, save them with 8 bits.")
