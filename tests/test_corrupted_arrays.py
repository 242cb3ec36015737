"Published corrupted sets are read as they lie: which rows, which labels, no second resize, and clear refusals"
import random
import numpy as np
import pytest
import torch
from PIL import Image
from fastai.data.transforms import GrandparentSplitter, Normalize, ToTensor, get_image_files, parent_label
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.core import TfmdDL
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.vision.augment import RandomResizedCrop, Resize
from fastai.vision.core import imagenet_stats
from fastai.vision.data import ImageBlock
from conftest import params, tiny_arrays, tiny_dls, tiny_learner
from fastrobust.basics import RobustWarning
from fastrobust.images.corruptions.tables import CORRUPTIONS
from fastrobust.data.arrays import ArrayDL
from fastrobust.data.fromarrays import array_dls
from fastrobust.shift.publishedarrays import CorruptedArrays
from fastrobust.inference.loaders import resizes_to
from fastrobust.shift.publishedfolders import CorruptedFolders
from fastrobust.nets import small_cnn

N = 6
def write(path, names=('gaussian_noise', 'fog', 'brightness'), n=N, size=8, channels=3, c=3):
    "A folder of the published layout; returns images (corruption, severity, n, ..) and labels"
    shape = (len(names), 5, n, size, size) + ((channels,) if channels else ())
    x = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    y = np.arange(n) % c
    for name,a in zip(names, x): np.save(path/f'{name}.npy', a.reshape(5*n, *a.shape[2:]))
    np.save(path/'labels.npy', np.tile(y, 5).astype(np.uint8))
    return x,y

def rgb_learner(): return tiny_learner(dls=tiny_dls(channels=3))

# --- arrays: rows, labels, loader ------------------------------------------------------------------------------------
def test_cells_are_the_rows_of_the_published_files(tmp_path):
    x,y = write(tmp_path)
    c = CorruptedArrays(tmp_path)
    assert c.names == ('gaussian_noise', 'fog', 'brightness') and c.n == N and len(c) == 3      # the usual order
    assert c.labels.tolist() == y.tolist() and c.labels.dtype == np.int64
    for i,name in enumerate(c.names):
        for s in range(1, 6):
            got = c.images(name, s)
            assert isinstance(got, np.memmap) and (got == x[i, s-1]).all() and got.shape == (N, 8, 8, 3)
    assert CorruptedArrays(tmp_path, names=['fog']).names == CorruptedArrays(tmp_path, 'fog').names == ('fog',)

def test_printing_explains_the_layout(tmp_path):
    write(tmp_path)
    text = repr(CorruptedArrays(tmp_path))
    assert f'3 corruptions x 5 severities x {N} images 8x8x3 uint8' in text
    assert 'severity 1 is rows 0:6, 2 is 6:12, .. 5 is 24:30' in text and '3 classes' in text
    assert 'noise: gaussian_noise (not here: shot_noise, impulse_noise)' in text
    assert 'weather: fog, brightness (not here: snow, frost)' in text and 'digital' not in text

def test_other_names_the_bar_set_and_the_whole_list(tmp_path):
    write(tmp_path, ('sparkles', 'blue_noise_sample', 'my_own'))
    c = CorruptedArrays(tmp_path)
    assert c.names == ('blue_noise_sample', 'sparkles', 'my_own')
    assert 'C-bar: blue_noise_sample, sparkles (not here: brownish_noise, ' in repr(c) and 'other: my_own' in repr(c)
    assert 'noise: ' not in repr(c).splitlines()[-1] and len(c) == 3
    full = tmp_path/'full'
    full.mkdir()
    write(full, sorted(CORRUPTIONS), n=1, size=2)
    assert CorruptedArrays(full).names == CORRUPTIONS and 'not here' not in repr(CorruptedArrays(full))

def test_grey_images_with_and_without_a_channel(tmp_path):
    x,_ = write(tmp_path, channels=None)
    c = CorruptedArrays(tmp_path)
    assert c.images('fog', 2).shape == (N, 8, 8, 1) and (c.images('fog', 2)[..., 0] == x[1, 1]).all()
    b = c.as_dl(tiny_learner(dls=tiny_dls(channels=1)), 'fog', 2).one_batch()
    assert b[0].shape == (N, 1, 8, 8)

def test_check_labels_item_by_item(tmp_path):
    _,y = write(tmp_path)
    c = CorruptedArrays(tmp_path)
    assert c.check(y) is c and c.check(torch.tensor(y)) is c and c.check(y.tolist()) is c
    with pytest.raises(ValueError, match='got 4 others .first: item 0 is 0 here, 2 in yours.. Your test set is in ano'):
        c.check(y[::-1])
    wrong = y.copy(); wrong[3] = 2
    with pytest.raises(ValueError, match='1 others .first: item 3 is 0 here, 2 in yours.. Is it another data set'):
        c.check(wrong)
    with pytest.raises(ValueError, match='6 labels of the test set, got shape .3,'): c.check(y[:3])
    named = CorruptedArrays(tmp_path, vocab=['ant', 'bee', 'cat'])
    assert named.check(np.array(['ant', 'bee', 'cat'])[y]) is named

def test_loader_passes_the_learners_own_normalize_and_nothing_else(tmp_path):
    x,y = write(tmp_path)
    learn = rgb_learner()
    norm = next(f for f in learn.dls.train.after_batch.fs if isinstance(f, Normalize))
    before,w = (random.getstate(), torch.get_rng_state(), np.random.get_state()[1].copy()),params(learn)
    dl = CorruptedArrays(tmp_path).as_dl(learn, 'brightness', 5, bs=4)
    assert random.getstate() == before[0] and torch.equal(torch.get_rng_state(), before[1])
    assert (np.random.get_state()[1] == before[2]).all()
    assert isinstance(dl, ArrayDL) and dl._whole() and len(dl) == 2 and dl.bs == 4
    xb,yb = (torch.cat(o) for o in zip(*dl))
    want = (torch.tensor(x[2, 4]).permute(0, 3, 1, 2).float()/255 - norm.mean.cpu())/norm.std.cpu()
    assert torch.allclose(xb.as_subclass(torch.Tensor).cpu(), want, atol=1e-5) and yb.tolist() == y.tolist()
    p,t = learn.get_preds(dl=dl)
    assert p.shape == (N, 3) and t.tolist() == y.tolist() and torch.equal(params(learn), w)
    assert len(learn.validate(dl=dl)) == 2 and learn.dls.valid.n == 24

def test_labels_find_their_place_in_the_vocab(tmp_path):
    _,y = write(tmp_path)
    X,_ = tiny_arrays(9, channels=3)
    make = lambda vocab,lab: tiny_learner(dls=array_dls(X, lab, valid=(X, lab), bs=3, vocab=vocab, device='cpu'))
    names = np.array(['ant', 'bee', 'cat'])
    lab = names[np.arange(9) % 3]
    learn = make(['cat', 'ant', 'bee'], lab)
    c = CorruptedArrays(tmp_path, vocab=['ant', 'bee', 'cat'])
    assert c.codes(learn).tolist() == [1, 2, 0, 1, 2, 0]
    assert c.as_dl(learn, 'fog', 1, bs=64).one_batch()[1].tolist() == [1, 2, 0, 1, 2, 0]
    assert CorruptedArrays(tmp_path).codes(learn).tolist() == y.tolist()            # without names: positions
    with pytest.raises(ValueError, match="labels.npy.*'cat'"):
        c.codes(make(['ant', 'bee', 'dog'], np.tile(['ant', 'dog', 'bee'], 3)))

# --- arrays: refusals ------------------------------------------------------------------------------------------------
def test_unknown_cells(tmp_path):
    write(tmp_path)
    c = CorruptedArrays(tmp_path)
    with pytest.raises(ValueError, match="'gausian_noise'. Did you mean 'gaussian_noise'"): c.images('gausian_noise', 1)
    for s in (0, 6, 2.5, True, '1', None):
        with pytest.raises(ValueError, match='from 1 to 5, got .*your own test set'): c.images('fog', s)
    assert c.images('fog', np.int64(3)).shape[0] == N
    with pytest.raises(ValueError, match="got 'frog'. Did you mean 'fog'"): CorruptedArrays(tmp_path, ['fog', 'frog'])

def test_folders_that_are_none(tmp_path):
    with pytest.raises(ValueError, match='does not exist'): CorruptedArrays(tmp_path/'no')
    (tmp_path/'C.tar').write_bytes(b'x')
    with pytest.raises(ValueError, match='archive: unpack it'): CorruptedArrays(tmp_path/'C.tar')
    with pytest.raises(ValueError, match='Give the folder that holds gaussian_noise.npy'): CorruptedArrays(tmp_path)
    np.save(tmp_path/'fog.npy', np.zeros((5, 2, 2, 3), np.uint8))
    with pytest.raises(ValueError, match='expected labels.npy'): CorruptedArrays(tmp_path)

@pytest.mark.parametrize('y,match', [
    (np.tile([0, 1, 2, 0, 1, 2], 5).astype(float), 'whole numbers .5n,. in labels.npy, got float64'),
    (np.zeros((30, 1), int), r'got int64 of shape \(30, 1\)'),
    (np.zeros(31, int), 'not divisible by 5'), (np.zeros(0, int), 'got 0, not divisible'),
    (np.repeat([0, 1, 2], 10), 'got others in severity 2'),
])
def test_wrong_labels(tmp_path, y, match):
    write(tmp_path)
    np.save(tmp_path/'labels.npy', y)
    with pytest.raises(ValueError, match=match): CorruptedArrays(tmp_path)

@pytest.mark.parametrize('a,match', [
    (np.zeros((30, 8, 8, 3)), 'uint8 images in fog.npy, got float64'),
    (np.zeros((30, 3, 8, 8), np.uint8), 'channels last in fog.npy'),
    (np.zeros((30, 8), np.uint8), r'got \(30, 8\)'),
    (np.zeros((6, 8, 8, 3), np.uint8), '30 images in fog.npy, 5 severities of the 6 labels, got 6'),
    (np.zeros((30, 9, 9, 3), np.uint8), r'images of \(8, 8, 3\) in fog.npy, as in gaussian_noise.npy'),
    (np.array([{}, 1], dtype=object), 'pickled'),
])
def test_wrong_images(tmp_path, a, match):
    write(tmp_path)
    np.save(tmp_path/'fog.npy', a)
    with pytest.raises(ValueError, match=match): CorruptedArrays(tmp_path)
    assert CorruptedArrays(tmp_path, names=['brightness', 'gaussian_noise']).n == N     # the others stay usable

def test_pickles_are_never_run_and_cut_files_are_named(tmp_path):
    write(tmp_path)
    (tmp_path/'fog.npy').write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path/'ran').encode() + b"'\ntR.")
    with pytest.raises(ValueError, match='fog.npy.*Nothing of it was run'): CorruptedArrays(tmp_path)
    assert not (tmp_path/'ran').exists()
    whole = (tmp_path/'brightness.npy').read_bytes()
    for part in (b'', whole[:50], whole[:-9]):
        (tmp_path/'fog.npy').write_bytes(part)
        with pytest.raises(ValueError, match='fog.npy.*Download it again'): CorruptedArrays(tmp_path)
    np.savez(tmp_path/'z.npz', a=np.zeros(3))
    (tmp_path/'z.npz').rename(tmp_path/'fog.npy')
    with pytest.raises(ValueError, match='archive of several'): CorruptedArrays(tmp_path)

def test_learners_that_do_not_fit(tmp_path):
    write(tmp_path)
    c = CorruptedArrays(tmp_path)
    with pytest.raises(ValueError, match='one channel, as in training, got 3'): c.as_dl(tiny_learner(), 'fog', 1)
    with pytest.warns(RobustWarning, match=r'\(8, 8\) pixels, the training images \(9, 9\)'):
        c.as_dl(tiny_learner(dls=tiny_dls(size=9, channels=3)), 'fog', 1)
    learn = rgb_learner()
    learn.dls.valid.after_batch.fs.clear()
    with pytest.raises(TypeError, match='whose batch transforms start with IntToFloatTensor'): c.as_dl(learn, 'fog', 1)

# --- folders ---------------------------------------------------------------------------------------------------------
def write_folders(path, names=('fog', 'snow'), classes=('n01', 'n02'), n=2, size=12, group=''):
    for i,name in enumerate(names):
        for s in range(1, 6):
            for j,o in enumerate(classes):
                d = path/group/name/str(s)/o
                d.mkdir(parents=True)
                for k in range(n):
                    a = np.full((size, size, 3), 10*s+i, np.uint8)
                    a[:size//4] = 200+10*j+k        # a stripe at the top that a centre crop would cut
                    Image.fromarray(a).save(d/f'im{k}.PNG')

def file_learner(path, size, classes=('n01', 'n02'), resize=Resize):
    for part in ('train', 'valid'):
        for o in classes:
            d = path/part/o
            d.mkdir(parents=True)
            for k in range(2): Image.fromarray(np.full((20, 20, 3), 9*k, np.uint8)).save(d/f'{k}.png')
    db = DataBlock((ImageBlock, CategoryBlock), get_items=get_image_files, splitter=GrandparentSplitter(),
                   get_y=parent_label, item_tfms=resize(size),
                   batch_tfms=Normalize.from_stats(*imagenet_stats, cuda=False))
    dls = db.dataloaders(path, bs=2, device=torch.device('cpu'))
    learn = Learner(dls, small_cnn(len(classes), 3, width=4, depth=2), loss_func=CrossEntropyLossFlat())
    learn.remove_cb(learn.progress)
    return learn

@pytest.mark.parametrize('group', ['', 'weather'])
def test_folders_list_the_same_files_for_every_cell(tmp_path, group):
    write_folders(tmp_path, group=group)
    c = CorruptedFolders(tmp_path)
    assert c.names == ('snow', 'fog') and c.n == 4 and c.classes == ['n01', 'n02'] and len(c) == 2
    assert c.labels == ['n01', 'n01', 'n02', 'n02']
    got = c.items('fog', 3)
    assert [o.parts[-4:] for o in got] == [('fog', '3', l, f'im{k}.PNG') for l in ('n01', 'n02') for k in (0, 1)]
    assert '2 corruptions x 5 severities x 4 images' in repr(c) and 'weather: snow, fog (not here: frost' in repr(c)
    with pytest.raises(ValueError, match="Did you mean 'snow'"): c.items('snoww', 1)
    with pytest.raises(ValueError, match='from 1 to 5'): c.items('fog', 0)

def decoded(dl):
    x,y = dl.one_batch()
    m,s = (torch.tensor(o).view(1, 3, 1, 1) for o in imagenet_stats)
    return ((x.as_subclass(torch.Tensor)*s+m)*255).round(),y

@pytest.mark.parametrize('resize', [Resize, RandomResizedCrop])
def test_files_of_the_learners_size_are_not_resized_again(tmp_path, resize):
    write_folders(tmp_path/'c')
    learn = file_learner(tmp_path/'d', 12, resize=resize)
    dl = CorruptedFolders(tmp_path/'c').as_dl(learn, 'fog', 4, bs=4)
    assert type(dl) is TfmdDL and not any(isinstance(f, resize) for f in dl.after_item.fs)
    x,y = decoded(dl)
    assert x.shape == (4, 3, 12, 12) and y.tolist() == [0, 0, 1, 1]
    assert x[:, 0, :3].amin((1, 2)).tolist() == [200, 201, 210, 211] and (x[:, 0, 3:] == 40).all()
    assert learn.get_preds(dl=dl)[1].tolist() == [0, 0, 1, 1]
    assert any(isinstance(f, resize) for f in learn.dls.valid.after_item.fs)        # the learner's own are as they were

def test_files_of_another_size_pass_the_learners_own_resize(tmp_path):
    write_folders(tmp_path/'c')
    x,_ = decoded(CorruptedFolders(tmp_path/'c').as_dl(file_learner(tmp_path/'d', 6), 'fog', 4, bs=4))
    assert x.shape == (4, 3, 6, 6) and (x[:, 0, -3:] == 40).all()

def test_height_and_width_are_not_taken_for_each_other():
    assert resizes_to(Resize((8, 16)), (8, 16)) and not resizes_to(Resize((8, 16)), (16, 8))
    assert not resizes_to(ToTensor(), (8, 8))

def test_classes_are_matched_by_name(tmp_path):
    write_folders(tmp_path/'c', classes=('n01', 'n02', 'n03'))
    c = CorruptedFolders(tmp_path/'c')
    learn = file_learner(tmp_path/'d', 12, classes=('n00', 'n03'))
    with pytest.warns(RobustWarning, match='2 of 3 classes are unknown to the learner .first: n01.'):
        _,y = decoded(c.as_dl(learn, 'snow', 1))
    assert y.tolist() == [1, 1]
    named = CorruptedFolders(tmp_path/'c', vocab=dict(n01='n00', n02='n03', n03='n00'))
    assert named.as_dl(learn, 'snow', 1, bs=9).one_batch()[1].tolist() == [0, 0, 1, 1, 0, 0]
    other = file_learner(tmp_path/'e', 12, classes=('dog', 'cat'))
    with pytest.raises(ValueError, match="got .'n01', 'n02', 'n03'., none of which it knows"): c.as_dl(other, 'fog', 1)

def test_folders_that_are_not_whole(tmp_path):
    with pytest.raises(ValueError, match='<corruption>/<severity>/<class>/ in'): CorruptedFolders(tmp_path)
    write_folders(tmp_path)
    (tmp_path/'snow'/'2'/'n01'/'im0.PNG').unlink()
    c = CorruptedFolders(tmp_path)
    with pytest.raises(ValueError, match='1 missing and 0 more in .*Unpack snow again'): c.items('snow', 2)
    assert len(c.items('snow', 3)) == 4
    (tmp_path/'fog'/'5').rename(tmp_path/'fog'/'five')
    with pytest.raises(ValueError, match=r'severities 1 to 5 of fog, got none for \[5\]'): CorruptedFolders(tmp_path)
    stray = tmp_path/'x'/'frost'
    for s in range(1, 6): (stray/str(s)).mkdir(parents=True)
    with pytest.raises(ValueError, match="folders of classes in .*frost/1', got none"): CorruptedFolders(tmp_path/'x')
    Image.new('L', (2, 2)).save(stray/'1'/'a.png')
    with pytest.raises(ValueError, match='got a.png outside of one'): CorruptedFolders(tmp_path/'x')
