//! Which tiles of a launch lie in registers.
//!
//! Comes in: a launch. Goes out: [`Layouts`], if every statement on its tiles has a form on fragments; else all tiles lie in
//! shared memory as f32. What holds: products then have 16-bit operands of one type, so that the tensor cores take them as
//! they are; sums are f32. Not here: instructions.
//!
//! Three places. *Fragments* are scores and sums: element (r, c) of warp w and lane 4g + q is in register
//! 4 (c div 8) + 2 (r div 8 mod 2) + c mod 2, where r mod 8 = g, r div 16 = w, c mod 8 div 2 = q: the accumulators of
//! mma.sync m16n8k16 and of wgmma. *States* are a value for each row, the same in the four lanes that share the row. *Halves*
//! are 16-bit rows in shared memory, for ldmatrix or wgmma.

use rustc_hash::{FxHashMap, FxHashSet};

use attn_compiler::artifact::DType;
use attn_compiler::expr::TensorId;
use attn_compiler::target::GpuArch;
use attn_compiler::tile_ir::{Access, BufId, Launch, Operand, Program, Rest, RowsRef, Stmt};

use crate::report::Why;

type Done = Result<(), Why>;

/// Rows of a warp in a fragment.
pub(super) const WARP_ROWS: i64 = 16;
/// Most registers of a thread that tiles may take; 255 in all.
const MOST_REGISTERS: i64 = 200;
/// Most warps of a block.
const MOST_WARPS: i64 = 8;

/// Where a tile lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Registers, 4 for each 8 columns.
    Fragment,
    /// Two registers.
    State,
    /// 16-bit rows of a type in shared memory.
    Half(DType),
}

/// The places of all tiles of a launch.
#[derive(Clone, Debug)]
pub(crate) struct Layouts {
    pub places: FxHashMap<BufId, Place>,
    /// Warps of a block.
    pub warps: u32,
}

/// What is known while statements are looked through.
struct Look<'a> {
    program: &'a Program,
    launch: &'a Launch,
    places: FxHashMap<BufId, Place>,
    /// Tiles that rows are loaded into, and from what.
    loaded: FxHashMap<BufId, DType>,
    /// Tiles that are computed.
    computed: FxHashSet<BufId>,
    products: usize,
}

/// 16-bit floats.
pub(super) fn is_half(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::Bf16)
}

impl Layouts {
    /// Fragments for a launch.
    ///
    /// # Errors
    /// The first statement or tile that has no form on them.
    pub fn of(program: &Program, launch: &Launch, arch: GpuArch) -> Result<Layouts, Why> {
        let (places, loaded, computed) = Default::default();
        let mut look = Look { program, launch, places, loaded, computed, products: 0 };
        look.first(&launch.body)?;
        look.block(&launch.body)?;
        if look.products == 0 {
            return Err(Why::NoProduct);
        }
        let rows = launch.buffers.iter().map(|b| b.rows).max().unwrap_or(0);
        // Four warps work together on sm_90a.
        let unit = if arch == GpuArch::Sm90a { 4 } else { 1 };
        let warps = (rows + WARP_ROWS * unit - 1) / (WARP_ROWS * unit) * unit;
        // Rows of different tiles lie in the same lanes.
        let same = launch.buffers.iter().all(|b| b.rows == rows);
        let registers: i64 = look.places.iter().map(|(b, p)| look.registers(*b, *p)).sum();
        if !same || warps > MOST_WARPS {
            return Err(Why::Rows { rows, same });
        }
        if registers > MOST_REGISTERS {
            return Err(Why::Registers { needed: registers, most: MOST_REGISTERS });
        }
        // A value for each row that nothing touches takes no part.
        for (n, _) in launch.buffers.iter().enumerate().filter(|(_, b)| b.cols == 1) {
            look.places.entry(BufId(n as u32)).or_insert(Place::State);
        }
        let unused = (0..launch.buffers.len() as u32).map(BufId).find(|b| !look.places.contains_key(b));
        if let Some(unused) = unused {
            return Err(Why::Unused(look.name(unused)));
        }
        Ok(Layouts { places: look.places, warps: warps as u32 })
    }
}

impl Look<'_> {
    fn dtype(&self, t: TensorId) -> DType {
        self.program.tensors[t.0 as usize].dtype
    }

    fn name(&self, b: BufId) -> String {
        self.launch.buffers[b.0 as usize].name.clone()
    }

    /// Registers of a thread that a tile takes.
    fn registers(&self, b: BufId, place: Place) -> i64 {
        match place {
            Place::Fragment => self.cols(b) / 2,
            Place::State => 2,
            Place::Half(_) => 0,
        }
    }

    fn cols(&self, b: BufId) -> i64 {
        self.launch.buffers[b.0 as usize].cols
    }

    /// Which tiles are loaded, which computed.
    fn first(&mut self, stmts: &[Stmt]) -> Done {
        for stmt in stmts {
            match stmt {
                Stmt::For { body, .. } => self.first(body)?,
                Stmt::If { then, otherwise, .. } => {
                    self.first(then)?;
                    self.first(otherwise)?;
                }
                Stmt::LoadRows { dst, src, .. } => {
                    let dtype = self.dtype(src.tensor);
                    if self.loaded.insert(dst.buf, dtype).is_some_and(|old| old != dtype) {
                        return Err(Why::Loaded(self.name(dst.buf)));
                    }
                }
                Stmt::Gemm { c, .. } => _ = self.computed.insert(*c),
                Stmt::Map { dst, .. } | Stmt::Fill { dst, .. } => _ = self.computed.insert(*dst),
                _ => {}
            }
        }
        Ok(())
    }

    /// A tile lies in a place, everywhere.
    fn put(&mut self, b: BufId, place: Place) -> Done {
        match self.places.insert(b, place) {
            Some(old) if old != place => Err(Why::Places(self.name(b))),
            _ => Ok(()),
        }
    }

    fn fragment(&mut self, b: BufId) -> Done {
        if self.cols(b) == 1 || self.loaded.contains_key(&b) {
            return Err(Why::Loaded(self.name(b)));
        }
        self.put(b, Place::Fragment)
    }

    fn state(&mut self, b: BufId) -> Done {
        if self.cols(b) != 1 { Err(Why::Places(self.name(b))) } else { self.put(b, Place::State) }
    }

    fn states(&mut self, all: &[BufId]) -> Done {
        all.iter().try_for_each(|b| self.state(*b))
    }

    /// Fragment or state by its width.
    fn either(&mut self, b: BufId) -> Done {
        if self.cols(b) == 1 { self.state(b) } else { self.fragment(b) }
    }

    fn block(&mut self, stmts: &[Stmt]) -> Done {
        stmts.iter().try_for_each(|stmt| self.stmt(stmt))
    }

    /// One arm for each kind (tidy: long match).
    fn stmt(&mut self, stmt: &Stmt) -> Done {
        match stmt {
            Stmt::Let { .. } | Stmt::Any { .. } | Stmt::First { .. } => Ok(()),
            Stmt::For { body, .. } => self.block(body),
            Stmt::If { then, otherwise, .. } => {
                self.block(then)?;
                self.block(otherwise)
            }
            Stmt::Fill { dst, .. } => self.either(*dst),
            Stmt::LoadRows { dst, src, .. } => {
                let dtype = self.dtype(src.tensor);
                if !is_half(dtype) {
                    return Err(Why::dtype(self.program, src.tensor));
                }
                if self.computed.contains(&dst.buf) {
                    return Err(Why::Loaded(self.name(dst.buf)));
                }
                if self.cols(dst.buf) % 16 != 0 {
                    return Err(Why::Width(self.name(dst.buf), self.cols(dst.buf)));
                }
                self.put(dst.buf, Place::Half(dtype))
            }
            Stmt::Gemm { c, a, rest, b, row_scale, .. } => {
                if let Rest::Tile(rest) = rest {
                    self.product(*c, *rest, b, *row_scale)?;
                }
                self.product(*c, *a, b, *row_scale)
            }
            Stmt::Map { dst, reads, .. } => {
                for (_, b, access) in reads {
                    match access {
                        Access::Tile if self.cols(*dst) == 1 => self.state(*b)?,
                        Access::Tile => self.fragment(*b)?,
                        Access::Row => self.state(*b)?,
                        Access::Col => return Err(Why::Column(self.name(*b))),
                    }
                }
                self.either(*dst)
            }
            Stmt::SoftmaxStep { s, row_max, row_sum, alpha, .. } => {
                self.fragment(*s)?;
                self.states(&[*row_max, *row_sum, *alpha])
            }
            Stmt::WeightStep { s, row_max, .. } => {
                self.fragment(*s)?;
                self.state(*row_max)
            }
            Stmt::FinishSoftmax { row_max, row_sum, inv_sum, lse, .. } => {
                self.states(&[*row_max, *row_sum, *inv_sum, *lse])
            }
            Stmt::Random { dst, .. } => self.fragment(*dst),
            Stmt::StoreRows { src, row_scale, .. } => {
                row_scale.map_or(Ok(()), |v| self.state(v))?;
                self.fragment(src.buf)
            }
            Stmt::StoreVec { src, .. } => self.state(src.buf),
            _ => Err(Why::statement(stmt)),
        }
    }

    fn product(&mut self, c: BufId, a: BufId, b: &Operand, row_scale: Option<BufId>) -> Done {
        let (Operand::Columns(src) | Operand::Rows(src)) = b else {
            return Err(Why::Operand(self.name(c)));
        };
        let dtype = self.dtype(src.tensor);
        if !is_half(dtype) {
            return Err(Why::dtype(self.program, src.tensor));
        }
        if !whole(src) {
            return Err(Why::Operand(self.name(c)));
        }
        row_scale.map_or(Ok(()), |v| self.state(v))?;
        self.products += 1;
        self.fragment(c)?;
        match self.loaded.get(&a) {
            Some(of) if *of == dtype => self.put(a, Place::Half(dtype)),
            Some(_) => Err(Why::Loaded(self.name(a))),
            None => self.fragment(a),
        }
    }
}

/// Rows along two dims.
fn whole(src: &RowsRef) -> bool {
    src.row_dim != src.col_dim
}
