//! [`Simd`] on AVX2 with FMA and F16C: a vector is two registers.
//!
//! In: lanes. Out: lanes, the same bits as AVX-512. Partial loads and stores use `vmaskmov`, which does
//! not touch (nor fault on) the lanes that are off.

use super::simd::{LANES, Simd, simd_ops};
use std::arch::x86_64::*;

/// AVX2, FMA and F16C.
pub(super) struct Avx2;

/// Sixteen lanes: 0..8 and 8..16.
type Pair = [__m256; 2];

/// Applies `$f` to the low and to the high halves.
macro_rules! both {
    ($f:expr, $($v:expr),+) => { [$f($($v[0]),+), $f($($v[1]),+)] };
}
/// Applies the integer operation `$f` to both halves of f32 registers.
macro_rules! both_i {
    ($f:expr, $($v:expr),+) => {
        [_mm256_castsi256_ps($f($(_mm256_castps_si256($v[0])),+)), _mm256_castsi256_ps($f($(_mm256_castps_si256($v[1])),+))]
    };
}

/// Folds eight vectors from `$first` on into one register: lanes at distance 8, 4, 2, 1, the results in the
/// order of the vectors.
macro_rules! tree {
    ($rows:expr, $first:expr, $op:ident) => {{
        let r: [Pair; LANES] = $rows;
        let mut quarters = [_mm256_setzero_ps(); 4];
        for (j, q) in quarters.iter_mut().enumerate() {
            let (a, b) = (r[$first + j], r[$first + j + 4]);
            let (a, b) = ($op(a[0], a[1]), $op(b[0], b[1]));
            *q = $op(_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b));
        }
        let [a, b, c, d] = quarters;
        let ab = $op(_mm256_shuffle_ps::<0x44>(a, b), _mm256_shuffle_ps::<0xee>(a, b));
        let cd = $op(_mm256_shuffle_ps::<0x44>(c, d), _mm256_shuffle_ps::<0xee>(c, d));
        $op(_mm256_shuffle_ps::<0x88>(ab, cd), _mm256_shuffle_ps::<0xdd>(ab, cd))
    }};
}

impl Simd for Avx2 {
    type V = Pair;
    type M = Pair;
    const ROWS: usize = 6;
    const COLS: usize = 1;

    simd_ops! {
        splat(x: f32) -> Pair { [_mm256_set1_ps(x); 2] }
        splat_bits(x: i32) -> Pair { [_mm256_castsi256_ps(_mm256_set1_epi32(x)); 2] }
        load(p: *const f32) -> Pair { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] }
        store(p: *mut f32, v: Pair) { { _mm256_storeu_ps(p, v[0]); _mm256_storeu_ps(p.add(8), v[1]) } }
        load_first(p: *const f32, n: usize) -> Pair { {
            let m = Self::first(n);
            let high = _mm256_maskload_ps(p.wrapping_add(8), _mm256_castps_si256(m[1]));
            [_mm256_maskload_ps(p, _mm256_castps_si256(m[0])), high]
        } }
        store_first(p: *mut f32, v: Pair, n: usize) { {
            let m = Self::first(n);
            _mm256_maskstore_ps(p, _mm256_castps_si256(m[0]), v[0]);
            _mm256_maskstore_ps(p.wrapping_add(8), _mm256_castps_si256(m[1]), v[1])
        } }
        load_f16(p: *const u16) -> Pair {
            [_mm256_cvtph_ps(_mm_loadu_si128(p.cast())), _mm256_cvtph_ps(_mm_loadu_si128(p.add(8).cast()))]
        }
        store_f16(p: *mut u16, v: Pair) { {
            _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v[0]));
            _mm_storeu_si128(p.add(8).cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v[1]))
        } }
        load_bf16(p: *const u16) -> Pair { [widen_bf16(p), widen_bf16(p.add(8))] }
        store_bf16(p: *mut u16, v: Pair) { {
            // Packing works inside 128-bit lanes; the permutation puts the four quarters in order.
            let packed = _mm256_packus_epi32(bf16_bits(v[0]), bf16_bits(v[1]));
            _mm256_storeu_si256(p.cast(), _mm256_permute4x64_epi64::<0b11_01_10_00>(packed))
        } }
        prefetch(p: *const u8) { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
        prefetch_near(p: *const u8) { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
        settle() { _mm_lfence() }
        zip(a: Pair, b: Pair) -> (Pair, Pair) { (zip8(a[0], b[0]), zip8(a[1], b[1])) }
        unzip(a: Pair, b: Pair) -> (Pair, Pair) { {
            let ((e0, o0), (e1, o1)) = (unzip8(a[0], a[1]), unzip8(b[0], b[1]));
            ([e0, e1], [o0, o1])
        } }
        add(a: Pair, b: Pair) -> Pair { both!(_mm256_add_ps, a, b) }
        sub(a: Pair, b: Pair) -> Pair { both!(_mm256_sub_ps, a, b) }
        mul(a: Pair, b: Pair) -> Pair { both!(_mm256_mul_ps, a, b) }
        div(a: Pair, b: Pair) -> Pair { both!(_mm256_div_ps, a, b) }
        fma(a: Pair, b: Pair, c: Pair) -> Pair { both!(_mm256_fmadd_ps, a, b, c) }
        fnma(a: Pair, b: Pair, c: Pair) -> Pair { both!(_mm256_fnmadd_ps, a, b, c) }
        max(a: Pair, b: Pair) -> Pair { both!(_mm256_max_ps, a, b) }
        min(a: Pair, b: Pair) -> Pair { both!(_mm256_min_ps, a, b) }
        round(a: Pair) -> Pair { both!(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>, a) }
        to_int(a: Pair) -> Pair {
            [_mm256_castsi256_ps(_mm256_cvtps_epi32(a[0])), _mm256_castsi256_ps(_mm256_cvtps_epi32(a[1]))]
        }
        from_int(a: Pair) -> Pair {
            [_mm256_cvtepi32_ps(_mm256_castps_si256(a[0])), _mm256_cvtepi32_ps(_mm256_castps_si256(a[1]))]
        }
        lt(a: Pair, b: Pair) -> Pair { both!(_mm256_cmp_ps::<_CMP_LT_OQ>, a, b) }
        eq(a: Pair, b: Pair) -> Pair { both!(_mm256_cmp_ps::<_CMP_EQ_OQ>, a, b) }
        first(n: usize) -> Pair { {
            let n = _mm256_set1_epi32(n.min(LANES) as i32);
            let low = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let high = _mm256_add_epi32(low, _mm256_set1_epi32(8));
            [_mm256_castsi256_ps(_mm256_cmpgt_epi32(n, low)), _mm256_castsi256_ps(_mm256_cmpgt_epi32(n, high))]
        } }
        select(m: Pair, a: Pair, b: Pair) -> Pair { both!(_mm256_blendv_ps, b, a, m) }
        any(m: Pair) -> bool { _mm256_movemask_ps(_mm256_or_ps(m[0], m[1])) != 0 }
        and(a: Pair, b: Pair) -> Pair { both!(_mm256_and_ps, a, b) }
        xor(a: Pair, b: Pair) -> Pair { both!(_mm256_xor_ps, a, b) }
        add_i(a: Pair, b: Pair) -> Pair { both_i!(_mm256_add_epi32, a, b) }
        sub_i(a: Pair, b: Pair) -> Pair { both_i!(_mm256_sub_epi32, a, b) }
        mul_even(a: Pair, b: Pair) -> Pair { both_i!(_mm256_mul_epu32, a, b) }
        odd_to_even(a: Pair) -> Pair { both!(_mm256_movehdup_ps, a) }
        merge_even(a: Pair, b: Pair) -> Pair {
            [
                _mm256_blend_ps::<0xaa>(a[0], _mm256_moveldup_ps(b[0])),
                _mm256_blend_ps::<0xaa>(a[1], _mm256_moveldup_ps(b[1])),
            ]
        }
        transpose(rows: &mut [Pair; LANES]) { transpose16(rows) }
        tree_sums(rows: [Pair; LANES]) -> Pair { [tree!(rows, 0, _mm256_add_ps), tree!(rows, 8, _mm256_add_ps)] }
        tree_maxima(rows: [Pair; LANES]) -> Pair { [tree!(rows, 0, _mm256_max_ps), tree!(rows, 8, _mm256_max_ps)] }
    }

    #[inline(always)]
    unsafe fn lt_u(a: Pair, b: Pair) -> Pair {
        // SAFETY: register arithmetic; AVX2 is there by the trait's contract.
        unsafe {
            // Comparison is of signed integers: with the top bits turned over the order is the unsigned one.
            let top = _mm256_set1_epi32(i32::MIN);
            let less = |a, b| _mm256_cmpgt_epi32(_mm256_xor_si256(b, top), _mm256_xor_si256(a, top));
            both_i!(less, a, b)
        }
    }

    #[inline(always)]
    unsafe fn shl<const N: u32>(a: Pair) -> Pair {
        // SAFETY: register arithmetic; AVX2 is there by the trait's contract.
        unsafe {
            let count = _mm_cvtsi32_si128(N as i32);
            [
                _mm256_castsi256_ps(_mm256_sll_epi32(_mm256_castps_si256(a[0]), count)),
                _mm256_castsi256_ps(_mm256_sll_epi32(_mm256_castps_si256(a[1]), count)),
            ]
        }
    }

    #[inline(always)]
    unsafe fn sra<const N: u32>(a: Pair) -> Pair {
        // SAFETY: register arithmetic; AVX2 is there by the trait's contract.
        unsafe {
            let count = _mm_cvtsi32_si128(N as i32);
            [
                _mm256_castsi256_ps(_mm256_sra_epi32(_mm256_castps_si256(a[0]), count)),
                _mm256_castsi256_ps(_mm256_sra_epi32(_mm256_castps_si256(a[1]), count)),
            ]
        }
    }
}

/// Eight bfloat16 values as f32.
#[inline(always)]
unsafe fn widen_bf16(p: *const u16) -> __m256 {
    // SAFETY: the caller's pointer covers eight values.
    unsafe {
        let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
    }
}

/// The bfloat16 of each lane in the low half of a 32-bit lane: nearest even, NaN made quiet.
#[inline(always)]
unsafe fn bf16_bits(v: __m256) -> __m256i {
    // SAFETY: register arithmetic; AVX2 is there, as for every caller.
    unsafe {
        let bits = _mm256_castps_si256(v);
        let high = _mm256_srli_epi32::<16>(bits);
        let odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
        let up = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
        let quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
        let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
        _mm256_blendv_epi8(_mm256_srli_epi32::<16>(up), quiet, nan)
    }
}

/// 8 x 8 transposition.
#[inline(always)]
unsafe fn transpose8(r: [__m256; 8]) -> [__m256; 8] {
    // SAFETY: register shuffles; AVX2 is there, as for every caller.
    unsafe {
        let mut quads = [_mm256_setzero_ps(); 8];
        for g in 0..2 {
            let (a, b, c, d) = (r[4 * g], r[4 * g + 1], r[4 * g + 2], r[4 * g + 3]);
            let (ab0, ab1) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            let (cd0, cd1) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
            quads[4 * g] = _mm256_shuffle_ps::<0x44>(ab0, cd0);
            quads[4 * g + 1] = _mm256_shuffle_ps::<0xee>(ab0, cd0);
            quads[4 * g + 2] = _mm256_shuffle_ps::<0x44>(ab1, cd1);
            quads[4 * g + 3] = _mm256_shuffle_ps::<0xee>(ab1, cd1);
        }
        let mut out = quads;
        for i in 0..4 {
            out[i] = _mm256_permute2f128_ps::<0x20>(quads[i], quads[4 + i]);
            out[4 + i] = _mm256_permute2f128_ps::<0x31>(quads[i], quads[4 + i]);
        }
        out
    }
}

/// 16 x 16 transposition as four of 8 x 8.
#[inline(always)]
unsafe fn transpose16(r: &mut [Pair; LANES]) {
    // SAFETY: register shuffles; AVX2 is there, as for every caller.
    unsafe {
        let old = *r;
        for (rows, cols) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let mut block = [_mm256_setzero_ps(); 8];
            for i in 0..8 {
                block[i] = old[8 * rows + i][cols];
            }
            let block = transpose8(block);
            for i in 0..8 {
                r[8 * cols + i][rows] = block[i];
            }
        }
    }
}

/// `a[0], b[0], a[1], b[1], ...`
#[inline(always)]
unsafe fn zip8(a: __m256, b: __m256) -> Pair {
    // SAFETY: register shuffles; AVX2 is there, as for every caller.
    unsafe {
        let (low, high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        [_mm256_permute2f128_ps::<0x20>(low, high), _mm256_permute2f128_ps::<0x31>(low, high)]
    }
}

/// The even lanes of `a` and then of `b`, and the odd ones.
#[inline(always)]
unsafe fn unzip8(a: __m256, b: __m256) -> (__m256, __m256) {
    // SAFETY: register shuffles; AVX2 is there, as for every caller.
    unsafe {
        let (even, odd) = (_mm256_shuffle_ps::<0x88>(a, b), _mm256_shuffle_ps::<0xdd>(a, b));
        let in_order =
            |v: __m256| _mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(_mm256_castps_pd(v)));
        (in_order(even), in_order(odd))
    }
}
