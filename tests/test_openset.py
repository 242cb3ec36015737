"Open sets from anywhere, rows in an order of their own, and whether two sets overlap"
import copy, pickle, re, warnings
from pathlib import Path
import numpy as np
import pytest
import torch
from PIL import Image
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.core import TfmdDL
from fastai.learner import Learner
from fastai.data.transforms import RandomSplitter, get_image_files, parent_label
from fastai.torch_core import get_random_states, set_seed
from fastai.vision.augment import RandomResizedCrop
from fastai.vision.core import PILImageBW
from fastai.vision.data import ImageBlock
from conftest import tiny_dls, tiny_learner
from fastrobust.basics import RobustWarning
from fastrobust.data import auxrows
from fastrobust.data.fromarrays import array_dls
from fastrobust.data.auxrows import AuxRows, OpenSet, image_hashes
from fastrobust.data.openset import aux_file, aux_images, open_set
from fastrobust.data.apart import shared_with
from fastrobust.samples import sample_data
from fastrobust.nets import small_cnn
from fastrobust.techniques.bases.openset import OpenSetRows
from fastrobust.techniques.bases import openset as openset_base
from fastrobust.techniques.odnl import ODNL
from fastrobust.techniques.opensampling import OpenSampling

AUX = aux_images('gaussian', 40, 8, 1)
OTHER = aux_images('gaussian', 30, 8, 1, seed=1)
NUMBERS = torch.arange(50, dtype=torch.uint8)[:, None, None].expand(50, 2, 2)
def order(rows, n=50): return rows.next(n)[:, 0, 0, 0].tolist()
def states():
    s = get_random_states()
    return [s['random_state'], s['numpy_state'][1].tolist(), s['torch_state'].tolist()]

def folder(p, imgs, names='ab'):
    for i,im in enumerate(imgs):
        (p/names[i%len(names)]).mkdir(exist_ok=True, parents=True)
        Image.fromarray(im).save(p/names[i%len(names)]/f'{i:03d}.png')
    return p

def files_dls(p, labels=True, **kw):
    blocks = (ImageBlock(PILImageBW), CategoryBlock) if labels else (ImageBlock(PILImageBW),)
    return DataBlock(blocks, get_items=get_image_files, get_y=parent_label if labels else None,
                     splitter=RandomSplitter(.25, seed=0), **kw).dataloaders(p, bs=5, num_workers=0, device='cpu')

# --- the order of rows -----------------------------------------------------------------------------------------------
def test_order_and_labels_follow_the_seed_and_differ_between_ranks(monkeypatch):
    "Ranks are seeded alike, as set_seed in a script does; torch's generator forgets all but 32 bits of a seed"
    seen = []
    for rank in (0, 1, 2, 63, 0):
        monkeypatch.setattr(auxrows, 'rank_distrib', lambda rank=rank: rank)
        t = OpenSetRows(NUMBERS)
        torch.manual_seed(3)
        seen.append((tuple(order(t.aux)), tuple(t.draw(50, 10).tolist())))
    assert seen[0] == seen[-1] and len(set(seen)) == 4
    assert len({s[0] for s in seen}) == 4 and len({s[1] for s in seen}) == 4

def test_loaders_too(monkeypatch):
    dl = array_dls(NUMBERS[:, None], np.zeros(50, int), valid=(NUMBERS[:2, None], [0, 0]), bs=7, device='cpu').train
    seen = []
    for seed,rank in ((3, 0), (3, 0), (3, 1), (4, 0)):
        monkeypatch.setattr(auxrows, 'rank_distrib', lambda rank=rank: rank)
        a = AuxRows(dl)
        torch.manual_seed(seed)
        seen.append(tuple(order(a)))
    assert seen[0] == seen[1] and len(set(seen)) == 3 and sorted(seen[0]) == list(range(50)) and a.ids is None

def test_a_fit_follows_from_its_seed():
    "Also a second fit of one learner; without a seed it goes on elsewhere"
    t,ids = ODNL(AUX),[]
    learn = tiny_learner(t)
    for seed in (1, 1, None):
        if seed: set_seed(seed)
        learn.fit(1)
        ids.append((t.aux.ids.tolist(), t.draw(20, 3).tolist()))
    assert ids[0] == ids[1] != ids[2]

def test_copies_draw_for_themselves_and_pickles_hold_no_images():
    t = ODNL(AuxRows(NUMBERS))
    a = t.aux
    order(a, 20)
    b = copy.deepcopy(a)
    assert b.imgs is a.imgs and b._g is None and a._g is not None
    left = order(a, 30)
    assert order(b) != left and len(set(left)) == 30 and sorted(order(copy.deepcopy(b))) == list(range(50))
    shared = AuxRows(AUX)
    assert ODNL(shared).aux is not shared and ODNL(shared).aux.imgs is shared.imgs
    c = pickle.loads(pickle.dumps(a))
    assert c.source is None and c.imgs is None and c._g is None
    with pytest.raises(ValueError, match='not part of an exported learner'): c.next(1)

def test_rows_of_fastais_plain_loader_on_a_list():
    dl = TfmdDL([(torch.full((1, 2, 2), i, dtype=torch.uint8), 0) for i in range(9)], bs=4, num_workers=0)
    assert sorted(order(AuxRows(dl), 9)) == list(range(9))
    assert sorted(order(AuxRows([dl, dl]), 18)) == sorted([*range(9)]*2)

# --- where they come from --------------------------------------------------------------------------------------------
def test_a_file_is_mapped_and_never_read_as_a_whole(tmp_path):
    x = aux_images('gaussian', 60, 8, 3)
    np.save(tmp_path/'300K_random_images.npy', x)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        m = aux_file(tmp_path/'300K_random_images.npy')
        a = AuxRows(m)
    assert isinstance(m, np.memmap) and np.shares_memory(a.imgs.numpy(), m) and a.imgs.shape == (60, 3, 8, 8)
    got = torch.cat([a.next(25), a.next(35)])
    rows = lambda v: sorted(o.tobytes() for o in v)
    assert rows(got.permute(0, 2, 3, 1).numpy().copy()) == rows(x)
    assert torch.equal(a.imgs[a.ids], got[25:]) and len(ODNL(m).aux) == 60
    tiny_learner(ODNL(m), dls=tiny_dls(channels=3)).fit(1)
    assert shared_with(m, np.load(tmp_path/'300K_random_images.npy')[:3]) == '3 of the images are in both'

def test_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError, match='outlier-exposure'): aux_file(tmp_path/'none.npy')
    (tmp_path/'text.npy').write_text('no array')
    with pytest.raises(ValueError, match=r'\.npy file of uint8 images.*cannot map'): aux_file(tmp_path/'text.npy')
    np.savez(tmp_path/'z.npz', x=AUX)
    with pytest.raises(ValueError, match='got NpzFile'): aux_file(tmp_path/'z.npz')
    for bad,msg in ((AUX/255, 'got float64'), (AUX[:0], r'got uint8 \(0, 8, 8\)'), (AUX[0], r'got uint8 \(8, 8\)')):
        np.save(tmp_path/'a.npy', bad)
        with pytest.raises(ValueError, match=msg): aux_file(tmp_path/'a.npy')
    np.save(tmp_path/'o.npy', np.array([None]), allow_pickle=True)
    with pytest.raises(ValueError, match='cannot map'): aux_file(tmp_path/'o.npy')

def test_a_folder_of_pictures_trains(tmp_path):
    p = folder(tmp_path, AUX[:12])
    for dls in (files_dls(p), files_dls(p, labels=False)):
        t = ODNL(dls)
        tiny_learner(t).fit(1)
        assert len(t.aux) == 9 and t.aux.next(9).dtype == torch.uint8
    with pytest.raises(ValueError, match='Stack the images'): ODNL(dls, dynamic=False)

def test_open_set_takes_other_classes_by_name():
    X,y,_,_,vocab = sample_data('quickdraw')
    o = open_set(X, y, vocab, vocab[1:3])
    assert np.array_equal(o.images, X[(y == 1) | (y == 2)]) and o.classes == vocab[1:3] and len(o) == 200
    assert repr(o) == f'OpenSet: 200 images of {vocab[1]}, {vocab[2]}'
    for other in (open_set(X, y, vocab, [1, 2]), open_set(X, [vocab[i] for i in y], None, vocab[1:3]),
                  open_set(torch.from_numpy(X), torch.from_numpy(y), vocab, np.array([1, 2]))):
        assert np.array_equal(np.asarray(other.images), o.images) and other.classes == o.classes
    assert open_set(X, y, vocab, vocab[0]).classes == [vocab[0]]
    assert len(ODNL(o).aux) == 200 and open_set(X, y, None, [3]).classes == [3]

@pytest.mark.parametrize('make,err,msg', [
    (lambda: open_set(AUX, [0, 1]*20, ['cat', 'dog'], ['dgo']), ValueError, "got 'dgo'. Did you mean 'dog'"),
    (lambda: open_set(AUX, [0, 1]*20, ['cat', 'dog'], []), ValueError, 'at least one class'),
    (lambda: open_set(AUX, [0, 1]*20, ['cat', 'dog'], [2]), ValueError, r'positions 0\.\.1.*`keep`'),
    (lambda: open_set(AUX, [0]*40, ['cat', 'dog'], ['dog']), ValueError, r"images of \['dog'\], got none"),
    (lambda: open_set(AUX, [0, 1], ['cat', 'dog'], ['dog']), ValueError, 'one label per image'),
    (lambda: OpenSet(AUX, 'cat'), TypeError, r"Write \['cat'\]"), (lambda: OpenSet(None), TypeError, 'got a NoneType'),
    (lambda: OpenSet([AUX]), TypeError, 'got a list of ndarray'), (lambda: AuxRows(Path('x')), TypeError, 'DataBlock')])
def test_bad_open_sets(make, err, msg):
    with pytest.raises(err, match=msg): make()

def test_an_empty_loader_is_refused():
    dl = tiny_dls().train.new(torch.utils.data.TensorDataset(torch.zeros(0, 1)))
    with pytest.raises(ValueError, match='got an empty one'): ODNL(dl)

# --- apart? ----------------------------------------------------------------------------------------------------------
def loaders(x, y=None, vocab=None, **kw):
    y = np.arange(len(x))%2 if y is None else y
    return array_dls(x, y, valid=(x[:2], y[:2]), bs=8, vocab=vocab, device='cpu', **kw)

def test_sets_apart_share_nothing():
    forms = [OTHER, torch.from_numpy(OTHER), OTHER/255, OpenSet(OTHER), OpenSet(OTHER, ['dog']), loaders(OTHER),
             loaders(OTHER).train, aux_images('blob', 5, 9, 3)]
    for aux in (AUX, ODNL(AUX).aux, loaders(AUX), OpenSet(AUX, ['cat']), AuxRows(OpenSet(loaders(AUX), ['cat']))):
        assert [shared_with(aux, u) for u in forms] == [None]*len(forms)
    X = np.concatenate([AUX, OTHER])
    assert shared_with(X[:40], X[40:]) is None and shared_with(X[::2], X[1::2]) is None

@pytest.mark.parametrize('aux,unknown,msg', [
    (AUX, AUX, 'same object'), (AUX, AUX[3:5], 'same memory'), (AUX, torch.from_numpy(AUX), 'same memory'),
    (torch.from_numpy(AUX)[:9], torch.from_numpy(AUX)[5:], 'same memory'), (AuxRows(AUX), AUX[1:, :4], 'same memory'),
    (AUX, AUX[::8].copy(), '^5 of the images are in both'), (AUX[7:8].copy(), AUX/255, '^1 of the images'),
    (AUX, np.concatenate([OTHER, AUX[:1]])[..., None], '^1 of the images'), (AUX, loaders(AUX), '42 of the images'),
    (OpenSet(AUX, ['Cat ', 'cow']), OpenSet(OTHER, ['cow', 'cat']), '^both show cow, cat$'),
    (OpenSet(AUX, [3, 4]), OpenSet(OTHER, [4]), 'both show 4')])
def test_what_two_sets_share(aux, unknown, msg):
    assert re.search(msg, shared_with(aux, unknown)) and re.search(msg, shared_with(AuxRows(aux), unknown))

def test_names_of_loaders_are_those_that_occur():
    vocab = ['cat', 'dog', 'cow', 'hen']
    y = np.arange(30)%2
    low,high = loaders(AUX[:30], y, vocab),loaders(OTHER, y+2, vocab)
    assert shared_with(low, high) is None and shared_with(low, OpenSet(OTHER, ['hen'])) is None
    assert shared_with(ODNL(low).aux, OpenSet(OTHER, ['hen', 'DOG'])) == 'both show DOG'
    assert shared_with(low, loaders(OTHER, y+1, vocab)) == 'both show dog'
    assert shared_with(loaders(AUX), loaders(OTHER)) is None, 'numbers name nothing'
    assert shared_with(ODNL(low).aux, low.train) == 'both show cat, dog'
    assert shared_with(loaders(AUX).train, loaders(AUX).train) == '40 of the images are in both'

def test_files_and_objects(tmp_path):
    p,q = folder(tmp_path/'p', AUX[:12]),folder(tmp_path/'q', np.concatenate([OTHER[:8], AUX[:4]]), 'cd')
    a,b = files_dls(p, labels=False),files_dls(q, labels=False)
    assert shared_with(a.train, a.train) == 'both are the same object'
    assert shared_with(a.train, a.train.new(shuffle=False)) == 'both are the same object'
    again = files_dls(p, labels=False)
    assert shared_with(a.train, again.train).startswith(f'9 of the files are in both, the first {p}')
    assert shared_with(a.train, again.valid) is None and shared_with(ODNL(a).aux, again.valid) is None
    assert shared_with([a.train, a.valid], again.test_dl(get_image_files(p)[:2])).startswith('2 of the files')
    assert shared_with([a.train, a.valid], b) == '4 of the images are in both'
    assert shared_with([a.train, a.valid], AUX[11:13].copy()) == '1 of the images are in both'
    assert shared_with(a, OTHER) is None
    assert shared_with(files_dls(p), files_dls(folder(tmp_path/'r', OTHER[:8], 'bc'))) == 'both show b'

def test_looking_moves_no_stream_and_reads_files_as_in_validation(tmp_path):
    dls = files_dls(folder(tmp_path, aux_images('gaussian', 12, 16, 1)), item_tfms=RandomResizedCrop(8))
    set_seed(5)
    before = states()
    a,b = image_hashes(dls.train),image_hashes(dls.train)
    assert a == b and len(set(a)) == 9 and states() == before
    assert shared_with(dls.train, AUX) is None and states() == before
    t = ODNL(dls)
    assert t.aux.hashes() is t.aux.hashes() and t.aux.hashes() == frozenset(a)

def test_an_exported_technique_has_nothing_to_compare():
    assert shared_with(pickle.loads(pickle.dumps(ODNL(AUX).aux)), AUX) is None

# --- what the reviewer asked ------------------------------------------------------------------------------------------
def test_images_of_the_training_set_are_no_open_set():
    dls = tiny_dls()
    for aux in (dls.train, dls, dls.train_ds.items.x[:9], dls.train_ds.items.x[:9].clone()):
        with pytest.raises(ValueError, match='ODNL expected open-set images, got training images'):
            tiny_learner(ODNL(aux), dls=dls).fit(1)
    half = np.concatenate([aux_images('gaussian', 23, 8, 1), dls.train_ds.items.x[:25, 0].numpy()])
    with pytest.raises(ValueError, match='got training images'): tiny_learner(ODNL(half), dls=dls).fit(1)
    X,y,Xv,yv,vocab = sample_data('fashion')
    named = array_dls(X[:64], y[:64], valid=(Xv[:10], yv[:10]), vocab=vocab, bs=16, device='cpu')
    learn = Learner(named, small_cnn(10), cbs=ODNL(OpenSet(aux_images('blob', 20, 28, 1), ['bag'])))
    with pytest.warns(RobustWarning, match=r'classes of the training set \(bag\)'): learn.fit(1)

@pytest.mark.parametrize('t,says', [
    (lambda: ODNL(AUX[:1]), 'ODNL expected at least 16 open-set images, as many as a step takes, got 1: every step'),
    (lambda: ODNL(AUX, bs=50), 'ODNL expected at least 50 .*, got 40'),
    (lambda: ODNL(loaders(AUX[:9])), 'ODNL expected at least 16 .*, got 9'),
    (lambda: OpenSampling(OpenSet(AUX[:15], ['grain'])), 'OpenSampling expected at least 16 .*, got 15'),
    (lambda: OpenSetRows(AUX[:2]), 'OpenSetRows expected at least 16')])
def test_few_images_are_warned_of(t, says):
    with pytest.warns(RobustWarning, match=says): tiny_learner(t()).fit(1)

@pytest.mark.filterwarnings('error::fastrobust.basics.RobustWarning')
@pytest.mark.parametrize('t', [lambda: ODNL(AUX[:16]), lambda: ODNL(AUX[:4], bs=4), lambda: ODNL(loaders(AUX)),
                               lambda: OpenSampling(AUX)])
def test_a_step_full_is_enough(t): tiny_learner(t()).fit(1)

@pytest.mark.parametrize('make', [ODNL, lambda aux: OpenSampling(aux, weighted=False)])
def test_a_few_training_images_in_an_open_set_are_counted(make):
    "Nobody would want them, but some may be chance: blank images, say"
    dls = tiny_dls()
    mine = dls.train_ds.items.x[:5, 0].numpy()
    forms = {1: np.concatenate([AUX, mine[:1]]), 5: np.concatenate([mine, AUX])}
    for n,X in forms.items():
        for aux in (X, X/255, X[:, None], OpenSet(X, ['cat']), loaders(X).train):
            with pytest.warns(RobustWarning, match=rf'got {n} training image\(s\) among {len(X)}: .*Leave them out'):
                tiny_learner(make(aux), dls=dls).fit(1)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always', RobustWarning)
        tiny_learner(make(AUX), dls=dls).fit(1)
    assert not [o for o in said if 'training image' in str(o.message)]

def test_many_copies_are_refused_however_many_images_there_are(monkeypatch):
    "Two large sets are compared, too: all that are kept in memory"
    dls = tiny_dls()
    copies = dls.train_ds.items.x.clone()
    monkeypatch.setattr(openset_base, 'share_items', lambda a, b: False)     # as where one has more than 20,000
    with pytest.raises(ValueError, match='got training images'): tiny_learner(ODNL(copies), dls=dls).fit(1)

def test_training_files_in_an_open_set(tmp_path):
    p = folder(tmp_path, AUX[:16])
    learn = Learner(files_dls(p), small_cnn(2))
    with pytest.raises(ValueError, match='got training images'):
        learn.fit(1, cbs=ODNL(learn.dls.test_dl(get_image_files(p))))

@pytest.mark.parametrize('make,error,match', [
    (lambda: ODNL(aux_images('blob', 9, 8, 1), bs=2.5), ValueError, 'whole number from 1 on, got 2.5'),
    (lambda: aux_images('blob', 5., 8), TypeError, 'whole numbers'),
    (lambda: ODNL(torch.utils.data.DataLoader(torch.zeros(4, 1, 8, 8))), TypeError, 'a DataLoader of torch')])
def test_small_mistakes_are_named(make, error, match):
    with pytest.raises(error, match=match): make()
