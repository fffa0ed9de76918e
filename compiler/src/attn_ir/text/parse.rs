//! Reads the text of an [`Attention`]: every line that [`super::print`] writes, in that order.

use super::OUTPUTS;
use crate::attn_ir::{
    Attention, Dim, Dot, Dropout, IndexVars, Numerics, Origin, Output, Param, Products, Rows, Tensor,
    TileOverride, Weight,
};
use crate::expr::eval::Value;
use crate::expr::parse::{ParseError, Reader};
use crate::expr::{ExprId, Pool, TensorId, VarId};
use crate::tile_ir::text::{dtype, fact, layout, ty};

/// Reads a whole attention.
pub fn parse(text: &str) -> Result<Attention, ParseError> {
    let mut p = Parser { r: Reader::new(text), pool: Pool::new(), tensors: Vec::new(), rests: Vec::new() };
    let attention = p.attention()?;
    p.r.end()?;
    Ok(attention)
}

type Result<T, E = ParseError> = std::result::Result<T, E>;

struct Parser<'a> {
    r: Reader<'a>,
    pool: Pool,
    tensors: Vec<Tensor>,
    /// Tensors with a rest, and its name.
    rests: Vec<(usize, String)>,
}

impl Parser<'_> {
    fn attention(&mut self) -> Result<Attention> {
        self.r.expect_word("attention")?;
        let name = self.r.word()?;
        self.r.expect("{")?;
        self.vars()?;
        let dims = self.many("dim", Self::dim)?;
        let params = self.many("param", Self::param)?;
        while self.r.eat_word("tensor")? {
            let tensor = self.tensor_decl()?;
            self.tensors.push(tensor);
        }
        self.name_rests()?;
        let index = self.index()?;
        let batch = self.clause("batch")?;
        let n_heads = self.count("heads")?;
        let n_kv_heads = self.count("kv_heads")?;
        let kv_head = self.clause("kv_head")?;
        let (seq_q, seq_k) = (self.clause("seq_q")?, self.clause("seq_k")?);
        let offset = self.clause("offset")?;
        let dots = self.many("dot", Self::dot)?;
        let (score, mask) = (self.clause("score")?, self.clause("mask")?);
        let weight = self.weight()?;
        let dropout = if self.r.eat_word("dropout")? { Some(self.dropout()?) } else { None };
        self.r.expect_word("value")?;
        let value = self.rows()?;
        let outputs = self.many("output", Self::output)?;
        let tiles =
            TileOverride { tile_q: self.optional_count("tile_q")?, tile_kv: self.optional_count("tile_kv")? };
        let products = if self.r.eat_word("exact_dot")? {
            Products::Exact
        } else if self.r.eat_word("tf32_dot")? {
            Products::Tf32
        } else {
            Products::ByType
        };
        let split = self.optional_count("split")?;
        let numerics = Numerics { products, split, batch_invariant: self.r.eat_word("batch_invariant")? };
        self.r.expect("}")?;
        let (pool, tensors) = (std::mem::take(&mut self.pool), std::mem::take(&mut self.tensors));
        Ok(Attention {
            name,
            pool,
            dims,
            params,
            tensors,
            index,
            batch,
            n_heads,
            n_kv_heads,
            kv_head,
            seq_q,
            seq_k,
            offset,
            dots,
            score,
            mask,
            weight,
            dropout,
            value,
            outputs,
            tiles,
            numerics,
        })
    }

    fn many<T>(&mut self, word: &str, mut item: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let mut items = Vec::new();
        while self.r.eat_word(word)? {
            items.push(item(self)?);
        }
        Ok(items)
    }

    fn vars(&mut self) -> Result<()> {
        self.r.expect_word("vars")?;
        loop {
            let name = self.r.word()?;
            self.r.expect(":")?;
            let ty = ty(&mut self.r)?;
            if self.pool.find_var(&name).is_some() {
                return self.r.error(format!("`{name}` is declared twice"));
            }
            self.pool.add_var(&name, ty);
            if !self.r.eat(",")? {
                return Ok(());
            }
        }
    }

    fn var(&mut self) -> Result<VarId> {
        let name = self.r.word()?;
        match self.pool.find_var(&name) {
            Some(v) => Ok(v),
            None => self.r.error(format!("no variable `{name}`")),
        }
    }

    fn expr(&mut self) -> Result<ExprId> {
        let tensors = &self.tensors;
        let lookup = |name: &str| {
            let n = tensors.iter().position(|t| t.name == name)?;
            Some((TensorId(n as u32), tensors[n].dtype.value_ty()))
        };
        crate::expr::parse::expr(&mut self.r, &mut self.pool, &lookup)
    }

    fn clause(&mut self, word: &str) -> Result<ExprId> {
        self.r.expect_word(word)?;
        self.expr()
    }

    fn count(&mut self, word: &str) -> Result<i64> {
        self.r.expect_word(word)?;
        self.r.integer()
    }

    fn optional_count(&mut self, word: &str) -> Result<Option<i64>> {
        if self.r.eat_word(word)? { self.r.integer().map(Some) } else { Ok(None) }
    }

    fn dim(&mut self) -> Result<Dim> {
        let name = self.r.word()?;
        self.r.expect("=")?;
        let size = self.expr()?;
        let mut bounds = None;
        if self.r.eat_word("in")? {
            let lo = self.r.integer()?;
            self.r.expect("..")?;
            bounds = Some((lo, self.r.integer()?));
        }
        Ok(Dim { name, size, bounds })
    }

    fn param(&mut self) -> Result<Param> {
        let name = self.r.word()?;
        let var = if self.r.eat("(")? {
            let var = self.var()?;
            self.r.expect(")")?;
            var
        } else {
            match self.pool.find_var(&name) {
                Some(var) => var,
                None => return self.r.error(format!("no variable `{name}`")),
            }
        };
        let default = if self.r.eat("=")? { Some(self.constant()?) } else { None };
        Ok(Param { name, var, default })
    }

    fn constant(&mut self) -> Result<Value> {
        let id = self.expr()?;
        match self.pool.as_const(id) {
            Some(value) => Ok(value),
            None => self.r.error("expected a constant"),
        }
    }

    fn tensor_decl(&mut self) -> Result<Tensor> {
        let name = self.r.word()?;
        self.r.expect(":")?;
        let dtype = dtype(&mut self.r)?;
        self.r.expect("[")?;
        let mut shape = Vec::new();
        while !self.r.eat("]")? {
            shape.push(self.expr()?);
            let _ = self.r.eat(",")?;
        }
        let layout = layout(&mut self.r, shape.len())?;
        let fact = fact(&mut self.r)?;
        let origin = if self.r.eat_word("made")? {
            Origin::Made
        } else if self.r.eat_word("output")? {
            Origin::Output
        } else if self.r.eat_word("updated")? {
            Origin::Updated
        } else {
            Origin::Host
        };
        if self.r.eat_word("rest")? {
            self.rests.push((self.tensors.len(), self.r.word()?));
        }
        Ok(Tensor { name, dtype, shape, layout, fact, origin, rest: None })
    }

    /// The rest of a tensor may be declared behind it.
    fn name_rests(&mut self) -> Result<()> {
        for (n, name) in std::mem::take(&mut self.rests) {
            let Some(rest) = self.tensors.iter().position(|t| t.name == name) else {
                return self.r.error("expected the name of a tensor");
            };
            self.tensors[n].rest = Some(TensorId(rest as u32));
        }
        Ok(())
    }

    fn index(&mut self) -> Result<IndexVars> {
        self.r.expect_word("index")?;
        let mut next = |last: bool| {
            let var = self.var()?;
            if !last {
                self.r.expect(",")?;
            }
            Ok(var)
        };
        Ok(IndexVars { b: next(false)?, h: next(false)?, i: next(false)?, j: next(false)?, row: next(true)? })
    }

    fn dot(&mut self) -> Result<Dot> {
        let var = self.var()?;
        self.r.expect("=")?;
        let x = self.rows()?;
        self.r.expect("*")?;
        Ok(Dot { x, y: self.rows()?, var })
    }

    fn rows(&mut self) -> Result<Rows> {
        let name = self.r.word()?;
        let Some(n) = self.tensors.iter().position(|t| t.name == name) else {
            return self.r.error(format!("no tensor `{name}`"));
        };
        self.r.expect("(")?;
        let rank = self.tensors[n].shape.len();
        let rows = Rows {
            tensor: TensorId(n as u32),
            batch: self.role("batch", rank)?,
            head: self.role("head", rank)?,
            seq: self.needed_role("seq", rank)?,
            feature: self.needed_role("feature", rank)?,
        };
        self.r.expect(")")?;
        Ok(rows)
    }

    fn role(&mut self, word: &str, rank: usize) -> Result<Option<usize>> {
        if !self.r.eat_word(word)? {
            return Ok(None);
        }
        let dim = match usize::try_from(self.r.integer()?) {
            Ok(d) if d < rank => d,
            _ => return self.r.error(format!("the tensor has {rank} dims")),
        };
        let _ = self.r.eat(",")?;
        Ok(Some(dim))
    }

    fn needed_role(&mut self, word: &str, rank: usize) -> Result<usize> {
        match self.role(word, rank)? {
            Some(dim) => Ok(dim),
            None => self.r.expected(&format!("`{word}`")),
        }
    }

    fn weight(&mut self) -> Result<Weight> {
        self.r.expect_word("weight")?;
        match self.r.word()?.as_str() {
            "softmax" => {
                let mut sink = None;
                if self.r.eat_word("sink")? {
                    self.r.expect("=")?;
                    sink = Some(self.expr()?);
                }
                Ok(Weight::Softmax { sink })
            }
            "sigmoid" => Ok(Weight::Sigmoid),
            "relu" => Ok(Weight::Relu),
            "plain" => Ok(Weight::Plain),
            other => self.r.error(format!("no weight `{other}`")),
        }
    }

    fn dropout(&mut self) -> Result<Dropout> {
        let mut next = |first: bool| {
            if !first {
                self.r.expect(",")?;
            }
            self.expr()
        };
        let (p, threshold, keep_scale) = (next(true)?, next(false)?, next(false)?);
        Ok(Dropout { p, threshold, keep_scale, seed: next(false)?, offset: next(false)? })
    }

    fn output(&mut self) -> Result<Output> {
        let name = self.r.word()?;
        self.r.expect(":")?;
        let dtype = dtype(&mut self.r)?;
        self.r.expect("=")?;
        let kind = self.r.word()?;
        match OUTPUTS.iter().find(|(n, _)| *n == kind) {
            Some((_, kind)) => Ok(Output { name, kind: *kind, dtype }),
            None => self.r.error(format!("expected `o`, `lse` or `max_logit`, found `{kind}`")),
        }
    }
}
