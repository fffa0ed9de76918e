//! Where the product finds keys and values: packed (K with keys along the lanes of a panel, V with features along
//! them), or as they lie in their tensors where so few query rows read them that packing would cost more.
//!
//! Each key tensor of the score and the value tensor get one workspace tensor and one launch with a task for
//! every (batch, key head, key tile). The V launch also notes for each tile whether it holds a NaN or an
//! infinity, so that masked pairs can be kept out of the product where that matters (language.md, rule 4).

use super::{Builder, Input, rows_index};
use crate::artifact::{DType, PANEL};
use crate::attn_ir::{Attention, Rows};
use crate::expr::{ExprId, Pool, TensorId, Ty, VarId};
use crate::schedule::Schedule;
use crate::schedule::runs::most_queries;
use crate::tile_ir::{Launch, PanelRef, RowsRef, Stmt, TensorDecl, TensorKind};

/// A packed key tensor.
pub struct PackedKeys {
    /// Source.
    pub rows: Rows,
    /// The source's tensor (packed once even if several dots read it).
    pub tensor: TensorId,
    /// Workspace.
    pub packed: TensorId,
    /// Features.
    pub d: i64,
}

/// The packed values.
pub struct PackedValues {
    /// Source.
    pub rows: Rows,
    /// Workspace.
    pub packed: TensorId,
    /// One i32 for each (batch, key head, key tile): 1 if the tile holds a NaN or an infinity.
    pub flags: TensorId,
    /// Features.
    pub d: i64,
}

const LANES: i64 = PANEL as i64;

/// Bool over the sizes: keys and values are read where they lie, and not packed. None where they never are.
pub fn direct(builder: &mut Builder, input: &Input) -> Option<ExprId> {
    in_place(builder.pool(), input.attn, input.schedule)
}

/// As [`direct`].
pub fn in_place(pool: &mut Pool, attn: &Attention, schedule: &Schedule) -> Option<ExprId> {
    if schedule.direct == 0 {
        return None;
    }
    if most_queries(attn) <= schedule.direct {
        return Some(pool.bool(true));
    }
    let most = pool.int(schedule.direct);
    let few = pool.le(attn.seq_q, most);
    (pool.as_bool(few) != Some(false)).then_some(few)
}

/// `n`, or 0 where nothing is packed.
fn if_packed(builder: &mut Builder, input: &Input, n: ExprId) -> ExprId {
    match direct(builder, input) {
        Some(direct) => {
            let none = builder.pool().int(0);
            builder.pool().select(direct, none, n)
        }
        None => n,
    }
}

/// Batches and heads that the tensor has on its own: 1 where the dim is missing.
fn extents(builder: &mut Builder, input: &Input, rows: Rows) -> (ExprId, ExprId) {
    let one = builder.pool().int(1);
    let shape = &input.attn.tensor(rows.tensor).shape;
    (rows.batch.map_or(one, |d| shape[d]), rows.head.map_or(one, |d| shape[d]))
}

/// Panels of keys.
fn n_panels(builder: &mut Builder, input: &Input) -> ExprId {
    builder.pool().ceil_div(input.attn.capacity(), LANES)
}

fn feature_panels(d: i64) -> i64 {
    (d + LANES - 1) / LANES
}

/// What is packed for products in pairs stays as it is stored.
const fn panel_type(pairs: bool) -> DType {
    if pairs { DType::Bf16 } else { DType::F32 }
}

/// Declares the workspace of a key tensor; the same tensor is declared once.
pub fn declare_keys(builder: &mut Builder, input: &Input, rows: Rows) -> PackedKeys {
    let name = format!("{}_packed", input.attn.tensor(rows.tensor).name);
    let d = input.attn.feature_dim(rows);
    let (batches, heads) = extents(builder, input, rows);
    let panels = n_panels(builder, input);
    let batches = if_packed(builder, input, batches);
    let (d_expr, lanes) = (builder.pool().int(d), builder.pool().int(LANES));
    let shape = vec![batches, heads, panels, d_expr, lanes];
    let dtype = panel_type(input.schedule.pairs.scores);
    // One of several shapes has a number behind its name.
    let named = |t: &TensorDecl| {
        t.name.strip_prefix(&name).is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()))
    };
    let same =
        |t: &TensorDecl| t.kind == TensorKind::Workspace && named(t) && t.shape == shape && t.dtype == dtype;
    let known = builder.program.tensors.iter().position(same);
    let packed = match known {
        Some(n) => TensorId(n as u32),
        None => builder.tensor(&name, TensorKind::Workspace, dtype, shape),
    };
    PackedKeys { rows, tensor: rows.tensor, packed, d }
}

/// Declares the workspace of the values.
pub fn declare_values(builder: &mut Builder, input: &Input) -> PackedValues {
    let rows = input.attn.value;
    let d = input.attn.feature_dim(rows);
    let (batches, heads) = extents(builder, input, rows);
    let batches = if_packed(builder, input, batches);
    let panels = n_panels(builder, input);
    let lanes = builder.pool().int(LANES);
    let padded = builder.pool().mul(panels, lanes);
    let fp = builder.pool().int(feature_panels(d));
    let shape = vec![batches, heads, fp, padded, lanes];
    let dtype = panel_type(input.schedule.pairs.values);
    let packed = builder.tensor("v_packed_panels", TensorKind::Workspace, dtype, shape);
    let tiles = builder.pool().ceil_div(input.attn.capacity(), input.schedule.tile_kv);
    let flags = builder.tensor("v_nonfinite", TensorKind::Workspace, DType::I32, vec![batches, heads, tiles]);
    PackedValues { rows, packed, flags, d }
}

impl PackedKeys {
    /// The keys from `j0` on where they lie.
    pub fn rows_at(&self, builder: &mut Builder, input: &Input, b: ExprId, g: ExprId, j0: ExprId) -> RowsRef {
        where_they_lie(builder, input, self.rows, (b, g, j0))
    }

    /// The panels that start at key `j0` (a multiple of 32).
    pub fn panels(&self, builder: &mut Builder, input: &Input, b: ExprId, g: ExprId, j0: ExprId) -> PanelRef {
        let (b, g, heads) = own_coordinates(builder, input, self.rows, b, g);
        let panels = n_panels(builder, input);
        let pool = builder.pool();
        let per_panel = pool.int(self.d * LANES);
        let d = pool.int(self.d);
        let head = flat(pool, b, heads, g);
        let first = pool.mul(head, panels);
        let head_offset = pool.mul(first, per_panel);
        // j0 / 32 panels of d * 32 elements are j0 * d elements.
        let within = pool.mul(j0, d);
        let offset = pool.add(head_offset, within);
        PanelRef { tensor: self.packed, offset, panel_stride: per_panel }
    }
}

impl PackedValues {
    /// The values from key `j0` on where they lie.
    pub fn rows_at(&self, builder: &mut Builder, input: &Input, b: ExprId, g: ExprId, j0: ExprId) -> RowsRef {
        where_they_lie(builder, input, self.rows, (b, g, j0))
    }

    /// The panels from key `j0` on.
    pub fn panels(&self, builder: &mut Builder, input: &Input, b: ExprId, g: ExprId, j0: ExprId) -> PanelRef {
        let (b, g, heads) = own_coordinates(builder, input, self.rows, b, g);
        let panels = n_panels(builder, input);
        let pool = builder.pool();
        let lanes = pool.int(LANES);
        let keys = pool.mul(panels, lanes);
        let panel_stride = pool.mul(keys, lanes);
        let fp = pool.int(feature_panels(self.d));
        let head = flat(pool, b, heads, g);
        let per_head = pool.mul(fp, panel_stride);
        let first = pool.mul(head, per_head);
        let within = pool.mul(j0, lanes);
        let offset = pool.add(first, within);
        PanelRef { tensor: self.packed, offset, panel_stride }
    }

    /// Whether the values of key tile `jt` hold a NaN or an infinity.
    pub fn nonfinite(
        &self,
        builder: &mut Builder,
        input: &Input,
        b: ExprId,
        g: ExprId,
        jt: ExprId,
    ) -> ExprId {
        let (b, g, _) = own_coordinates(builder, input, self.rows, b, g);
        let pool = builder.pool();
        let flag = pool.load(self.flags, vec![b, g, jt], Ty::Int);
        let zero = pool.int(0);
        pool.ne(flag, zero)
    }
}

/// Batch and head as the tensor knows them (0 where it has no such dim), and its number of heads.
fn own_coordinates(
    builder: &mut Builder,
    input: &Input,
    rows: Rows,
    b: ExprId,
    g: ExprId,
) -> (ExprId, ExprId, ExprId) {
    let (_, heads) = extents(builder, input, rows);
    let zero = builder.pool().int(0);
    (rows.batch.map_or(zero, |_| b), rows.head.map_or(zero, |_| g), heads)
}

fn flat(pool: &mut Pool, b: ExprId, heads: ExprId, g: ExprId) -> ExprId {
    let base = pool.mul(b, heads);
    pool.add(base, g)
}

/// Grid coordinates of a packing task and its run of keys.
struct PackTask {
    grid: Vec<(VarId, ExprId)>,
    b: ExprId,
    g: ExprId,
    t: ExprId,
    j0: ExprId,
    n: ExprId,
}

fn pack_task(builder: &mut Builder, input: &Input, rows: Rows) -> PackTask {
    let (batches, heads) = extents(builder, input, rows);
    let tile = input.schedule.tile_kv;
    let tiles = builder.pool().ceil_div(input.attn.capacity(), tile);
    let tiles = if_packed(builder, input, tiles);
    let pool = builder.pool();
    let (vb, vg, vt) =
        (pool.add_var("pb", Ty::Int), pool.add_var("pg", Ty::Int), pool.add_var("pt", Ty::Int));
    let (b, g, t) = (pool.var(vb), pool.var(vg), pool.var(vt));
    let tile_expr = pool.int(tile);
    let j0 = pool.mul(t, tile_expr);
    let keys = match rows.batch {
        Some(_) => pool.substitute(input.attn.seq_k, &[(input.attn.index.b, b)]),
        None => input.attn.capacity(),
    };
    let left = pool.sub(keys, j0);
    let mut n = pool.min(left, tile_expr);
    if keys != input.attn.capacity() {
        // A tile behind the keys of this batch entry packs none.
        let zero = pool.int(0);
        n = pool.max(n, zero);
    }
    PackTask { grid: vec![(vb, batches), (vg, heads), (vt, tiles)], b, g, t, j0, n }
}

/// The launch that packs one key tensor.
pub fn pack_keys(builder: &mut Builder, input: &Input, keys: &PackedKeys) -> Launch {
    let task = pack_task(builder, input, keys.rows);
    let dst = keys.panels(builder, input, task.b, task.g, task.j0);
    let src = where_they_lie(builder, input, keys.rows, (task.b, task.g, task.j0));
    let name = format!("pack_{}", input.attn.tensor(keys.tensor).name);
    Launch {
        name,
        grid: task.grid,
        buffers: vec![],
        body: vec![Stmt::PackK { dst, src, n: task.n, d: keys.d }],
    }
}

/// The launch that packs the values.
pub fn pack_values(builder: &mut Builder, input: &Input, values: &PackedValues) -> Launch {
    let task = pack_task(builder, input, values.rows);
    let dst = values.panels(builder, input, task.b, task.g, task.j0);
    let src = where_they_lie(builder, input, values.rows, (task.b, task.g, task.j0));
    let name = format!("pack_{}_values", input.attn.tensor(values.rows.tensor).name);
    let flag = (values.flags, vec![task.b, task.g, task.t]);
    Launch {
        name,
        grid: task.grid,
        buffers: vec![],
        body: vec![Stmt::PackV { dst, src, n: task.n, d: values.d, flag }],
    }
}

fn where_they_lie(
    builder: &mut Builder,
    input: &Input,
    rows: Rows,
    (b, g, j0): (ExprId, ExprId, ExprId),
) -> RowsRef {
    if let Some(found) = input.sweep.and_then(|s| s.pages.of_made(rows.tensor)) {
        return found.rows(&mut builder.program, rows, (b, g, j0));
    }
    let index = rows_index(builder.pool(), input.attn, rows, b, g, j0);
    RowsRef { tensor: rows.tensor, index, row_dim: rows.seq, col_dim: rows.feature }
}
