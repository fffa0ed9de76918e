//! Kernels by hand: artifacts whose machine code is a few bytes, to test loading, binding and launching without a
//! backend. Each function says what its code does.

use attn_compiler::artifact::{
    ArgLayout, Artifact, BindCheck, ContentDemand, DType, LaunchSpec, RequireSpec, ScalarSpec, TensorRole,
    TensorSpec,
};
use attn_compiler::expr::eval::Value;
use attn_compiler::expr::{ExprId, Pool, TensorId, Ty, VarId};
use attn_runtime::cpu::facts::host_target;

/// An artifact being written down.
pub struct Maker {
    pub pool: Pool,
    pub scalars: Vec<ScalarSpec>,
    pub tensors: Vec<TensorSpec>,
    pub requires: Vec<RequireSpec>,
    pub checks: Vec<BindCheck>,
    pub demands: Vec<ContentDemand>,
    pub check_vars: Vec<(VarId, ExprId, ExprId)>,
    pub launches: Vec<LaunchSpec>,
    pub code: Vec<u8>,
}

impl Maker {
    pub fn new() -> Maker {
        Maker {
            pool: Pool::new(),
            scalars: vec![],
            tensors: vec![],
            requires: vec![],
            checks: vec![],
            demands: vec![],
            check_vars: vec![],
            launches: vec![],
            code: vec![],
        }
    }

    fn scalar(&mut self, name: &str, ty: Ty, is_dim: bool, default: Option<Value>) -> ExprId {
        let var = self.pool.add_var(name, ty);
        self.scalars.push(ScalarSpec { name: name.to_string(), var, is_dim, default, wide: false });
        self.pool.var(var)
    }

    pub fn dim(&mut self, name: &str) -> ExprId {
        self.scalar(name, Ty::Int, true, None)
    }

    pub fn param(&mut self, name: &str, ty: Ty, default: Option<Value>) -> ExprId {
        self.scalar(name, ty, false, default)
    }

    pub fn tensor(&mut self, name: &str, role: TensorRole, dtype: DType, shape: &[ExprId]) -> TensorId {
        let layout = (0..shape.len()).collect();
        self.tensors.push(TensorSpec {
            name: name.to_string(),
            role,
            dtype,
            shape: shape.to_vec(),
            layout,
            order: 0,
        });
        TensorId(self.tensors.len() as u32 - 1)
    }

    pub fn input(&mut self, name: &str, dtype: DType, shape: &[ExprId]) -> TensorId {
        self.tensor(name, TensorRole::Input, dtype, shape)
    }

    pub fn output(&mut self, name: &str, dtype: DType, shape: &[ExprId]) -> TensorId {
        self.tensor(name, TensorRole::Output, dtype, shape)
    }

    /// An index variable in `0..n` for the bind checks.
    pub fn index(&mut self, name: &str, n: ExprId) -> ExprId {
        let var = self.pool.add_var(name, Ty::Int);
        let zero = self.pool.int(0);
        let one = self.pool.int(1);
        let last = self.pool.binary(attn_compiler::expr::BinaryOp::Sub, n, one);
        self.check_vars.push((var, zero, last));
        self.pool.var(var)
    }

    pub fn layout(&self) -> ArgLayout {
        ArgLayout::new(self.tensors.iter().map(|t| t.shape.len()), self.scalars.len())
    }

    /// Adds a launch of this code.
    pub fn launch(&mut self, grid: &[ExprId], scratch_bytes: usize, code: &[u8]) {
        let entry = self.code.len();
        self.code.extend(code);
        self.launches.push(LaunchSpec {
            name: format!("launch{entry}"),
            grid: grid.to_vec(),
            scratch_bytes,
            entry,
            device: None,
        });
    }

    pub fn finish(self) -> Artifact {
        Artifact {
            name: "by_hand".to_string(),
            target: host_target().unwrap().to_string(),
            pool: self.pool,
            scalars: self.scalars,
            tensors: self.tensors,
            requires: self.requires,
            checks: self.checks,
            demands: self.demands,
            check_vars: self.check_vars,
            launches: self.launches,
            code: self.code,
            schedule: "by hand".to_string(),
        }
    }
}

/// `ret`
pub const RET: [u8; 1] = [0xc3];

fn disp(word: usize) -> [u8; 4] {
    (word as i32 * 8).to_le_bytes()
}

/// Code (x86-64, System V): `y[task * sy] = x[task * sx] + args[addend]` on f32, where `x` and `y` are words of
/// addresses and `sx`, `sy` words of strides.
pub fn add_code(x: usize, sx: usize, y: usize, sy: usize, addend: usize) -> Vec<u8> {
    let mut code = vec![];
    let mut at = |address: usize, stride: usize, last: &[u8]| {
        code.extend([0x48, 0x8b, 0x87]); // mov rax, [rdi + address]
        code.extend(disp(address));
        code.extend([0x48, 0x8b, 0x8f]); // mov rcx, [rdi + stride]
        code.extend(disp(stride));
        code.extend([0x48, 0x0f, 0xaf, 0xca]); // imul rcx, rdx
        code.extend(last);
    };
    let mut load = vec![0xf3, 0x0f, 0x10, 0x04, 0x88]; // movss xmm0, [rax + rcx * 4]
    load.extend([0xf3, 0x0f, 0x58, 0x87]); // addss xmm0, [rdi + addend]
    load.extend(disp(addend));
    at(x, sx, &load);
    at(y, sy, &[0xf3, 0x0f, 0x11, 0x04, 0x88, 0xc3]); // movss [rax + rcx * 4], xmm0; ret
    code
}

/// `y[n] = x[n] + c` over `f32[N]`, c a float parameter with default 1; one task for each element.
pub fn add_kernel() -> Maker {
    let mut m = Maker::new();
    let n = m.dim("N");
    m.param("c", Ty::Float, Some(Value::Float(1.0)));
    m.input("x", DType::F32, &[n]);
    m.output("y", DType::F32, &[n]);
    let l = m.layout();
    let code = add_code(l.address(0), l.stride(0, 0), l.address(1), l.stride(1, 0), l.scalars[1]);
    m.launch(&[n], 256, &code);
    m
}

/// `y[n] = table[n]` (`f32[N]`): code copies the table that the runtime has made.
pub fn table_kernel(m: &mut Maker, n: ExprId, table: TensorId, y: TensorId, zero_param: usize) {
    let l = m.layout();
    let (t, y) = (table.0 as usize, y.0 as usize);
    let code = add_code(l.address(t), l.stride(t, 0), l.address(y), l.stride(y, 0), l.scalars[zero_param]);
    m.launch(&[n], 0, &code);
}
