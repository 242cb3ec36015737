"Neural operators: Koopman's beside Fourier's, at equal parameters, with persistence and exact solutions beside both"
# python nbs/benchmarks/operators.py burgers|flow|rollout|semigroup|padding|spectrum|bands|globe|speed|all
#     [--seeds 3] [--out folder for pictures] [--quick]
# All data are made here, anew for each seed. Relative L2 of test fields, mean ± standard error over seeds, after the
# last epoch; seconds are of the processor, one thread. No setting was chosen on these test fields.
import argparse, copy, time, warnings
from functools import partial
import numpy as np, pandas as pd
import torch
from fastai.callback.progress import ProgressCallback     # noqa: F401 (gives Learner its no_bar)
from fastai.learner import Learner
from fastai.torch_core import set_seed
from torch import nn
from fastrobust.all import (FNO1d, FNO2d, KNO1d, KNO2d, RelL2Loss, SemigroupKNO, ViTKNO, advection_data,
                            advection_multiplier, burgers_data, conformal_bands, field_dls, heat_kernel, kdv_data,
                            koopman_learner, navier_stokes_data, operator_spectrum, rel_l2, rollout_report,
                            shallow_water_data)
from fastrobust.basics import RobustWarning

def count(net): return sum(p.numel() for p in net.parameters())
def err(p, y): return rel_l2(torch.as_tensor(p).float().flatten(1), torch.as_tensor(y).float().flatten(1)).item()
def fields(u): return torch.as_tensor(np.asarray(u), dtype=torch.float32)

def fit(make, dls, epochs, lr, seed, **kw):
    "A trained learner and the processor's seconds"
    set_seed(seed)
    learn = koopman_learner(dls, make(), **kw)
    t = time.process_time()
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, lr)
    return learn,time.process_time()-t

@torch.no_grad()
def step(learn, u):
    "The next frame of fields (n,t,*grid)"
    out = learn.model.eval()(fields(u))
    return (out[0] if isinstance(out, tuple) else out)[:, -1:]

def said(title, rows, index):
    "Means over seeds ± standard errors, a row for each `index`"
    df = pd.DataFrame(rows)
    g = df.groupby(index, sort=False)
    cols = [k for k in df if k not in (*index, 'seed')]
    def cell(v):
        se = f' ± {v.sem():.2g}' if len(v) > 1 and v.std() else ''
        return (f'{v.mean():.4g}' if se else f'{v.mean():.6g}') + se
    t = pd.DataFrame({k: g[k].apply(lambda v: cell(v.dropna()) if v.notna().any() else '') for k in cols})
    print(f'\n### {title}, {df.seed.nunique()} seeds\n\n{t.to_string()}', flush=True)

ROWS = {'KNO': (KNO1d, {}), "KNO, loss='paper'": (KNO1d, dict(loss='paper')), 'FNO': (FNO1d, {}),
        'KNO non-linear': (partial(KNO1d, linear=False), {})}

def burgers(a):
    "Pairs of Burgers' equation: accuracy on the mesh of training and on others"
    rows,n,meshes = [],40 if a.quick else 320,(256, 128, 64, 32)
    for seed in range(a.seeds):
        u,y = burgers_data(n+200, 256, nu=.1, T=.2, seed=seed, verbose=False)
        dls = field_dls(u[:n], y[:n], sub=4, valid=(u[n:n+20], y[n:n+20]), bs=20)
        for name,(make,kw) in ROWS.items():
            learn,s = fit(make, dls, 2 if a.quick else 60, 5e-3, seed, **kw)
            e = {str(m): err(step(learn, u[n:, None, ::256//m]), y[n:, None, ::256//m]) for m in meshes}
            wide = [e[str(m)] for m in meshes[:3]]
            spread = max(wide)/min(wide)-1
            rows.append(dict(model=name, seed=seed, parameters=count(learn.model), **e, spread=spread, seconds=s))
        for name,p in {'heat kernel': heat_kernel(u[n:], .2, .1), 'persistence': u[n:]}.items():
            rows.append(dict(model=name, seed=seed, **{str(m): err(p[:, ::256//m], y[n:, ::256//m]) for m in meshes}))
    said(f'Burgers nu .1, T .2, {n} pairs at 64 points; meshes', rows, ['model'])

def flow(a):
    "Vorticity 32 x 32, ten frames to ten, rolled out in training"
    rows,n,epochs = [],8 if a.quick else 48,1 if a.quick else 25
    models = {'KNO': partial(KNO2d, o=16, m=8, r=6), 'FNO, m 8': partial(FNO2d, width=6, m=8, hidden=32),
              'FNO, m 4': partial(FNO2d, width=16, m=4, layers=2, hidden=32)}
    for seed in range(a.seeds):
        w = navier_stokes_data(n+12, 32, 1e-3, 20, seed=seed, verbose=False)
        dls = field_dls(w[:n], t_in=10, t_out=10, valid=.1, bs=8)
        for name,make in models.items():
            learn,s = fit(make, dls, epochs, 5e-3, seed)
            with learn.no_bar(): p = learn.get_preds(dl=dls.test_dl(w[n:, :10]))[0]
            rows.append(dict(model=name, seed=seed, parameters=count(learn.model), ten_steps=err(p, w[n:, 10:]),
                             tenth=err(p[:, -1:], w[n:, 19:]), seconds=s))
        stay = w[n:, 9:10].repeat(10, 1)
        rows.append(dict(model='persistence', seed=seed, ten_steps=err(stay, w[n:, 10:]),
                         tenth=err(stay[:, -1:], w[n:, 19:])))
    said(f'Navier-Stokes 32 x 32, nu 1e-3, {n} trajectories', rows, ['model'])

EQUATIONS = {"Burgers, nu .01 (dissipative)": partial(burgers_data, nu=.01, frames=61, step=.05),
             'KdV, delta .03 (not dissipative)': partial(kdv_data, delta=.03, frames=61, step=.02),
             'Shallow water, h and hu (not dissipative)': partial(shallow_water_data, frames=61, step=.04)}
STEPS = 1, 10, 20, 40, 60

def off(p, y, scale, var=None):
    "Relative L2 as the loss counts it: from the mean, each variable in its deviation"
    return RelL2Loss(scale=scale, var=var)(fields(p), fields(y)).item()

def power(u, scale):
    "Mean square of fields (n,c,x), counted so too"
    mean,std = (o.view(-1, 1) for o in scale)
    return ((fields(u)-mean)/std).square().mean().item()

def rollout(a):
    "One step is learned, sixty are made"
    rows,n = [],10 if a.quick else 100
    for name,make_data in EQUATIONS.items():
        for seed in range(a.seeds):
            u = make_data(n+20, 64, seed=seed, verbose=False)
            u = u.reshape(len(u), 61, -1, 64)
            c = u.shape[2]
            dls = field_dls(u[:n, :21], axes='n t c x', t_in=1, t_out=1, every=1, valid=.1, bs=32)
            learns = {}
            makers = {'KNO': partial(KNO1d, c), 'FNO': partial(FNO1d, c, t_out=c)}
            makers |= {f'{k}, conserve': partial(make, conserve=True) for k,make in makers.items()}
            for model,make in makers.items():
                learns[model],s = fit(make, dls, 1 if a.quick else 12, 5e-3, seed)
                p = roll_of(learns[model], u[n:, 0], 60, c).reshape(20, 60, c, 64)
                at = {f'step {k}': off(p[:, k-1], u[n:, k], dls.scale) for k in STEPS}
                if c > 1: at |= {f'60, {v}': off(p[:, -1], u[n:, 60], dls.scale, i) for i,v in enumerate(['h', 'hu'])}
                energy = power(p[:, -1], dls.scale)/power(u[n:, 60], dls.scale)
                rows.append(dict(equation=name, model=model, seed=seed, parameters=count(learns[model].model), **at,
                                 energy=energy, seconds=s))
            stay = {f'step {k}': off(u[n:, 0], u[n:, k], dls.scale) for k in STEPS}
            rows.append(dict(equation=name, model='persistence', seed=seed, **stay))
            if seed == 0 and a.out: rollout_report(learns, u[n:, :1], u[n:, 1:]).save(f'{a.out}/rollout-{name[:3]}')
    said('Rollouts, trained on single steps up to 20', rows, ['equation', 'model'])

@torch.no_grad()
def roll_of(learn, u, steps, n_vars=1):
    from fastrobust.systems.koopman.rolling import roll
    return roll(learn.model.eval(), fields(u), steps, n_vars).numpy()

class TimedFNO(nn.Module):
    "FNO that is told the time as a channel, in units of `step`"
    def __init__(self, step=.1, m=17):
        super().__init__()
        self.net,self.step = FNO1d(2, m=m),step

    def forward(self, u, t):
        t = (t/self.step).view(-1, 1, 1).expand(-1, 1, u.shape[-1])
        return self.net(torch.cat([u, t], 1))

@torch.no_grad()
def after(learn, u, t):
    "Fields (n,1,x) a time `t` later"
    out = learn.model.eval()(u, torch.full((len(u),), float(t)))
    return out[0] if isinstance(out, tuple) else out

TIMES = .025, .05, .075, .1, .15, .2, .3, .5
TIMED = {'SemigroupKNO, step .1': partial(SemigroupKNO, step=.1), 'SemigroupKNO, step 1 (default)': SemigroupKNO,
         'FNO with t as a channel': TimedFNO}

def semigroup(a):
    "Burgers' equation to any time: trained on three times, asked for eight, and for one in two halves"
    rows,n = [],40 if a.quick else 240
    for seed in range(a.seeds):
        u = burgers_data(n+200, 64, nu=.05, frames=21, step=.025, fine=4, seed=seed, verbose=False)
        dls = field_dls(u[:n], lead=[2, 4, 8], times=.025, valid=u[n:n+20], bs=20)
        at = {t: u[n:, round(t/.025)] for t in TIMES}
        u0 = fields(u[n:, :1])
        for name,make in TIMED.items():
            learn,s = fit(make, dls, 1 if a.quick else 25, 5e-3, seed)
            e = {str(t): err(after(learn, u0, t), y) for t,y in at.items()}
            halves = err(after(learn, after(learn, u0, .1), .1), after(learn, u0, .2))
            rows.append(dict(model=name, seed=seed, parameters=count(learn.model), **e, halves=halves, seconds=s))
        heat = {str(t): err(heat_kernel(u[n:, 0], t, .05), y) for t,y in at.items()}
        rows.append(dict(model='heat kernel', seed=seed, **heat))
        rows.append(dict(model='persistence', seed=seed, **{str(t): err(u0, y) for t,y in at.items()}))
    said(f'Burgers nu .05, any time; trained on .05, .1, .2, {n} fields at 64 points', rows, ['model'])

def heated_rod(n, seed, points=64, nu=.02, T=.1):
    "Heat between two ends at temperatures of their own, and T later: (n,points) each, exact by the sine series"
    g = np.random.default_rng(seed)
    x,k = np.linspace(0, 1, points),np.arange(1, 17)
    a,b = g.normal(size=(2, n, 1))
    line = a + (b-a)*x
    w = 3*g.normal(size=(n, 16))/(1 + k)
    waves = np.sin(np.pi*k[:, None]*x)
    return [line + (w*np.exp(-nu*(np.pi*k)**2*t))@waves for t in (0, T)]

def cut_out(n, seed):
    "Half of a periodic solution of Burgers' equation: what crosses its sides is not known"
    u,y = burgers_data(n, 256, nu=.01, T=.05, seed=seed, verbose=False)
    return u[:, :128:2],y[:, :128:2]

SIDES = {'heat between fixed ends': heated_rod, 'half of a Burgers solution': cut_out}
EDGE = [0, 1, 2, 3, -4, -3, -2, -1]

def share_off(p, y, at=slice(None)):
    "Root mean square of errors at some points, over that of the fields at all"
    return float(np.sqrt(((p-y)[:, at]**2).mean()/(y**2).mean()))

def padding(a):
    "Sides that are not periodic: a line behind them, or taken as if they were; paired by seed"
    rows,n = [],40 if a.quick else 320
    for name,make_data in SIDES.items():
        for seed in range(10, 10+a.seeds):      # the straight line behind the sides was chosen on 0 to 2
            u,y = make_data(n+200, seed)
            for model,make in {'KNO': KNO1d, 'FNO': FNO1d}.items():
                e,edge,s = {},{},{}
                for periodic in (False, True):
                    dls = field_dls(u[:n], y[:n], valid=.1, bs=20, periodic=periodic)
                    learn,s[periodic] = fit(make, dls, 2 if a.quick else 60, 5e-3, seed)
                    p = step(learn, u[n:, None]).numpy()[:, 0]
                    e[periodic],edge[periodic] = share_off(p, y[n:]),share_off(p, y[n:], EDGE)
                rows.append(dict(equation=name, model=model, seed=seed, line=e[False], as_periodic=e[True],
                                 gain=e[True]-e[False], edge=edge[False], edge_as_periodic=edge[True],
                                 edge_gain=edge[True]-edge[False], seconds=s[False], more_seconds=s[False]-s[True]))
            rows.append(dict(equation=name, model='persistence', seed=seed, line=share_off(u[n:], y[n:])))
    said(f'Sides that are not periodic, {n} pairs at 64 points: root mean square error over that of the fields; edge: '
         'four points at each side', rows, ['equation', 'model'])

def spectrum(a):
    "What time does to each wave number, out of a trained network"
    rows = []
    mu = advection_multiplier(np.arange(8), .1, 1., .01)
    for seed in range(a.seeds):
        u,y = advection_data(360, 64, c=1., nu=.01, T=.1, seed=seed)
        dls = field_dls(u[:320], y[:320], valid=.1, bs=20)
        for name,make in {'KNO': KNO1d, 'FNO': FNO1d}.items():
            learn,s = fit(make, dls, 2 if a.quick else 60, 5e-3, seed)
            off = np.abs(np.asarray(operator_spectrum(learn.model, 8, size=64)) - mu)
            rows.append(dict(model=name, seed=seed, error=err(step(learn, u[320:, None]), y[320:, None]),
                             **{f'k={k}': off[k] for k in range(8)}, worst=off[1:].max(), seconds=s))
    said('Advection-diffusion c 1, nu .01, T .1: |H_k - mu_k|', rows, ['model'])

def bands(a):
    "Split conformal bands at 90 %: how many new fields lie inside, on the mesh of calibration and on a finer one"
    rows,n = [],100 if a.quick else 1000
    for seed in range(a.seeds):
        u,y = burgers_data(320+2*n, 256, nu=.1, T=.2, seed=seed, verbose=False)
        dls = field_dls(u[:320], y[:320], sub=4, valid=.1, bs=20)
        cal,test = slice(320, 320+n),slice(320+n, None)
        for name,make in {'KNO': KNO1d, 'FNO': FNO1d}.items():
            learn,_ = fit(make, dls, 2 if a.quick else 60, 5e-3, seed)
            for kind in ('sup', 'l2'):
                b = conformal_bands(learn, (u[cal, None, ::4], y[cal, None, ::4]), .9, kind)
                cover = {str(m): share(b.coverage(u[test, None, ::256//m], y[test, None, ::256//m])) for m in (64, 256)}
                rows.append(dict(model=name, kind=kind, seed=seed, q=b.q, **cover))
    said(f'Conformal bands at 90 %, {n} calibration and {n} test fields at 64 points; coverage by mesh', rows,
         ['model', 'kind'])

def share(c): return float(c[0] if isinstance(c, tuple) else c)

def globe_data(n, seed, size=(64, 128), angle=np.pi/9):
    "Smooth patterns on a sphere and where a turn about a slanting axis brings them, (n,1,*size) each"
    g = np.random.default_rng(seed)
    lat = (np.arange(size[0])+.5)/size[0]*np.pi - np.pi/2
    lon = np.arange(size[1])/size[1]*2*np.pi
    la,lo = np.meshgrid(lat, lon, indexing='ij')
    p = np.stack([np.cos(la)*np.cos(lo), np.cos(la)*np.sin(lo), np.sin(la)], -1)
    axis = np.array([np.sin(.4), 0, np.cos(.4)])
    K = np.cross(np.eye(3), axis)
    R = np.eye(3) + np.sin(angle)*K + (1-np.cos(angle))*K@K
    def pattern(p, c, w, k): return (w*np.exp(k*(np.einsum('ijk,mk->ijm', p, c)-1))).sum(-1)
    out = []
    for _ in range(n):
        c = g.normal(size=(6, 3))
        args = c/np.linalg.norm(c, axis=1, keepdims=True),g.normal(size=6),g.uniform(4, 16, 6)
        out.append([pattern(p, *args), pattern(p@R, *args)])
    u = np.array(out, np.float32)
    return u[:, :1],u[:, 1:]

def globe(a):
    "ViTKNO and FNO on a global field; trained with weights by latitude, the error shown is without"
    rows,n = [],16 if a.quick else 240
    for seed in range(a.seeds):
        u,y = globe_data(n+40, seed)
        dls = field_dls(u[:n], y[:n], valid=.1, bs=8, latitude=True)
        for name,make in {'ViTKNO': ViTKNO, 'FNO': partial(FNO2d, 1, width=8, m=12, hidden=32)}.items():
            learn,s = fit(make, dls, 1 if a.quick else 12, 2e-3, seed)
            e = err(step(learn, u[n:]), y[n:])
            rows.append(dict(model=name, seed=seed, parameters=count(learn.model), error=e, seconds=s))
        rows.append(dict(model='persistence', seed=seed, error=err(u[n:], y[n:])))
    said(f'A turning globe, 64 x 128, {n} fields', rows, ['model'])

def by_hand(net, opt, x, y):
    "A training step as one writes it in a loop"
    pred = net(x)
    pred = pred[0] if isinstance(pred, tuple) else pred
    p,t = pred[:, -1:].flatten(1),y.flatten(1)
    loss = ((p-t).norm(dim=1)/t.norm(dim=1)).mean()
    loss.backward()
    opt.step()
    opt.zero_grad()

def speed(a):
    "A step of the learner beside a loop by hand, and the cost by mesh"
    rows = []
    cases = {'KNO1d, 256 points, batches of 20': (KNO1d(), (1, 256), 20),
             'KNO1d, 1024 points, batches of 64': (KNO1d(), (1, 1024), 64),
             'KNO2d, 64 x 64, batches of 20': (KNO2d(1, o=16, m=8), (1, 64, 64), 20)}
    for name,(net,shape,bs) in cases.items():
        x = torch.randn(40*bs, *shape)
        dls = field_dls(x[:, 0], x[:, 0], valid=[0], bs=bs)
        learn = koopman_learner(dls, copy.deepcopy(net))
        plain = Learner(dls, copy.deepcopy(net), lambda out, y: rel_l2(out[0][:, -1:], y))
        opt = torch.optim.AdamW(net.parameters(), 1e-3)
        for _ in range(2 if a.quick else 15):
            ts = [time.process_time()]
            for o in (learn, plain):
                with o.no_bar(), o.no_logging(): o.fit(1, 1e-3)
                ts.append(time.process_time())
            for i in range(len(dls.train)): by_hand(net, opt, x[i*bs:(i+1)*bs], x[i*bs:(i+1)*bs])
            ours,fastai,loop = np.diff([*ts, time.process_time()])/len(dls.train)*1e3
            rows.append(dict(case=name, koopman_learner=ours, Learner=fastai, loop=loop))
    df = pd.DataFrame(rows).groupby('case', sort=False).median()
    df['/ Learner'],df['/ loop'] = df.koopman_learner/df.Learner,df.koopman_learner/df.loop
    print(f'\n### A training step, ms (median of rounds)\n\n{df.round(2).to_string()}')
    net,ms = KNO1d(),{}
    for s in (1024, 2048, 4096, 8192, 16384):
        x,ts = torch.randn(20, 1, s),[]
        for _ in range(3 if a.quick else 15):
            t = time.process_time()
            net(x)[0].square().mean().backward()
            ts.append(time.process_time()-t)
        ms[s] = np.median(ts)*1e3
    cost = pd.Series(ms)
    print('\n### KNO1d, 20 fields forward and back, ms by points, and the growth per doubling\n')
    print(cost.round(1).to_dict(), (cost/cost.shift()).round(2).dropna().to_dict(), flush=True)

PARTS = dict(burgers=burgers, flow=flow, rollout=rollout, semigroup=semigroup, padding=padding,
             spectrum=spectrum, bands=bands, globe=globe, speed=speed)

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('what', nargs='+', choices=[*PARTS, 'all'])
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--out', help='folder for pictures')
    p.add_argument('--quick', action='store_true', help='does it run?')
    a = p.parse_args()
    if a.quick: a.seeds = 1
    torch.set_num_threads(1)
    warnings.simplefilter('ignore', RobustWarning)
    for k,f in PARTS.items():
        if k not in a.what and 'all' not in a.what: continue
        set_seed(0)     # of the loaders; what is fitted has seeds of its own
        f(a)
