//! Wrong kernels, each with the instruction and the words that are said of it.

use super::*;

/// What is said of a kernel that the verifier takes.
fn fault(threads: u32, shared: u32, body: &str) -> String {
    match launched(run, &kernel(threads, shared, body), 1) {
        Ok(_) => panic!("nothing is said of\n{body}"),
        Err(fault) => fault.to_string(),
    }
}

/// What is said of a kernel by the interpreter alone; the verifier must refuse it as well.
fn unverified(threads: u32, shared: u32, body: &str) -> String {
    let kernel = kernel(threads, shared, body);
    let refused = launched(run, &kernel, 1).err().expect("the verifier refuses it").to_string();
    assert!(refused.contains("S5: control is uniform here"), "{refused}");
    match launched(execute, &kernel, 1) {
        Ok(_) => panic!("nothing is said of\n{body}"),
        Err(fault) => fault.to_string(),
    }
}

/// Every part stands in what is said.
fn says(said: &str, parts: &[&str]) {
    parts.iter().for_each(|part| assert!(said.contains(part), "`{part}` is not in: {said}"));
}

#[test]
fn shared_memory_out_of_range() {
    let said = fault(32, 64, "%0: i32 = tid\n%1: i32 = int 2\n%2: i32 = shl %0, %1\nstore shared[%2] = %0");
    says(&said, &["thread 16", "line 9: store shared[%2] = %0", "4 bytes at shared offset 64 of 64"]);
    let said = fault(32, 64, "%0: i32 = int -4\n%1: i32 = load shared[%0]");
    says(&said, &["thread 0", "line 7: %1: i32 = load shared[%0]", "shared offset 4294967292"]);
    let said = fault(32, 64, "%0: i32 = int 2\nstore shared[%0] = %0");
    says(&said, &["shared offset 2 is no multiple of 4"]);
}

#[test]
fn global_memory_out_of_range() {
    let body = "%0: i32 = tid\n%1: i64 = sext %0\n%2: i64 = int 64\n%3: i64 = mul %1, %2\n%4: i64 = param 0\n%5: i64 = add %3, %4";
    let said = fault(64, 0, &format!("{body}\nstore global[%5] = %0"));
    says(&said, &["thread 16", "line 12: store global[%5]", "are nobody's"]);
    let said = fault(64, 0, &format!("{body}\n%6: i32 = load global[%5]"));
    says(&said, &["thread 8", "line 12: %6: i32 = load global[%5]", "never written"]);
    let said = fault(32, 0, "%0: i64 = int 3\n%1: i16 = load global[%0]");
    says(&said, &["global address 0x3 is no multiple of 2"]);
}

#[test]
fn what_was_never_written_is_read() {
    let said = fault(
        64,
        256,
        "%0: i32 = tid\n%1: i32 = int 2\n%2: i32 = shl %0, %1\n%3: i32 = int 40\n%4: i1 = slt %0, %3
        if %4 {\nstore shared[%2] = %0\n}\nbar\n%5: i32 = load shared[%2]",
    );
    says(&said, &["thread 40", "%5: i32 = load shared[%2]", "shared offset 160", "never written"]);
    let said = fault(
        32,
        0,
        "slots s0..s1: i32\n%0: i32 = tid\n%1: i32 = int 3\n%2: i1 = slt %0, %1\nif %2 {\nset s0 = %0\n}\n%3: i32 = get s0",
    );
    says(&said, &["thread 3", "%3: i32 = get s0", "s0 is read and was never set"]);
}

/// `%2` holds in one lane of each warp, `%4` in the first of two warps.
const PARTS: &str =
    "%0: i32 = tid\n%1: i32 = int 31\n%6: i32 = and %0, %1\n%7: i32 = int 0\n%2: i1 = eq %6, %7
    %3: i32 = int 5\n%5: i32 = lshr %0, %3\n%4: i1 = eq %5, %7\n";

#[test]
fn control_diverges_where_it_must_not() {
    for inst in
        ["bar", "warp_bar", "%8: i32 = shfl %0, 1", "named_bar wait 1, threads = 64", "registers more 240"]
    {
        let said = unverified(64, 0, &format!("{PARTS}if %2 {{\n{inst}\n}}"));
        says(&said, &["thread 1", inst, "control diverges"]);
    }
    // In a loop that lanes leave one after the other.
    let said = unverified(
        32,
        0,
        &format!(
            "slots s0..s1: i32\n{PARTS}set s0 = %7\nloop {{\n%8: i32 = get s0\n%9: i1 = sle %0, %8\nbreak_if %9\nbar\n}}"
        ),
    );
    says(&said, &["thread 0", "bar", "control diverges"]);
}

#[test]
fn a_barrier_is_not_reached_by_all() {
    let said = unverified(64, 0, &format!("{PARTS}if %4 {{\nbar\n}}"));
    says(&said, &["no warp can go on", "warp 0 waits at line 15: bar", "warp 1 has ended"]);
    let said = unverified(64, 0, &format!("{PARTS}if %4 {{\nbar\n}} else {{\nbar\n}}"));
    says(&said, &["line 17: bar", "warp 0 waits at another barrier of the block, line 15: bar"]);
    let said = fault(128, 0, &format!("{PARTS}named_bar wait 3, threads = 160"));
    says(&said, &["no warp can go on", "warp 3 waits at line 14: named_bar wait 3, threads = 160"]);
}

#[test]
fn threads_of_a_named_barrier_disagree() {
    // Which warpgroup it is may decide.
    let body = "%0: i32 = tid\n%1: i32 = int 7\n%2: i32 = lshr %0, %1\n%3: i32 = int 0\n%4: i1 = eq %2, %3
        if %4 {\nnamed_bar arrive 1, threads = 256\n} else {\nnamed_bar wait 1, threads = 128\n}";
    says(&fault(256, 0, body), &["named_bar wait 1, threads = 128", "as 256 threads"]);
}

/// One thread makes a barrier at 1024 for two arrivals.
const MBAR: &str = "%0: i32 = tid\n%1: i32 = int 0\n%2: i1 = eq %0, %1\n%3: i32 = int 1024
    if %2 {\nmbar_init %3, count = 2\nmbar_fence_init\n}\nbar\n";

#[test]
fn a_barrier_in_shared_memory_never_opens() {
    let said = fault(32, 1032, &format!("{MBAR}if %2 {{\nmbar_arrive %3\n}}\nmbar_wait %3, parity = %1"));
    says(&said, &["no warp can go on: warp 0 waits at line 18: mbar_wait %3, parity = %1"]);
    says(&said, &["for 1 arrivals and 0 bytes of phase 0 of the barrier at 1024"]);
    // The box is half of what is expected.
    let copy = "mbar_expect %3, bytes = 512\nmbar_arrive %3\ntma_load shared[%1] <- map 0 [%1, %1], bar = %3";
    let said = fault(32, 1032, &format!("{MBAR}if %2 {{\n{copy}\n}}\nmbar_wait %3, parity = %1"));
    says(&said, &["for 0 arrivals and 256 bytes of phase 0"]);
    // The other parity is that of the phase before.
    let said = fault(32, 1032, &format!("{MBAR}%4: i32 = int 3\nmbar_wait %1, parity = %4"));
    says(&said, &["no barrier was initialised at shared offset 0"]);
}

#[test]
fn a_barrier_in_shared_memory_is_nothing_else() {
    let said = fault(32, 1032, &format!("{MBAR}%4: i32 = load shared[%3]"));
    says(&said, &["%4: i32 = load shared[%3]", "offset 1024 belongs to a barrier"]);
    let said = fault(32, 1032, &format!("{MBAR}store shared[%3] = %1"));
    says(&said, &["store shared[%3] = %1", "offset 1024 belongs to a barrier"]);
    let said = fault(32, 1032, &format!("{MBAR}if %2 {{\nmbar_init %3, count = 1\n}}"));
    says(&said, &["mbar_init %3, count = 1", "there is one already"]);
    let twice = "mbar_expect %3, bytes = 16\nmbar_arrive %3\nmbar_arrive %3";
    let said = fault(32, 1032, &format!("{MBAR}if %2 {{\n{twice}\n}}"));
    says(&said, &["mbar_arrive %3", "more than the 2 arrivals of a phase"]);
}

#[test]
fn boxes_do_not_fit() {
    let copy = |dst: i32, coords: &str| {
        let body =
            format!("%4: i32 = int {dst}\nif %2 {{\ntma_load shared[%4] <- map 0 [{coords}], bar = %3\n}}");
        fault(32, 1032, &format!("{MBAR}{body}"))
    };
    says(&copy(0, "%1, %1, %1"), &["tma_load", "3 coordinates for a map of 2 dims"]);
    says(&copy(128, "%1, %1"), &["a box at shared offset 128, which is no multiple of 1024"]);
    says(&copy(1024, "%1, %1"), &["a box of 256 bytes at shared offset 1024 of 1032"]);
    for (map, part) in [
        (TensorMap::new(BASE, &[64, 4], &[128], &[32, 2]), "rows of a box have 64 bytes, not the 128"),
        (TensorMap::new(BASE + 8, &[64, 4], &[128], &[64, 2]), "no multiple of 16"),
        (TensorMap::new(BASE, &[64, 4], &[120], &[64, 2]), "a stride of 120 bytes"),
        (TensorMap::new(BASE, &[64, 4], &[128], &[64, 300]), "a box size of 300"),
        (TensorMap::new(BASE, &[64, 0], &[128], &[64, 2]), "a dim of 0"),
        (TensorMap::new(BASE, &[64, 4], &[128, 128], &[64, 2]), "2 dims, 2 strides"),
    ] {
        says(&map.unwrap_err().to_string(), &[part]);
    }
    let map = TensorMap::new(BASE, &[64, 9], &[128], &[64, 2]).unwrap();
    let body = "%4: i32 = int 8\nif %2 {\ntma_load shared[%1] <- map 0 [%1, %4], bar = %3\n}";
    let kernel = kernel(32, 1032, &format!("{MBAR}{body}"));
    let launch = Launch { blocks: 1, words: &[BASE], maps: &[map], max_steps: 1000 };
    let said = run(&kernel, &launch, &mut Memory::new()).unwrap_err().to_string();
    says(&said, &["tma_load", "are nobody's"]);
}

#[test]
fn copies_of_sixteen_bytes() {
    let copy = |dst: i32, src: i64, bytes: i32| {
        let body = format!(
            "%0: i32 = int {dst}\n%1: i64 = param 0\n%2: i64 = int {src}\n%3: i64 = add %1, %2\n%4: i32 = int {bytes}
            copy_async shared[%0] <- global[%3], bytes = %4"
        );
        fault(32, 64, &body)
    };
    says(&copy(8, 0, 16), &["shared offset 8 is no multiple of 16"]);
    says(&copy(0, 8, 16), &["no multiple of 16", "global"]);
    says(&copy(0, 0, 17), &["17 of 16 bytes"]);
    says(&copy(64, 0, 16), &["16 bytes at shared offset 64 of 64"]);
    says(&copy(0, 512, 4), &["never written"]);
}

/// A tile of 8 rows of zeros at the beginning of shared memory, `%9` its descriptor, `%10` a word.
fn tile(swizzle: u64) -> String {
    let fixed = 64 << 16 | 64u64 << 32 | swizzle << 62;
    format!(
        "slots s0..s4: f32\n%0: i32 = tid\n%1: i32 = int 3\n%2: i32 = shl %0, %1\n%3: i64 = int 0\nstore shared[%2] = %3\nbar
        %4: i32 = shared_base\n%5: i32 = int 4\n%6: i32 = lshr %4, %5\n%7: i64 = zext %6\n%8: i64 = int {}\n%9: i64 = or %7, %8
        %10: i32 = int 0\nwgmma_fence\n",
        fixed as i64
    )
}

/// A product of that tile.
const PRODUCT: &str = "wgmma bf16 [s0..s4] = [%10, %10, %10, %10] * tile(%9)\nwgmma_commit\n";

#[test]
fn products_of_warpgroups() {
    let good = format!("{}{PRODUCT}wgmma_wait 0 [s0..s4]\n%11: f32 = get s3", tile(1));
    launched(run, &kernel(128, 1024, &good), 1).unwrap_or_else(|fault| panic!("{fault}"));
    let said = fault(128, 1024, &format!("{}{PRODUCT}%11: f32 = get s3", tile(1)));
    says(&said, &["%11: f32 = get s3", "a product is on its way to s3"]);
    let said = fault(128, 1024, &format!("{}{PRODUCT}wgmma_wait 1 [s0..s4]\n%11: f32 = get s3", tile(1)));
    says(&said, &["a product is on its way to s3"]);
    let said = fault(128, 1024, &format!("{}{PRODUCT}wgmma_wait 0 [s0..s3]\n%11: f32 = get s3", tile(1)));
    says(&said, &["a product is on its way to s3"]);
    let said = fault(128, 1024, &format!("{}{}", tile(1), PRODUCT.replace(" = [", " += [")));
    says(&said, &["wgmma bf16", "a product adds to s0, which was never set"]);
    let said = fault(128, 1024, &format!("{}{PRODUCT}", tile(2)));
    says(&said, &["is of no tile that is swizzled over 128 bytes"]);
    let said = fault(96, 1024, &format!("{}{PRODUCT}", tile(1)));
    says(&said, &["wgmma_fence", "a warpgroup has four warps"]);
    let said = fault(128, 1024, &format!("{}{}", tile(1), PRODUCT.replace("tile(%9)", "tile_trans(%9)")));
    says(&said, &["16 bytes at shared offset 1024 of 1024"]);
    let said = fault(128, 1024, &format!("{}{}", tile(1), PRODUCT.replace("tile(%9)", "tile(%8)")));
    says(&said, &["is below the block's shared memory"]);
}

#[test]
fn warps_of_a_group_issue_the_same_products() {
    let first = "%11: i32 = int 5\n%12: i32 = lshr %0, %11\n%13: i1 = eq %12, %10\n";
    let said = unverified(128, 1024, &format!("{}{first}if %13 {{\n{PRODUCT}}}", tile(1)));
    says(&said, &["thread 32", "wgmma bf16", "this warp never issues the product"]);
    let said =
        unverified(128, 1024, &format!("{}{first}if %13 {{\n{PRODUCT}}} else {{\n{PRODUCT}}}", tile(1)));
    says(&said, &["wgmma bf16", "issue different products as their number 0"]);
}

#[test]
fn values_that_operations_do_not_take() {
    let said = fault(32, 0, "%0: i32 = tid\n%1: i32 = int 7\n%2: i32 = sub %0, %1\n%3: i32 = sdiv %1, %2");
    says(&said, &["thread 7", "line 9: %3: i32 = sdiv %1, %2", "a division by 0"]);
    let said = fault(32, 0, "%0: i32 = int 32\n%1: i32 = shl %0, %0");
    says(&said, &["%1: i32 = shl %0, %0", "by the width of the value or more"]);
    let said = fault(32, 0, "%0: f64 = float 1.0\n%1: f64 = ex2 %0");
    says(&said, &["%1: f64 = ex2 %0", "ex2 is of f32"]);
    let said = fault(32, 64, "%0: i32 = int 8\n%1: i32, %2: i32, %3: i32, %4: i32 = ldmatrix shared[%0]");
    says(&said, &["ldmatrix shared[%0]", "shared offset 8 is no multiple of 16"]);
    says(&fault(32, 0, "registers more 12"), &["registers more 12", "a multiple of 8"]);
}

#[test]
fn a_kernel_that_never_ends() {
    for body in ["loop {\n}", "loop {\n%0: i32 = tid\n}", "%0: i1 = int 0\nloop {\nbreak_if %0\n}"] {
        says(&fault(32, 0, body), &["too many instructions"]);
    }
}

#[test]
fn arguments_that_do_not_fit() {
    let kernel = kernel(32, 0, "bar");
    let launch = Launch { blocks: 1, words: &[], maps: &[rows()], max_steps: 100 };
    let said = run(&kernel, &launch, &mut Memory::new()).unwrap_err().to_string();
    says(&said, &["0 words and 1 maps for 1 parameters and 1 maps"]);
    let undefined = super::kernel(32, 0, "%0: i32 = add %1, %1\n%1: i32 = tid");
    let said = launched(run, &undefined, 1).err().expect("it is refused").to_string();
    says(&said, &["S1: a value is defined where it is used"]);
    // A condition without a type, far out of range.
    let undefined = super::kernel(32, 0, "loop {\nbreak_if %7\n}\nif %9 {\n}");
    assert!(launched(run, &undefined, 1).is_err());
}
