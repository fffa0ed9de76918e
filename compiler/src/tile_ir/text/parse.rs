//! Reads the text of a [`Program`].
//!
//! Comes in: text as [`super::print`] writes it; comments (`// ...`) and any white space are allowed. Goes out:
//! a program, or the first error with its byte offset. Every variable is known from its definition on; a name
//! defined twice, or used outside its block, reads as one variable, so that the verifier can say what is wrong.

use crate::artifact::DType;
use crate::attn_ir::Fact;
use crate::expr::eval::Value;
use crate::expr::parse::{ParseError, Reader};
use crate::expr::{ExprId, Pool, TensorId, Ty, VarId};
use crate::tile_ir::{
    Buffer, Launch, PanelRef, Program, Require, RowsRef, ScalarArg, TensorDecl, TensorKind,
};

mod stmt;

/// Deepest nesting of blocks that text may have.
const MAX_BLOCKS: usize = 64;

/// Reads a whole program.
pub fn parse(text: &str) -> Result<Program, ParseError> {
    let mut p = Parser { r: Reader::new(text), pool: Pool::new(), tensors: Vec::new(), buffers: Vec::new() };
    let program = p.program()?;
    p.r.end()?;
    Ok(program)
}

type Result<T, E = ParseError> = std::result::Result<T, E>;

struct Parser<'a> {
    r: Reader<'a>,
    pool: Pool,
    tensors: Vec<TensorDecl>,
    buffers: Vec<Buffer>,
}

impl Parser<'_> {
    fn program(&mut self) -> Result<Program> {
        self.r.expect_word("program")?;
        let name = self.r.word()?;
        self.r.expect("{")?;
        let (mut dims, mut params, mut requires, mut launches) = (vec![], vec![], vec![], vec![]);
        while !self.r.eat("}")? {
            match self.r.word()?.as_str() {
                "dim" => dims.push(self.scalar()?),
                "param" => params.push(self.scalar()?),
                "require" => {
                    let cond = self.expr()?;
                    self.r.expect(":")?;
                    requires.push(Require { cond, message: self.r.string()? });
                }
                "launch" => launches.push(self.launch()?),
                kind @ ("input" | "output" | "table" | "workspace") => {
                    let decl = self.tensor_decl(kind)?;
                    self.tensors.push(decl);
                }
                other => return self.r.error(format!("`{other}` is no declaration of a program")),
            }
        }
        let tensors = std::mem::take(&mut self.tensors);
        let pool = std::mem::take(&mut self.pool);
        Ok(Program { name, pool, dims, params, tensors, requires, launches })
    }

    fn expr(&mut self) -> Result<ExprId> {
        let tensors = &self.tensors;
        let lookup = |name: &str| {
            let n = tensors.iter().position(|t| t.name == name)?;
            Some((TensorId(n as u32), tensors[n].dtype.value_ty()))
        };
        crate::expr::parse::expr(&mut self.r, &mut self.pool, &lookup)
    }

    /// Expressions up to `close`.
    fn exprs(&mut self, close: &str) -> Result<Vec<ExprId>> {
        let mut out = Vec::new();
        if self.r.eat(close)? {
            return Ok(out);
        }
        loop {
            out.push(self.expr()?);
            if !self.r.eat(",")? {
                self.r.expect(close)?;
                return Ok(out);
            }
        }
    }

    /// A variable at its definition.
    fn define(&mut self, ty: Ty) -> Result<VarId> {
        let name = self.r.word()?;
        self.variable(&name, ty)
    }

    fn variable(&mut self, name: &str, ty: Ty) -> Result<VarId> {
        match self.pool.find_var(name) {
            Some(v) if self.pool.var_info(v).ty == ty => Ok(v),
            Some(_) => self.r.error(format!("`{name}` is already defined with another type")),
            None => Ok(self.pool.add_var(name, ty)),
        }
    }

    fn scalar(&mut self) -> Result<ScalarArg> {
        let name = self.r.word()?;
        let mut var_name = name.clone();
        if self.r.eat("(")? {
            var_name = self.r.word()?;
            self.r.expect(")")?;
        }
        self.r.expect(":")?;
        let ty = ty(&mut self.r)?;
        let var = self.variable(&var_name, ty)?;
        let default = if self.r.eat("=")? { Some(self.constant(ty)?) } else { None };
        Ok(ScalarArg { name, var, default })
    }

    fn constant(&mut self, ty: Ty) -> Result<Value> {
        let id = self.expr()?;
        match self.pool.as_const(id) {
            Some(value) if value.ty() == ty => Ok(value),
            _ => self.r.error(format!("expected a constant of type {ty:?}")),
        }
    }

    fn float(&mut self) -> Result<f64> {
        Ok(self.constant(Ty::Float)?.float())
    }

    fn tensor_decl(&mut self, kind: &str) -> Result<TensorDecl> {
        let name = self.r.word()?;
        self.r.expect(":")?;
        let dtype = dtype(&mut self.r)?;
        self.r.expect("[")?;
        let shape = self.exprs("]")?;
        let layout = layout(&mut self.r, shape.len())?;
        let fact = fact(&mut self.r)?;
        let kind = match kind {
            "input" => TensorKind::Input,
            "output" => TensorKind::Output,
            "updated" => TensorKind::Updated,
            "workspace" => TensorKind::Workspace,
            _ => self.table()?,
        };
        Ok(TensorDecl { name, kind, dtype, shape, layout, fact })
    }

    fn table(&mut self) -> Result<TensorKind> {
        self.r.expect("(")?;
        let (mut vars, mut origin) = (vec![], vec![]);
        while !self.r.eat(")")? {
            vars.push(self.define(Ty::Int)?);
            self.r.expect_word("from")?;
            origin.push(self.expr()?);
            let _ = self.r.eat(",")?;
        }
        self.r.expect("=")?;
        Ok(TensorKind::Table { vars, origin, value: self.expr()? })
    }

    fn launch(&mut self) -> Result<Launch> {
        let name = self.r.word()?;
        self.r.expect("{")?;
        let mut grid = Vec::new();
        if self.r.eat_word("grid")? {
            loop {
                let var = self.define(Ty::Int)?;
                self.r.expect("<")?;
                grid.push((var, self.expr()?));
                if !self.r.eat(",")? {
                    break;
                }
            }
        }
        self.buffers.clear();
        while self.r.eat_word("buffer")? {
            let name = self.r.word()?;
            self.r.expect("[")?;
            let rows = self.r.integer()?;
            self.r.expect(",")?;
            let cols = self.r.integer()?;
            self.r.expect("]")?;
            let dtype = if self.r.eat(":")? { dtype(&mut self.r)? } else { DType::F32 };
            let of = if self.r.eat_word("of")? { Some(self.buf()?) } else { None };
            self.buffers.push(Buffer { name, rows, cols, dtype, of });
        }
        let body = self.block(MAX_BLOCKS)?;
        Ok(Launch { name, grid, buffers: std::mem::take(&mut self.buffers), body })
    }

    fn tensor(&mut self) -> Result<TensorId> {
        let name = self.r.word()?;
        match self.tensors.iter().position(|t| t.name == name) {
            Some(n) => Ok(TensorId(n as u32)),
            None => self.r.error(format!("no tensor `{name}`")),
        }
    }

    fn rows(&mut self) -> Result<RowsRef> {
        let tensor = self.tensor()?;
        self.r.expect("[")?;
        let (mut index, mut row_dim, mut col_dim) = (vec![], None, None);
        while !self.r.eat("]")? {
            let d = index.len();
            index.push(self.expr()?);
            if self.r.eat(":")? {
                let mark = self.r.word()?;
                if !matches!(mark.as_str(), "r" | "x" | "rx") {
                    return self.r.error(format!("expected `r`, `x` or `rx`, found `{mark}`"));
                }
                row_dim = if mark.contains('r') { Some(d) } else { row_dim };
                col_dim = if mark.contains('x') { Some(d) } else { col_dim };
            }
            let _ = self.r.eat(",")?;
        }
        match (row_dim, col_dim) {
            (Some(row_dim), Some(col_dim)) => Ok(RowsRef { tensor, index, row_dim, col_dim }),
            _ => self.r.error("rows need one dim marked `: r` and one marked `: x`, or one marked `: rx`"),
        }
    }

    fn panel(&mut self) -> Result<PanelRef> {
        self.r.expect_word("panel")?;
        self.r.expect("(")?;
        self.panel_body()
    }

    /// What stands after `panel(`.
    fn panel_body(&mut self) -> Result<PanelRef> {
        let tensor = self.tensor()?;
        self.r.expect(",")?;
        let offset = self.expr()?;
        self.r.expect(",")?;
        let panel_stride = self.expr()?;
        self.r.expect(")")?;
        Ok(PanelRef { tensor, offset, panel_stride })
    }
}

/// The name of a type.
pub(crate) fn ty(r: &mut Reader) -> Result<Ty> {
    match r.word()?.as_str() {
        "bool" => Ok(Ty::Bool),
        "int" => Ok(Ty::Int),
        "float" => Ok(Ty::Float),
        other => r.error(format!("expected `bool`, `int` or `float`, found `{other}`")),
    }
}

/// The name of a storage type.
pub(crate) fn dtype(r: &mut Reader) -> Result<DType> {
    let name = r.word()?;
    match DType::from_name(&name) {
        Some(dtype) => Ok(dtype),
        None => r.error(format!("no storage type `{name}`")),
    }
}

/// An optional `layout [..]`; the identity of this rank without one.
pub(crate) fn layout(r: &mut Reader, rank: usize) -> Result<Vec<usize>> {
    if !r.eat_word("layout")? {
        return Ok((0..rank).collect());
    }
    r.expect("[")?;
    let mut layout = Vec::new();
    while !r.eat("]")? {
        match usize::try_from(r.integer()?) {
            Ok(d) => layout.push(d),
            Err(_) => return r.error("a dim of a layout is not negative"),
        }
        let _ = r.eat(",")?;
    }
    Ok(layout)
}

/// An optional `sorted` or `monotone`.
pub(crate) fn fact(r: &mut Reader) -> Result<Fact> {
    if r.eat_word("sorted")? {
        return Ok(Fact::Sorted);
    }
    Ok(if r.eat_word("monotone")? { Fact::Monotone } else { Fact::None })
}
