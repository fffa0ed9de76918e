//! Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011) and BigBird's random blocks.
//!
//! Same words on every target and for every tile size: the counter is made of logical positions only.

/// Multipliers of the first and third word of the counter.
pub const PHILOX_M: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// What the words of the key grow by from round to round.
pub const PHILOX_W: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
/// Rounds.
pub const PHILOX_ROUNDS: usize = 10;

/// One Philox4x32-10 block: four words for a counter and a key.
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..PHILOX_ROUNDS {
        let p0 = u64::from(PHILOX_M[0]) * u64::from(counter[0]);
        let p1 = u64::from(PHILOX_M[1]) * u64::from(counter[2]);
        counter = [
            (p1 >> 32) as u32 ^ counter[1] ^ key[0],
            p1 as u32,
            (p0 >> 32) as u32 ^ counter[3] ^ key[1],
            p0 as u32,
        ];
        key = [key[0].wrapping_add(PHILOX_W[0]), key[1].wrapping_add(PHILOX_W[1])];
    }
    counter
}

/// The word of position `col` of a row of random words: lane `col mod 4` of the block with counter
/// (col div 4, row, stream, offset), of which the low 32 bits count, and the seed as key.
pub fn word(col: i64, row: i64, stream: i64, offset: i64, seed: i64) -> u32 {
    let counter = [(col >> 2) as u32, row as u32, stream as u32, offset as u32];
    philox4x32(counter, [seed as u32, (seed as u64 >> 32) as u32])[(col & 3) as usize]
}

/// The `n` distinct columns of `0..ncols` drawn for (seed, head, row), in the order drawn.
///
/// Draw t takes the next word of the Philox blocks with counter (t, row, head, 1), modulo the number of
/// columns left, and picks that one of the columns left in ascending order (language.md, rule 6).
pub fn rand_block_columns(row: i64, ncols: i64, head: i64, n: i64, seed: i64) -> Vec<i64> {
    let key = [seed as u32, (seed as u64 >> 32) as u32];
    let mut chosen: Vec<i64> = Vec::new();
    let wanted = n.clamp(0, ncols.max(0));
    for t in 0..wanted {
        let block = philox4x32([(t / 4) as u32, row as u32, head as u32, 1], key);
        let left = (ncols - t) as u64;
        let mut col = (u64::from(block[(t % 4) as usize]) % left) as i64;
        let mut sorted = chosen.clone();
        sorted.sort_unstable();
        for taken in sorted {
            if taken <= col {
                col += 1;
            }
        }
        chosen.push(col);
    }
    chosen
}

/// As [`rand_block_columns`], drawn from the columns that are not excluded.
pub fn rand_block_columns_except(
    row: i64,
    ncols: i64,
    head: i64,
    n: i64,
    seed: i64,
    mut excluded: impl FnMut(i64) -> bool,
) -> Vec<i64> {
    let left: Vec<i64> = (0..ncols).filter(|&col| !excluded(col)).collect();
    let drawn = rand_block_columns(row, left.len() as i64, head, n, seed);
    drawn.into_iter().map(|nth| left[nth as usize]).collect()
}

/// Whether `col` is among the columns of [`rand_block_columns`].
pub fn rand_block_contains(row: i64, col: i64, ncols: i64, head: i64, n: i64, seed: i64) -> bool {
    rand_block_columns(row, ncols, head, n, seed).contains(&col)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of Random123's published kat_vectors for philox4x32-10.
    #[test]
    fn philox_known_answers() {
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox4x32([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
    }

    #[test]
    fn columns_are_distinct_and_in_range() {
        for row in 0..50 {
            let cols = rand_block_columns(row, 7, 2, 5, 17);
            assert_eq!(cols.len(), 5);
            for (n, c) in cols.iter().enumerate() {
                assert!((0..7).contains(c) && !cols[..n].contains(c));
            }
        }
        assert_eq!(rand_block_columns(0, 3, 0, 9, 1).len(), 3, "more than there are gives all");
        assert!(rand_block_columns(0, 0, 0, 2, 1).is_empty());
    }
}
