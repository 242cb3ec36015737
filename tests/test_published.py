"Readers of public layouts, on small files of the same format"
import gzip
import numpy as np
import pytest
from fastrobust.data.fromarrays import array_dls
from fastrobust.data.published import emnist, quickdraw

# --- QuickDraw --------------------------------------------------------------------------------------------------------
@pytest.fixture
def drawings(tmp_path):
    "Drawing i of class k is filled with 10k+i, but for its first pixel"
    for k,(name,n) in enumerate([('full_numpy_bitmap_cat', 5), ('apple', 4), ('The Eiffel Tower', 6)]):
        a = np.full((n, 784), 10*k, np.uint8)+np.arange(n, dtype=np.uint8)[:, None]
        a[:, 0] = 255
        np.save(tmp_path/f'{name}.npy', a)
    (tmp_path/'readme.txt').write_text('x')
    return tmp_path

def test_all_drawings(drawings):
    X,y,vocab = quickdraw(str(drawings))
    assert vocab == ['The Eiffel Tower', 'apple', 'cat'] and y.tolist() == [0]*6+[1]*4+[2]*5 and y.dtype == np.int64
    assert X.shape == (15, 28, 28) and X.dtype == np.uint8 and (X[:, 0, 0] == 255).all() and (X[:, 0, 1] < 255).all()
    assert X[:, 5, 5].tolist() == [20, 21, 22, 23, 24, 25, 10, 11, 12, 13, 0, 1, 2, 3, 4]
    dls = array_dls(X, y, valid=.2, vocab=vocab, bs=4, device='cpu')
    assert list(dls.vocab) == vocab

def test_some_drawings(drawings):
    X,y,vocab = quickdraw(drawings, n=3, classes=['cat', 'apple'])
    assert vocab == ['cat', 'apple'] and y.tolist() == [0]*3+[1]*3
    who = X[:, 5, 5].tolist()
    assert len(set(who)) == 6 and set(who[:3]) <= set(range(5)) and set(who[3:]) <= set(range(10, 14))
    assert (quickdraw(drawings, 3, ['apple'])[0] == X[3:]).all()         # whatever comes beside it
    drawn = {tuple(quickdraw(drawings, 2, ['cat'], seed=s)[0][:, 5, 5].tolist()) for s in range(20)}
    assert 4 < len(drawn) <= 10
    for k in 'ab': np.save(drawings/f'{k}.npy', np.arange(50, dtype=np.uint8)[:, None].repeat(784, 1))
    a,b = quickdraw(drawings, 9, ['a', 'b'])[0][:, 0, 0].reshape(2, 9)
    assert (a != b).any()                                                # each class has a draw of its own
    assert quickdraw(drawings, 4, ['apple'])[0][:, 5, 5].tolist() == [10, 11, 12, 13]

def test_drawings_refused(drawings, tmp_path):
    with pytest.raises(ValueError, match='does not exist'): quickdraw(tmp_path/'x')
    (tmp_path/'empty').mkdir()
    with pytest.raises(ValueError, match='<class>.npy or full_numpy_bitmap_<class>.npy in'): quickdraw(tmp_path/'empty')
    with pytest.raises(ValueError, match='a file'): quickdraw(drawings/'apple.npy')
    with pytest.raises(ValueError, match="'aple'. Did you mean 'apple'"): quickdraw(drawings, classes=['aple'])
    with pytest.raises(ValueError, match='different classes'): quickdraw(drawings, classes=['cat', 'cat'])
    with pytest.raises(ValueError, match='different classes'): quickdraw(drawings, classes=[])
    with pytest.raises(TypeError, match='as a list'): quickdraw(drawings, classes='cat')
    with pytest.raises(ValueError, match="at least 5 drawings of each class, got 4 of 'apple'"): quickdraw(drawings, 5)
    for bad in (0, 1.5, True):
        with pytest.raises(ValueError, match='`n` must be a whole number'): quickdraw(drawings, bad)
    with pytest.raises(ValueError, match='`seed`'): quickdraw(drawings, 1, seed=-1)

@pytest.mark.parametrize('a', [np.zeros((3, 28), np.uint8), np.zeros((3, 784)), np.zeros((0, 784), np.uint8),
                               np.zeros(784, np.uint8)])
def test_other_arrays_refused(drawings, a):
    np.save(drawings/'dog.npy', a)
    with pytest.raises(ValueError, match='uint8 in dog.npy, got'): quickdraw(drawings)

def test_other_files_refused(drawings):
    np.save(drawings/'cat.npy', np.zeros((2, 784), np.uint8))
    with pytest.raises(ValueError, match='one file for each class, got cat.npy and full_'): quickdraw(drawings)
    (drawings/'cat.npy').unlink()
    for raw in (b'', b'no array', (drawings/'apple.npy').read_bytes()[:500]):
        (drawings/'dog.npy').write_bytes(raw)
        with pytest.raises(ValueError, match='plain NumPy array in dog.npy'): quickdraw(drawings)
    np.save(drawings/'dog.npy', np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match='plain NumPy array in dog.npy'): quickdraw(drawings)

# --- EMNIST -----------------------------------------------------------------------------------------------------------
def idx(a):
    return bytes([0, 0, 8, a.ndim]) + np.array(a.shape, '>u4').tobytes() + a.astype(np.uint8).tobytes()

def save(d, split, part, X, y, packed):
    stem = f'emnist-{split}-{part}'
    for name,a in ((f'{stem}-images-idx3-ubyte', X), (f'{stem}-labels-idx1-ubyte', y)):
        if packed: (d/f'{name}.gz').write_bytes(gzip.compress(idx(a)))
        else: (d/name).write_bytes(idx(a))

G = np.random.default_rng(0).integers(0, 256, (6, 28, 28), dtype=np.uint8)

@pytest.fixture
def characters(tmp_path):
    "As NIST stores them: each image transposed"
    save(tmp_path, 'balanced', 'train', G.transpose(0, 2, 1), np.array([0, 2, 1, 3, 3, 0]), True)
    save(tmp_path, 'balanced', 'test', G[:2].transpose(0, 2, 1), np.array([3, 1]), False)
    (tmp_path/'emnist-balanced-mapping.txt').write_text('0 48\n1 57\n2 65\n3 97\n')
    save(tmp_path, 'letters', 'train', G[:4], np.array([1, 26, 2, 1]), False)
    (tmp_path/'emnist-letters-mapping.txt').write_text(''.join(f'{i+1} {65+i} {97+i}\r\n' for i in range(26)))
    return tmp_path

def test_characters_stand_upright(characters):
    X,y,vocab = emnist(characters)
    assert (X == G).all() and X.dtype == np.uint8 and X.flags.c_contiguous
    assert y.tolist() == [0, 2, 1, 3, 3, 0] and y.dtype == np.int64 and vocab == ['0', '9', 'A', 'a']
    X,y,vocab = emnist(str(characters), part='test')
    assert (X == G[:2]).all() and [vocab[i] for i in y] == ['a', '9']
    array_dls(*emnist(characters)[:2], valid=.4, vocab=vocab, bs=2, device='cpu').one_batch()

def test_letters_start_at_one(characters):
    X,y,vocab = emnist(characters, 'letters')
    assert y.tolist() == [0, 25, 1, 0] and len(vocab) == 26 and [vocab[i] for i in y] == ['A', 'Z', 'B', 'A']

def test_characters_refused(characters):
    with pytest.raises(ValueError, match="Did you mean 'letters'"): emnist(characters, 'leters')
    with pytest.raises(ValueError, match="expected a known `part`, got 'valid'"): emnist(characters, part='valid')
    with pytest.raises(ValueError, match='does not exist'): emnist(characters/'x')
    with pytest.raises(ValueError, match='images-idx3-ubyte or emnist-digits-train-images-idx3-ubyte.gz in'):
        emnist(characters, 'digits')
    (characters/'emnist-balanced-mapping.txt').unlink()
    with pytest.raises(ValueError, match='emnist-balanced-mapping.txt in'): emnist(characters)
    for text in ('', '0\n', 'zero 48\n', '<html>\n'):
        (characters/'emnist-balanced-mapping.txt').write_text(text)
        with pytest.raises(ValueError, match='lines of a label and ASCII codes'): emnist(characters)
    (characters/'emnist-balanced-mapping.txt').write_text('0 48\n1 57\n2 65\n')
    with pytest.raises(ValueError, match=r'mapping.txt, got \[3\]'): emnist(characters)

def test_broken_files_refused(characters):
    f = characters/'emnist-balanced-test-images-idx3-ubyte'
    whole = f.read_bytes()
    for raw in (b'', whole[:10], whole[:-1], whole+b'x', idx(np.zeros((2, 784))), b'\0\0\x0d\3'+whole[4:]):
        f.write_bytes(raw)
        with pytest.raises(ValueError, match='3 axes in emnist-balanced-test-images'): emnist(characters, part='test')
    f.write_bytes(idx(np.zeros((2, 27, 28))))
    with pytest.raises(ValueError, match=r'28x28 pixels, got 2 labels and images of shape \(2, 27, 28\)'):
        emnist(characters, part='test')
    f.write_bytes(idx(np.zeros((3, 28, 28))))
    with pytest.raises(ValueError, match='got 2 labels and images of shape'): emnist(characters, part='test')
    z = characters/'emnist-balanced-train-labels-idx1-ubyte.gz'
    whole = z.read_bytes()
    for raw in (b'<html>', whole[:-3], whole[:10]+b'\xff\xff\xff'+whole[13:]):
        z.write_bytes(raw)
        with pytest.raises(ValueError, match='whole .gz file in emnist-balanced-train-labels'): emnist(characters)
