"Pairs of images for a student and its teacher: one crop and flip for both, colours jittered for the student alone"
# The augmentation of TinyMIM's pre-training, https://arxiv.org/abs/2301.01296. All of it acts on uint8 pixels, before
# IntToFloatTensor: crops on images as they are opened, the rest on batches, on the device they are on.
import math
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from fastai.torch_basics import dispatch
from fastai.vision.core import TensorImage, load_image
from fastai.vision.data import get_grid
from fasttransform import ItemTransform, Transform
from fastrobust.images import ops
from fastrobust.systems.tinymim.depths import WHITE, eight_bits
from fastrobust.systems.tinymim.distilling import TeacherImage

__all__ = []

RATIO = 3/4,4/3     # width by height of a crop, as in torchvision

class OpenImage(Transform):
    "A file as a Pillow image, one of 16 bits brought to 8; one that is broken is named"
    white = WHITE
    def __init__(self,
        cls,        # PILImage or PILImageBW
        white=WHITE # Pixel value of white in files of 16 bits
    ):
        super().__init__()
        self.cls,self.white = cls,white

    def encodes(self, o):
        try: im = load_image(o)
        except (OSError, SyntaxError, Image.DecompressionBombError) as e:
            raise ValueError(f"expected an image in {str(o)!r}, got a file that does not open: "
                             f"{e}. Delete it or mend it.") from e
        if im.mode.startswith('I'): im = eight_bits(im, str(o), self.white)
        if im.mode == 'F':
            raise ValueError(f"expected an image of whole numbers in {str(o)!r}, got floats, whose range it does not "
                             "say. Save it with 8 or 16 bits.")
        return self.cls(im.convert(self.cls._open_args['mode']))

def crop_boxes(
    n,      # Images
    size,   # (height, width) of the images in pixels
    scale   # (smallest, largest) share of the area, in (0,1]
)->Tensor:  # (n,4): left, top, right, bottom
    "Random boxes of any share and of a shape from 3:4 to 4:3; of ten draws the first that fits, else the last shrunk"
    h,w = size
    area = h*w*torch.empty(n, 10).uniform_(*scale)
    ratio = torch.empty(n, 10).uniform_(*map(math.log, RATIO)).exp()
    sides = torch.stack([(area*ratio).sqrt(), (area/ratio).sqrt()], 2)
    room = torch.tensor([w, h])
    fits = (sides <= room).all(2)
    fits[:, -1] = True
    first = fits.int().argmax(1)
    sides = sides[torch.arange(n), first]
    sides = sides*(room/sides).amin(1, keepdim=True).clamp(max=1)
    corner = torch.rand(n, 2)*(room-sides).clamp(min=0)
    return torch.cat([corner, corner+sides], 1)

def _resized(im, size, box):
    "A part of a Pillow image, bicubic"
    return im.resize(size[::-1], resample=Image.Resampling.BICUBIC, box=box)

class RandomCrop(Transform):
    "A random part of an image, brought to one size; in training alone"
    split_idx,order = 0,1
    def __init__(self, size, scale):
        super().__init__()
        self.size,self.scale = size,scale

    def encodes(self, im:Image.Image):
        box = crop_boxes(1, im.size[::-1], self.scale)[0].tolist()
        # what rounding puts a hair outside
        right,bottom = (min(a, b) for a,b in zip(box[2:], im.size))
        return _resized(im, self.size, (*box[:2], right, bottom))

class CentreCrop(Transform):
    "The largest part in the middle that has the shape of `size`, brought to that size"
    order = 1
    def __init__(self,
        size,           # (height, width) in pixels
        split_idx=1     # 1: in validation alone, None: always
    ):
        super().__init__(split_idx=split_idx)
        self.size = size

    def encodes(self, im:Image.Image):
        (w,h),(out_h,out_w) = im.size,self.size
        if (h, w) == self.size: return im
        k = min(w/out_w, h/out_h)
        dx,dy = (w-k*out_w)/2,(h-k*out_h)/2
        return _resized(im, self.size, (dx, dy, w-dx, h-dy))

class CropEach(Transform):
    "`RandomCrop` of a batch at once, each image its own part; `size` is not below that of the images"
    split_idx,order = 0,1
    def __init__(self, size, scale):
        super().__init__()
        self.size,self.scale = size,scale

    def encodes(self, x:TensorImage):
        x = x.as_subclass(Tensor)
        h,w = x.shape[-2:]
        box = crop_boxes(len(x), (h, w), self.scale)/torch.tensor([w, h, w, h])
        # output places in [-1,1] -> input places in [-1,1]
        move = torch.zeros(len(x), 2, 3)
        move[:, 0, 0],move[:, 1, 1] = (box[:, 2:]-box[:, :2]).T
        move[:, :, 2] = box[:, 2:] + box[:, :2] - 1
        grid = F.affine_grid(move, [len(x), 1, *self.size], align_corners=False).to(x.device)
        out = F.grid_sample(x.float(), grid, 'bicubic', 'border', align_corners=False)
        return out.round_().clamp_(0, 255).to(torch.uint8)

class FlipEach(Transform):
    "Half of the images left to right; in training alone"
    split_idx,order = 0,2
    def encodes(self, x:TensorImage):
        x = x.as_subclass(Tensor)
        turn = (torch.rand(len(x)) < .5).to(x.device)
        return torch.where(turn[:, None, None, None], x.flip(-1), x)

class PairUp(ItemTransform):
    "A batch of images as (the student's, the teacher's): so far the same"
    order = 3
    _retain = False
    def encodes(self, b):
        x = b[0]
        return x,x.as_subclass(TeacherImage)
    def decodes(self, b): return tuple(b)

class JitterEach(Transform):
    """Brightness, contrast and colour of the student's images, each image by its own factors in [1-a,1+a]; the order of
    the three is drawn for a batch. As Pillow and torchvision do it; in training alone"""
    split_idx,order = 0,4
    def __init__(self,
        amounts # a of brightness, contrast and colour, in [0,1]
    ):
        super().__init__()
        self.amounts = dict(zip(('brightness', 'contrast', 'color'), amounts))

    def encodes(self, x:TeacherImage): return x
    def encodes(self, x:TensorImage):   # type: ignore[no-redef]  # noqa: F811  # by type
        x = x.as_subclass(Tensor)
        names = list(self.amounts)
        for i in torch.randperm(len(names)).tolist():
            a = self.amounts[names[i]]
            if not a: continue
            factor = torch.empty(len(x), dtype=torch.float64).uniform_(1-a, 1+a)
            x = getattr(ops, names[i])(x, factor)
        return x

@dispatch
def show_batch(x:TensorImage, y:TeacherImage, samples, ctxs=None, max_n=10, nrows=None, ncols=None,    # noqa: ARG001
               figsize=None, **kwargs):
    "Pairs side by side"
    n = min(len(samples), max_n)
    if ctxs is None: ctxs = get_grid(n, nrows=nrows, ncols=ncols, figsize=figsize, double=True)
    for i,title in enumerate(('student', 'teacher')):
        for pair,ax in zip(samples[:n], ctxs[i::2]): pair[i].show(ctx=ax, title=title, **kwargs)
    return ctxs
