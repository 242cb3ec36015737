"Pairs without labels: one geometry for student and teacher, jitter for the student alone"
import numpy as np
import pytest
import torch
from PIL import Image
from fastai.data.block import CategoryBlock, DataBlock, TransformBlock
from fastai.data.core import DataLoaders
from fastai.data.transforms import IntToFloatTensor, get_image_files
from fastai.torch_core import TensorImage, set_seed
from fastai.vision.core import PILImage, PILImageBW
from fastai.vision.data import ImageBlock, ImageDataLoaders
from fastai.vision.augment import Resize
from torch import Tensor
from torchvision.transforms import functional as tv
from fastrobust.data.fromarrays import array_dls
from fastrobust.pixels import pixel_space
from fastrobust.systems.tinymim.depths import eight_bits
from fastrobust.systems.tinymim.distilling import TeacherImage
from fastrobust.systems.tinymim.mimdata import mim_dls
from fastrobust.systems.tinymim.pairs import (CentreCrop, CropEach, FlipEach, JitterEach, OpenImage, PairUp,
                                              RandomCrop, crop_boxes)

def boards(n, size=32, cell=4, channels=3, lo=90, hi=160, seed=0):
    "Chequerboards in two greys, each shifted its own way"
    g = np.random.default_rng(seed)
    y,x = np.mgrid[:size+2*cell, :size+2*cell]//cell
    board = np.where((x+y) % 2, hi, lo).astype(np.uint8)
    at = g.integers(0, 2*cell, (n, 2))
    out = np.stack([board[a:a+size, b:b+size] for a,b in at])
    return out if channels == 1 else np.repeat(out[..., None], 3, 3)

@pytest.fixture
def folder(tmp_path):
    "Twelve boards of several sizes, at several depths"
    (tmp_path/'a'/'deep').mkdir(parents=True)
    for i,size in enumerate(np.linspace(40, 84, 12).astype(int)):
        where = tmp_path/('a' if i % 2 else 'a/deep')
        Image.fromarray(boards(1, size, 8, seed=i)[0][:, :36+i]).save(where/f'{i}.png')
    return tmp_path

def plain(o): return o.as_subclass(Tensor)
def pair(b): return tuple(map(plain, b))

def same_edges(x, y):
    "Whether images have the same ranks of neighbours: no value of one rises where the other falls"
    x,y = x.mean(1),y.mean(1)
    for dim in (1, 2):
        a,b = x.diff(dim=dim),y.diff(dim=dim)
        if ((a > .02) & (b < -.02) | (a < -.02) & (b > .02)).any(): return False
    return True

# --- geometry and colours ------------------------------------------------------------------------------------------
@pytest.mark.parametrize('source', ['array', 'small array', 'folder', 'loaders'])
@pytest.mark.parametrize('crop', [True, False])
def test_without_jitter_both_see_the_same(source, crop, folder):
    kw = dict(crop=crop, jitter=0, flip=True, bs=8, num_workers=0, device='cpu')
    if source == 'array': dls = mim_dls(boards(20), 48, **kw)
    elif source == 'small array': dls = mim_dls(boards(20), 16, **kw)
    elif source == 'folder': dls = mim_dls(folder, 32, **kw)
    else: dls = mim_dls(array_dls(boards(20), np.zeros(20, int)), **kw)
    for _ in range(2):
        x,y = dls.train.one_batch()
        assert isinstance(x, TensorImage) and type(y) is TeacherImage and x.shape == y.shape
        assert torch.equal(plain(x), plain(y)) and plain(x).std() > .1

def test_jitter_is_the_students_alone_and_moves_nothing():
    set_seed(0)
    X = boards(64)
    dls = mim_dls(X, bs=32, device='cpu')
    x,y = pair(dls.train.one_batch())
    assert (x != y).flatten(1).any(1).sum() >= 30 and same_edges(x, y)
    assert not same_edges(x, y.roll(2, 2)) and not same_edges(x, y[torch.arange(31, -1, -1)])   # the check itself
    # crops differ from image to image, and the teacher's keep the two greys of the boards, give or take bicubic waves
    px = pixel_space(dls).decode(y)*255
    assert (px[0] != px[1]).any()
    low,high = px.flatten(1).quantile(.1, 1),px.flatten(1).quantile(.9, 1)
    assert (low-90).abs().max() < 12 and (high-160).abs().max() < 12

def test_files_too_have_one_geometry(folder):
    set_seed(0)
    dls = mim_dls(folder, 32, bs=8, num_workers=0, device='cpu')
    x,y = pair(dls.train.one_batch())
    assert (x != y).flatten(1).any(1).all() and same_edges(x, y) and not same_edges(x, y.flip(3))

def test_a_teacher_like_the_student_has_nothing_to_say_without_jitter():
    "What the specification asks: relations of an identity teacher are no loss, whatever the geometry"
    from fastrobust.systems.tinymim.relations import RelationLoss, attn_relations
    from fastrobust.systems.tinymim.tinyvit import tiny_vit
    net = tiny_vit(32, 8, 16, 2, 2)
    def loss(jitter):
        set_seed(1)
        x,y = mim_dls(boards(40), bs=16, jitter=jitter, device='cpu').train.one_batch()
        with torch.no_grad(), attn_relations(net) as rel:
            net(plain(x))
            mine = dict(rel)
            net(plain(y))
        return RelationLoss()(mine, dict(rel)).item()
    assert abs(loss(0)) < 1e-7 and loss(.4) > 1e-6

def test_jitter_is_that_of_pillow():
    "One image, one factor at a time, against torchvision on the Pillow image"
    g = np.random.default_rng(3)
    im = g.integers(0, 256, (9, 7, 3), dtype=np.uint8)
    x = TensorImage(torch.from_numpy(im).permute(2, 0, 1)[None])
    by = [tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation]
    for i,f in enumerate(by):
        amounts = [0, 0, 0]
        amounts[i] = .4
        torch.manual_seed(5)
        got = JitterEach(amounts)(x, split_idx=0)
        torch.manual_seed(5)
        torch.randperm(3)
        factor = torch.empty(1, dtype=torch.float64).uniform_(.6, 1.4).item()
        want = np.asarray(f(Image.fromarray(im), factor))
        assert np.array_equal(got[0].permute(1, 2, 0).numpy(), want) and (want != im).any()

def test_jitter_and_crops_leave_validation_alone():
    x = TensorImage(torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8))
    for t in (JitterEach((.4, .4, .4)), CropEach((8, 8), (.2, 1)), FlipEach()):
        assert torch.equal(t(x, split_idx=1), x) and type(t(x, split_idx=1)) is TensorImage
        assert type(t(x, split_idx=0)) is TensorImage
    y = TeacherImage(x)
    assert torch.equal(JitterEach((1, 1, 1))(y, split_idx=0), y)
    a,b = PairUp()((x,))
    assert type(a) is TensorImage and type(b) is TeacherImage and torch.equal(a, plain(b))

def test_validation_shows_the_middle_to_both(folder):
    dls = mim_dls(folder, 32, bs=4, valid=.25, device='cpu', num_workers=0, stats=None)
    x,y = pair(dls.valid.one_batch())
    assert torch.equal(x, y) and len(x) == 3
    im = Image.open(dls.valid_ds.items[0])
    w,h = im.size
    k = min(w, h)
    cut = im.crop(((w-k)//2, (h-k)//2, (w-k)//2+k, (h-k)//2+k)).resize((32, 32), Image.Resampling.BICUBIC)
    want = torch.from_numpy(np.array(cut)).permute(2, 0, 1)/255
    assert (x[0]-want).abs().mean() < .03 < (x[0]-want.roll(4, 2)).abs().mean()
    assert torch.equal(*(plain(b[0]) for b in (dls.valid.one_batch(), dls.valid.one_batch())))

# --- crops ---------------------------------------------------------------------------------------------------------
def test_boxes_have_the_shares_and_shapes_asked_for():
    torch.manual_seed(0)
    for h,w in ((40, 40), (30, 60), (200, 20)):
        b = crop_boxes(4000, (h, w), (.2, .9))
        bw,bh = b[:, 2]-b[:, 0],b[:, 3]-b[:, 1]
        assert (b >= 0).all() and (b[:, 2] <= w+1e-3).all() and (b[:, 3] <= h+1e-3).all()
        assert ((bw/bh).log().abs() <= np.log(4/3)+1e-4).all()
        assert (bw/bh).log().std() > .1
        share = bw*bh/(h*w)
        if h == w: assert share.min() >= .2-1e-4 and share.max() > .85 and abs(share.mean()-.52) < .05
        assert b[:, 0].std() > 0 and b[:, 1].std() > 0

def test_a_box_that_is_all_gives_the_image():
    X = TensorImage(torch.randint(0, 256, (3, 3, 8, 6), dtype=torch.uint8))
    whole = lambda *a: torch.tensor([[0., 0., 6., 8.]]*a[0])
    with pytest.MonkeyPatch.context() as m:
        m.setattr('fastrobust.systems.tinymim.pairs.crop_boxes', whole)
        assert torch.equal(plain(CropEach((8, 6), (1, 1))(X, split_idx=0)), plain(X))
        im = Image.fromarray(X[0].permute(1, 2, 0).numpy())
        assert np.array_equal(np.asarray(RandomCrop((8, 6), (1, 1))(im, split_idx=0)), np.asarray(im))

def test_crops_of_a_batch_are_those_of_files():
    "The same boxes out of a smooth picture: tensors and Pillow agree but for the shape of their bicubic kernels"
    y,x = np.mgrid[:40, :40]/40
    im = np.stack([255*x, 255*y, 127*(x+y)], 2).astype(np.uint8)
    batch = TensorImage(torch.from_numpy(im).permute(2, 0, 1)[None])
    for seed in range(5):
        torch.manual_seed(seed)
        a = CropEach((40, 40), (.2, .6))(batch, split_idx=0)[0].permute(1, 2, 0).numpy().astype(int)
        torch.manual_seed(seed)
        b = np.asarray(RandomCrop((40, 40), (.2, .6))(Image.fromarray(im), split_idx=0)).astype(int)
        assert np.abs(a-b).max() <= 3 and np.abs(a-im).max() > 15

def test_fixed_pictures_stay_as_they_are():
    X = np.random.default_rng(0).integers(0, 256, (6, 8, 8), dtype=np.uint8)
    dls = mim_dls(X, bs=5, crop=False, jitter=0, stats=None, device='cpu')
    files = mim_dls(X, 4, bs=5, crop=False, jitter=0, stats=None, device='cpu')
    own = {o.tobytes() for o in X}
    for _ in range(3):
        x = plain(dls.train.one_batch()[0])
        assert {(o*255).round().byte().numpy().tobytes() for o in x} <= own
        small = plain(files.train.one_batch()[0]).flatten(1)
        assert len({tuple(o.tolist()) for o in small}) == 5
    both = torch.cat([plain(files.train.one_batch()[0]).flatten(1) for _ in range(3)])
    assert len({tuple(o.tolist()) for o in both}) == 5      # a smaller size too is the same each time

def test_flips_turn_half():
    torch.manual_seed(0)
    x = TensorImage(torch.arange(4, dtype=torch.uint8).expand(400, 1, 2, 4))
    turned = FlipEach()(x, split_idx=0)[:, 0, 0, 0] == 3
    assert .4 < turned.float().mean() < .6

# --- sources and settings ------------------------------------------------------------------------------------------
def test_sizes_channels_and_statistics(folder):
    kw = dict(num_workers=0, device='cpu', bs=4)
    assert mim_dls(folder, **kw).train.one_batch()[0].shape == (4, 3, 224, 224)
    assert mim_dls(folder, (16, 24), **kw).train.one_batch()[1].shape == (4, 3, 16, 24)
    grey = mim_dls(folder, 16, channels=1, **kw)
    assert grey.train.one_batch()[0].shape == (4, 1, 16, 16) and pixel_space(grey).mean.shape == (1, 1, 1, 1)
    assert abs(pixel_space(grey).mean.item()-125/255) < .1      # measured
    assert pixel_space(mim_dls(folder, 16, **kw)).mean.flatten().tolist() == pytest.approx([.485, .456, .406])
    assert pixel_space(mim_dls(folder, 16, stats=None, **kw)).mean is None
    mine = mim_dls(folder, 16, stats=([.5]*3, [.2]*3), **kw)
    assert pixel_space(mine).std.flatten().tolist() == pytest.approx([.2]*3)
    assert pixel_space(mim_dls(boards(9), device='cpu')).mean.flatten().tolist() == pytest.approx([.485, .456, .406])
    X = boards(30, channels=1)
    exact = pixel_space(mim_dls(X, device='cpu'))
    assert exact.mean.item() == pytest.approx(X.mean()/255, abs=.01)

def test_labelled_loaders_keep_their_images_and_split(folder):
    own = ImageDataLoaders.from_folder(folder/'a', valid_pct=.3, seed=1, item_tfms=Resize(20), bs=4, num_workers=0)
    dls = mim_dls(own, bs=4, num_workers=0, device='cpu')
    assert dls.train_ds.items == own.train_ds.items and dls.valid_ds.items == own.valid_ds.items
    assert dls.train.one_batch()[0].shape == (4, 3, 20, 20) and len(dls.train.one_batch()) == 2
    X,y = boards(30),np.arange(30) % 3
    arr = array_dls(X, y, valid=.2, seed=3)
    got = mim_dls(arr, crop=False, jitter=0, device='cpu')
    assert len(got.train_ds) == 24 and len(got.valid_ds) == 6
    assert torch.equal(pixel_space(got).mean, pixel_space(arr).mean)        # a classifier will see the same
    one = DataLoaders(arr.train)
    assert len(mim_dls(one, device='cpu', valid=.5).valid_ds) == 12

def test_the_split():
    X = boards(50)
    a,b = (mim_dls(X, valid=.1, seed=s, device='cpu') for s in (0, 0))
    assert len(a.train_ds) == 45 and len(a.valid_ds) == 5
    assert torch.equal(a.valid_ds.items.x, b.valid_ds.items.x)
    assert len(mim_dls(X[:5], device='cpu').valid_ds) == 1                  # one at least

def test_lists_of_files(folder):
    files = [str(p) for p in sorted(folder.rglob('*.png'))]
    dls = mim_dls(files, 16, bs=4, num_workers=0, device='cpu')
    assert len(mim_dls(files[:5], 16, bs=2, num_workers=0, device='cpu').valid_ds) == 1
    assert len(dls.train_ds)+len(dls.valid_ds) == 12 and dls.train.one_batch()[0].shape[2:] == (16, 16)

@pytest.mark.parametrize('workers', [0, pytest.param(2, marks=pytest.mark.slow)])
def test_the_same_seed_gives_the_same_pairs(folder, workers):
    def batch(seed):
        set_seed(seed)
        dls = mim_dls(folder, 16, bs=4, num_workers=workers, device='cpu')
        return pair(next(iter(dls.train)))
    a,b,c = batch(1),batch(1),batch(2)
    assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
    assert not torch.equal(a[1], c[1])

def test_pictures_of_pairs(folder):
    dls = mim_dls(folder, 16, bs=4, num_workers=0, device='cpu')
    import matplotlib.pyplot as plt
    dls.show_batch(max_n=3)
    axes = [ax for ax in plt.gcf().axes if ax.images]
    assert [ax.get_title() for ax in axes] == ['student', 'teacher']*3
    left,right = (np.asarray(ax.images[0].get_array()) for ax in axes[:2])
    assert left.shape == (16, 16, 3) and (left != right).any()

# --- bad input -----------------------------------------------------------------------------------------------------
def refused(err, says, *args, **kwargs):
    with pytest.raises(err, match=says): mim_dls(*args, **kwargs)

def test_folders_without_images(tmp_path):
    refused(ValueError, "got none among 0 files. Looked for the endings .jpg", tmp_path)
    for k in ('a.txt', 'b.txt', 'c.csv'): (tmp_path/k).write_text('x')
    refused(ValueError, r"none among 3 files \(.csv, .txt\)", tmp_path)
    refused(ValueError, "which is none", tmp_path/'nowhere')
    refused(ValueError, "of single files give a list", tmp_path/'a.txt')

def test_a_broken_image_is_named(folder):
    (folder/'broken.png').write_bytes(b'no picture')
    dls = mim_dls(folder, 16, bs=12, num_workers=0, device='cpu')
    with pytest.raises(ValueError, match="broken.png.*does not open"):
        for dl in dls.loaders: list(dl)

def test_other_things_are_refused(folder):
    refused(TypeError, "expected a folder, a list of files", 3)
    refused(TypeError, "expected a list of paths, got 5", [5])
    refused(ValueError, "got an empty list", [])
    refused(TypeError, "uint8 or as floats", boards(5).astype(int))
    refused(ValueError, "`valid` in", boards(5), valid=1.)
    refused(ValueError, "images left on both sides", boards(1))
    refused(ValueError, "`jitter` must be in", boards(5), jitter=2)
    refused(ValueError, "`jitter` must be in", boards(5), jitter=(.1, .2))
    refused(ValueError, "`scale` must be", boards(5), scale=(0, 1))
    refused(ValueError, "`size` must be", boards(5), size=(1, 2, 3))
    refused(ValueError, "`size` must be a whole number", boards(5), size=.5)
    refused(ValueError, "`channels` must be 3", folder, channels=4)
    refused(ValueError, "`stats` must be", boards(5), stats='mine')
    refused(ValueError, "`bs` must be", boards(5), bs=0)
    from fastai.tabular.data import TabularDataLoaders
    import pandas as pd
    table = TabularDataLoaders.from_df(pd.DataFrame({'a': [1., 2.], 'y': [0, 1]}), y_names='y', cont_names=['a'], bs=1)
    refused(TypeError, "expected DataLoaders of a DataBlock", table)

def test_settings_of_other_factories_are_refused():
    "fastai drops them without a word"
    refused(TypeError, "unknown 'valid_pct'. The share held out is `valid`", boards(5), valid_pct=.5)
    refused(TypeError, "unknown 'item_tfms'. The size in pixels is `size`", boards(5), item_tfms=Resize(8))
    refused(TypeError, "unknown 'batchsize'. Did you mean .*Known: source, size, bs", boards(5), batchsize=3)
    refused(TypeError, "unknown 'batch_size'. It is `bs`", boards(5), batch_size=3)
    refused(TypeError, "mim_dls sets shuffle itself", boards(5), shuffle=False)
    refused(TypeError, "mim_dls sets after_item, after_batch itself", boards(5), after_item=[], after_batch=[])
    refused(TypeError, "`crop` must be True or False, got 'x'", boards(5), crop='x')
    refused(TypeError, "`flip` must be True or False or None, got 1", boards(5), flip=1)
    refused(ValueError, r"`scale` must be \(smallest, largest\).*got 0.5", boards(5), scale=.5)
    refused(TypeError, "`scale` must be a number, got 'a'", boards(5), scale=('a', 1))
    refused(ValueError, "`seed` must be a whole number from 0", boards(5), seed=None)
    dls = mim_dls(boards(5), bs=2, device='cpu', drop_last=False, pin_memory=False, before_batch=[])
    assert len(list(dls.train)) == 2

# --- files of 16 bits and others -----------------------------------------------------------------------------------
@pytest.mark.parametrize('mode', ['I;16', 'I'])
@pytest.mark.parametrize('channels', [1, 3])
def test_sixteen_bits_are_scaled_to_eight(mode, channels, tmp_path):
    "A ramp over the whole range stays one"
    ramp = np.linspace(0, 65535, 32*32).round().reshape(32, 32)
    im = Image.fromarray(ramp.astype(np.uint16 if mode == 'I;16' else np.int32))
    assert im.mode == mode
    for i in range(4): im.save(tmp_path/f'{i}.tiff')
    dls = mim_dls(tmp_path, 32, crop=False, jitter=0, stats=None, channels=channels, bs=3, num_workers=0, device='cpu')
    x = plain(dls.train.one_batch()[0])
    assert x.shape[1] == channels
    assert (x - torch.from_numpy(ramp/65535)).abs().max() < .5/255 + 1e-6
    assert (x.flatten(2).diff() >= 0).all() and (x == 1).float().mean() < .01

def sixteen(where, px, n=5):
    "Files of 16 bits"
    for i in range(n): Image.fromarray(np.asarray(px, dtype=np.uint16)).save(where/f'{i}.png')
    return where

@pytest.mark.parametrize('bits', [8, 9, 10, 12, 14])
def test_files_that_use_fewer_bits_are_refused_and_scaled_on_demand(bits, tmp_path):
    white = 2**bits-1
    ramp = np.linspace(0, white, 32*32).round().reshape(32, 32)
    sixteen(tmp_path, ramp)
    kw = dict(size=32, crop=False, jitter=0, stats=None, channels=1, bs=3, num_workers=0, device='cpu')
    refused(ValueError, rf"at most {white} \('.*png'\), .* white={white}; if they are .* white=65535", tmp_path, **kw)
    x = plain(mim_dls(tmp_path, white=white, **kw).train.one_batch()[0])
    assert (x - torch.from_numpy(ramp/white)).abs().max() <= .5/255 + 1e-6
    dark = plain(mim_dls(tmp_path, white=65535, **kw).train.one_batch()[0])
    assert (dark - torch.from_numpy(ramp/65535)).abs().max() <= .5/255 + 1e-6
    if bits > 9:
        says = rf'in \[0,{white-1}\] in .*got 0 to {white}. Say white={white}'
        with pytest.raises(ValueError, match=says): mim_dls(tmp_path, white=white-1, **kw).train.one_batch()

def test_pixels_that_no_white_mends():
    im = Image.fromarray(np.array([[-3, 5], [9, 70000]], np.int32))
    for white in (4095, 65535):
        with pytest.raises(ValueError, match='got -3 to 70000. Save it with 8 or 16 bits'): eight_bits(im, 'a', white)

def test_one_bright_file_or_none_of_16_bits_is_enough(tmp_path):
    sixteen(tmp_path, np.full((8, 8), 4000))
    Image.fromarray(np.full((8, 8), 60000, np.uint16)).save(tmp_path/'z.png')
    mim_dls(tmp_path, 8, bs=2, num_workers=0, device='cpu')
    (tmp_path/'z.png').unlink()
    for i in range(5): Image.fromarray(np.full((8, 8), 3, np.uint8)).save(tmp_path/f'{i}.png')
    mim_dls(tmp_path, 8, bs=2, num_workers=0, device='cpu')     # dark, but of 8 bits
    mim_dls(get_image_files(tmp_path), 8, bs=2, white=4095, num_workers=0, device='cpu')

def test_white_is_of_files():
    refused(ValueError, "`white` beside image files alone, got it with a ndarray", boards(5), white=4095)
    for bad in (254, 65536, .5, True):
        refused(ValueError, "`white` must be a whole number from 255 to 65535.*12 bits 4095", ['a.png'], white=bad)

def test_loaders_that_make_white_of_16_bits_are_refused(tmp_path):
    "fastai's do; one with an opener of its own is let through"
    ramp = np.linspace(0, 65535, 32*32).round().reshape(32, 32)
    files = [*sixteen(tmp_path, ramp, 6).glob('*.png')]
    kw = dict(item_tfms=Resize(32), bs=2, num_workers=0, valid_pct=.4)
    for cls in (PILImage, PILImageBW):
        block = DataBlock((ImageBlock(cls), CategoryBlock), get_y=lambda o: o.stem, item_tfms=Resize(32))
        own = block.dataloaders(files, bs=2, num_workers=0)
        x = own.one_batch()[0]
        assert (x == x.max()).float().mean() > .9       # white
        refused(ValueError, "make white of all over 255 in .*png.*the folder or the list of files", own)
    import pandas as pd
    table = pd.DataFrame({'f': [o.name for o in files], 'y': ['a', 'b']*3})
    refused(ValueError, "make white of all", ImageDataLoaders.from_df(table, tmp_path, **kw))
    def opens(o): return PILImageBW(Image.fromarray((np.asarray(Image.open(o))//257).astype(np.uint8)))
    mine = DataBlock((TransformBlock(opens, batch_tfms=IntToFloatTensor), CategoryBlock), get_y=lambda o: o.stem)
    x = plain(mim_dls(mine.dataloaders(files, bs=2, num_workers=0), crop=False, jitter=0, bs=2, stats=None,
                      num_workers=0, device='cpu').train.one_batch()[0])
    assert (x[0, 0]*255).unique().numel() > 200
    for o in files: Image.fromarray((ramp//257).astype(np.uint8)).save(o)
    mim_dls(ImageDataLoaders.from_df(table, tmp_path, **kw), bs=2, num_workers=0, device='cpu')     # of 8 bits

def test_files_of_eight_bits_are_as_pillow_has_them(tmp_path):
    g = np.random.default_rng(0)
    px = g.integers(0, 256, (9, 8, 3), dtype=np.uint8)
    for mode in ('RGB', 'L', 'P', 'RGBA', '1'):
        Image.fromarray(px).convert(mode).save(tmp_path/'a.png')
        for cls in (PILImage, PILImageBW):
            got,want = OpenImage(cls)(tmp_path/'a.png'),cls.create(tmp_path/'a.png')
            assert type(got) is cls and got.mode == want.mode and np.array_equal(got, want)

def test_pixels_without_a_known_range_are_refused(tmp_path):
    for px,says in ((np.full((4, 4), 70000, np.int32), r'pixels in \[0,65535\].*a.tiff.*got 70000 to 70000'),
                    (np.full((4, 4), -1, np.int32), 'got -1 to -1'),
                    (np.full((4, 4), .5, np.float32), 'whole numbers in .*a.tiff.*got floats')):
        Image.fromarray(px).save(tmp_path/'a.tiff')
        with pytest.raises(ValueError, match=says): OpenImage(PILImage)(tmp_path/'a.tiff')

def test_centre_crop_keeps_the_shape_of_things():
    im = Image.fromarray(boards(1, 40, 8)[0][:20])
    assert CentreCrop((20, 40))(im, split_idx=1) is im
    out = np.asarray(CentreCrop((10, 10))(im, split_idx=1))
    assert out.shape == (10, 10, 3)
    want = np.asarray(im.crop((10, 0, 30, 20)).resize((10, 10), Image.Resampling.BICUBIC))
    inner = np.s_[1:-1, 1:-1]       # at the sides the kernel sees what is beside the cut
    assert np.abs(out[inner].astype(int)-want[inner].astype(int)).max() <= 2
