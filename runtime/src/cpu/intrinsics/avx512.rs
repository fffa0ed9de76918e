//! [`Simd`] on AVX-512 (F, BW, DQ, VL): a vector is one register, a mask is a mask register.
//!
//! In: lanes. Out: lanes. With BF16 there is an instruction for [`Simd::dot_pairs`]: the same bits, but for
//! subnormals (compared on Zen 4 with 32 million products). Not here: FP16 arithmetic.

use super::simd::{HIGH_HALF, LANES, Simd, simd_ops};
use std::arch::x86_64::*;

/// Folds sixteen vectors into one with `$op`: lanes at distance 8, 4, 2, 1, the results in the order of the
/// vectors. Each step folds two vectors into one, so thirty shuffles do.
macro_rules! tree {
    ($rows:expr, $op:ident) => {{
        let r: [__m512; LANES] = $rows;
        let mut quarters = [_mm512_setzero_ps(); 4];
        for (j, q) in quarters.iter_mut().enumerate() {
            // Vectors j, j + 4, j + 8, j + 12 end in the four 128-bit lanes.
            let (a, b, c, d) = (r[j], r[j + 4], r[j + 8], r[j + 12]);
            let ab = $op(_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xee>(a, b));
            let cd = $op(_mm512_shuffle_f32x4::<0x44>(c, d), _mm512_shuffle_f32x4::<0xee>(c, d));
            *q = $op(_mm512_shuffle_f32x4::<0x88>(ab, cd), _mm512_shuffle_f32x4::<0xdd>(ab, cd));
        }
        let [a, b, c, d] = quarters;
        let ab = $op(_mm512_shuffle_ps::<0x44>(a, b), _mm512_shuffle_ps::<0xee>(a, b));
        let cd = $op(_mm512_shuffle_ps::<0x44>(c, d), _mm512_shuffle_ps::<0xee>(c, d));
        $op(_mm512_shuffle_ps::<0x88>(ab, cd), _mm512_shuffle_ps::<0xdd>(ab, cd))
    }};
}

/// AVX-512 F, BW, DQ, VL, and BF16 where that is true.
pub(super) struct Avx512<const BF16: bool>;

impl<const BF16: bool> Simd for Avx512<BF16> {
    type V = __m512;
    type M = __mmask16;
    const ROWS: usize = 8;
    const COLS: usize = 2;
    const HOLDS: bool = true;

    simd_ops! {
        splat(x: f32) -> __m512 { _mm512_set1_ps(x) }
        splat_bits(x: i32) -> __m512 { _mm512_castsi512_ps(_mm512_set1_epi32(x)) }
        load(p: *const f32) -> __m512 { _mm512_loadu_ps(p) }
        store(p: *mut f32, v: __m512) { _mm512_storeu_ps(p, v) }
        load_first(p: *const f32, n: usize) -> __m512 { _mm512_maskz_loadu_ps(Self::first(n), p) }
        store_first(p: *mut f32, v: __m512, n: usize) { _mm512_mask_storeu_ps(p, Self::first(n), v) }
        load_f16(p: *const u16) -> __m512 { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
        store_f16(p: *mut u16, v: __m512) {
            _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v))
        }
        load_bf16(p: *const u16) -> __m512 {
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()))))
        }
        store_bf16(p: *mut u16, v: __m512) { {
            let bits = if BF16 {
                std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v))
            } else {
                _mm512_cvtepi32_epi16(bf16_bits(v))
            };
            _mm256_storeu_si256(p.cast(), bits)
        } }
        prefetch(p: *const u8) { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
        prefetch_near(p: *const u8) { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
        settle() { _mm_lfence() }
        zip(a: __m512, b: __m512) -> (__m512, __m512) { {
            let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            let high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
            (_mm512_permutex2var_ps(a, low, b), _mm512_permutex2var_ps(a, high, b))
        } }
        unzip(a: __m512, b: __m512) -> (__m512, __m512) { {
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
            (_mm512_permutex2var_ps(a, even, b), _mm512_permutex2var_ps(a, odd, b))
        } }
        dot_pairs(a: __m512, b: __m512, c: __m512) -> __m512 { {
            if BF16 {
                let pairs = std::mem::transmute::<__m512, __m512bh>;
                _mm512_dpbf16_ps(c, pairs(a), pairs(b))
            } else {
                let high = Self::splat_bits(HIGH_HALF);
                let c = Self::fma(Self::and(a, high), Self::and(b, high), c);
                Self::fma(Self::shl::<16>(a), Self::shl::<16>(b), c)
            }
        } }
        pairs_where(a: __m512, b: __m512) -> __m512 { {
            let some = _mm512_test_epi16_mask(_mm512_castps_si512(a), _mm512_set1_epi16(0x7fff));
            _mm512_castsi512_ps(_mm512_maskz_mov_epi16(some, _mm512_castps_si512(b)))
        } }
        pairs_unfloored(a: __m512) -> __m512 { {
            let a = _mm512_castps_si512(a);
            let some = _mm512_cmpneq_epi16_mask(a, _mm512_set1_epi16(0x0080));
            _mm512_castsi512_ps(_mm512_maskz_mov_epi16(some, a))
        } }
        weave(a: __m512, b: __m512) -> (__m512, __m512) { {
            let (a, b) = (_mm512_castps_si512(a), _mm512_castps_si512(b));
            (_mm512_castsi512_ps(_mm512_unpacklo_epi16(a, b)), _mm512_castsi512_ps(_mm512_unpackhi_epi16(a, b)))
        } }
        unweave(first: __m512, second: __m512) -> (__m512, __m512) { {
            // Each 128 bits of the first are followed by those of the second.
            let low = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
            let high = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
            let (a, b) = (_mm512_castps_pd(first), _mm512_castps_pd(second));
            (_mm512_castpd_ps(_mm512_permutex2var_pd(a, low, b)), _mm512_castpd_ps(_mm512_permutex2var_pd(a, high, b)))
        } }
        add(a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
        sub(a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
        mul(a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
        div(a: __m512, b: __m512) -> __m512 { _mm512_div_ps(a, b) }
        fma(a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
        fnma(a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fnmadd_ps(a, b, c) }
        max(a: __m512, b: __m512) -> __m512 { _mm512_max_ps(a, b) }
        min(a: __m512, b: __m512) -> __m512 { _mm512_min_ps(a, b) }
        round(a: __m512) -> __m512 { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
        to_int(a: __m512) -> __m512 { _mm512_castsi512_ps(_mm512_cvtps_epi32(a)) }
        from_int(a: __m512) -> __m512 { _mm512_cvtepi32_ps(_mm512_castps_si512(a)) }
        lt(a: __m512, b: __m512) -> __mmask16 { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b) }
        eq(a: __m512, b: __m512) -> __mmask16 { _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b) }
        select(m: __mmask16, a: __m512, b: __m512) -> __m512 { _mm512_mask_blend_ps(m, b, a) }
        and(a: __m512, b: __m512) -> __m512 { _mm512_and_ps(a, b) }
        xor(a: __m512, b: __m512) -> __m512 { _mm512_xor_ps(a, b) }
        add_i(a: __m512, b: __m512) -> __m512 {
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)))
        }
        sub_i(a: __m512, b: __m512) -> __m512 {
            _mm512_castsi512_ps(_mm512_sub_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)))
        }
        lt_u(a: __m512, b: __m512) -> __mmask16 {
            _mm512_cmplt_epu32_mask(_mm512_castps_si512(a), _mm512_castps_si512(b))
        }
        mul_even(a: __m512, b: __m512) -> __m512 {
            _mm512_castsi512_ps(_mm512_mul_epu32(_mm512_castps_si512(a), _mm512_castps_si512(b)))
        }
        odd_to_even(a: __m512) -> __m512 { _mm512_castsi512_ps(_mm512_srli_epi64::<32>(_mm512_castps_si512(a))) }
        merge_even(a: __m512, b: __m512) -> __m512 { _mm512_mask_moveldup_ps(a, 0xaaaa, b) }
        shl<N>(a: __m512) -> __m512 { _mm512_castsi512_ps(_mm512_slli_epi32::<N>(_mm512_castps_si512(a))) }
        sra<N>(a: __m512) -> __m512 { _mm512_castsi512_ps(_mm512_srai_epi32::<N>(_mm512_castps_si512(a))) }
        exp2_split(t: __m512) -> (__m512, __m512) { { let n = Self::round(t); (n, _mm512_sub_ps(t, n)) } }
        exp2_join(p: __m512, n: __m512, t: __m512) -> __m512 {
            _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask::<_CMP_NLT_UQ>(t, _mm512_set1_ps(-126.0)), p, n)
        }
        transpose(rows: &mut [__m512; LANES]) { transpose16(rows) }
        tree_sums(rows: [__m512; LANES]) -> __m512 { tree!(rows, _mm512_add_ps) }
        tree_maxima(rows: [__m512; LANES]) -> __m512 { tree!(rows, _mm512_max_ps) }
    }

    #[inline(always)]
    unsafe fn first(n: usize) -> __mmask16 {
        ((1u32 << n.min(LANES)) - 1) as u16
    }

    #[inline(always)]
    unsafe fn any(m: __mmask16) -> bool {
        m != 0
    }
}

/// The bfloat16 of each lane in the low half of a 32-bit lane: nearest even, NaN made quiet.
#[inline(always)]
unsafe fn bf16_bits(v: __m512) -> __m512i {
    // SAFETY: register arithmetic; AVX-512 is there, as for every caller.
    unsafe {
        let bits = _mm512_castps_si512(v);
        let high = _mm512_srli_epi32::<16>(bits);
        let odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
        let up = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
        let quiet = _mm512_or_si512(high, _mm512_set1_epi32(0x40));
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
        _mm512_mask_blend_epi32(nan, _mm512_srli_epi32::<16>(up), quiet)
    }
}

/// 16 x 16 transposition: pairs and quads inside 128-bit lanes, then the lanes themselves.
#[inline(always)]
unsafe fn transpose16(r: &mut [__m512; LANES]) {
    // SAFETY: register shuffles; AVX-512 is there, as for every caller.
    unsafe {
        let mut quads = [_mm512_setzero_ps(); LANES];
        for g in 0..4 {
            let (a, b, c, d) = (r[4 * g], r[4 * g + 1], r[4 * g + 2], r[4 * g + 3]);
            let (ab0, ab1) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
            let (cd0, cd1) = (_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
            quads[4 * g] = _mm512_shuffle_ps::<0x44>(ab0, cd0);
            quads[4 * g + 1] = _mm512_shuffle_ps::<0xee>(ab0, cd0);
            quads[4 * g + 2] = _mm512_shuffle_ps::<0x44>(ab1, cd1);
            quads[4 * g + 3] = _mm512_shuffle_ps::<0xee>(ab1, cd1);
        }
        for i in 0..4 {
            let (a, b, c, d) = (quads[i], quads[4 + i], quads[8 + i], quads[12 + i]);
            let (ab_even, ab_odd) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
            let (cd_even, cd_odd) = (_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xdd>(c, d));
            r[i] = _mm512_shuffle_f32x4::<0x88>(ab_even, cd_even);
            r[8 + i] = _mm512_shuffle_f32x4::<0xdd>(ab_even, cd_even);
            r[4 + i] = _mm512_shuffle_f32x4::<0x88>(ab_odd, cd_odd);
            r[12 + i] = _mm512_shuffle_f32x4::<0xdd>(ab_odd, cd_odd);
        }
    }
}
