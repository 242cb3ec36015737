"Small faults put into the package on purpose, and the tests that must notice each: a survivor is a hole in the tests"
# python tests/mutants.py [NUMBER..] runs them (all: some minutes); no part of plain pytest, which only
# sees that each still fits its line (test_house.py). A change of a line in the table changes the table.
import os, shutil, subprocess, sys, tempfile, time
from pathlib import Path

ROOT = Path(__file__).parents[1]
# module, what stands there (once), the fault, test files that own the line
MUTANTS = [
    # found by hand in a review: each passed the tests of its time
    ('training/objective', 'w = [a*b for a,b in', 'w = [b for a,b in', 'objective'),
    ('training/callback', 's + p.detach()/len(ps)', 's + p.detach()', 'objective'),
    ('techniques/bases/selection', '(s < .5).sum()', '(s <= .5).sum()', 'selection'),
    ('techniques/bases/selection', 'window = 10 ', 'window = 11 ', 'selection'),
    ('labels/mixtures', 'weights) >= 2 and', 'weights) >= 1 and', 'mixtures'),
    ('labels/crossval', 'if (targs.numpy().ravel() != y).any():', 'if False:', 'crossval'),
    ('noise/kinds', '(k+.5)/n_rest', 'k/n_rest', 'noise_kinds'),
    ('training/objective', 'if not self.training or not self.stages:', 'if not self.stages:', 'objective'),
    ('training/stages', 'def main_logits(head): return as_f32(head.main if isinstance(head, AuxOut) else head)',
     'def main_logits(head): return head.main if isinstance(head, AuxOut) else head', 'objective'),
    # the heart
    ('training/objective', 'l = torch.where(w > 0, l, torch.zeros_like(l))', 'pass', 'objective'),
    ('training/objective', 'if own(t, \'norm\'): norm = t.norm', 'pass', 'objective'),
    ('training/objective', 'if v is not None: ls = [l*v for l in ls]', 'pass', 'objective'),
    ('training/callback', 'self.learn.loss = self.learn.loss + w*p.detach()', 'pass', 'objective'),
    ('training/callback', 'if not has_penalty(t) or not w: continue',
     'if not has_penalty(t): continue', 'objective'),
    ('training/technique', 'if not has_surgery(learn.model): learn.splitter = learn.splitter.base',
     'pass', 'objective'),
    ('resting', 'for m,training in modes: m.training = training', 'pass', 'inference'),
    ('resting', 'with keep_random(), torch.no_grad():', 'with torch.no_grad():', 'inference shifted'),
    ('inference/passes', 'back = ids.argsort()', 'back = torch.arange(len(ids))', 'inference'),
    ('inference/loaders', 'shuffle=False, drop_last=False, **before', 'shuffle=False, **before', 'inference shifted'),
    # techniques
    ('techniques/logitclip', 'outside = n > tau', 'outside = n > 0', 'logitclip'),
    ('techniques/alasca', 'self.w*self.recall(z, i) + (1-self.w)*z',
     '(1-self.w)*self.recall(z, i) + self.w*z', 'alasca'),
    ('techniques/bases/memory', 'return torch.where(new, start, rows)', 'return rows', 'elr alasca'),
    ('techniques/bases/openset', "if self.class_weight is not None: q = q*self.class_weight", 'pass', 'opensampling'),
    # labels, calibration, unknowns
    ('inference/leaveout', '- A.T@A - 1/s.n', '- A.T@A', 'leaveout'),
    ('inference/leaveout', 'if not groups: return z', 'return z', 'leaveout'),
    ('inference/leaveout', 'stats.counts += change.sum(0).long()', 'pass', 'leaveout'),
    ('labels/rates', 'off = tail.se/2 if far.rate > far.se else tail.se', 'off = 0', 'rates planting'),
    ('labels/rates', 'lo = min(r-half, far.rate-far.se)', 'lo = r-half/4', 'rates planting'),
    ('labels/listed', 'return (given > 1) & (said > 0) & (said >= NEVER*given)', 'return given > 0', 'rates'),
    ('labels/listed', 'if not est.rate or est.lo < _SHOWN*est.rate: return np.nan', 'pass', 'rates noisereport'),
    ('labels/planting', 'return self.spread*w + (1-self.spread)*v', 'return w', 'planting rates'),
    ('labels/channel', 'off = T*(1-np.eye(c))*mass[:, None]', 'off = T*mass[:, None]', 'planting'),
    ('labels/fixing', 'return chosen & judged', 'return chosen', 'fixing'),
    ('labels/planting', 'new = (y[i] + rng.integers(1, c, k))%c', 'new = (y[i] + rng.integers(0, c, k))%c', 'planting'),
    ('metrics', '4*n*n)', '2*n*n)', 'tailreport'),
    ('inference/fitting', 'z[fold != k], y[fold != k]) for k',
     'z[fold == k], y[fold == k]) for k', 'calibration temperature'),
    ('ood/metrics', 'cuts = cuts[cuts >= pos.min()]', 'pass', 'oodmetrics'),
    ('predictions', 'off.max() > slack', 'off.max() > 10*slack', 'checks confident'),
    ('data/editing', 'if len(both):', 'if False:', 'editing'),
    ('basics', 'if len(ids) != n:', 'if False:', 'objective'),
    ('basics', 'if said is not None and msg in said: return', 'pass', 'checks'),
    ('data/openset', 'return aux if _mark(aux.imgs) == mark else None', 'return aux', 'odnl'),
    # heads in closed form, bodies, phases
    ('inference/ridge', 'if self.intercept: h = h + 1/self.n', 'pass', 'ridge'),
    ('inference/ridge', "self.n*(1-(share**2).sum())", 'self.n', 'ridge'),
    ('inference/ridge', 'new.grams = [g.clone() for g in self.grams]', 'pass', 'ridge'),
    ('inference/ridge', "h = h*(Y@self.weights)", 'pass', 'ridge'),
    ('inference/normal', 'left = self.n - self.free - used', 'left = self.n - used', 'ridge'),
    ('inference/normal', 'return float(tried[good].max())', 'return float(tried[good].min())', 'ridge'),
    ('inference/analytic', 'self.scaling,self.buffer = before', 'pass', 'analytic'),
    ('inference/dual', 'E[:, :old] = 0', 'pass', 'analytic'),
    ('inference/buffers', 'if self.C is not None: return self', 'pass', 'analytic'),
    ('inference/features', 'self.done = to.stop', 'self.done = to.stop-1', 'features'),
    ('inference/loaders', 'if self.ids is not None: self.dl.get_idxs = partial(list, self.ids)', 'pass', 'features'),
    ('inference/bodies', 'out._version == version and ', '', 'bodies'),
    ('inference/bodies', ' and calls[layer] == 1', '', 'bodies'),
    ('training/keepbn', 'return bool((mean != 0).any() or (var != 1).any())', 'return True', 'keepbn'),
    ('systems/closedform', 'if frozen: learn.freeze_to(frozen)', 'pass', 'closedform'),
    ('systems/acil/learner', '        self._drop_features()       # an', '        pass       # an', 'acil'),
    ('systems/acil/learner', 'net.body.requires_grad_(False)', 'pass', 'acil'),
    ('systems/acil/past', 'if share > .5:', 'if share > 2:', 'acil'),
    ('systems/acil/past', 'left[item] -= 1', 'pass', 'acil'),
    ('inference/ridge', 'if keep: need_sums(self.G)', 'pass', 'ridge'),
    ('data/phases', 'np.array_split(rest, n_phases)',
     'np.array_split(rest[:len(rest)//n_phases*n_phases], n_phases)', 'phases'),
    # batch norm by the batch, and weights between
    ('inference/batchnorm', 'm.training,m.track_running_stats = True,False', 'm.training = True', 'batchnorm'),
    ('inference/batchnorm', 'm.training,m.track_running_stats = training,track', 'm.training = training', 'batchnorm'),
    ('inference/batchnorm', 'order.tensor_split(max(1, n//bs))', 'order.split(bs)', 'batchnorm'),
    ('inference/batchnorm', 'change(x, order[at])', 'change(x, at)', 'batchnorm'),
    ('inference/batchnorm', 'back = order.argsort()', 'back = order', 'batchnorm'),
    ('inference/batchnorm', 'ids=[ids[i] for i in order]', 'ids=order', 'batchnorm'),
    ('shift/cells', "others += row[0].split('-')[0] != key.split('-')[0]", 'others += 1', 'batchnorm'),
    ('wiseft', "(1-alpha)*base[k].to(v.device, exact) + alpha*v.to(exact)",
     "alpha*base[k].to(v.device, exact) + (1-alpha)*v.to(exact)", 'wiseft'),
    ('wiseft', 'for k,v in mixed.items(): own[k].copy_(v)', 'own.update(mixed)', 'wiseft'),
    ('wiseft', "bases[min(i, len(bases)-1)]", 'bases[0]', 'wiseft'),
    ('wiseft', 'new.opt = None', 'new.opt = learn.opt', 'wiseft'),
    ('inference/startweights', 'if k in mine]', 'if k not in a.odd]', 'wiseft'),
    # what is refused at the door
    ('training/network', 'x = None if _hooked(model) else peek_images(dls)', 'x = peek_images(dls)', 'doors'),
    ('training/network', 'if not first or _changed(cbs): return', 'if not first: return', 'doors'),
    ('training/network', 'for h in hooks: h.remove()', 'pass', 'doors'),
    ('training/network', 'with at_rest(model): return', 'if True: return', 'doors'),
    ('training/network', 'and len(reached) == 1:', 'and reached:', 'doors'),
    ('training/network', 'if k < c or exact:', 'if k < c:', 'doors'),
    ('training/callback', 'if self.fits == now: return', 'pass', 'doors'),
    ('data/reading', "if known is None or fs[1].add_na: return []", 'pass', 'doors'),
    ('doors', 'if k in names or (others and not near): continue', 'if k in names: continue', 'doors'),
    # operators between fields
    ('systems/koopman/networks/spectral', 'other = y[..., cols][..., partner, :].conj().resolve_conj()',
     'other = y[..., cols][..., partner, :]', 'koopman_models'),
    ('systems/koopman/networks/spectral', 'out[..., cols] = (y[..., cols]+other)/2',
     'out[..., cols] = y[..., cols]+other', 'koopman_models'),
    ('systems/koopman/networks/spectral', 'u[:, -y.shape[1]:].mean', 'u[:, :y.shape[1]].mean', 'koopman_models'),
    ('systems/koopman/networks/kno', 'y = y + hermitian(step, grid)', 'y = y + step', 'koopman_models'),
    ('systems/koopman/networks/semigroup', 'return C - C.mH - ', 'return C + C.mH - ', 'koopman_models'),
    ('systems/koopman/networks/fno', 'if i < last: v = F.gelu(v)', 'v = F.gelu(v)', 'koopman_models'),
    ('systems/koopman/equations/burgers', 'fft.irfft(v*self.keep, self.s)**2', 'fft.irfft(v, self.s)**2',
     'koopman_equations'),
    ('systems/koopman/equations/burgers', 'self.flux = -.5j*', 'self.flux = -1j*', 'koopman_equations'),
    ('systems/koopman/equations/burgers', '-nu*wave_numbers', 'nu*wave_numbers', 'koopman_equations'),
    ('systems/koopman/equations/kdv', '1j*delta**2', '-1j*delta**2', 'koopman_equations'),
    ('systems/koopman/equations/marching', '(whole*a + 2*half*(b+c) + d)/6', '(a + 2*(b+c) + d)/6',
     'koopman_equations'),
    ('systems/koopman/equations/navierstokes', '1j*ky*psi,-1j*kx*psi', '1j*ky*psi,1j*kx*psi', 'koopman_equations'),
    ('systems/koopman/equations/gaussian', 'np.sqrt(self.mode_variance(k)/2)', 'np.sqrt(self.mode_variance(k))',
     'koopman_equations'),
    ('systems/koopman/data/fields', 'used_frames(train.index, f)', '[(i, 0, y.frames) for i in range(y.n)]',
     'koopman_fields'),
    ('systems/koopman/data/fielditems', 'first + self.t_in-1 + leads', 'first + self.t_in-2 + leads', 'koopman_fields'),
    ('systems/koopman/data/fielditems', 'last = hi - (f.t_in-1+lead+f.t_out)', 'last = hi - (f.t_in-2+lead+f.t_out)',
     'koopman_fields'),
    ('systems/koopman/data/fieldsplit', 'return sorted(order[k:]),sorted(order[:k])',
     'return sorted(order),sorted(order[:k])', 'koopman_fields'),
    ('systems/koopman/data/fieldscale', '(w/w.mean()).float()', 'w.float()', 'koopman_fields'),
    ('systems/koopman/data/fieldshow', 'pair and any(map(_apart, rows))', 'pair and _apart(rows[0])', 'koopman_fields'),
    ('systems/koopman/rolling', 'torch.cat([u[:, n_vars:].as_subclass(Tensor), new], 1)',
     'torch.cat([new, u[:, n_vars:].as_subclass(Tensor)], 1)', 'koopman_learner'),
    ('systems/koopman/fieldmetrics', 'return size(off)/size(y).clamp_min(least)',
     'return size(off)/size(y).norm().expand(len(y))', 'koopman_learner'),
]

def text_of(root, module): return (root/'fastrobust'/f'{module}.py').read_text()

def kill(n, root=ROOT):
    "Put mutant `n` into a copy of the package and run its tests: (noticed?, seconds)"
    module,old,new,tests = MUTANTS[n]
    t0 = time.time()
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        for o in ('fastrobust', 'tests'):
            shutil.copytree(root/o, d/o, ignore=shutil.ignore_patterns('__pycache__'))
        for o in ('setup.cfg', 'setup.py', 'README.md', 'nbs'): os.symlink(root/o, d/o)
        (d/'fastrobust'/f'{module}.py').write_text(text_of(root, module).replace(old, new))
        files = [f'tests/test_{o}.py' for o in tests.split()]
        env = {**os.environ, 'PYTHONPATH': str(d), 'OMP_NUM_THREADS': '1'}
        run = [sys.executable, '-m', 'pytest', '-x', '-q', '-n0', '-p', 'no:cacheprovider', *files]
        r = subprocess.run(run, cwd=d, env=env, capture_output=True, text=True)
    return r.returncode == 1,time.time()-t0

if __name__ == '__main__':
    survived = []
    for n in [int(o) for o in sys.argv[1:]] or range(len(MUTANTS)):
        noticed,secs = kill(n)
        module,old,new,_ = MUTANTS[n]
        if not noticed: survived.append(n)
        print(f"{n:3} {'noticed ' if noticed else 'SURVIVED'} {secs:4.0f} s  {module}: {old} -> {new}", flush=True)
    print(f'{len(survived)} survived: {survived}')
    sys.exit(bool(survived))
