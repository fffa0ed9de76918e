//! The vector that every intrinsic is written in: sixteen f32 lanes, whatever the registers are.
//!
//! In: nothing. Out: [`Simd`], which `avx512.rs` (one register per vector), `avx2.rs` (two), `neon.rs`
//! (four) and `portable.rs` (an array) implement. Afterwards: each operation gives the same bits in every
//! implementation, so a kernel that is generic over `Simd` gives the same bits on every machine. For that
//! reason there is no reassociating reduction here and no operation of less than full precision.
//! Not here: widths other than sixteen, integers beyond what moving exponents and random words need.

/// Lanes of a [`Simd::V`].
pub const LANES: usize = 16;

/// Of a word with two bf16, the one with the higher index.
pub(super) const HIGH_HALF: i32 = 0xffff_0000_u32 as i32;
/// The other one.
pub(super) const LOW_HALF: i32 = 0x0000_ffff;

/// An instruction set, as operations on vectors of [`LANES`] f32 values.
///
/// # Safety
/// Every method needs the CPU features that the implementing type stands for, and pointers valid for the
/// lanes that it says it touches. No method needs alignment.
pub(super) trait Simd {
    /// Sixteen f32 lanes.
    type V: Copy;
    /// Sixteen truth values.
    type M: Copy;
    /// Rows of the register block of the matrix product.
    const ROWS: usize;
    /// Vectors per row of that block: 1 or 2.
    const COLS: usize;
    /// Whether sixteen vectors fit into registers beside the sums of a product: 32 registers of a vector each.
    const HOLDS: bool = false;

    /// `x` in every lane.
    unsafe fn splat(x: f32) -> Self::V;
    /// The same 32 bits in every lane.
    unsafe fn splat_bits(x: i32) -> Self::V;
    /// Reads 16 lanes.
    unsafe fn load(p: *const f32) -> Self::V;
    /// Writes 16 lanes.
    unsafe fn store(p: *mut f32, v: Self::V);
    /// Reads lanes 0..n (n <= 16) and touches no memory beyond them; zero in the others.
    unsafe fn load_first(p: *const f32, n: usize) -> Self::V;
    /// Writes lanes 0..n (n <= 16) and touches no memory beyond them.
    unsafe fn store_first(p: *mut f32, v: Self::V, n: usize);
    /// Reads 16 binary16 values.
    unsafe fn load_f16(p: *const u16) -> Self::V;
    /// Writes 16 binary16 values, rounded to nearest even.
    unsafe fn store_f16(p: *mut u16, v: Self::V);
    /// Reads 16 bfloat16 values.
    unsafe fn load_bf16(p: *const u16) -> Self::V;
    /// Writes 16 bfloat16 values, rounded to nearest even.
    unsafe fn store_bf16(p: *mut u16, v: Self::V);

    /// Asks for the cache line at `p`, which need not be valid, in the second-level cache: more such requests
    /// can be under way than into the first level, and only so does packing keep up with memory.
    #[inline(always)]
    unsafe fn prefetch(_p: *const u8) {}

    /// Asks for the cache line at `p`, which need not be valid, in the first-level cache.
    #[inline(always)]
    unsafe fn prefetch_near(_p: *const u8) {}

    /// Lets what has been loaded arrive before going on: requests that run far ahead of the work crowd out those of
    /// [`Simd::prefetch_near`].
    #[inline(always)]
    unsafe fn settle() {}

    /// `a[0], b[0], a[1], b[1], ...` in two vectors.
    #[inline(always)]
    unsafe fn zip(a: Self::V, b: Self::V) -> (Self::V, Self::V) {
        let (mut x, mut y, mut both) = ([0f32; LANES], [0f32; LANES], [0f32; 2 * LANES]);
        // SAFETY: the trait's contract; the arrays hold what is read and written.
        unsafe {
            Self::store(x.as_mut_ptr(), a);
            Self::store(y.as_mut_ptr(), b);
            for i in 0..LANES {
                (both[2 * i], both[2 * i + 1]) = (x[i], y[i]);
            }
            (Self::load(both.as_ptr()), Self::load(both.as_ptr().add(LANES)))
        }
    }

    /// The even lanes of `a` and then of `b`, and the odd ones.
    #[inline(always)]
    unsafe fn unzip(a: Self::V, b: Self::V) -> (Self::V, Self::V) {
        let (mut x, mut y, mut both) = ([0f32; LANES], [0f32; LANES], [0f32; 2 * LANES]);
        // SAFETY: the trait's contract; the arrays hold what is read and written.
        unsafe {
            Self::store(both.as_mut_ptr(), a);
            Self::store(both.as_mut_ptr().add(LANES), b);
            for i in 0..LANES {
                (x[i], y[i]) = (both[2 * i], both[2 * i + 1]);
            }
            (Self::load(x.as_ptr()), Self::load(y.as_ptr()))
        }
    }

    /// With two bf16 in each lane of `a` and `b`, adds their products to the f32 lanes of `c`: those of the high halves, then
    /// those of the low halves, each rounded once. Where an instruction does it, subnormals count as zero.
    #[inline(always)]
    unsafe fn dot_pairs(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: the trait's contract.
        unsafe {
            let high = Self::splat_bits(HIGH_HALF);
            let c = Self::fma(Self::and(a, high), Self::and(b, high), c);
            Self::fma(Self::shl::<16>(a), Self::shl::<16>(b), c)
        }
    }

    /// The bf16 of `b` where the one of `a` is not zero, else zero.
    #[inline(always)]
    unsafe fn pairs_where(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the trait's contract.
        unsafe {
            let (zero, high) = (Self::splat(0.0), Self::splat_bits(HIGH_HALF));
            let low_b = Self::and(b, Self::splat_bits(LOW_HALF));
            let low = Self::select(Self::eq(Self::shl::<16>(a), zero), zero, low_b);
            let high = Self::select(Self::eq(Self::and(a, high), zero), zero, Self::and(b, high));
            Self::xor(low, high)
        }
    }

    /// The bf16 of `a`, zero where it is `f32::MIN_POSITIVE`.
    #[inline(always)]
    unsafe fn pairs_unfloored(a: Self::V) -> Self::V {
        // SAFETY: the trait's contract.
        unsafe {
            let (zero, floor) = (Self::splat(0.0), Self::splat(f32::MIN_POSITIVE));
            let (low, high) =
                (Self::and(a, Self::splat_bits(LOW_HALF)), Self::and(a, Self::splat_bits(HIGH_HALF)));
            let low = Self::select(Self::eq(Self::shl::<16>(a), floor), zero, low);
            Self::xor(low, Self::select(Self::eq(high, floor), zero, high))
        }
    }

    /// Of thirty-two bf16 in `a` and as many in `b`, pairs `(a[x], b[x])` in an order that [`Simd::unweave`] knows.
    #[inline(always)]
    unsafe fn weave(a: Self::V, b: Self::V) -> (Self::V, Self::V) {
        // SAFETY: the trait's contract.
        unsafe {
            let (low, high) = (Self::splat_bits(LOW_HALF), Self::splat_bits(HIGH_HALF));
            let even = Self::xor(Self::and(a, low), Self::shl::<16>(b));
            let odd = Self::xor(Self::and(Self::sra::<16>(a), low), Self::and(b, high));
            (even, odd)
        }
    }

    /// Lanes that stand as the pairs of [`Simd::weave`], in the order of x: the first sixteen and the others.
    #[inline(always)]
    unsafe fn unweave(first: Self::V, second: Self::V) -> (Self::V, Self::V) {
        // SAFETY: the trait's contract.
        unsafe { Self::zip(first, second) }
    }

    /// a + b
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// a - b
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    /// a * b
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// a / b
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// a * b + c, rounded once
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// c - a * b, rounded once
    unsafe fn fnma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `if a > b { a } else { b }`: b where either is NaN.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// `if a < b { a } else { b }`: b where either is NaN.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// To the nearest integer, ties to even.
    unsafe fn round(a: Self::V) -> Self::V;
    /// To the nearest i32, ties to even; unspecified where it does not fit.
    unsafe fn to_int(a: Self::V) -> Self::V;
    /// From i32.
    unsafe fn from_int(a: Self::V) -> Self::V;

    /// a < b; false where either is NaN.
    unsafe fn lt(a: Self::V, b: Self::V) -> Self::M;
    /// a == b; false where either is NaN.
    unsafe fn eq(a: Self::V, b: Self::V) -> Self::M;
    /// Lanes 0..n.
    unsafe fn first(n: usize) -> Self::M;
    /// `if m { a } else { b }`
    unsafe fn select(m: Self::M, a: Self::V, b: Self::V) -> Self::V;
    /// Is any lane true?
    unsafe fn any(m: Self::M) -> bool;

    /// Bitwise and.
    unsafe fn and(a: Self::V, b: Self::V) -> Self::V;
    /// Bitwise exclusive or.
    unsafe fn xor(a: Self::V, b: Self::V) -> Self::V;
    /// Wrapping 32-bit sum.
    unsafe fn add_i(a: Self::V, b: Self::V) -> Self::V;
    /// Wrapping 32-bit difference.
    unsafe fn sub_i(a: Self::V, b: Self::V) -> Self::V;
    /// a < b as unsigned 32-bit integers.
    unsafe fn lt_u(a: Self::V, b: Self::V) -> Self::M;
    /// 64-bit products of the unsigned integers in the even lanes; the low half of each is in the even lane.
    unsafe fn mul_even(a: Self::V, b: Self::V) -> Self::V;
    /// Every odd lane's bits in the even lane before it; the odd lanes are unspecified.
    unsafe fn odd_to_even(a: Self::V) -> Self::V;
    /// The even lanes of `a` in the even lanes, those of `b` in the odd lanes after them.
    unsafe fn merge_even(a: Self::V, b: Self::V) -> Self::V;
    /// Shift left.
    unsafe fn shl<const N: u32>(a: Self::V) -> Self::V;
    /// Arithmetic shift right.
    unsafe fn sra<const N: u32>(a: Self::V) -> Self::V;

    /// Splits t into round(t) and `f = t - round(t)`; the first in a form that only [`Simd::exp2_join`] reads.
    /// For |t| < 2^22.
    #[inline(always)]
    unsafe fn exp2_split(t: Self::V) -> (Self::V, Self::V) {
        // SAFETY: the trait's contract.
        unsafe {
            // Adding 1.5 * 2^23 + 127 leaves round(t) + 127, the exponent field of the power, in the low bits.
            let magic = Self::splat(12_582_912.0 + 127.0);
            let shifted = Self::add(t, magic);
            (shifted, Self::sub(t, Self::sub(shifted, magic)))
        }
    }

    /// `p * 2^round(t)` for the first half of `exp2_split(t)`, t < 127; 0 where t < -126, NaN where t is.
    #[inline(always)]
    unsafe fn exp2_join(p: Self::V, shifted: Self::V, t: Self::V) -> Self::V {
        // SAFETY: the trait's contract.
        unsafe {
            // A product, not an integer sum of exponents: it keeps a NaN a NaN.
            let scaled = Self::mul(p, Self::shl::<23>(shifted));
            Self::select(Self::lt(t, Self::splat(-126.0)), Self::splat(0.0), scaled)
        }
    }

    /// Lane i of row j becomes lane j of row i.
    unsafe fn transpose(rows: &mut [Self::V; LANES]);

    /// Sum of each of sixteen vectors: lane r of the result is the tree sum over `rows[r]` in which lanes at
    /// distance 8 are added first, then 4, 2, 1.
    #[inline(always)]
    unsafe fn tree_sums(mut rows: [Self::V; LANES]) -> Self::V {
        // SAFETY: the trait's contract.
        unsafe {
            Self::transpose(&mut rows);
            for width in [8, 4, 2, 1] {
                for i in 0..width {
                    rows[i] = Self::add(rows[i], rows[i + width]);
                }
            }
        }
        rows[0]
    }

    /// Maximum of each of sixteen vectors without NaN.
    #[inline(always)]
    unsafe fn tree_maxima(mut rows: [Self::V; LANES]) -> Self::V {
        // SAFETY: the trait's contract.
        unsafe {
            Self::transpose(&mut rows);
            for width in [8, 4, 2, 1] {
                for i in 0..width {
                    rows[i] = Self::max(rows[i], rows[i + width]);
                }
            }
        }
        rows[0]
    }
}

/// Defines methods of [`Simd`], each one expression of `std::arch` intrinsics.
macro_rules! simd_ops {
    ($( $name:ident $(<$n:ident>)? ( $($arg:ident: $ty:ty),* ) $(-> $ret:ty)? { $body:expr } )*) => {
        $(
            #[inline(always)]
            unsafe fn $name $(<const $n: u32>)? ($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: the trait's contract: the features are there, the pointers cover the lanes.
                unsafe { $body }
            }
        )*
    };
}
pub(super) use simd_ops;
