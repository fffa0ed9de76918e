//! An artifact that has been looked through: everything that binding relies on is checked once, at load.
//!
//! Comes in: an [`Artifact`] from the compiler or the disk. Goes out: a [`Signature`]. What holds afterwards:
//! every id is in range; every expression is well formed, of the right type, and reads only what it may; layouts
//! are permutations; every dim can be read from some bound tensor. So binding can evaluate without further
//! checks. A violation is our bug (`Internal`), never the caller's. Deliberately not checked: the machine code.

use attn_compiler::artifact::{
    ArgLayout, Artifact, BindCheck, ContentDemand, DType, DeviceLaunch, LaunchSpec, TensorRole,
};
use attn_compiler::expr::{ExprId, Op, Pool, TensorId, Ty, VarId};

use crate::error::RuntimeError;
use crate::tensor::MAX_RANK;

/// Scratch buffers are padded to this, so that two threads never share a cache line (or a pair of them).
const SCRATCH_ALIGN: usize = 128;

/// Which tensors a dim is read from first, and what else binding needs to know about an artifact.
#[derive(Debug)]
pub(crate) struct Signature {
    pub artifact: Artifact,
    pub layout: ArgLayout,
    /// Made for a device: the launches say how, tensors and workspace lie there.
    pub on_device: bool,
    /// Tensor indices by role.
    pub inputs: Vec<usize>,
    /// Written: outputs, and what is updated in place.
    pub outputs: Vec<usize>,
    pub tables: Vec<usize>,
    pub workspaces: Vec<usize>,
    /// For each table of `tables`: the scalars it depends on.
    pub table_reads: Vec<Vec<VarId>>,
    /// Integer tensors whose contents the bind checks depend on.
    pub scanned: Vec<usize>,
    /// For each check: does its expression read a scanned tensor?
    pub check_reads: Vec<Vec<usize>>,
    /// Nodes of the pool that the checks are made of, in an order in which ranges can be found one after the other.
    pub check_nodes: Vec<ExprId>,
    /// For each check: the variables of which one without any value makes it hold, since nothing is evaluated then.
    pub check_vars: Vec<Vec<VarId>>,
    /// Scratch bytes of a thread: the most that any launch needs.
    pub scratch_bytes: usize,
    /// For each variable of the pool: its place in `artifact.scalars`.
    pub scalar_of: Vec<Option<usize>>,
}

impl Signature {
    /// Looks through the artifact.
    pub fn new(artifact: Artifact) -> Result<Signature, RuntimeError> {
        check_pool(&artifact.pool, artifact.tensors.len())?;
        let scalar_of = scalars(&artifact)?;
        for t in 0..artifact.tensors.len() {
            check_tensor(&artifact, &scalar_of, t)?;
        }
        check_sources(&artifact, &scalar_of)?;
        let scope = Scope { artifact: &artifact, scalar_of: &scalar_of };
        for r in &artifact.requires {
            scope.closed(r.cond, Ty::Bool, &[], "a launch condition")?;
        }
        let layout = ArgLayout::new(artifact.tensors.iter().map(|t| t.shape.len()), artifact.scalars.len());
        let on_device = artifact.launches.iter().any(|l| l.device.is_some());
        for l in &artifact.launches {
            check_launch(l, &layout, on_device, artifact.code.len())?;
            for &extent in &l.grid {
                scope.closed(extent, Ty::Int, &[], "a grid extent")?;
            }
        }
        let check_reads = checks(&scope)?;
        let mut scanned: Vec<usize> = check_reads.iter().flatten().copied().collect();
        scanned.sort_unstable();
        scanned.dedup();
        let role = |wanted: fn(&TensorRole) -> bool| -> Vec<usize> {
            (0..artifact.tensors.len()).filter(|&t| wanted(&artifact.tensors[t].role)).collect()
        };
        let tables = role(|r| matches!(r, TensorRole::Table { .. }));
        let scratch = artifact.launches.iter().map(|l| l.scratch_bytes).max().unwrap_or(0);
        Ok(Signature {
            layout,
            on_device,
            inputs: role(|r| matches!(r, TensorRole::Input)),
            outputs: role(|r| matches!(r, TensorRole::Output | TensorRole::Updated)),
            workspaces: role(|r| matches!(r, TensorRole::Workspace)),
            table_reads: tables.iter().map(|&t| table_reads(&artifact, &scalar_of, t)).collect(),
            tables,
            scanned,
            check_reads,
            check_nodes: check_nodes(&artifact),
            check_vars: artifact.checks.iter().map(|c| check_vars(&artifact, c)).collect(),
            scratch_bytes: scratch.next_multiple_of(SCRATCH_ALIGN),
            scalar_of,
            artifact,
        })
    }

    /// The scalar variable that dim `d` of tensor `t` is, if its size is a bare dim.
    pub fn bare_dim(&self, t: usize, d: usize) -> Option<VarId> {
        bare_dim(&self.artifact, &self.scalar_of, t, d)
    }
}

/// What an expression may read.
struct Scope<'a> {
    artifact: &'a Artifact,
    scalar_of: &'a [Option<usize>],
}

impl Scope<'_> {
    /// The expression exists, has this type, reads only scalars and `vars`, and loads nothing.
    fn closed(&self, id: ExprId, ty: Ty, vars: &[VarId], what: &str) -> Result<(), RuntimeError> {
        self.typed(id, ty, what)?;
        let pool = &self.artifact.pool;
        for n in pool.reachable(&[id]) {
            match pool.op(n) {
                Op::Load(..) => return Err(broken(format!("{what} loads a tensor"))),
                Op::Var(v) => self.readable(*v, vars, what)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// As [`Scope::closed`], but int tensors may be read, which are returned.
    fn scanned(&self, id: ExprId, vars: &[VarId], what: &str) -> Result<Vec<usize>, RuntimeError> {
        self.typed(id, Ty::Int, what)?;
        let mut reads = Vec::new();
        for n in self.artifact.pool.reachable(&[id]) {
            match self.artifact.pool.op(n) {
                Op::Var(v) => self.readable(*v, vars, what)?,
                Op::Load(TensorId(t), ..) => reads.extend(scannable(self.artifact, *t as usize)),
                _ => {}
            }
        }
        Ok(reads)
    }

    /// The expression exists and has this type.
    fn typed(&self, id: ExprId, ty: Ty, what: &str) -> Result<(), RuntimeError> {
        let pool = &self.artifact.pool;
        if id.0 as usize >= pool.len() || pool.ty(id) != ty {
            return Err(broken(format!("{what} is expression {} which is no {ty:?}", id.0)));
        }
        Ok(())
    }

    fn readable(&self, v: VarId, vars: &[VarId], what: &str) -> Result<(), RuntimeError> {
        if self.scalar_of[v.0 as usize].is_some() || vars.contains(&v) {
            return Ok(());
        }
        let name = &self.artifact.pool.var_info(v).name;
        Err(broken(format!("{what} reads `{name}`, which is not known when arguments are bound")))
    }
}

/// The launch says how it is launched, in the way in which all of the artifact are.
fn check_launch(
    l: &LaunchSpec,
    layout: &ArgLayout,
    on_device: bool,
    code_bytes: usize,
) -> Result<(), RuntimeError> {
    let broken = |what: String| Err(broken(format!("launch `{}` {what}", l.name)));
    match &l.device {
        None if on_device => broken("is for a CPU, another one is for a device".into()),
        None if l.entry >= code_bytes => broken(format!("enters at {}, past the code", l.entry)),
        None => Ok(()),
        Some(d) => {
            check_form(d, layout).or_else(broken)?;
            let Some(mapped) = &d.mapped else { return Ok(()) };
            if mapped.launch.mapped.is_some() {
                return broken("has a form with tensor maps that has another one".into());
            }
            check_form(&mapped.launch, layout).or_else(broken)
        }
    }
}

/// One form of a launch on a device. Errors: what it does that it must not.
fn check_form(d: &DeviceLaunch, layout: &ArgLayout) -> Result<(), String> {
    if !(1..=1024).contains(&d.threads) {
        return Err(format!("has blocks of {} threads", d.threads));
    }
    // Word 0 is an address of the host's, but for kernels that count tasks.
    let known = |w: u32| (w as usize) < layout.words && (w > 0 || d.persistent);
    match d.words.iter().find(|&&w| !known(w)) {
        Some(w) => Err(format!("takes word {w} of an argument block of {}", layout.words)),
        None => Ok(()),
    }
}

fn broken(invariant: impl std::fmt::Display) -> RuntimeError {
    RuntimeError::internal("load", invariant)
}

/// Operands come before users; variables and tensors exist; loads have the rank of their tensor at most.
fn check_pool(pool: &Pool, n_tensors: usize) -> Result<(), RuntimeError> {
    let n_vars = pool.vars().count();
    for n in 0..pool.len() {
        let id = ExprId(n as u32);
        let leaf_ok = match pool.op(id) {
            Op::Var(v) => (v.0 as usize) < n_vars,
            Op::Load(t, ..) => (t.0 as usize) < n_tensors,
            _ => true,
        };
        if !leaf_ok || pool.operands(id).iter().any(|x| x.0 as usize >= n) {
            return Err(broken(format!("expression {n} names something that does not exist")));
        }
    }
    Ok(())
}

/// For each variable, its place among the scalars.
fn scalars(artifact: &Artifact) -> Result<Vec<Option<usize>>, RuntimeError> {
    let mut scalar_of = vec![None; artifact.pool.vars().count()];
    for (n, s) in artifact.scalars.iter().enumerate() {
        let slot = scalar_of.get_mut(s.var.0 as usize);
        let Some(slot) = slot.filter(|slot| slot.is_none()) else {
            return Err(broken(format!("scalar `{}` has no variable of its own", s.name)));
        };
        *slot = Some(n);
        let ty = artifact.pool.var_info(s.var).ty;
        if (s.is_dim && ty != Ty::Int) || s.default.is_some_and(|d| d.ty() != ty) {
            return Err(broken(format!("scalar `{}` has another type than its variable", s.name)));
        }
        if artifact.scalars[..n].iter().any(|other| other.name == s.name) {
            return Err(broken(format!("two scalars are named `{}`", s.name)));
        }
    }
    Ok(scalar_of)
}

fn check_tensor(artifact: &Artifact, scalar_of: &[Option<usize>], t: usize) -> Result<(), RuntimeError> {
    let spec = &artifact.tensors[t];
    let scope = Scope { artifact, scalar_of };
    let rank = spec.shape.len();
    let permutation = spec.layout.len() == rank && (0..rank).all(|d| spec.layout.contains(&d));
    if rank > MAX_RANK || !permutation || spec.order > 2 {
        return Err(broken(format!("tensor `{}` has rank {rank}, layout {:?}", spec.name, spec.layout)));
    }
    for &size in &spec.shape {
        scope.closed(size, Ty::Int, &[], &format!("a size of `{}`", spec.name))?;
    }
    match &spec.role {
        TensorRole::Output | TensorRole::Updated if spec.dtype == DType::Bit => {
            return Err(broken(format!("output `{}` is `bit`", spec.name)));
        }
        TensorRole::Table { vars, origin, value } => {
            let what = format!("table `{}`", spec.name);
            if vars.len() != rank || origin.len() != rank {
                return Err(broken(format!("{what} of rank {rank} has {} variables", vars.len())));
            }
            for &o in origin {
                scope.closed(o, Ty::Int, &[], &what)?;
            }
            let own_int = |v: &VarId| {
                scalar_of.get(v.0 as usize) == Some(&None) && artifact.pool.var_info(*v).ty == Ty::Int
            };
            if !vars.iter().all(own_int) {
                return Err(broken(format!("{what} runs over something that is no index")));
            }
            scope.closed(*value, entry_type(spec.dtype), vars, &what)?;
        }
        _ => {}
    }
    if is_bound(&spec.role)
        && artifact.tensors[..t].iter().filter(|s| is_bound(&s.role)).any(|other| other.name == spec.name)
    {
        return Err(broken(format!("two tensors are named `{}`", spec.name)));
    }
    Ok(())
}

/// Bound by the host.
fn is_bound(role: &TensorRole) -> bool {
    matches!(role, TensorRole::Input | TensorRole::Output | TensorRole::Updated)
}

/// The type of expression that fills a table of this dtype.
pub(crate) fn entry_type(dtype: DType) -> Ty {
    match dtype {
        DType::F32 | DType::F16 | DType::Bf16 | DType::F64 | DType::F8E4M3 => Ty::Float,
        DType::I8 | DType::I32 | DType::I64 => Ty::Int,
        DType::Bit => Ty::Bool,
    }
}

fn bare_dim(artifact: &Artifact, scalar_of: &[Option<usize>], t: usize, d: usize) -> Option<VarId> {
    match artifact.pool.op(artifact.tensors[t].shape[d]) {
        Op::Var(v) if scalar_of[v.0 as usize].is_some_and(|n| artifact.scalars[n].is_dim) => Some(*v),
        _ => None,
    }
}

/// Every dim is the size of some bound tensor.
fn check_sources(artifact: &Artifact, scalar_of: &[Option<usize>]) -> Result<(), RuntimeError> {
    for s in artifact.scalars.iter().filter(|s| s.is_dim) {
        let read = artifact.tensors.iter().enumerate().any(|(t, spec)| {
            is_bound(&spec.role)
                && (0..spec.shape.len()).any(|d| bare_dim(artifact, scalar_of, t, d) == Some(s.var))
        });
        if !read {
            return Err(broken(format!("dim `{}` is not the size of any bound tensor", s.name)));
        }
    }
    Ok(())
}

fn table_reads(artifact: &Artifact, scalar_of: &[Option<usize>], t: usize) -> Vec<VarId> {
    let spec = &artifact.tensors[t];
    let mut roots = spec.shape.clone();
    if let TensorRole::Table { origin, value, .. } = &spec.role {
        roots.extend(origin);
        roots.push(*value);
    }
    let pool = &artifact.pool;
    let mut reads: Vec<VarId> = roots.iter().flat_map(|&r| pool.free_vars(r)).collect();
    reads.retain(|v| scalar_of[v.0 as usize].is_some());
    reads.sort_unstable();
    reads.dedup();
    reads
}

/// Checks the bind checks; gives for each the integer tensors that its expression reads.
fn checks(scope: &Scope<'_>) -> Result<Vec<Vec<usize>>, RuntimeError> {
    let artifact = scope.artifact;
    let mut vars = Vec::new();
    for &(v, ..) in &artifact.check_vars {
        if scope.scalar_of.get(v.0 as usize) != Some(&None) {
            return Err(broken("the variable of a bind check is a scalar or does not exist"));
        }
        vars.push(v);
    }
    let mut lengths = Vec::new();
    for (n, &(_, lo, hi)) in artifact.check_vars.iter().enumerate() {
        // An end may read index variables before its own, and int tensors (lengths of batch entries).
        lengths.extend(scope.scanned(lo, &vars[..n], "the lowest value of an index")?);
        lengths.extend(scope.scanned(hi, &vars[..n], "the highest value of an index")?);
    }
    demands(scope)?;
    let reads = |check| {
        let mut reads: Vec<usize> = check_reads(scope, check, &vars)?;
        reads.extend(&lengths);
        reads.sort_unstable();
        reads.dedup();
        Ok(reads)
    };
    artifact.checks.iter().map(reads).collect()
}

/// Demands name int tensors that the host binds, of the right rank; their expressions read scalars only.
fn demands(scope: &Scope<'_>) -> Result<(), RuntimeError> {
    let artifact = scope.artifact;
    let int = |t: TensorId, rank: Option<usize>| {
        let spec = artifact.tensors.get(t.0 as usize);
        let fits = spec.is_some_and(|s| {
            matches!(s.role, TensorRole::Input)
                && matches!(s.dtype, DType::I8 | DType::I32 | DType::I64)
                && rank.is_none_or(|r| s.shape.len() == r)
        });
        if fits {
            Ok(())
        } else {
            Err(broken("a demand names a tensor that is no bound int tensor of its rank"))
        }
    };
    for demand in &artifact.demands {
        match demand {
            ContentDemand::Within { tensor, lo, hi } => {
                int(*tensor, None)?;
                scope.closed(lo.0, Ty::Int, &[], "the lowest element")?;
                scope.closed(hi.0, Ty::Int, &[], "the highest element")?;
            }
            ContentDemand::Pages { table, len, size, pool, written } => {
                int(*table, Some(2))?;
                int(*len, Some(1))?;
                let pages = artifact.tensors.get(pool.0 as usize);
                if *size < 1 || !pages.is_some_and(|s| is_bound(&s.role) && !s.shape.is_empty()) {
                    return Err(broken("a demand names pages that are not bound"));
                }
                if let Some(n) = written {
                    scope.closed(*n, Ty::Int, &[], "a number of written places")?;
                }
            }
        }
    }
    Ok(())
}

fn check_reads(scope: &Scope<'_>, check: &BindCheck, vars: &[VarId]) -> Result<Vec<usize>, RuntimeError> {
    let artifact = scope.artifact;
    let (expr, text) = match check {
        BindCheck::Index { tensor, dim, index, text } => {
            let spec = artifact.tensors.get(tensor.0 as usize);
            if spec.is_none_or(|s| *dim >= s.shape.len()) {
                return Err(broken(format!("the check of `{text}` names a dim that does not exist")));
            }
            (*index, text)
        }
        BindCheck::Divisor { divisor, text } => (*divisor, text),
    };
    scope.typed(expr, Ty::Int, text)?;
    let mut reads = Vec::new();
    for n in artifact.pool.reachable(&[expr]) {
        match artifact.pool.op(n) {
            Op::Var(v) => scope.readable(*v, vars, text)?,
            Op::Load(TensorId(t), ..) => reads.extend(scannable(artifact, *t as usize)),
            _ => {}
        }
    }
    reads.sort_unstable();
    reads.dedup();
    Ok(reads)
}

/// The expression of which a check speaks.
pub(crate) fn checked_expr(check: &BindCheck) -> ExprId {
    let (BindCheck::Index { index: expr, .. } | BindCheck::Divisor { divisor: expr, .. }) = check;
    *expr
}

/// Operands before users, and the ends of an index variable before the variable: ends read earlier variables only.
fn check_nodes(artifact: &Artifact) -> Vec<ExprId> {
    let pool = &artifact.pool;
    let mut seen = vec![false; pool.len()];
    let mut nodes = Vec::new();
    let mut add = |roots: &[ExprId]| {
        let new = pool.reachable(roots).into_iter();
        nodes.extend(new.filter(|id| !std::mem::replace(&mut seen[id.0 as usize], true)));
    };
    artifact.check_vars.iter().for_each(|&(_, lo, hi)| add(&[lo, hi]));
    add(&artifact.checks.iter().map(checked_expr).collect::<Vec<_>>());
    nodes
}

/// Variables of the expression of a check, and of their ends.
fn check_vars(artifact: &Artifact, check: &BindCheck) -> Vec<VarId> {
    let mut vars = artifact.pool.free_vars(checked_expr(check));
    for v in vars.clone() {
        let ends = artifact.check_vars.iter().filter(|c| c.0 == v);
        vars.extend(ends.flat_map(|(_, lo, hi)| [*lo, *hi]).flat_map(|e| artifact.pool.free_vars(e)));
    }
    vars.sort_unstable();
    vars.dedup();
    vars
}

/// The tensor, if its contents are integers that are known when arguments are bound.
fn scannable(artifact: &Artifact, t: usize) -> Option<usize> {
    let spec = &artifact.tensors[t];
    let known = matches!(spec.role, TensorRole::Input | TensorRole::Table { .. });
    (known && matches!(spec.dtype, DType::I8 | DType::I32 | DType::I64)).then_some(t)
}
