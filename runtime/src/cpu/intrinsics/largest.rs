//! The largest elements of rows that come tile by tile: `keep_largest`, `mark`.
//!
//! In: a tile of scores, or positions. Out: lists of the best scores and their positions, or a tile of ones and zeros.
//! Afterwards: each list is descending, of equal scores the earlier position first; -inf and NaN are in none. Not
//! here: whole vectors (`vectors.rs`).

use super::tiles::Tile;

/// Puts the elements of a tile into the lists of its rows.
///
/// # Safety
/// The tile is readable; `best` and `at` hold `t.rows` rows of `ldb` >= `m` values each, apart from it.
#[inline(always)]
pub(super) unsafe fn keep(best: *mut f32, at: *mut f32, ldb: usize, t: Tile, first: i64, m: usize) {
    let m = m.min(ldb);
    if m == 0 {
        return;
    }
    for r in 0..t.rows {
        // SAFETY: the caller's promise: row r of each is there.
        let (scores, best, at) = unsafe {
            (
                std::slice::from_raw_parts(t.s.add(r * t.lds), t.cols),
                std::slice::from_raw_parts_mut(best.add(r * ldb), m),
                std::slice::from_raw_parts_mut(at.add(r * ldb), m),
            )
        };
        for (c, &x) in scores.iter().enumerate() {
            // False of NaN, and of -inf: what is free holds -inf.
            if x > best[m - 1] {
                let n = best.partition_point(|&y| y >= x);
                best.copy_within(n..m - 1, n + 1);
                at.copy_within(n..m - 1, n + 1);
                best[n] = x;
                at[n] = (first + c as i64) as f32;
            }
        }
    }
}

/// Ones at the positions that the list of a row holds, zeros elsewhere.
///
/// # Safety
/// The tile is writable; `at` holds `t.rows` rows of `lda` values, apart from it.
#[inline(always)]
pub(super) unsafe fn mark(t: Tile, at: *const f32, lda: usize, first: i64) {
    for r in 0..t.rows {
        // SAFETY: the caller's promise: row r of each is there.
        let (out, at) = unsafe {
            (
                std::slice::from_raw_parts_mut(t.s.add(r * t.lds), t.cols),
                std::slice::from_raw_parts(at.add(r * lda), lda),
            )
        };
        out.fill(0.0);
        for &place in at {
            // Free places hold -1.
            let c = place as i64 - first;
            if place >= 0.0 && (0..out.len() as i64).contains(&c) {
                out[c as usize] = 1.0;
            }
        }
    }
}
