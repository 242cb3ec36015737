"An export holds a network, settings and class names: no image, label or weight of an item, no path"
import copy, warnings, zipfile
from collections import deque
from pathlib import Path
import numpy as np
import pytest
import torch
from PIL import Image
from fastai.data.block import DataBlock
from fastai.data.transforms import RandomSplitter, get_image_files
from fastai.learner import load_learner
from fastai.vision.core import PILImageBW
from fastai.vision.data import ImageBlock
from conftest import MiniAux, MiniTwin, tiny_learner
import fastrobust.all as fr
from fastrobust.noise.averaging import AverageProbs
from fastrobust.noise.record import TrueAccuracy
from fastrobust.stripping import strip
from fastrobust.techniques.bases.openset import OpenSetRows
from test_contract import ALL, SETTINGS, net_for

N,NV,NA = 47,23,67      # lengths that nothing else has: training, validation, auxiliary images
MARK = bytes([222, 173, 190, 239, 19, 55, 66, 153])     # a row of 8 pixels
WEIGHTS = 3.25 + np.arange(N)/7
FOLDER = 'xyzzy_folder'

# --- marked data -----------------------------------------------------------------------------------------------------
def images(n, seed):
    x = np.random.default_rng(seed).integers(0, 256, (n, 8, 8), dtype=np.uint8)
    x[:, 3] = np.frombuffer(MARK, np.uint8)
    return x
def labels(n, seed):
    y = np.random.default_rng(seed).integers(0, 3, n)
    y[:3] = range(3)
    return y
def marked_dls(**kw):
    return fr.array_dls(images(N, 0), labels(N, 0), (images(NV, 1), labels(NV, 1)), bs=16, device='cpu', **kw)
def files(d):
    "Images in a folder with a name that can be found again"
    d = d/FOLDER
    d.mkdir()
    for i,x in enumerate(images(NA, 2)): Image.fromarray(x).save(d/f'{i}.png')
    block = DataBlock(ImageBlock(PILImageBW), get_items=get_image_files, splitter=RandomSplitter(.2))
    return block.dataloaders(d, bs=8, num_workers=0, device='cpu')

# --- what is in a file -----------------------------------------------------------------------------------------------
def bytes_of(path):
    with zipfile.ZipFile(path) as z: return b''.join(z.read(k) for k in z.namelist())

def inside(o):
    "All objects that hang on `o`, each with the names that lead to it"
    seen,todo = set(),deque([('', o)])
    while todo:
        at,o = todo.popleft()
        if id(o) in seen or isinstance(o, (type, str, bytes, int, float)) and not isinstance(o, str): continue
        seen.add(id(o))
        yield at,o
        if isinstance(o, dict): todo += [(f'{at}[{k!r}]', v) for k,v in o.items()]
        elif isinstance(o, (list, tuple, set, frozenset)): todo += [(f'{at}[{i}]', v) for i,v in enumerate(o)]
        if hasattr(o, '__dict__') and not isinstance(o, (torch.Tensor, type(torch))):
            todo += [(f'{at}.{k}', v) for k,v in vars(o).items()]

def per_item(o):
    "Whether it holds something for each item of a set"
    lengths = {N, NV, NA, NA-NA//5, NA//5}
    if isinstance(o, (torch.Tensor, np.ndarray)): return bool(lengths & set(o.shape))
    return isinstance(o, (list, tuple, dict, set, frozenset)) and len(o) in lengths

def leaks(path):
    "What of the marked data is in an exported learner"
    found,raw = [],bytes_of(path)
    marks = dict(pixels=MARK, folder=FOLDER.encode(), utf16=FOLDER.encode('utf-16-le'))
    for t in (np.float64, np.float32): marks[t.__name__] = WEIGHTS.astype(t)[5:9].tobytes()
    marks['python'] = WEIGHTS[5:6].astype('>f8').tobytes()
    def in_text(v): return v.decode('latin1').encode()       # pickle writes an array so
    found += [k for k,v in marks.items() if v in raw or in_text(v) in raw]
    learn = load_learner(path)
    # numbers that stand for images and paths: what the network was trained beside is no test of it
    return found + [at for at,o in inside(learn) if per_item(o) and not at.startswith('.trained_open_sets.')]

def export(learn):
    learn.export('e.pkl')
    return learn.path/'e.pkl'

# --- the tests -------------------------------------------------------------------------------------------------------
def aux_of(T, aux): return T(aux) if issubclass(T, OpenSetRows) else SETTINGS[T]['make']()

MORE = dict(weights=lambda d: fr.SampleWeights(WEIGHTS), tensor=lambda d: fr.SampleWeights(torch.tensor(WEIGHTS)),
            listed=lambda d: fr.SampleWeights(WEIGHTS.tolist()),
            files=lambda d: fr.ODNL(files(d)), sampling=lambda d: fr.OpenSampling(files(d)),
            fixed=lambda d: fr.ODNL(images(NA, 2), dynamic=False),
            history=lambda d: [fr.SampleHistory(), fr.Memorisation()], average=lambda d: AverageProbs(),
            evaluated=lambda d: fr.SampleHistory('eval'),
            norms=lambda d: fr.LogitNorms(images(NA, 2)), wave=lambda d: fr.LabelWave(1, 1),
            true=lambda d: TrueAccuracy(), twin=lambda d: [MiniTwin(), MiniAux()])
DATA = dict(plain=lambda: marked_dls(),
            noisy=lambda: fr.add_label_noise(marked_dls(), fr.NoisyLabels('symmetric', .4, seed=1)),
            drawn=lambda: fr.weighted_dls(marked_dls(), WEIGHTS))

@pytest.mark.parametrize('kind', [*(T.__name__ for T in ALL), *MORE])
def test_nothing_of_the_data_is_in_an_export(kind, tmp_path):
    warnings.simplefilter('ignore')
    T = {T.__name__: T for T in ALL}.get(kind)
    out = tmp_path/'out'
    out.mkdir()
    cbs = MORE[kind](tmp_path) if T is None else aux_of(T, images(NA, 2))
    data = 'noisy' if kind in ('true', 'history', 'evaluated', 'average') else 'plain'
    net = net_for(*([T] if T else []))
    learn = tiny_learner(cbs, dls=DATA[data](), path=out, net=net)
    with learn.no_bar(): learn.fit(1)
    assert leaks(export(learn)) == []
    with learn.no_bar(): learn.get_preds(with_loss=True)
    learn.validate()
    assert leaks(export(learn)) == []
    copy.deepcopy(learn).fit(1)     # a copy is no export: it goes on
    try: assert leaks(export(strip(learn))) == []
    except ValueError as e: assert ('layers of torch' if net else 'auxiliary heads take part') in str(e)
    learn.remove_cbs(cbs)
    assert leaks(export(learn)) == []

def test_a_loaded_export_says_what_it_left_behind(tmp_path):
    dls = marked_dls()
    for t,says in ((fr.SampleWeights(WEIGHTS), 'SampleWeights expected the weights .* not part of an exported'),
                   (fr.ODNL(images(NA, 2)), 'not part of an exported')):
        learn = tiny_learner(t, dls=dls, path=tmp_path)
        with learn.no_bar(): learn.fit(1)
        back = load_learner(export(learn))
        back.dls = dls
        with pytest.raises(ValueError, match=says), back.no_bar(), back.no_logging(): back.fit(1)
        back.remove_cb(type(t))
        back.fit(1)
    learn = tiny_learner(fr.SampleWeights('balanced'), dls=dls, path=tmp_path)     # a setting, no data
    back = load_learner(export(learn))
    back.dls = dls
    back.fit(1)

def test_files_of_auxiliary_images_are_known_by_digests(tmp_path):
    "An exported, and a stripped, learner still refuses them as unknown"
    aux = files(tmp_path)
    learn = tiny_learner(fr.ODNL(aux), dls=marked_dls(), path=tmp_path)
    with learn.no_bar(): learn.fit(1)
    learn.remove_cb(fr.ODNL)
    for o in (learn, load_learner(export(learn)), strip(learn), load_learner(export(strip(learn)))):
        assert len(o.trained_open_sets.files) == NA-NA//5
        o.dls = learn.dls
        with pytest.raises(ValueError, match=f'{NA-NA//5} of the files are in both'):
            fr.ood_report(o, {'x': aux.train}, scores=('msp',))

@pytest.mark.parametrize('kind', DATA)
def test_nor_of_loaders(kind, tmp_path):
    learn = tiny_learner(dls=DATA[kind](), path=tmp_path)
    with learn.no_bar(): learn.fit(1)
    assert leaks(export(learn)) == [] and leaks(export(strip(learn))) == []

def test_the_search_itself(tmp_path):
    "What it is there to see"
    learn = tiny_learner(dls=marked_dls(), path=tmp_path)
    assert leaks(export(learn)) == []
    for v,what in ((images(3, 0), 'pixels'), (torch.tensor(images(3, 0)), 'pixels'), (Path('/a')/FOLDER, 'folder'),
                   ([str(Path('/a')/FOLDER)], 'folder'),
                   (WEIGHTS, 'float64'), (torch.tensor(WEIGHTS).float(), 'float32'),
                   (WEIGHTS.tolist(), 'python'), ([0]*NV, '.secret'), (torch.zeros(4, NA), '.secret'),
                   ({'a': {i: 0 for i in range(N)}}, ".secret['a']")):
        learn.secret = v
        assert what in leaks(export(learn)), what
