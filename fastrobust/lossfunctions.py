"Losses that forgive wrong labels, as pure per-sample functions in log space"
# z: logits (bs,c); y: int labels (bs,), or probabilities (bs,c), in which every loss is linear:
# sum_k y_k*l(z,k). p: softmax probability of the labelled class; all in ln p and float32 at least:
# no clamp, no overflow, no NaN gradient
import math
import torch, torch.nn.functional as F
from fastrobust.basics import is_whole, need_number

__all__ = ['mae_loss', 'gce', 'rce', 'sce', 'nce', 'alpha_loss', 'taylor_ce', 'phuber_ce', 'jsd']

def expect(ok, want, got, fix, err=ValueError):
    if not ok: raise err(f"Expected {want}, got {got}. {fix}")

def _setting(name, v, ok, want, fix):
    "Refuse a setting that is no number, or none that is `ok`"
    need_number(name, v)
    expect(ok(v), f"`{name}` {want}", v, fix)

def _at_least_f32(z): return z if z.dtype == torch.float64 else z.float()

def _check_sums(y):
    off = (y.detach().float().sum(1)-1).abs()
    expect((off < .01).all(), "rows of `y` that sum to 1", "other sums",
           "Apply a softmax or divide by the sum; multi-label targets are not supported.")

def _check_labels(y, c, skip):
    bad = [o for o in y[(y < 0)|(y >= c)].tolist() if o != skip]
    expect(not bad, f"labels in 0..{c-1}", bad[:3],
           "Compare vocab and model; to skip samples use CrossEntropy.")

def loss_inputs(z, y, skip=None):
    "Plain logits and targets, checked: shapes and types always, values on CPU only (no waiting for a GPU)"
    for o in (z,y):
        expect(isinstance(o, torch.Tensor), "a tensor", type(o), "Give one head and one target.",
               TypeError)
    z,y = z.as_subclass(torch.Tensor),y.as_subclass(torch.Tensor)
    is_batch = z.is_floating_point() and z.ndim == 2 and z.shape[1] > 1
    expect(is_batch, "float logits of shape (bs, c) with c>=2", (z.dtype, *z.shape),
           "Flatten other axes into the batch; give a yes/no task two outputs.")
    z = _at_least_f32(z)
    bs,c = z.shape
    soft = y.is_floating_point()
    shapes = [(bs,c)] if soft else [(bs,), (bs,1)]
    expect(tuple(y.shape) in shapes, f"int labels ({bs},) or probabilities {(bs,c)}",
           (y.dtype, *y.shape),
           "Call `.long()` on float class numbers, `.float()` on one-hot labels.")
    on_cpu = y.device.type == 'cpu'
    if soft:
        if on_cpu: _check_sums(y)
        return z,y.to(z.dtype)
    y = y.reshape(-1).long()
    if on_cpu: _check_labels(y, c, skip)
    return z,y

def _logp(z, y):
    z,y = loss_inputs(z, y)
    return F.log_softmax(z, dim=1),y

def _pick(l, y):
    if y.ndim == 1: return l.gather(1, y[:,None]).squeeze(1)
    return (y*l).sum(1)

def _on_target(f, z, y):
    "`f(ln p)` of the labelled class; with probabilities that of every class, weighted"
    lp,y = _logp(z, y)
    if y.ndim == 1: return f(lp.gather(1, y[:,None])).squeeze(1)
    return _pick(f(lp), y)

def _lq(lp, q, top=60.):
    "(1-p^q)/q; for q<0 continued by its tangent beyond p^q = e^60, so that it stays finite"
    if q > 0: return -torch.expm1(q*lp)/q
    power = torch.expm1((q*lp).clamp(max=top))
    tangent = math.exp(top)*(q*lp-top).clamp(min=0)
    return -(power + tangent)/q

def _check_q(q):
    _setting('q', q, lambda v: 0 < v <= 1, 'in (0, 1]',
             "Take .7 as the paper does; near 0 it is cross-entropy, 1 is MAE.")

def _mix(a, l, b, m):
    for k,v in dict(alpha=a, beta=b).items(): need_number(k, v)
    expect(min(a,b) >= 0 and a+b > 0, "`alpha` and `beta` of 0 or more, not both 0", (a,b),
           "Take (1, 1), or one loss.")
    return a*l + b*m

# --- losses ---------------------------------------------------------------------------------------
def soft_ce(z, y):
    "-ln p: cross-entropy"
    return _on_target(torch.neg, z, y)

def mae_loss(z, y):
    "1-p: mean absolute error, half the L1 distance of https://arxiv.org/abs/1712.09482"
    return _on_target(lambda lp: -torch.expm1(lp), z, y)

def gce(z, y,
    q:float=.7 # In (0,1]: towards 0 cross-entropy, 1 MAE; .7 is the paper's
):
    "(1-p^q)/q: generalised cross-entropy, https://arxiv.org/abs/1805.07836"
    _check_q(q)
    return _on_target(lambda lp: _lq(lp, q), z, y)

def truncated_gce(z, y,
    q:float=.7, # As in `gce`
    k:float=.5  # In (0,1): samples with p<k have a constant loss and no gradient; .5 is the paper's
):
    "(1-max(p,k)^q)/q: truncated L_q of https://arxiv.org/abs/1805.07836, for a model that has been warmed up"
    _check_q(q)
    _setting('k', k, lambda v: 0 < v < 1, 'in (0, 1)', "Take .5 as the paper does, or `gce`.")
    floor = math.log(k)
    return _on_target(lambda lp: _lq(lp.clamp(min=floor), q), z, y)

def rce(z, y,
    A:float=math.log(1e-4) # Below 0, for ln 0: public code takes ln 1e-4 = -9.21, the paper prints -4
):
    "-A(1-p): reverse cross-entropy, https://arxiv.org/abs/1908.06112"
    _setting('A', A, lambda v: v < 0, 'below 0', "Take log(1e-4), or -4 as printed in the paper.")
    return _on_target(lambda lp: A*torch.expm1(lp), z, y)

def sce(z, y,
    alpha:float=.1,        # Weight of CE, >=0: .1 on CIFAR-10, 6 on CIFAR-100
    beta:float=1.,         # Weight of RCE, >=0: 1 on CIFAR-10, .1 on CIFAR-100
    A:float=math.log(1e-4) # As in `rce`
):
    "alpha*CE + beta*RCE: symmetric cross-entropy, https://arxiv.org/abs/1908.06112"
    return _mix(alpha, soft_ce(z, y), beta, rce(z, y, A))

def nce(z, y):
    "ln p / sum_j ln p_j, in [0,1]: normalised cross-entropy, https://arxiv.org/abs/2006.13554"
    lp,y = _logp(z, y)
    return _pick(lp/lp.sum(1, keepdim=True), y)

def nce_rce(z, y,
    alpha:float=1.,        # Weight of NCE, >=0: 1 on CIFAR-10, 10 on CIFAR-100
    beta:float=1.,         # Weight of RCE, >=0: 1 on CIFAR-10, .1 on CIFAR-100
    A:float=math.log(1e-4) # As in `rce`
):
    "alpha*NCE + beta*RCE, https://arxiv.org/abs/2006.13554"
    return _mix(alpha, nce(z, y), beta, rce(z, y, A))

def nce_mae(z, y,
    alpha:float=1., # Weight of NCE, >=0: 1 on CIFAR-10, 10 on CIFAR-100
    beta:float=1.   # Weight of MAE, >=0; `nce_rce` with beta=1 is this with 9.21
):
    "alpha*NCE + beta*(1-p), https://arxiv.org/abs/2006.13554"
    return _mix(alpha, nce(z, y), beta, mae_loss(z, y))

def _focal(z, y, gamma, detach_weight):
    "Focal loss of every class, and y; ln(1-p) of the top class comes from the other classes, without cancellation"
    _setting('gamma', gamma, lambda v: v >= 0, 'of 0 or more', "Take 2, .5 for wrong labels; 0 is CE.")
    lp,y = _logp(z, y)
    best = lp.argmax(1, keepdim=True)
    top = torch.zeros_like(lp, dtype=torch.bool).scatter_(1, best, True)
    rest = lp.masked_fill(top, -math.inf)
    log_others = torch.where(top, rest.logsumexp(1, keepdim=True), torch.log1p(-rest.exp()))
    w = (gamma*log_others).exp()
    if detach_weight: w = w.detach()
    return -w*lp,y

def focal_ce(z, y,
    gamma:float=2.,          # >=0; 2 is the paper's, 0 is cross-entropy
    detach_weight:bool=False # No gradient through (1-p)^gamma, as in public label-noise code?
):
    "-(1-p)^gamma ln p: focal loss, https://arxiv.org/abs/1708.02002"
    l,y = _focal(z, y, gamma, detach_weight)
    return _pick(l, y)

def nfl(z, y,
    gamma:float=.5,          # >=0; .5 is the paper's, 0 is NCE
    detach_weight:bool=False # As in `focal_ce`
):
    "focal_y / sum_j focal_j, in [0,1]: normalised focal loss, https://arxiv.org/abs/2006.13554"
    l,y = _focal(z, y, gamma, detach_weight)
    return _pick(l/l.sum(1, keepdim=True), y)

def alpha_loss(z, y,
    alpha:float=2. # >0: below 1 convex, 1 CE, above 1 robust (GCE with q=1-1/alpha), inf MAE
):
    "alpha/(alpha-1) (1-p^(1-1/alpha)), https://arxiv.org/abs/1906.02314"
    _setting('alpha', alpha, lambda v: v > 0, 'above 0', "1 is cross-entropy; take 2 for wrong labels.")
    if alpha == 1: return soft_ce(z, y)
    return _on_target(lambda lp: _lq(lp, 1-1/alpha), z, y)

def taylor_ce(z, y,
    t:int=2 # Terms of the series, >=1: 1 is MAE, many are cross-entropy
):
    "sum_{i=1..t} (1-p)^i/i: Taylor series of CE (not of the softmax), https://www.ijcai.org/proceedings/2020/305"
    expect(is_whole(t) and t >= 1, "`t` a whole number, 1 or more", t, "Take 2 to 6.")
    def series(lp): return sum((-torch.expm1(lp))**i/i for i in range(1, t+1))
    return _on_target(series, z, y)

def phuber_ce(z, y,
    tau:float=10. # Largest slope in p, >1: 2 on CIFAR-10, 10 and 50 on CIFAR-100
):
    "-ln p, below p=1/tau its tangent -tau*p+ln(tau)+1: partially Huberised, https://openreview.net/forum?id=rklB76EKPr"
    _setting('tau', tau, lambda v: v > 1, 'above 1', "Take 2 for few classes, 10 or more for many.")
    def huberised(lp):
        tangent = -tau*lp.exp()+math.log(tau)+1
        return torch.where(lp <= -math.log(tau), tangent, -lp)
    return _on_target(huberised, z, y)

def agce(z, y,
    a:float=.6, # >0; .6 on CIFAR-10, 4 on MNIST
    q:float=.6  # >0; .6 on CIFAR-10, .2 on MNIST
):
    "((a+1)^q-(a+p)^q)/q: asymmetric GCE, https://arxiv.org/abs/2106.03110"
    for k,v in dict(a=a, q=q).items():
        _setting(k, v, lambda v: v > 0, 'above 0', "The paper takes (.6, .6) on CIFAR-10.")
    return _on_target(lambda lp: ((a+1)**q-(a+lp.exp())**q)/q, z, y)

def aul(z, y,
    a:float=5.5, # >1; 5.5 on CIFAR-10, 3 on MNIST
    q:float=3.   # >0; 3 on CIFAR-10, .1 on MNIST
):
    "((a-p)^q-(a-1)^q)/q: asymmetric unhinged loss, https://arxiv.org/abs/2106.03110"
    _setting('a', a, lambda v: v > 1, 'above 1', "The paper takes 5.5 on CIFAR-10.")
    _setting('q', q, lambda v: v > 0, 'above 0', "The paper takes 3 on CIFAR-10.")
    return _on_target(lambda lp: ((a-lp.exp())**q-(a-1)**q)/q, z, y)

def ael(z, y,
    a:float=2.5 # >0; 2.5 on CIFAR-10, 3.5 on MNIST
):
    "exp(-p/a), at least exp(-1/a): asymmetric exponential loss, https://arxiv.org/abs/2106.03110"
    _setting('a', a, lambda v: v > 0, 'above 0', "Take 2.5 as the paper does on CIFAR-10.")
    return _on_target(lambda lp: (-lp.exp()/a).exp(), z, y)

def bootstrap_ce(z, y,
    beta:float=.95, # Trust in the given label, in [0,1]; .95 for soft, .8 for hard
    hard:bool=False # Is the model's own label its argmax, or its probabilities?
):
    "-sum_k (beta*y_k+(1-beta)*r_k) ln p_k, own label r *detached* (our choice), https://arxiv.org/abs/1412.6596"
    _setting('beta', beta, lambda v: 0 <= v <= 1, 'in [0, 1]', "Take .95 for soft, .8 for hard.")
    lp,y = _logp(z, y)
    given = _pick(-lp, y)
    own = lp.max(1)[0] if hard else (lp.detach().exp()*lp).sum(1)
    return beta*given - (1-beta)*own

def jsd(
    z_list # Logits (bs,c) of each of n views of the same images
):
    "Batch mean of sum_j KL(p_j||M)/n in [0, ln n], M = mean of p_j, >=1e-7: AugMix, https://arxiv.org/abs/1912.02781"
    zs = [z.as_subclass(torch.Tensor) for z in z_list]
    alike = all(z.ndim == 2 and z.shape == zs[0].shape for z in zs)
    expect(len(zs) > 1 and alike, "2 or more logits of one shape (bs, c)",
           [tuple(z.shape) for z in zs],
           "Give one tensor of logits for each view of the same images.")
    lp = torch.stack([_at_least_f32(z) for z in zs]).log_softmax(-1)
    p = lp.exp()    # not shared with the mean: gradients would add up in another order
    log_mean = lp.exp().mean(0).clamp(1e-7, 1).log()
    kl = (p*(lp - log_mean)).sum(-1)
    return kl.mean().clamp(min=0)   # the 1e-7 and rounding leave about -1e-7 for equal views
