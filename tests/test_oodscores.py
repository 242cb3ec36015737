"Out-of-distribution scores: numbers by hand, loops in float64, pytorch-ood as oracle, extreme logits, bad input"
import copy, math, re, warnings
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from torch import nn, tensor
from conftest import tiny_learner
from fastrobust.basics import RobustWarning
from fastrobust.ood.featurescores import _principal
from fastrobust.ood.metrics import auroc
from fastrobust.inference.tap import LinearHead, Outputs
from fastrobust.ood.logitscores import (GEN, MSP, ODIN, Energy, MaxLogit, OODScore, energy_score,
                                        gen_score, maxlogit_score, msp_score, odin_score)
from fastrobust.ood.featurescores import FDBD, KNN, Mahalanobis, ReAct, ViM
from fastrobust.ood.scores import DEFAULT_SCORES, OOD_SCORES, get_score
from fastrobust.ood.pytorchood import from_pytorch_ood

LOGITS = {'msp': msp_score, 'maxlogit': maxlogit_score, 'energy': energy_score, 'odin': odin_score, 'gen': gen_score}
FEATURES = ['mahalanobis', 'knn', 'vim', 'react', 'fdbd', 'mahalanobis++']

# --- data ------------------------------------------------------------------------------------------------------------
def random_data(d=24, c=5, n=300, seed=0):
    "Rectified clusters, the last layer looking along their means; unknown are wide clusters about other means"
    g = torch.Generator().manual_seed(seed)
    normal = lambda *n: torch.randn(*n, generator=g).double()
    mean,other = normal(c, d),normal(c, d)*.7
    head = LinearHead((mean-mean.mean(0))*.5, normal(c)*.2)
    def draw(n, mean, spread):
        y = torch.randint(c, (n,), generator=g)
        f = (mean[y]+spread*normal(n, d)).relu()
        return Outputs(f @ head.W.T + head.b, f, y)
    return draw(n, mean, .5),draw(200, mean, .6),draw(150, other, .6),head

@pytest.fixture(scope='module')
def digits():
    "A small network trained on digits 0-7: its outputs for training and held-out ones, and for 8 and 9"
    d = pytest.importorskip('sklearn.datasets').load_digits()
    torch.manual_seed(0)
    x,y = torch.tensor(d.data/16).float(),torch.tensor(d.target)
    body = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 48), nn.ReLU())
    last = nn.Linear(48, 8)
    order = torch.randperm(len(y))
    order = order[y[order] < 8]
    train,known,unknown = order[:900],order[900:],torch.where(y > 7)[0]
    opt = torch.optim.Adam([*body.parameters(), *last.parameters()], 5e-3)
    for _ in range(120):
        b = train[torch.randint(900, (128,))]
        opt.zero_grad(); nn.functional.cross_entropy(last(body(x[b])), y[b]).backward(); opt.step()
    head = LinearHead(last.weight.detach().double(), last.bias.detach().double())
    with torch.no_grad(): fs = [body(x[o]).double() for o in (train, known, unknown)]
    return *(Outputs(f @ head.W.T + head.b, f, y[o]) for f,o in zip(fs, (train, known, unknown))),head

@pytest.fixture(params=['random', 'digits'])
def data(request): return random_data() if request.param == 'random' else request.getfixturevalue('digits')

# --- logit scores by hand and by loops -------------------------------------------------------------------------------
def slow_msp(z, T=1.): return [-math.log(sum(math.exp((v-max(r))/T) for i,v in enumerate(r) if i != r.index(max(r))))
                               for r in z.tolist()]
def slow_probs(r):
    e = [math.exp(v-max(r)) for v in r]
    return [v/sum(e) for v in e]

def slow_gen(z, gamma=.1, M=100):
    return [-sum((p*(1-p))**gamma for p in sorted(slow_probs(r), reverse=True)[:M]) for r in z.tolist()]

def test_by_hand():
    z = tensor([[0., 0.], [math.log(3), 0.]])
    close = lambda got, want: torch.testing.assert_close(got, tensor(want, dtype=torch.float64), rtol=1e-6, atol=1e-7)
    close(msp_score(z), [0., math.log(3)])                      # p = 1/2, 3/4: log odds
    close(maxlogit_score(z), [0., math.log(3)])
    close(energy_score(z), [math.log(2), math.log(4)])
    close(energy_score(z, 2.), [2*math.log(2), 2*math.log(1+math.sqrt(3))])
    close(odin_score(z, 2.), [0., math.log(3)/2])
    close(gen_score(z, 1.), [-.5, -2*.75*.25])
    close(gen_score(z, .5, 1), [-.5, -math.sqrt(.75*.25)])
    assert all(f(z).dtype == torch.float64 and f(z).shape == (2,) for f in LOGITS.values())

@pytest.mark.parametrize('c', [2, 3, 10, 130])
def test_against_loops(c):
    z = torch.randn(60, c, generator=torch.Generator().manual_seed(c)).double()*3
    same = lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-10)
    same(msp_score(z), slow_msp(z))
    same(maxlogit_score(z), [max(r) for r in z.tolist()])
    for T in (.5, 1., 7.): same(energy_score(z, T), [T*math.log(sum(math.exp(v/T) for v in r)) for r in z.tolist()])
    for T in (1000., 3.): same(odin_score(z, T), slow_msp(z, T))
    for gamma,M in ((.1, 100), (.5, 3), (1., 1)): same(gen_score(z, gamma, M), slow_gen(z, gamma, M))
    same(gen_score(z), slow_gen(z, .1, 100))                    # of 130 classes 100 count

@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.lists(st.lists(st.floats(-50, 50, width=32), min_size=4, max_size=4), min_size=1, max_size=6), st.randoms())
def test_properties_of_logit_scores(rows, rnd):
    z = tensor(rows, dtype=torch.float64)
    p = z.softmax(1).amax(1)
    torch.testing.assert_close(msp_score(z).sigmoid(), p)       # monotone in the probability
    cols,order = torch.tensor(rnd.sample(range(4), 4)),torch.tensor(rnd.sample(range(len(z)), len(z)))
    for f in LOGITS.values():
        torch.testing.assert_close(f(z[:,cols]), f(z))          # the order of classes does not matter
        torch.testing.assert_close(f(z[order]), f(z)[order])    # nor that of images
    for f in (msp_score, odin_score, gen_score): torch.testing.assert_close(f(z+7), f(z), rtol=1e-6, atol=1e-9)
    for f in (maxlogit_score, energy_score): torch.testing.assert_close(f(z+7), f(z)+7)
    assert (energy_score(z) >= maxlogit_score(z)).all() and (gen_score(z) <= 0).all()

# --- numerically safe ------------------------------------------------------------------------------------------------
def test_msp_in_log_space():
    "Specification 9.18: the AUROC of plain MSP while norms are small, and no ties where float32 softmax has only 1.0"
    g = torch.Generator().manual_seed(0)
    known,unknown = torch.randn(500, 10, generator=g)*2,torch.randn(400, 10, generator=g)*1.2
    cut = lambda z: z*(9.9/z.norm(dim=1, keepdim=True)).clamp(max=1)
    known,unknown = cut(known),cut(unknown)
    plain = [o.double().softmax(1).amax(1) for o in (known, unknown)]
    assert auroc(msp_score(known), msp_score(unknown)) == pytest.approx(auroc(*plain), abs=1e-12)
    known,unknown = (o/o.norm(dim=1, keepdim=True)*r for o,r in ((known, 1e4), (unknown, 5e3)))
    assert all((o.softmax(1).amax(1) == 1).float().mean() > .9 for o in (known, unknown))
    both = torch.cat([msp_score(known), msp_score(unknown)])
    assert len(both.unique()) == 900 and both.isfinite().all()
    fp32 = auroc(*(o.softmax(1).amax(1) for o in (known, unknown)))
    assert auroc(both[:500], both[500:]) > fp32+.1

@pytest.mark.parametrize('c', [2, 10, 1000])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_norms_of_ten_thousand_and_a_thousand_classes(dtype, c):
    z = torch.randn(64, c, generator=torch.Generator().manual_seed(c))
    z = (z/z.norm(dim=1, keepdim=True)*1e4).to(dtype)
    for k,f in LOGITS.items():
        s = f(z)
        assert s.dtype == torch.float64 and s.isfinite().all(), k
        torch.testing.assert_close(s, f(z.double()), rtol=0, atol=0)
        if c > 2 and dtype in (torch.float32, torch.float64): assert len(s.unique()) == 64, k   # none saturates
    assert not (gen_score(z) == 0).all()

def test_probability_next_to_one():
    "1-p of p = 1-e^-40 is 0 in float64; from the others it is exact"
    z = tensor([[40., 0.]]).double()
    assert float(gen_score(z, .5)) == pytest.approx(-2*math.exp(-20), rel=1e-12)
    assert float(msp_score(z)) == 40
    z = tensor([[90., 0., 1.]])
    assert float(gen_score(z, .1)) == pytest.approx(-(math.exp(.1*(math.log(1+math.e)-90))+math.exp(-9)+math.exp(-8.9)))

def test_ties():
    "All logits equal, and the largest one twice"
    z = torch.zeros(3, 4)
    np.testing.assert_allclose(msp_score(z), -math.log(3))
    np.testing.assert_allclose(gen_score(z), -4*(.25*.75)**.1)
    assert float(msp_score(tensor([[1e4, 1e4, 0.]]))) == 0
    assert float(gen_score(tensor([[1e4, 1e4, 0.]]), 1.)) == -.5

def test_large_input_goes_in_pieces():
    z = torch.randn(4000, 1000)
    for f in LOGITS.values(): assert torch.equal(f(z), torch.cat([f(o) for o in z.split(700)]))
    assert all(f(torch.zeros(0, 3)).shape == (0,) for f in LOGITS.values())

# --- feature scores against loops ------------------------------------------------------------------------------------
def slow_mahalanobis(train, out):
    f,y,x = train.f.double().numpy(),train.y.numpy(),out.f.double().numpy()
    mean = {k: f[y == k].mean(0) for k in set(y.tolist())}
    cov = sum(np.outer(a-mean[k], a-mean[k]) for a,k in zip(f, y.tolist()))/len(f)
    P = np.linalg.pinv(cov, rcond=1e-12, hermitian=True)
    return [-min((a-m) @ P @ (a-m) for m in mean.values()) for a in x]

def slow_mahalanobis_pp(train, out):
    "scikit-learn's covariance of unit features about their class means"
    cov = pytest.importorskip('sklearn.covariance').EmpiricalCovariance(assume_centered=True)
    unit = pytest.importorskip('sklearn.preprocessing').normalize
    f,x = unit(train.f.double().numpy()),unit(out.f.double().numpy())
    y = train.y.numpy()
    mean = {k: f[y == k].mean(0) for k in set(y.tolist())}
    cov.fit(f-np.stack([mean[k] for k in y.tolist()]))
    return -np.min([cov.mahalanobis(x-m) for m in mean.values()], 0)

def slow_fdbd(train, out, head):
    "Image by image and class by class, of floats"
    W,b = (o.double().numpy() for o in head)
    mu = train.f.double().numpy().mean(0)
    scores = []
    for f in out.f.double().numpy():
        k = int(np.argmax(W @ f + b))
        far = []
        for c in range(len(W)):
            if c == k or (W[k] == W[c]).all(): continue
            gap = (W[k]-W[c]) @ f + b[k]-b[c]
            far.append(abs(gap)/np.linalg.norm(W[k]-W[c]))
        scores.append(np.mean(far)/np.linalg.norm(f-mu))
    return scores

def slow_knn(train, out, k):
    unit = lambda f: [a/max(np.linalg.norm(a), 1e-12) for a in f.double().numpy()]
    bank = unit(train.f)
    return [-sorted(np.linalg.norm(a-b) for b in bank)[k-1] for a in unit(out.f)]

def slow_vim(train, out, head, dim):
    W,b = (o.double().numpy() for o in head)
    x,u = train.f.double().numpy(),-np.linalg.pinv(W) @ b
    _,_,V = np.linalg.svd(x-u)                                  # by singular vectors
    far = lambda a: np.linalg.norm((a-u)-V[:dim].T @ (V[:dim] @ (a-u)))     # what the principal space leaves over
    alpha = np.mean([max(W @ a + b) for a in x])/np.mean([far(a) for a in x])
    return [np.log(np.exp(W @ a + b).sum())-alpha*far(a) for a in out.f.double().numpy()]

def slow_react(train, out, head, q):
    v = sorted(train.f.flatten().tolist())
    at = (len(v)-1)*q/100
    clip = v[int(at)]+(at-int(at))*(v[min(int(at)+1, len(v)-1)]-v[int(at)])
    W,b = (o.double().numpy() for o in head)
    return [np.log(np.exp(W @ np.minimum(a, clip) + b).sum()) for a in out.f.double().numpy()]

def test_features_against_loops(data):
    train,known,unknown,head = data
    train = Outputs(*(o[:250] for o in train))
    for out in (Outputs(*(None if o is None else o[:40] for o in known)), unknown):
        out = Outputs(out.z[:40], out.f[:40])
        got = lambda s, out=out: s.fit(train, head)(out)
        same = lambda s, want, got=got: np.testing.assert_allclose(got(s), want, rtol=1e-6, atol=1e-9)
        same(Mahalanobis(), slow_mahalanobis(train, out))
        same(FDBD(), slow_fdbd(train, out, head))
        for k in (1, 3, 50, 247, 250): same(KNN(k), slow_knn(train, out, k))
        for dim in (1, 5, 12): same(ViM(dim), slow_vim(train, out, head, dim))
        for q in (90, 99, 50.5): same(ReAct(q), slow_react(train, out, head, q))

def test_mahalanobis_of_unit_features_against_scikit_learn(data):
    train,known,unknown,head = data
    live = train.f.std(0) > 1e-3         # of dead units its pseudo-inverse has another rank
    train,known,unknown = (o._replace(f=o.f[:,live]) for o in (train, known, unknown))
    s,plain = Mahalanobis(normalised=True).fit(train),Mahalanobis().fit(train)
    for out in (known, unknown):
        np.testing.assert_allclose(s(out), slow_mahalanobis_pp(train, out), rtol=1e-6)
        assert not np.allclose(s(out), plain(out))
        torch.testing.assert_close(s(out._replace(f=out.f*torch.rand(len(out.f), 1))), s(out))     # no lengths
    unit = lambda o: o._replace(f=nn.functional.normalize(o.f))
    torch.testing.assert_close(Mahalanobis().fit(unit(train))(unit(known)), s(known))

def test_mahalanobis_of_unit_features_needs_no_length():
    "Known images ten times as long or short: of plain features that hides the unknown, of unit ones nothing changes"
    train,known,unknown,_ = random_data()
    g = torch.Generator().manual_seed(0)
    longer = lambda o: o._replace(f=o.f*10**(2*torch.rand(len(o.f), 1, generator=g)-1))
    a = Mahalanobis(True).fit(train)
    b,c = Mahalanobis(True).fit(longer(train)),Mahalanobis().fit(longer(train))
    torch.testing.assert_close(a(known), b(longer(known)))
    assert auroc(b(longer(known)), b(longer(unknown))) > auroc(c(longer(known)), c(longer(unknown)))+.1
    zero = known._replace(f=known.f*0)          # without a direction: the same number for each, and finite
    assert len(a(zero).unique()) == 1 and a(zero).isfinite().all()

def test_fdbd_by_hand():
    "Boundaries x = 0 and y = 0 and x = y of three classes; the mean is the origin"
    head = LinearHead(tensor([[1., 0.], [0., 1.], [0., 0.]]).double(), torch.zeros(3).double())
    f = tensor([[3., 1.], [-1., 2.], [-4., -3.], [2., 2.]]).double()
    train = tensor([[1., 1.], [-1., -1.]]).double()
    got = FDBD().fit(Outputs(train @ head.W.T, train), head)(Outputs(f @ head.W.T, f))
    r2 = math.sqrt(2)
    want = [(2/r2+3)/2/math.sqrt(10), (3/r2+2)/2/math.sqrt(5), (4+3)/2/5, (0+2)/2/math.sqrt(8)]
    torch.testing.assert_close(got, tensor(want).double())

def test_fdbd_of_two_classes_is_the_distance_to_their_boundary():
    train,known,_,head = random_data(c=5)
    two = LinearHead(head.W[:2], head.b[:2])
    cut = lambda o: o._replace(z=o.z[:,:2])
    w,b = head.W[0]-head.W[1],head.b[0]-head.b[1]
    want = (known.f @ w + b).abs()/w.norm()/(known.f-train.f.mean(0)).norm(dim=1)
    torch.testing.assert_close(FDBD().fit(cut(train), two)(cut(known)), want)

def test_fdbd_where_its_quotients_have_no_value():
    train,known,_,head = random_data()
    # equal rows have no boundary, whatever their biases: the other classes alone count
    twice = LinearHead(torch.cat([head.W, head.W[:1], head.W[:1]]), torch.cat([head.b, head.b[:1]-3, head.b[:1]-9]))
    more = lambda o: o._replace(z=o.f @ twice.W.T + twice.b)
    s = FDBD().fit(more(train), twice)
    first = known.z.argmax(1) == 0
    assert 10 < first.sum() < len(first)
    plain = FDBD().fit(train, head)(known)
    torch.testing.assert_close(s(more(known))[first], plain[first])
    assert not torch.isclose(s(more(known))[~first], plain[~first]).any() and s(more(known)).isfinite().all()
    # so many classes that distances of rows come from products, whose rounding is no boundary
    g = torch.Generator().manual_seed(0)
    W = (torch.randn(40, 24, generator=g)+30).double()
    many = LinearHead(torch.cat([W, W]), torch.randn(80, generator=g).double())
    few = Outputs(known.f[:40] @ many.W.T + many.b, known.f[:40])
    got = FDBD().fit(train._replace(z=train.f @ many.W.T + many.b), many)(few)
    np.testing.assert_allclose(got, slow_fdbd(train, few, many), rtol=1e-7)
    # at the mean of the training features: finite, above all others, and 0 on a boundary
    s = FDBD().fit(train, head)
    mean = Outputs(known.z[:1], train.f.mean(0)[None])
    assert s(mean).isfinite().all() and s(mean) > 1e3*s(known).max()
    flat = LinearHead(head.W, -(head.W @ train.f.mean(0)))
    there = Outputs(torch.zeros(1, 5), train.f.mean(0)[None])
    assert FDBD().fit(train, flat)(there) < 1e-6

def test_fdbd_holds_no_table_of_classes():
    "Of 3,000 classes and 400 images: numbers per image and class, none per pair of classes"
    g = torch.Generator().manual_seed(0)
    head = LinearHead(torch.randn(3000, 16, generator=g), torch.zeros(3000))
    f = torch.randn(400, 16, generator=g)
    out = Outputs(f @ head.W.T, f)
    s = FDBD().fit(out, head)
    held = [v for v in vars(s).values() if isinstance(v, torch.Tensor)]
    assert max(v.numel() for v in held) == head.W.numel()
    assert len(list(s._rows(out, room=2**20))) == 4         # 9,000 numbers an image
    small = Outputs(out.z[:30], f[:30])
    np.testing.assert_allclose(s(small), slow_fdbd(out, small, head), rtol=1e-9)

def test_each_score_finds_the_unknown(data):
    train,known,unknown,head = data
    for k in OOD_SCORES:
        s = get_score(k).fit(train, head)
        a,b = s(known),s(unknown)
        assert a.shape == (len(known.z),) and a.dtype == torch.float64 and a.isfinite().all() and b.isfinite().all()
        assert auroc(a, b) > .6, (k, auroc(a, b))

def test_float32_as_float64(data):
    "What a report holds is float32"
    train,known,unknown,head = data
    f32 = lambda o: type(o)(*(v.float() if v is not None and v.is_floating_point() else v for v in o))
    for k in OOD_SCORES:
        a,b = get_score(k).fit(train, head),get_score(k).fit(f32(train), f32(head))
        assert auroc(a(known), a(unknown)) == pytest.approx(auroc(b(f32(known)), b(f32(unknown))), abs=2e-4), k

def test_knn_of_features_that_lie_close():
    "Nearer than a float32 product of unit vectors resolves: it only chooses candidates, so a neighbour's rank may slip"
    g = torch.Generator().manual_seed(0)
    for spread,rtol in ((1e-1, 1e-9), (1e-2, 2e-3), (1e-3, .1)):
        f = torch.ones(3000, 16)+torch.randn(3000, 16, generator=g)*spread
        train,out = Outputs(f, f),Outputs(f[:50], f[:50]+torch.randn(50, 16, generator=g)*spread)
        s,want = KNN(20).fit(train)(out),np.array(slow_knn(train, out, 20))
        np.testing.assert_allclose(s, want, rtol=rtol)
        np.testing.assert_allclose(s**2, want**2, atol=5e-7)
    train,known,_,_ = random_data()
    assert KNN(1).fit(train)(train).abs().max() < 1e-12         # a training image is its own neighbour

def test_images_are_scored_one_by_one(data):
    train,known,_,head = data
    for k in FEATURES:
        s = get_score(k).fit(train, head)
        one = torch.cat([s(Outputs(known.z[i:i+1], known.f[i:i+1])) for i in range(9)])
        torch.testing.assert_close(s(known)[:9], one)

def test_rotation_and_scale():
    "Distances do not change when the features turn; Mahalanobis not under any linear map"
    train,known,_,head = random_data()
    g = torch.Generator().manual_seed(1)
    Q,_ = torch.linalg.qr(torch.randn(24, 24, generator=g).double())
    A = torch.randn(24, 24, generator=g).double()
    turn = lambda o, M: Outputs(o.z, o.f @ M.T, o.y)
    for k,M in (('mahalanobis', A), ('mahalanobis', Q), ('mahalanobis++', Q*3), ('knn', Q), ('knn', Q*3), ('vim', Q),
                ('fdbd', Q), ('fdbd', Q*3)):
        new = LinearHead(head.W @ torch.linalg.inv(M), head.b)
        torch.testing.assert_close(get_score(k).fit(turn(train, M), new)(turn(known, M)),
                                   get_score(k).fit(train, head)(known), rtol=1e-6, atol=1e-8)

def test_a_class_without_training_images():
    train,known,_,head = random_data()
    keep = train.y != 2
    few = Outputs(train.z[keep], train.f[keep], train.y[keep])
    np.testing.assert_allclose(Mahalanobis().fit(few)(known), slow_mahalanobis(few, known), rtol=1e-7)
    one = Outputs(train.z[:7], train.f[:7], torch.full((7,), 4))            # one class, fewer images than features
    np.testing.assert_allclose(Mahalanobis().fit(one)(known), slow_mahalanobis(one, known), rtol=1e-6)

@pytest.mark.parametrize('shift', [0, 50])
def test_dead_and_doubled_units(shift):
    "Units that never fire, or say the same twice, add no direction and no noise"
    *outs,head = random_data()
    train,known,unknown = (Outputs(o.z, (o.f+shift).float(), o.y) for o in outs)
    def more(o):
        f = o.f.float()
        return Outputs(o.z, torch.cat([f, f*0, f[:,:3], f[:,:1]+f[:,1:2], f[:,:1]*0+3], 1), o.y)
    big = LinearHead(torch.cat([head.W, torch.zeros(5, 29)], 1), head.b)
    for k in FEATURES:
        s = get_score(k).fit(more(train), big)(more(known))
        assert s.isfinite().all()
    # a float32 sum of two units is a direction of rounding only; as one of signal it would outweigh all others
    a,b = Mahalanobis().fit(train),Mahalanobis().fit(more(train))
    np.testing.assert_allclose(b(more(unknown)), a(unknown), rtol=1e-3)

def test_default_dimension_of_vim():
    g = torch.Generator().manual_seed(0)
    for d,rank,dim in ((2048, 2048, 1000), (2048, 1000, 500), (2047, 2047, 512), (513, 513, 512), (512, 512, 256)):
        assert _principal(d, rank) == dim
    for d in (8, 25):
        f = torch.rand(d+50, d, generator=g)
        W,b = torch.rand(3, d, generator=g),torch.zeros(3)
        assert ViM().fit(Outputs(f @ W.T, f), LinearHead(W, b))._outside.shape == (d, d-d//2)
    f = torch.rand(100, 40, generator=g)*(torch.arange(40) < 10)            # 30 dead units: half of what is used
    assert ViM().fit(Outputs(f[:,:3]+1, f), LinearHead(torch.rand(3, 40), torch.zeros(3)))._outside.shape == (40, 35)

# --- ODIN's step -----------------------------------------------------------------------------------------------------
def test_odin_without_a_step_costs_no_pass():
    def model(_x): raise AssertionError
    assert ODIN().input_step(model, torch.zeros(2, 3)) is None
    assert all(get_score(k).input_step(model, torch.zeros(2, 3)) is None for k in OOD_SCORES)

def test_odin_step_by_hand():
    "Of a linear model the gradient of ln max p is W_k - sum p_j W_j, over T"
    W = tensor([[2., -1., 0.], [0., 1., 1.]])
    net = nn.Linear(3, 2, bias=False)
    net.weight.data = W
    x = tensor([[1., 0., 0.], [0., 1., 1.], [.1, .2, .1]])
    got = ODIN(T=10., eps=.25).input_step(net, x)
    k = (x @ W.T).argmax(1)
    torch.testing.assert_close(got-x, .25*(W[k]-W[1-k]).sign())
    assert (msp_score(got @ W.T) > msp_score(x @ W.T)).all() and not got.requires_grad

@pytest.mark.parametrize('eps', [.002, .02])
def test_odin_step_raises_the_score_and_leaves_no_trace(eps):
    learn = tiny_learner(norm='bn')
    net = learn.model.train()
    next(net.parameters()).requires_grad_(False)
    x = learn.dls.valid.one_batch()[0].as_subclass(torch.Tensor)
    before = {k: v.clone() for k,v in net.state_dict().items()}
    flags,state = [p.requires_grad for p in net.parameters()],torch.get_rng_state()
    with torch.no_grad(): new = ODIN(eps=eps).input_step(net, x)
    with torch.inference_mode(): again = ODIN(eps=eps).input_step(net, x.clone())
    torch.testing.assert_close(new, again)
    assert net.training and all(p.grad is None for p in net.parameters()) and torch.equal(state, torch.get_rng_state())
    assert flags == [p.requires_grad for p in net.parameters()]
    assert all(torch.equal(before[k], v) for k,v in net.state_dict().items())
    assert (new-x).abs().max() == pytest.approx(eps, rel=1e-3) and not new.requires_grad and not x.requires_grad
    net.eval()
    with torch.no_grad(): assert (odin_score(net(new)) >= odin_score(net(x))).float().mean() > .9

def test_odin_step_of_an_in_place_network_and_of_two_outputs():
    net = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 3))
    x = torch.randn(5, 4)
    kept = x.clone()
    a = ODIN(eps=.1).input_step(net, x)
    assert torch.equal(x, kept) and not torch.equal(a, x)
    class Two(nn.Module):
        def forward(self, x): return net(x),x
    torch.testing.assert_close(ODIN(eps=.1).input_step(Two(), x), a)

def test_odin_step_is_undone_by_an_error():
    class Boom(nn.Module):
        def forward(self, x): raise KeyboardInterrupt
    net = Boom().train()
    with torch.no_grad():
        with pytest.raises(KeyboardInterrupt): ODIN(eps=.1).input_step(net, torch.zeros(1, 2))
        assert net.training and not torch.is_grad_enabled()

# --- pytorch-ood as oracle -------------------------------------------------------------------------------------------
def spearman(a, b):
    return pytest.importorskip('scipy.stats').spearmanr(np.asarray(a), np.asarray(b)).statistic

def agree(ours, theirs, data):
    "Their scores are high for unknown images: same order, same AUROC"
    train,known,unknown,head = data
    ours = ours.fit(train, head)
    a,b = ours(known),ours(unknown)
    with torch.no_grad(): c,d = (-torch.as_tensor(theirs(o)).double() for o in (known, unknown))
    assert auroc(a, b) == pytest.approx(auroc(c, d), abs=1e-6)
    assert spearman(torch.cat([a, b]), torch.cat([c, d])) == pytest.approx(1, abs=1e-6)

def test_oracle_of_logits(data):
    pood = pytest.importorskip('pytorch_ood.detector')
    agree(MaxLogit(), lambda o: pood.MaxLogit(None).predict_logits(o.z), data)
    for T in (1., .5, 20.): agree(Energy(T), lambda o, T=T: pood.EnergyBased(None, T).predict_logits(o.z), data)
    # their softmax saturates and their GEN clamps p to [1e-7, 1-1e-7]: logits small enough for neither
    small = [o._replace(z=o.z*3/o.z.abs().max()) for o in data[:3]]+[data[3]]
    agree(MSP(), lambda o: pood.MaxSoftmax(None).predict_logits(o.z), small)
    for gamma,M in ((.1, None), (.5, None), (.1, 3)):
        their = pood.GEN(None, gamma, M)
        agree(GEN(gamma, M), lambda o, their=their: their.predict_logits(o.z), small)
    # their ODIN is of images; with the identity as network and no step it is of logits
    for T in (1000., 10.):
        their = pood.ODIN(nn.Identity(), eps=0., temperature=T)
        agree(ODIN(T), lambda o, their=their: their.predict(o.z), data)

@pytest.fixture
def float64():
    "pytorch-ood makes its means and covariances in the default type"
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)

@pytest.mark.usefixtures('data', 'float64')     # in this order: the data are made in float32
def test_oracle_of_features(data):
    pood = pytest.importorskip('pytorch_ood.detector')
    train,known,unknown,head = data
    # k is told, and it normalises as the paper does; its default k is 50, too
    for k in (1, 10, 50):
        knn = pood.KNN(None, k).fit_features(train.f, train.y)
        agree(KNN(k), lambda o, knn=knn: knn.predict_features(o.f), data)
    lin = nn.Linear(*head.W.T.shape)
    lin.weight.data,lin.bias.data = head
    for q in (90, 80):                                          # a fraction there, per cent here
        react = pood.ReAct(None, lin, percentile=q/100).fit_feature_maps(train.f, train.y)
        agree(ReAct(q), lambda o, react=react: react.predict_feature_maps(o.f), data)
    # it has no default dimension; the half of d is its own choice where the given one does not fit
    for dim in (4, 12):
        vim = pood.ViM(None, dim, *head).fit_features(train.f, train.y)
        agree(ViM(dim), lambda o, vim=vim: vim.predict_features(o.f), data)
    # float32 there
    fdbd = pood.fDBD(None, copy.deepcopy(lin).float()).fit_features(train.f)
    for o in (known, unknown):
        theirs = -fdbd.predict_features(o.f).double()
        torch.testing.assert_close(FDBD().fit(train, head)(o), theirs, rtol=1e-4, atol=1e-6)
    # its Mahalanobis adds 1e-6 to the diagonal where ours takes the pseudo-inverse: dead units would count 1e6-fold
    # there and nothing here, so they are left out
    live = train.f.std(0) > 1e-3
    data = [o._replace(f=o.f[:,live]) for o in data[:3]]+[LinearHead(head.W[:,live], head.b)]
    maha = pood.Mahalanobis(None).fit_features(data[0].f, train.y)
    agree(Mahalanobis(), lambda o: maha.predict_features(o.f), data)
    unit = nn.functional.normalize
    maha_pp = pood.Mahalanobis(None).fit_features(unit(data[0].f), train.y)
    # 1e-6 is more beside the smaller variances
    a,b = (torch.cat([f(o) for o in data[1:3]]) for f in (Mahalanobis(True).fit(data[0]),
                                                          lambda o: -maha_pp.predict_features(unit(o.f))))
    assert spearman(a, b) > .999

# --- the adapter -----------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures('data', 'float64')
def test_adapter(data):
    pood = pytest.importorskip('pytorch_ood.detector')
    train,known,unknown,head = data
    lin = nn.Linear(*head.W.T.shape)
    lin.weight.data,lin.bias.data = head
    pairs = {'maxlogit': (pood.MaxLogit(None), MaxLogit()), 'energybased': (pood.EnergyBased(None), Energy()),
             'knn': (pood.KNN(None, 20), KNN(20)), 'vim': (pood.ViM(None, 7, *head), ViM(7)),
             'react': (pood.ReAct(None, lin), ReAct())}
    for name,(det,ours) in pairs.items():
        s = from_pytorch_ood(det)
        assert isinstance(s, OODScore) and s.name == name and s.features == ours.features
        assert s.fit(train, head) is s and s.input_step(None, None) is None
        a,b = s(known),s(unknown)
        assert a.dtype == torch.float64 and a.shape == (len(known.z),) and auroc(a, b) > .5
        # ViM is float32 there
        atol = 1e-3 if name == 'vim' else 1e-9
        torch.testing.assert_close(a, ours.fit(train, head)(known), rtol=1e-9, atol=atol)

def test_adapter_of_other_detectors(data):
    "In float32, as a report has its outputs"
    pood = pytest.importorskip('pytorch_ood.detector')
    f32 = lambda o: type(o)(*(v.float() if v.is_floating_point() else v for v in o))
    train,known,unknown,head = (f32(o) for o in data)
    lin = nn.Linear(*head.W.T.shape)
    lin.weight.data,lin.bias.data = head
    for det in (pood.SHE(None, lin), pood.fDBD(None, lin), pood.NNGuide(None, lin), pood.GMM(None),
                pood.KLMatching(None), pood.DICE(None, *head, .7), pood.RMD(None), pood.VRA(None, lin),
                pood.MaxSoftmax(None), pood.GEN(None), pood.Entropy(None)):
        s = get_score(from_pytorch_ood(det, 'theirs')).fit(train, head)
        assert s.name == 'theirs' and auroc(s(known), s(unknown)) > .5, det

@pytest.mark.usefixtures('float64')
def test_adapter_leaves_the_detector_alone():
    pood = pytest.importorskip('pytorch_ood.detector')
    train,known,_,head = random_data()
    det = pood.Mahalanobis(None)
    s = from_pytorch_ood(det)
    other = get_score(s)
    assert other is not s and det.mu is None
    other.fit(train, head)
    assert det.mu is None
    with pytest.raises(ValueError, match="expected a fitted score, got `mahalanobis` .* Call"): s(known)
    assert other(known).shape == (200,)
    no_fit = from_pytorch_ood(pood.MaxLogit(None))
    assert type(no_fit).fit is OODScore.fit and type(s).fit is not OODScore.fit         # only where there is a need
    assert torch.equal(no_fit(known), maxlogit_score(known.z))

def test_adapter_refuses():
    pood = pytest.importorskip('pytorch_ood.detector')
    net = nn.Linear(3, 2)
    for det in (pood.ODIN(net), pood.MCD(net), pood.GradNorm(net)):
        with pytest.raises(TypeError, match='of features or logits, got .*needs the model or the images. Run it'):
            from_pytorch_ood(det)
    for det in (pood.KNN, 'knn', net, MSP()):
        with pytest.raises(TypeError, match='a detector of pytorch-ood, got .* Make one'): from_pytorch_ood(det)
    train,known,_,head = random_data()
    s = from_pytorch_ood(pood.KNN(None))
    with pytest.raises(ValueError, match='labels of the training images for `knn`, got none. Fit'):
        s.fit(Outputs(train.z, train.f))
    with pytest.raises(ValueError, match='expected features for `knn`, got .* Take a detector of logits'):
        s.fit(Outputs(train.z, None, train.y))

def test_adapter_refuses_scores_of_pixels():
    class Maps:
        requires_fit = False
        def predict_logits(self, z): return z
    with pytest.raises(ValueError, match=r'one score per image, \(7,\), from Maps, got \(7, 3\). Take'):
        from_pytorch_ood(Maps())(Outputs(torch.zeros(7, 3)))

# --- names and bad input ---------------------------------------------------------------------------------------------
def test_names():
    assert DEFAULT_SCORES == ('msp', 'maxlogit', 'energy', 'odin', 'mahalanobis', 'knn', 'vim', 'react', 'gen', 'fdbd',
                              'mahalanobis++')
    assert tuple(OOD_SCORES) == DEFAULT_SCORES
    for k in DEFAULT_SCORES[:-1]:
        o = OOD_SCORES[k]
        s = get_score(k)
        assert type(s) is o and s.name == k and s.features == (k in FEATURES) and get_score(k) is not s
        assert type(get_score(o)) is o
    s = get_score('mahalanobis++')
    assert type(s) is Mahalanobis and s.normalised and s.name == 'mahalanobis++' and s.features
    assert repr(s) == 'Mahalanobis(normalised=True)' and Mahalanobis().name == Mahalanobis.name == 'mahalanobis'
    assert repr(KNN(7)) == 'KNN(k=7)' and repr(MSP()) == 'MSP()' and repr(ODIN(10)) == 'ODIN(T=10.0, eps=0.0)'
    assert repr(KNN(7).fit(random_data()[0])) == 'KNN(k=7)'

def test_get_score_does_not_fit_what_it_was_given():
    train,known,_,head = random_data()
    mine = KNN(7)
    new = get_score(mine)
    assert new.k == 7 and new is not mine
    new.fit(train)
    with pytest.raises(ValueError, match='expected a fitted score, got `knn`'): mine(known)

def test_a_score_of_your_own():
    class Norm(OODScore):
        name = 'norm'
        def __call__(self, out): return out.f.norm(dim=1).double()
    train,known,_,head = random_data()
    s = get_score(Norm()).fit(train, head)
    assert torch.equal(s(known), known.f.norm(dim=1)) and s.input_step(None, None) is None
    with pytest.raises(TypeError, match='expected OODScore to define'): OODScore()(known)

def test_bad_names():
    with pytest.raises(ValueError, match="got 'mahalonobis'. Did you mean 'mahalanobis'.*Known: msp, maxlogit"):
        get_score('mahalonobis')
    for o in (3, None, len, dict):
        with pytest.raises(TypeError, match='name of a score or an OODScore, got .* Wrap a detector'): get_score(o)

def test_bad_settings():
    for f,k in ((energy_score, 'T'), (odin_score, 'T'), (gen_score, 'gamma')):
        for v in (0, -1., math.inf, math.nan):
            with pytest.raises(ValueError, match=f'`{k}` must be positive and finite'): f(torch.zeros(1, 2), **{k: v})
        with pytest.raises(TypeError, match=f'`{k}` must be a number'): f(torch.zeros(1, 2), **{k: '1'})
    for make,k in ((Energy, 'T'), (ODIN, 'T'), (GEN, 'gamma')):
        with pytest.raises(ValueError, match=f'`{k}` must be positive and finite'): make(**{k: 0})
    for make,k in ((KNN, 'k'), (ViM, 'dim'), (GEN, 'M')):
        for v in (0, -1, 1.5, True, '3'):
            with pytest.raises(ValueError, match=f'`{k}` must be a whole number from 1 on .*got'): make(**{k: v})
    for v in (1, 'yes', None):
        with pytest.raises(TypeError, match='`normalised` must be True or False, got .* length 1'): Mahalanobis(v)
    for v in (0, 100, -5, 101):
        with pytest.raises(ValueError, match=r'`percentile` must lie in \(0,100\), got'): ReAct(v)
    with pytest.raises(TypeError, match='`percentile` must be a number'): ReAct('90')
    with pytest.raises(ValueError, match='`eps` must be >= 0'): ODIN(eps=-.1)

def test_bad_logits():
    for f in LOGITS.values():
        for z in ([[1., 2.]], np.zeros((1, 2)), torch.zeros(1, 2).long()):
            with pytest.raises(TypeError, match='logits as a float tensor, got .* collect raw logits'): f(z)
        for z in (torch.zeros(3), torch.zeros(3, 1), torch.zeros(2, 3, 4)):
            with pytest.raises(ValueError, match=r'logits \(n,c\) with c >= 2, got'): f(z)
        for v in (math.nan, math.inf, -math.inf):
            with pytest.raises(ValueError, match='NaN or infinity in 1 of 2 rows'): f(tensor([[0., 1.], [v, 0.]]))

def test_bad_features():
    train,known,_,head = random_data()
    for k in FEATURES:
        new = lambda k=k: get_score(k)
        name = re.escape(k)
        with pytest.raises(ValueError, match=f'`{name}`, got .* without a last linear layer. Take the scores of logits '
                           'alone: msp, maxlogit, energy, odin, gen'): new().fit(Outputs(train.z, None, train.y), head)
        with pytest.raises(ValueError, match=f'expected a fitted score, got `{name}`'): new()(known)
        with pytest.raises(ValueError, match=r'features \(300,d\) for .*got \(299, 24\)'):
            new().fit(train._replace(f=train.f[1:]), head)
        with pytest.raises(ValueError, match=f'training images for `{name}`, got none'):
            new().fit(Outputs(*(o[:0] for o in train)), head)
        bad = train.f.clone()
        bad[3,4] = math.nan
        with pytest.raises(ValueError, match='finite features, got NaN or infinity in 1 of 300 rows'):
            new().fit(train._replace(f=bad), head)
        s = new().fit(train, head)
        with pytest.raises(ValueError, match=r'features \(200,24\).*got \(200, 23\). Collect'):
            s(known._replace(f=known.f[:,1:]))
        with pytest.raises(ValueError, match='got outputs of a model without'): s(Outputs(known.z))
        with pytest.raises(ValueError, match='finite features'): s.fit(train._replace(f=bad), head)
        with pytest.raises(ValueError, match='expected a fitted score'): s(known)       # half a fit is none

def test_bad_labels_heads_and_training_sets():
    train,known,_,head = random_data()
    for y in (None, train.y[1:]):
        for k in ('mahalanobis', 'mahalanobis++'):
            match = f'label for each of 300 training images for `{re.escape(k)}`, got .*knn needs no labels'
            with pytest.raises(ValueError, match=match): get_score(k).fit(train._replace(y=y))
    for k in ('vim', 'react', 'fdbd'):
        for h in (None, LinearHead(head.W[:,1:], head.b)):
            with pytest.raises(ValueError, match=rf'the last layer, weights \(c,24\), for `{k}`, got'):
                get_score(k).fit(train, h)
    with pytest.raises(ValueError, match='at least k=301 training images for `knn`, got 300. .* k <= 300'):
        KNN(301).fit(train)
    for dim in (24, 30):
        with pytest.raises(ValueError, match=rf'`dim` of ViM below 24, .* of 24 .* got {dim}. Give'):
            ViM(dim).fit(train, head)
    flat = Outputs(train.z, torch.ones(300, 24), train.y)
    with pytest.raises(ValueError, match='features that vary within classes .* got 300 that do not'):
        Mahalanobis().fit(flat)
    rays = train._replace(f=torch.rand(300, 1)*torch.ones(1, 24))       # all in one direction
    with pytest.raises(ValueError, match=r'vary within classes for `mahalanobis\+\+`'): Mahalanobis(True).fit(rays)
    for few in (flat, Outputs(*(o[:1] for o in train))):
        with pytest.raises(ValueError, match='features that differ for `fdbd`, got .* that do not'):
            FDBD().fit(few, head)
    same = LinearHead(head.W[:1].expand(5, -1), head.b)
    for h in (same, LinearHead(head.W*0, head.b), LinearHead(head.W[:1], head.b[:1])):
        with pytest.raises(ValueError, match='tells classes apart for `fdbd`, got equal weights of all'):
            FDBD().fit(train, h)
    with pytest.raises(ValueError, match='`dim` of ViM below 1'): ViM().fit(flat, head)
    with pytest.raises(ValueError, match='largest logits above 0 on average for `vim`, got -'):
        ViM().fit(train._replace(z=train.z-1000), head)

def test_react_that_clips_everything_says_so():
    train,known,_,head = random_data()
    f = train.f*(torch.rand(train.f.shape, generator=torch.Generator().manual_seed(0)) < .05)
    with pytest.warns(RobustWarning, match='90 % of the training activations are 0, .*Give it a higher percentile'):
        ReAct().fit(train._replace(f=f), head)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        ReAct(99).fit(train._replace(f=f), head)
        ReAct().fit(train, head)

@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
def test_on_a_gpu(data):
    train,known,unknown,head = data
    gpu = lambda o: type(o)(*(v if v is None else v.cuda() for v in o))
    for k in OOD_SCORES:
        a = get_score(k).fit(train, head)(known)
        b = get_score(k).fit(gpu(train), gpu(head))(gpu(known))
        assert b.is_cuda
        torch.testing.assert_close(a, b.cpu(), rtol=1e-6, atol=1e-8)
