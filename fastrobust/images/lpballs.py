"Random noise of bounded Lp norm: uniform in or on the ball, exact for every p in (0, inf], and L0; each image its own"
# Siedel et al., https://arxiv.org/abs/2305.05400; sampling after Calafiore et al. 1998 and Barthe
# et al. 2005.
# With |xi_j| = U_j G_j^(1/p), U uniform, G ~ Gamma(1+1/p), random signs, and E ~ Exp(1): eps
# xi/(sum |xi|^p + E)^(1/p) is uniform in the ball, without E it lies on the sphere (cone measure;
# the surface measure for p = 1, 2, inf only). Gamma(1/p), which textbooks take, would underflow
# for large p. In many dimensions the ball is nearly its sphere, and its noise is nearly
# independent: L1 Laplace with b = eps/d, L2 Gaussian with sigma = eps/sqrt(d), Linf uniform.
import math
import torch
from torch import Generator, Tensor
from fastrobust.basics import as_f32, nearest, need_number, robust_warn
from fastrobust.images.lpdraws import Random, generalised_normal

__all__ = ['lp_noise']

_inf = math.inf

# --- checks ---------------------------------------------------------------------------------------
def check_p(p):
    "`p`, a norm: 0 (L0) or in (0,inf]"
    need_number('p', p)
    if not p >= 0:
        raise ValueError(f"`p` must be in (0,inf], or 0 for L0, got {p}. Usual: 1, 2 or "
                         "float('inf').")
    return float(p)

def check_kind(kind):
    kinds = ('ball', 'sphere')
    if kind not in kinds:
        raise ValueError("`kind` must be 'ball' (inside, uniform) or 'sphere' (of norm `eps`), got "
                         f"{kind!r}. {nearest(kind, kinds)}")

def check_eps(p, eps, n=None):
    "Sizes, one or `n`, as float64 on the CPU: finite, not negative, for L0 a fraction"
    if not isinstance(eps, Tensor): need_number('eps', eps)
    e = torch.as_tensor(eps, dtype=torch.float64).detach().cpu()
    if e.ndim > 1 or e.ndim == 1 and len(e) != n:
        raise ValueError(f"`eps` must be a number or one per image, shape ({n},), got shape "
                         f"{tuple(e.shape)}. Select sizes and images alike.")
    if not ((e >= 0) & (e < _inf)).all():
        raise ValueError(f"`eps` must be finite and not negative, got {eps}. 0 leaves the images "
                         "as they are.")
    if p == 0 and (e > 1).any():
        raise ValueError(f"`eps` of L0 is the fraction of values replaced, in [0,1], got {eps}. A "
                         "number of values: divide it by c*h*w.")
    return e

def check_float_images(x, who='lp_noise', tol=1e-3):
    "`x` as a plain Tensor if it is a float batch (b,c,h,w) with pixels in [0,1]"
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"{who} expected a float tensor with pixels in [0,1], got "
                        f"{getattr(x, 'dtype', type(x))}. Of uint8 images pass `x.float()/255`.")
    if x.ndim != 4:
        raise ValueError(f"{who} expected images (b,c,h,w), got shape {tuple(x.shape)}. One "
                         "image: `x[None]`.")
    x = x.as_subclass(Tensor)
    lo,hi = 0.,1.
    if x.numel(): lo,hi = (o.item() for o in x.aminmax())
    if not (lo >= -tol and hi <= 1+tol):
        raise ValueError(f"{who} expected pixels in [0,1] before Normalize, got [{lo:.3g}, "
                         f"{hi:.3g}]. Were they normalised, or not divided by 255? Norms are meant "
                         "in pixels: put Normalize last.")
    return x

# --- draws ----------------------------------------------------------------------------------------
def _ball(r, n, d, p, eps, sphere):
    "For p = 1, 2, inf, noise of norm at most `eps` (n,1), or just that, as a pair whose product it is: (n,d) and (n,1)"
    e = torch.zeros_like(eps) if sphere else r.exponential(n, 1)
    if p == 2:      # xi is normal with variance 1/2
        z = r.normal(n, d)
        norm = torch.linalg.vector_norm(z, dim=1, keepdim=True)
        return z,eps/(norm**2 + 2*e).sqrt()
    u = r.signed(n, d)
    if p == _inf:
        if not sphere: return u,eps
        return u,eps/u.abs().amax(1, keepdim=True)
    # p = 1: |xi| is exponential
    z = torch.log1p(-u.abs()).copysign_(u)
    return z,eps/(z.abs().sum(1, keepdim=True) + e)

def _replaced(r, x, k, sphere):
    "`x` (n,d) with `k` (n,) of its values, drawn without replacement, now U(0,1), or 0 or 1"
    n,d = x.shape
    top = int(k.max()) if len(k) else 0
    # sorted: the first k of them are a draw of k
    at = r.bits(n, d).topk(top, dim=1).indices
    new = r.uniform(n, top)
    if sphere: new = (new < .5).to(new.dtype)
    keep = torch.arange(top, device=x.device) >= k.to(x.device)[:, None]
    new = torch.where(keep, x.gather(1, at), new.to(x.dtype))
    return x.scatter(1, at, new)

def perturbed(x, p, eps, kind, generator=None, clip=True):
    "`lp_noise` or, not `clip`, `lp_delta` of what was checked; `eps` float64 on the CPU, one or (b,)"
    f = as_f32(x).flatten(1)
    if not f.numel(): return x.clone()
    n,d = f.shape
    sphere = kind == 'sphere'
    # for small p |xi| leaves the range of float32, and 1/p multiplies the error of a logarithm
    logs = 0 < p < .1
    dt = torch.float64 if logs else f.dtype
    r = Random(generator, x.device, dt)
    if p == 0:
        k = (eps.expand(n)*d + 1e-6).long()                     # .29*100 is 28.999999
        if eps.ndim == 0 and eps > 0 and k[0] == 0:
            robust_warn(f"L0 noise on a share of {eps:.3g} of {d} values is less than one value: "
                        "the images stay as they are. Choose a larger `eps`.")
        y = _replaced(r, f, k, sphere)
        out = y if clip else y-f
    else:
        e = eps.expand(n)[:, None]
        # in place: new memory would cost as much as the arithmetic
        if p in (1, 2, _inf):
            out,size = _ball(r, n, d, p, e.to(x.device, dt), sphere)
            out.mul_(size)
        else:
            extra = torch.zeros_like(e) if sphere else r.exponential(n, 1)
            out = generalised_normal(r, n, d, p, e, extra, logs).to(f.dtype)
        if clip: out = out.add_(f).clamp_(0, 1)
    return out.view(x.shape).to(x.dtype)

@torch.no_grad()
def lp_delta(
    x:Tensor,           # Images (b,c,h,w), float with pixels in [0,1]; only L0 looks at the pixels
    p:float,            # Which norm: in (0,inf], or 0 for L0
    # Bound on the norm in pixel units: a number or one per image (b,); L0: the fraction replaced
    eps,
    kind:str='ball',    # 'ball': uniform inside; 'sphere': norm exactly `eps`
    # On the CPU (all devices agree) or where `x` is; None: torch's own on the device of `x`
    generator:Generator=None
)->Tensor:              # (b,c,h,w), dtype of `x`
    "The noise alone, as drawn: added to the images it may leave [0,1]"
    x = check_float_images(x, 'lp_delta')
    p = check_p(p)
    check_kind(kind)
    eps = check_eps(p, eps, len(x))
    return perturbed(x, p, eps, kind, generator, clip=False)

@torch.no_grad()
def lp_noise(
    x:Tensor,           # Images (b,c,h,w), float with pixels in [0,1], before Normalize
    p:float,            # Which norm: in (0,inf], or 0 for L0
    # Bound on the norm in pixel units: a number or one per image (b,); L0: the fraction replaced
    eps,
    # 'ball': uniform inside (L0: values U(0,1)); 'sphere': norm exactly `eps` (L0: values 0 or 1)
    kind:str='ball',
    # On the CPU (all devices agree) or where `x` is; None: torch's own on the device of `x`
    generator:Generator=None
)->Tensor:              # (b,c,h,w), dtype of `x`, clipped to [0,1]
    "Every image with its own random noise of bounded Lp norm; L0: floor(eps c h w) of its values replaced"
    x = check_float_images(x)
    p = check_p(p)
    check_kind(kind)
    eps = check_eps(p, eps, len(x))
    return perturbed(x, p, eps, kind, generator)

def lp_std(
    p:float,    # Which norm, in (0,inf]
    eps:float,  # Radius of the ball
    d:int       # Number of values of an image, c*h*w
)->float:
    "Standard deviation of one value of noise in the ball, exact; `std/lp_std(p, 1, d)` is the radius that gives `std`"
    if check_p(p) == 0:
        raise ValueError("`p` must be in (0,inf], got 0. What L0 does depends on the image.")
    check_eps(p, eps)
    if p == _inf: return eps/math.sqrt(3)
    lg = math.lgamma
    log_var = lg(3/p) - lg(1/p) + lg(d/p+1) - lg((d+2)/p+1)
    return eps*math.exp(log_var/2)
