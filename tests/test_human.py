"CIFAR-N and other people's label files: safe to read, checked item by item"
import csv, json, os, pickle, warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.transforms import IndexSplitter, get_image_files, parent_label
from fastai.vision.data import ImageBlock

from fastrobust.basics import RobustWarning
from fastrobust.noise import human
from fastrobust.data.fromarrays import array_dls
from fastrobust.noise.human import cifar_n
from fastrobust.noise.labelfiles import load_labels
from fastrobust.noise.classmaps import CIFAR100_COARSE
from fastrobust.noise.matrices import T_from_confusion
from fastrobust.noise.laws import NoisyLabels
from fastrobust.noise.block import NoisyDataBlock, add_label_noise

quiet = pytest.mark.filterwarnings('ignore::fastrobust.basics.RobustWarning')
NAMES = dict(aggre='aggre_label', worse='worse_label', random1='random_label1', random2='random_label2',
             random3='random_label3')
rng = np.random.RandomState(0)
CLEAN = np.arange(200) % 10
def flipped(r): return np.where(rng.rand(200) < r, (CLEAN+1+rng.randint(0, 9, 200)) % 10, CLEAN)
SETS = {'clean_label': CLEAN, **{v: flipped(.1*(i+1)) for i,v in enumerate(NAMES.values())}}
FINE = np.arange(200) % 100
SETS100 = dict(clean_label=FINE, noisy_label=(FINE+1) % 100, clean_coarse_label=[0]*200, noisy_coarse_label=[1]*200)

@pytest.fixture
def pt(tmp_path):
    torch.save(SETS, tmp_path/'CIFAR-10_human.pt')
    return tmp_path/'CIFAR-10_human.pt'

# --- CIFAR-N ---------------------------------------------------------------------------------------------------------
@quiet
def test_every_name_in_both_spellings(pt):
    for name,key in NAMES.items():
        rec = cifar_n(pt, name, y=CLEAN)
        assert (rec.y_noisy == SETS[key]).all() and (rec.y_clean == CLEAN).all() and rec.kind == 'human'
        assert rec.nominal_rate == rec.realised_rate == (SETS[key] != CLEAN).mean() > 0
    for a,b in (('worst','worse'), ('rand1','random1'), ('rand2','random2'), ('rand3','random3'), ('aggregate','aggre'),
                ('worse_label','worse'), ('random_label3','random3')):
        assert (cifar_n(pt, a).y_noisy == cifar_n(pt, b).y_noisy).all()
    with pytest.raises(ValueError, match="'wors'.*Did you mean 'worst' or 'worse'"): cifar_n(pt, 'wors')
    with pytest.raises(ValueError, match="expected labels 'noisy_label', got clean_label.*other data set"):
        cifar_n(pt, 'noisy100')

@quiet
def test_the_100_class_file_and_its_wrong_coarse_labels(tmp_path):
    torch.save(SETS100, tmp_path/'a.pt')
    rec = cifar_n(tmp_path/'a.pt', 'noisy100', y=FINE)
    assert rec.realised_rate == 1 and rec.n_classes == 100
    coarse = cifar_n(tmp_path/'a.pt', 'noisy_coarse')       # not those in the file
    want = np.array(CIFAR100_COARSE)
    assert (coarse.y_clean == want[FINE]).all() and (coarse.y_noisy == want[(FINE+1) % 100]).all()
    assert coarse.n_classes == 20

@quiet
def test_npy_dict_and_npz(tmp_path):
    np.save(tmp_path/'ordered.npy', dict(clean_label=FINE, noise_label=(FINE+2) % 100), allow_pickle=True)
    assert (cifar_n(tmp_path/'ordered.npy', 'noisy100').y_noisy == (FINE+2) % 100).all()
    np.savez(tmp_path/'all.npz', y_train=CLEAN, **{'c10n_'+k: v.astype(np.int8) for k,v in SETS.items()})
    rec = cifar_n(tmp_path/'all.npz', 'worst')
    assert (rec.y_noisy == SETS['worse_label']).all() and (rec.y_clean == CLEAN).all()

def test_another_order_is_refused_even_if_the_sums_agree(pt):
    y = CLEAN.copy()
    y[[0,1]] = y[[1,0]]                                     # the sum of differences, cfn's own check, is 0
    with pytest.raises(ValueError, match=r'2 other true labels \(item 0: 0 in the record, 1 in the.*another order'):
        cifar_n(pt, 'worse', y=y)
    with pytest.raises(ValueError, match='200 labels for 199.*record.take'): cifar_n(pt, 'worse', y=CLEAN[1:])

def test_the_licence_is_said_once(pt):
    human._notice.cache_clear()
    with pytest.warns(RobustWarning, match='CC BY-NC 4.0'): cifar_n(pt)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        cifar_n(pt)

class Evil:
    def __init__(self, path): self.path = str(path)
    def __reduce__(self): return os.mkdir, (self.path,)

@pytest.mark.parametrize('kind', ['pt', 'npy'])
def test_a_file_that_would_run_code_is_refused_and_does_not(tmp_path, kind):
    bad,fn = dict(clean_label=CLEAN, worse_label=Evil(tmp_path/'owned')),tmp_path/f'x.{kind}'
    if kind == 'pt': torch.save(bad, fn)
    else: np.save(fn, bad, allow_pickle=True)
    with pytest.raises(ValueError, match='Nothing of it was run'): cifar_n(fn)
    assert not (tmp_path/'owned').exists()
    pickle.loads(pickle.dumps(Evil(tmp_path/'owned')))      # it would have
    assert (tmp_path/'owned').exists()

@quiet
def test_bad_files(tmp_path):
    with pytest.raises(ValueError, match='does not exist.*cifar-10-100n'): cifar_n(tmp_path/'none.pt')
    (tmp_path/'empty.npy').write_bytes(b'')
    with pytest.raises(ValueError, match='something else'): cifar_n(tmp_path/'empty.npy')    # once shipped so
    np.save(tmp_path/'plain.npy', CLEAN)
    with pytest.raises(ValueError, match='something else'): cifar_n(tmp_path/'plain.npy')
    torch.save(torch.arange(3), tmp_path/'t.pt')
    with pytest.raises(ValueError, match='dict of labels, got Tensor'): cifar_n(tmp_path/'t.pt')
    (tmp_path/'junk.pt').write_bytes(b'junk junk junk')
    with pytest.raises(ValueError, match='something else'): cifar_n(tmp_path/'junk.pt')

# --- in loaders ------------------------------------------------------------------------------------------------------
@quiet
def test_human_labels_follow_a_split_of_arrays(pt):
    X = np.random.RandomState(1).randint(0, 256, (200,4,4)).astype(np.uint8)
    dls = array_dls(X, CLEAN, valid_pct=.25, seed=3, bs=16)
    rows,vrows = dls.train_ds.items.rows.numpy(),dls.valid_ds.items.rows.numpy()
    for noise in (cifar_n(pt), NoisyLabels('human', source=pt, name='worst'), NoisyLabels('human', source=cifar_n(pt))):
        nd = add_label_noise(dls, noise)
        assert (nd.noise.y_noisy == SETS['worse_label'][rows]).all() and nd.noise.valid is None
        assert nd.noise.kind == 'human' and nd.noise.vocab == [str(i) for i in range(10)]
        assert int(nd.train_ds[7][1]) == SETS['worse_label'][rows[7]]
    nd = add_label_noise(dls, NoisyLabels('human', source=pt, name='aggre', noisy_valid='both'))
    assert (nd.noise.valid.y_noisy == SETS['aggre_label'][vrows]).all() and len(nd.noise.cbs()) == 1
    with pytest.raises(ValueError, match='in the data.*another order'):
        add_label_noise(array_dls(X, CLEAN[::-1].copy(), valid=(X, CLEAN)), cifar_n(pt))
    part = np.arange(200)[::-1][:150]
    dls = array_dls(X[part], CLEAN[part], valid=(X, CLEAN), vocab=list(range(10)))
    with pytest.raises(ValueError, match='200 labels for 150.*record.take'): add_label_noise(dls, cifar_n(pt))
    assert (add_label_noise(dls, cifar_n(pt).take(part)).noise.y_noisy == SETS['worse_label'][part]).all()

@quiet
@pytest.mark.parametrize('first', [0, 1])
def test_human_labels_find_files_by_their_number(tmp_path, pt, first):
    voc = list("abcdefghij")
    for k in voc: (tmp_path/'im'/k).mkdir(parents=True)
    for i,k in enumerate(voc[y] for y in CLEAN):
        Image.fromarray(np.full((4,4), i, np.uint8)).save(tmp_path/'im'/k/f'{i+first}_{k}.png')
    kw = dict(get_items=lambda p: sorted(get_image_files(p)), get_y=parent_label,
              splitter=IndexSplitter(list(range(0, 200, 3))))
    dls = DataBlock((ImageBlock, CategoryBlock), **kw).dataloaders(tmp_path/'im', bs=8, num_workers=0)
    nd = add_label_noise(dls, cifar_n(pt))
    ids = np.array([int(Path(f).name.split('_')[0])-first for f in dls.train_ds.items])
    assert (np.diff(ids) < 0).any() and (nd.noise.y_noisy == SETS['worse_label'][ids]).all()
    noise = NoisyLabels('human', source=pt)
    nb = NoisyDataBlock((ImageBlock, CategoryBlock), noise=noise, **kw).datasets(tmp_path/'im')
    assert (nb.noise.y_noisy == nd.noise.y_noisy).all()

def test_bad_human_laws(pt):
    for kw,err,msg in ((dict(), ValueError, 'needs `source`'), (dict(source=pt, rate=.3), ValueError, 'their own rate'),
                       (dict(source=[0,1]), TypeError, 'file or a NoiseRecord, got list'),
                       (dict(source='a.csv', name='worse'), ValueError, '`name` chooses')):
        with pytest.raises(err, match=msg): NoisyLabels('human', **kw)
    rec = NoisyLabels('pair', .3).apply(CLEAN)
    with pytest.raises(ValueError, match='one set of labels'): NoisyLabels('human', source=rec, name='worse')
    assert NoisyLabels('human', source=rec).apply(CLEAN, 10).kind == 'pair'
    with pytest.raises(ValueError, match='10 classes for 12'): NoisyLabels('human', source=rec).apply(CLEAN, 12)

# --- files of others -------------------------------------------------------------------------------------------------
def write(path, cols, rows):
    with open(path, 'w', newline='', encoding='utf-8') as f: csv.writer(f).writerows([cols, *rows])
    return path

GIVEN = SETS['worse_label']
def test_csv_with_and_without_names(tmp_path):
    fn = write(tmp_path/'chen.csv', ['label', 'label_noisy'], zip(CLEAN, GIVEN))
    rec = load_labels(fn, y=CLEAN)
    assert (rec.y_noisy == GIVEN).all() and rec.kind == 'file' and rec.nominal_rate == (GIVEN != CLEAN).mean()
    assert (load_labels(fn).y_clean == CLEAN).all()
    with pytest.raises(ValueError, match='another order'): load_labels(fn, y=CLEAN[::-1])
    voc = [f'class {k}' for k in range(10)]
    fn = write(tmp_path/'names.csv', ['item', 'label', 'label_noisy'],
               [(f'd/{i}.png', voc[CLEAN[i]], voc[GIVEN[i]]) for i in range(200)])
    order = np.random.RandomState(3).permutation(200)
    for pre in ('d', '/somewhere/else'):
        rec = load_labels(fn, y=CLEAN[order], items=[Path(f'{pre}/{i}.png') for i in order], vocab=voc)
        assert (rec.y_noisy == GIVEN[order]).all() and rec.vocab == voc
    fn = write(tmp_path/'given.csv', ['item', 'given'], zip(range(200), GIVEN))
    assert (load_labels(fn, y=CLEAN).y_noisy == GIVEN).all()
    rec = NoisyLabels('human', source=tmp_path/'chen.csv').apply(CLEAN)
    assert (rec.y_noisy == GIVEN).all() and rec.kind == 'file'

def test_our_own_csv(tmp_path):
    rec = NoisyLabels('symmetric', .4).apply(CLEAN, 10)
    rec.save(tmp_path/'a.csv')
    for y in (None, CLEAN):
        back = load_labels(tmp_path/'a.csv', y=y)
        assert back.kind == 'symmetric' and (back.y_noisy == rec.y_noisy).all() and back.seed == 0
    with pytest.raises(ValueError, match='another order'): load_labels(tmp_path/'a.csv', y=(CLEAN+1) % 10)

def test_json_lists_and_pairs(tmp_path):
    (tmp_path/'a.json').write_text(json.dumps(GIVEN.tolist()))
    rec = load_labels(tmp_path/'a.json', y=CLEAN)
    assert (rec.y_noisy == GIVEN).all() and (rec.y_clean == CLEAN).all()
    pairs = [[5,3], [9,0], [150,7]]
    (tmp_path/'p.json').write_text(json.dumps(pairs))
    rec = load_labels(tmp_path/'p.json', y=CLEAN)
    assert np.flatnonzero(rec.is_open).tolist() == [5,9,150] and rec.open_from[[5,9,150]].tolist() == [3,0,7]
    assert rec.realised_rate == 0 and rec.open_rate == .015 == rec.nominal_rate
    X = np.zeros((200,4,4,3), np.uint8)
    dls = array_dls(X, CLEAN, valid=(X, CLEAN), normalize=False)
    rec.images = torch.arange(8, dtype=torch.uint8)[:,None,None,None].expand(8,3,4,4) + 10
    nd = add_label_noise(dls, rec)
    assert nd.train_ds.items.x[:,0,0,0][[5,9,150,0]].tolist() == [13,10,17,0]
    (tmp_path/'twice.json').write_text(json.dumps([[5,3], [5,1]]))
    with pytest.raises(ValueError, match='got some twice'): load_labels(tmp_path/'twice.json', y=CLEAN)

@pytest.mark.parametrize('cols,rows,kw,msg', [
    (['a', 'b'], [(1,2)], {}, r"got columns \['a', 'b'\]"),
    (['item', 'label_noisy'], [(1,2)], {}, "give the true labels as `y`"),
    (['label', 'label_noisy'], [], {}, 'expected rows'),
    (['label', 'label_noisy'], [(0,'cat')], {}, "got 'cat'. Pass vocab="),
    (['label', 'label_noisy'], [('cat','dgo')], dict(vocab=['cat','dog']), "got 'dgo'. Did you mean 'dog'"),
    (['label', 'label_noisy'], [(0,1), (1,1)], dict(y=[0]), 'each of the 1 items, got 2'),
    (['label', 'label_noisy'], [(0,1), (1,-1)], dict(y=[0,1]), 'got -1'),
    (['item', 'label', 'label_noisy'], [('a',0,1), ('b',1,1)], dict(items=['b','c']), 'for c. Use the same files'),
    (['item', 'label', 'label_noisy'], [('a',0,1), ('a',1,1)], dict(items=['a','a']), 'or several, for a'),
])
def test_bad_csv(tmp_path, cols, rows, kw, msg):
    with pytest.raises(ValueError, match=msg): load_labels(write(tmp_path/'x.csv', cols, rows), **kw)

def test_json_needs_the_true_labels(tmp_path):
    (tmp_path/'a.json').write_text('[1, 2]')
    with pytest.raises(ValueError, match='pass the true ones as `y`'): load_labels(tmp_path/'a.json')
    with pytest.raises(ValueError, match='each of the 3 items, got 2'): load_labels(tmp_path/'a.json', y=[1,2,0])

# --- the real thing --------------------------------------------------------------------------------------------------
def real():
    base = Path(os.environ.get('FASTROBUST_DATA') or Path(__file__).parents[2]/'shared'/'data')
    fn = base/'cifar10'/'labels.npz'
    if not fn.exists(): pytest.skip(f'no {fn}: CIFAR-10N labels are CC BY-NC and not part of the package')
    return fn,np.load(fn)['y_train'].astype(int)

@quiet
def test_cifar_10n_counts_and_conditions():
    "Spec checks 1 and 7.7's table"
    fn,y = real()
    for name,n,cond in (('aggre', 4505, 1.280), ('random1', 8617, 1.486), ('random2', 9061, 1.503),
                        ('random3', 8820, 1.477), ('worst', 20104, 3.303)):
        rec = cifar_n(fn, name, y=y)
        assert rec.is_noisy.sum() == n and len(rec) == 50000
        assert np.linalg.cond(T_from_confusion(rec.y_clean, rec.y_noisy)) == pytest.approx(cond, abs=5e-4)
    assert rec.T_empirical[[9,3],[1,3]].tolist() == pytest.approx([.282,.4872], abs=5e-4)
    found = np.arange(50000) < 25000
    hit = (found & rec.is_noisy).sum()
    assert hit/rec.is_noisy[:25000].sum() == 1 and hit/rec.is_noisy.sum() == pytest.approx(.5045264623955432, abs=1e-12)
    with pytest.raises(ValueError, match='another order'): cifar_n(fn, 'worse', y=np.roll(y, 1))

def test_published_label_vectors_to_the_bit():
    "Spec check 2: RandomState(0), one multinomial per sample, on CIFAR-10's own labels"
    _,y = real()
    for kind,r,n in (('symmetric', .2, 10038), ('symmetric', .5, 24838), ('symmetric', .8, 39871), ('pair', .45, 22400),
                     ('asymmetric', .4, 9873)):
        assert NoisyLabels(kind, r, sampling='bernoulli').apply(y, 10).is_noisy.sum() == n
