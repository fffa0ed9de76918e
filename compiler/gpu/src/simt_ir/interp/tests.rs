//! Kernels in text form: right ones with what they leave in memory, wrong ones with what is said of them (`faults.rs`).

mod faults;

use super::*;
use crate::simt_ir::text::parse;

/// Where the memory of these tests lies.
const BASE: u64 = 1 << 36;
/// Its bytes, of which the first half is written.
const BYTES: usize = 1024;

/// One allocation.
struct Memory {
    bytes: Vec<u8>,
    written: Vec<bool>,
}

impl Memory {
    /// Whose first half holds its own numbers, as bytes.
    fn new() -> Memory {
        let bytes = (0..BYTES).map(|n| n as u8).collect();
        Memory { bytes, written: (0..BYTES).map(|n| n < BYTES / 2).collect() }
    }

    fn range(&self, addr: u64, len: usize) -> Result<std::ops::Range<usize>, String> {
        let start = addr.wrapping_sub(BASE) as usize;
        match start.checked_add(len).filter(|end| *end <= self.bytes.len()) {
            Some(end) => Ok(start..end),
            None => Err(format!("{len} bytes at {addr:#x} are nobody's")),
        }
    }

    fn words(&self, range: std::ops::Range<usize>) -> Vec<u32> {
        let word = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        self.bytes[range.start * 4..range.end * 4].chunks(4).map(word).collect()
    }
}

impl Global for Memory {
    fn read(&self, addr: u64, into: &mut [u8]) -> Result<(), String> {
        let range = self.range(addr, into.len())?;
        if self.written[range.clone()].contains(&false) {
            return Err(format!("a byte at {addr:#x} is read and was never written"));
        }
        into.copy_from_slice(&self.bytes[range]);
        Ok(())
    }

    fn write(&mut self, addr: u64, bytes: &[u8]) -> Result<(), String> {
        let range = self.range(addr, bytes.len())?;
        self.written[range.clone()].fill(true);
        self.bytes[range].copy_from_slice(bytes);
        Ok(())
    }
}

/// A kernel of one parameter and one map.
fn kernel(threads: u32, shared: u32, body: &str) -> Kernel {
    let text =
        format!("kernel k {{\nparams 1\nmaps 1\nthreads {threads}\nshared {shared}\n{}\n}}\n", body.trim());
    parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// Four rows of 64 elements at the beginning of the memory, boxes of two rows.
fn rows() -> TensorMap {
    TensorMap::new(BASE, &[64, 4], &[128], &[64, 2]).unwrap()
}

type Executes = fn(&Kernel, &Launch<'_>, &mut dyn Global) -> Result<(), Fault>;

/// What a kernel leaves in memory; it is launched with the address of that, and a map of rows in it.
fn launched(by: Executes, kernel: &Kernel, blocks: u32) -> Result<Memory, Fault> {
    let (mut memory, maps) = (Memory::new(), [rows()]);
    let launch = Launch { blocks, words: &[BASE], maps: &maps, max_steps: 10_000 };
    by(kernel, &launch, &mut memory)?;
    Ok(memory)
}

/// Words that a kernel of 32 threads leaves: that of each thread.
fn of_threads(body: &str, value: &str) -> Vec<u32> {
    let end = format!(
        "%90: i32 = tid\n%91: i64 = sext %90\n%92: i64 = int 4\n%93: i64 = mul %91, %92\n%94: i64 = param 0\n\
         %95: i64 = add %93, %94\nstore global[%95] = {value}"
    );
    let defined = |n: usize| body.contains(&format!("%{n}:"));
    let unused: String = (0..90).filter(|n| !defined(*n)).map(|n| format!("value %{n}: i1\n")).collect();
    let slots = if body.contains("s0") { "slots s0..s4: i32\n" } else { "" };
    let kernel = kernel(32, 4096, &format!("{slots}{unused}{body}\n{end}"));
    let memory = launched(run, &kernel, 1).unwrap_or_else(|fault| panic!("{fault}"));
    memory.words(0..32)
}

#[test]
fn lanes_go_their_own_ways() {
    // Lane n goes n times through the loop, adding 3 to even and 5 to odd lanes' sums.
    let sums = of_threads(
        "%0: i32 = tid\n%1: i32 = int 0\nset s0 = %1\nset s1 = %1\n%2: i32 = int 1\n%3: i32 = and %0, %2\n%4: i1 = eq %3, %1
         loop {\n%5: i32 = get s1\n%6: i1 = sle %0, %5\nif %6 {\nbreak_if %6\n}\n%7: i32 = get s0
         if %4 {\n%8: i32 = int 3\n%9: i32 = add %7, %8\nset s0 = %9\n} else {\n%10: i32 = int 5\n%11: i32 = add %7, %10\nset s0 = %11\n}
         %12: i32 = add %5, %2\nset s1 = %12\n}\n%13: i32 = get s0",
        "%13",
    );
    let wanted: Vec<u32> = (0..32).map(|n| n * if n % 2 == 0 { 3 } else { 5 }).collect();
    assert_eq!(sums, wanted);
}

#[test]
fn lanes_see_each_others_values() {
    let found = of_threads("%0: i32 = tid\n%1: i32 = shfl %0, 5", "%1");
    assert_eq!(found, (0..32).map(|n| n ^ 5).collect::<Vec<u32>>());
}

/// The first word of `%9` after these definitions.
fn one(body: &str) -> u32 {
    of_threads(body, "%9")[0]
}

#[test]
fn operations_on_values() {
    let ints = "%0: i32 = int -7\n%1: i32 = int 2\n";
    for (op, wanted) in
        [("add", -5i32), ("sub", -9), ("mul", -14), ("sdiv", -3), ("ashr", -2), ("smin", -7), ("smax", 2)]
    {
        assert_eq!(one(&format!("{ints}%9: i32 = {op} %0, %1")) as i32, wanted, "{op}");
    }
    assert_eq!(one(&format!("{ints}%9: i32 = lshr %0, %1")), 0x3FFF_FFFE);
    for (op, wanted) in [("slt", 1), ("sle", 1), ("ult", 0), ("eq", 0), ("ne", 1)] {
        assert_eq!(one(&format!("{ints}%8: i1 = {op} %0, %1\n%9: i32 = zext %8")), wanted, "{op}");
    }
    let floats = "%0: f32 = float -2.5\n%1: f32 = float nan\n";
    for (op, wanted) in [("floor", -3.0f32), ("ceil", -2.0), ("rint", -2.0), ("fabs", 2.5), ("fneg", 2.5)] {
        assert_eq!(f32::from_bits(one(&format!("{floats}%9: f32 = {op} %0"))), wanted, "{op}");
    }
    assert_eq!(f32::from_bits(one(&format!("{floats}%9: f32 = fmax %1, %0"))), -2.5);
    for (op, wanted) in [("flt", 0), ("fle", 0), ("feq", 0), ("fne", 1)] {
        assert_eq!(one(&format!("{floats}%8: i1 = {op} %0, %1\n%9: i32 = zext %8")), wanted, "{op}");
    }
    assert_eq!(one(&format!("{floats}%9: i32 = f_to_si %1")), 0);
    assert_eq!(one("%0: f32 = float 1e30\n%9: i32 = f_to_si %0") as i32, i32::MAX);
    assert_eq!(one("%0: i8 = int -3\n%9: i32 = sext %0") as i32, -3);
    assert_eq!(one("%0: i8 = int -3\n%9: i32 = zext %0"), 253);
    assert_eq!(f32::from_bits(one("%0: f32 = float -3.0\n%9: f32 = ex2 %0")), 0.125);
    assert_eq!(one("%0: f32 = float -130.0\n%9: f32 = ex2 %0"), 0, "subnormal results are 0");
    // One and minus two.
    assert_eq!(one("%0: f32 = float 1.0\n%1: f32 = float -2.0\n%9: i32 = pack bf16 %0, %1"), 0xC000_3F80);
    assert_eq!(one("%0: f32 = float 1.0\n%1: f32 = float -2.0\n%9: i32 = pack f16 %0, %1"), 0xC000_3C00);
    // The product alone would be rounded to 1.
    let third = one(
        "%0: f32 = float 1.0000001\n%1: f32 = float 0.9999999\n%2: f32 = float -1.0\n%9: f32 = fma %0, %1, %2",
    );
    assert_ne!(f32::from_bits(third), 0.0);
}

#[test]
fn a_block_hands_bytes_around() {
    // Every thread of 64 reads what the thread opposite has written; two blocks write one after the other.
    let body = "%0: i32 = tid\n%1: i32 = int 2\n%2: i32 = shl %0, %1\n%3: i32 = ctaid\n%4: i32 = add %0, %3
        store shared[%2] = %4\nbar\n%5: i32 = int 63\n%6: i32 = sub %5, %0\n%7: i32 = shl %6, %1
        %8: i32 = load shared[%7]\n%9: i64 = sext %2\n%10: i64 = param 0\n%11: i64 = add %9, %10
        store global[%11] = %8";
    let memory = launched(run, &kernel(64, 256, body), 2).unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(memory.words(0..64), (0..64).map(|n| 63 - n + 1).collect::<Vec<u32>>());
}

/// 16 rows of 16 numbers in bf16 at the beginning of shared memory, row n and column m hold n - m.
const TILE: &str = "%0: i32 = tid\n%1: i32 = int 4\n%2: i32 = lshr %0, %1\n%3: i32 = int 15\n%4: i32 = and %0, %3
    %5: i32 = int 1\n%6: i32 = int 0\nset s4 = %6\nloop {\n%10: i32 = get s4\n%11: i32 = add %10, %2
    %12: i1 = sle %3, %10\nbreak_if %12\n%13: i32 = sub %11, %4\n%14: f32 = si_to_f %13\n%15: i16 = to_bf16 %14
    %16: i32 = shl %11, %1\n%17: i32 = add %16, %4\n%18: i32 = shl %17, %5\nstore shared[%18] = %15
    %19: i32 = int 2\n%20: i32 = add %10, %19\nset s4 = %20\n}\nwarp_bar\n";

#[test]
fn fragments_are_multiplied() {
    // A is the tile, the columns of B its first eight rows: d[n][m] = sum over k of (n - k) (m - k).
    let body = format!(
        "slots s0..s4: f32\nslots s4..s5: i32\n{TILE}
        %21: i32 = and %0, %3\n%22: i32 = shl %21, %1\n%23: i32 = lshr %0, %1\n%24: i32 = int 3\n%25: i32 = shl %23, %24
        %26: i32 = add %22, %25\n%27: i32 = shl %26, %5
        %30: i32, %31: i32, %32: i32, %33: i32 = ldmatrix shared[%27]
        %34: f32 = float 0.5\nset s0 = %34\nset s1 = %34\nset s2 = %34\nset s3 = %34
        mma bf16 [s0..s4] += [%30, %31, %32, %33] * [%30, %32]
        %40: f32 = get s3\n%41: i64 = sext %0\n%42: i64 = int 4\n%43: i64 = mul %41, %42\n%44: i64 = param 0
        %45: i64 = add %43, %44\nstore global[%45] = %40"
    );
    let unused: String = [7, 8, 9, 28, 29, 35, 36, 37, 38, 39].map(|n| format!("value %{n}: i1\n")).concat();
    let body = body.replacen("%0: i32", &format!("{unused}%0: i32"), 1);
    let memory = launched(run, &kernel(32, 512, &body), 1).unwrap_or_else(|fault| panic!("{fault}"));
    for (lane, found) in memory.words(0..32).into_iter().enumerate() {
        // The last sum of a lane: row lane / 4 + 8, column 2 (lane % 4) + 1.
        let (row, column) = ((lane / 4 + 8) as i32, (lane % 4 * 2 + 1) as i32);
        let wanted: i32 = (0..16).map(|k| (row - k) * (column - k)).sum();
        assert_eq!(f32::from_bits(found), wanted as f32 + 0.5, "lane {lane}");
    }
}

#[test]
fn boxes_are_swizzled_and_filled_with_zeros() {
    // The box begins at row 3, the last, and column -8: its first 16 bytes and its second row lie outside.
    let body = "%0: i32 = tid\n%1: i32 = int 0\n%2: i1 = eq %0, %1\n%3: i32 = int 1024\n%4: i32 = int -8\n%5: i32 = int 3
        if %2 {\nmbar_init %3, count = 1\nmbar_fence_init\nmbar_expect %3, bytes = 256
        tma_load shared[%1] <- map 0 [%4, %5], bar = %3\n}\nbar\nmbar_wait %3, parity = %1
        %6: i32 = int 2\n%7: i32 = shl %0, %6\n%8: i32 = load shared[%7]\n%9: i64 = sext %7\n%10: i64 = param 0
        %11: i64 = add %9, %10\nstore global[%11] = %8";
    let memory = launched(run, &kernel(64, 1032, body), 1).unwrap_or_else(|fault| panic!("{fault}"));
    let word = |at: u32| u32::from_le_bytes([0, 1, 2, 3].map(|n| (at + n) as u8));
    for (n, found) in (0..).zip(memory.words(0..64)) {
        // In the second row chunks 2 n and 2 n + 1 change places; all of them are 0.
        let wanted = if (4..32).contains(&n) { word(3 * 128 - 16 + n * 4) } else { 0 };
        assert_eq!(found, wanted, "word {n}");
    }
}
