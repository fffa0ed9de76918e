//! Which form of a launch is taken, and what its tensor maps describe.
//!
//! Comes in: a launch of an artifact and the argument block with addresses of the device. Goes out: the launch to make,
//! and a description of each map that its kernel takes. What holds: a form with maps is taken only if every map obeys
//! the driver's rules (`cuTensorMapEncodeTiled`); the other form takes any strides. Not here: encoding.

use attn_compiler::artifact::{DType, DeviceLaunch, TensorMapSpec};

use crate::signature::Signature;

/// The largest stride that a map can have, in bytes.
const MOST_STRIDE: u64 = 1 << 40;

/// What a tensor map describes: the column dim first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapArgs {
    /// f16 or bf16.
    pub dtype: DType,
    /// Address of element 0.
    pub addr: u64,
    /// Sizes.
    pub dims: Vec<u64>,
    /// Bytes from element to element of every dim but the first.
    pub strides: Vec<u64>,
    /// Sizes of a box.
    pub box_dims: Vec<u32>,
}

/// The form of a launch for this argument block, and its maps.
pub(crate) fn form<'a>(
    sig: &Signature,
    args: &[u64],
    device: &'a DeviceLaunch,
) -> (&'a DeviceLaunch, Vec<MapArgs>) {
    let Some(mapped) = &device.mapped else { return (device, Vec::new()) };
    match mapped.maps.iter().map(|spec| describe(sig, args, spec)).collect::<Option<Vec<_>>>() {
        Some(maps) => (&mapped.launch, maps),
        None => (device, Vec::new()),
    }
}

/// The map of a tensor, if there can be one.
fn describe(sig: &Signature, args: &[u64], spec: &TensorMapSpec) -> Option<MapArgs> {
    let t = spec.tensor as usize;
    let decl = sig.artifact.tensors.get(t)?;
    let (row, col) = (spec.row_dim as usize, spec.col_dim as usize);
    let rank = decl.shape.len();
    let is_half = matches!(decl.dtype, DType::F16 | DType::Bf16);
    if !is_half || row >= rank || col >= rank || row == col || !(2..=5).contains(&rank) {
        return None;
    }
    let addr = args[sig.layout.address(t)];
    let (mut dims, mut strides, mut box_dims) = (Vec::new(), Vec::new(), Vec::new());
    // Contiguous tensors so have rising strides.
    for dim in std::iter::once(col).chain((0..rank).rev().filter(|d| *d != col)) {
        let (size, stride) = (args[sig.layout.size(t, dim)], args[sig.layout.stride(t, dim)] as i64);
        if size == 0 || size > 1 << 32 {
            return None;
        }
        dims.push(size);
        if dim == col {
            if stride != 1 && size > 1 {
                return None;
            }
            box_dims.push(spec.box_cols);
            continue;
        }
        // A dim of one element is never left: any stride will do.
        let bytes = if size == 1 { 16 } else { u64::try_from(stride).ok()?.checked_mul(2)? };
        if bytes == 0 || !bytes.is_multiple_of(16) || bytes >= MOST_STRIDE {
            return None;
        }
        strides.push(bytes);
        box_dims.push(if dim == row { spec.box_rows } else { 1 });
    }
    let good = addr.is_multiple_of(16) && box_dims.iter().all(|b| (1..=256).contains(b));
    good.then_some(MapArgs { dtype: decl.dtype, addr, dims, strides, box_dims })
}
