//! Writes a [`Kernel`] as text.
//!
//! Comes in: any kernel, well-formed or not. Goes out: text that [`super::parse`] reads, and where in it an instruction
//! stands.
//!
//! ```text
//! kernel twice {
//!   params 1
//!   maps 0
//!   threads 32
//!   shared 0
//!   slots s0..s1: f32
//!   %0: i32 = tid
//!   %1: i64 = sext %0
//!   %2: i64 = int 4
//!   %3: i64 = mul %1, %2
//!   %4: i64 = param 0
//!   %5: i64 = add %3, %4
//!   %6: f32 = load global[%5]
//!   set s0 = %6
//!   %7: f32 = get s0
//!   %8: f32 = fadd %7, %6
//!   store global[%5] = %8
//! }
//! ```

use std::fmt::Write;

use attn_compiler::expr::print::float_text;

use super::{BINS, CASTS, CMPS, TYPES, UNS, name_of};
use crate::simt_ir::{
    Async, AtomicInc, Bulk, Inst, Kernel, LdMatrix, Mbar, Mma, Op, Slot, Space, Ty, Val, Wgmma, WgmmaLeft,
};

/// The whole kernel.
pub fn print(kernel: &Kernel) -> String {
    let mut printer = Printer { kernel, out: String::new(), line: 0, wanted: None, found: None };
    printer.kernel();
    printer.out
}

/// Several kernels, an empty line between them.
pub fn print_module(kernels: &[Kernel]) -> String {
    kernels.iter().map(print).collect::<Vec<_>>().join("\n")
}

/// `line 12: bar`: where an instruction of a kernel stands in its text, and what it is.
pub fn place(kernel: &Kernel, inst: &Inst) -> String {
    let mut printer = Printer { kernel, out: String::new(), line: 0, wanted: Some(inst), found: None };
    printer.kernel();
    let head = printer.head(inst);
    printer.found.map_or_else(|| head.clone(), |line| format!("line {line}: {head}"))
}

struct Printer<'a> {
    kernel: &'a Kernel,
    out: String,
    line: usize,
    /// The instruction whose line is asked for.
    wanted: Option<&'a Inst>,
    found: Option<usize>,
}

impl<'a> Printer<'a> {
    fn write(&mut self, indent: usize, text: &str) {
        self.line += 1;
        let _ = writeln!(self.out, "{:indent$}{text}", "");
    }

    fn kernel(&mut self) {
        let k = self.kernel;
        self.write(0, &format!("kernel {} {{", k.name));
        for (word, n) in
            [("params", k.n_params), ("maps", k.n_maps), ("threads", k.threads), ("shared", k.shared_bytes)]
        {
            self.write(2, &format!("{word} {n}"));
        }
        let mut first = 0;
        for run in k.slots.chunk_by(|a, b| a == b) {
            let end = first + run.len();
            self.write(2, &format!("slots s{first}..s{end}: {}", name_of(&TYPES, run[0])));
            first = end;
        }
        let mut defined = vec![false; k.vals.len()];
        mark_defined(&k.body, &mut defined);
        for (n, ty) in k.vals.iter().enumerate().filter(|(n, _)| !defined[*n]) {
            self.write(2, &format!("value %{n}: {}", name_of(&TYPES, *ty)));
        }
        self.block(&k.body, 2);
        self.write(0, "}");
    }

    fn block(&mut self, insts: &'a [Inst], indent: usize) {
        for inst in insts {
            if self.wanted.is_some_and(|wanted| std::ptr::eq(wanted, inst)) {
                self.found = Some(self.line + 1);
            }
            let head = self.head(inst);
            self.write(indent, &head);
            match inst {
                Inst::If { then, otherwise, .. } => {
                    self.block(then, indent + 2);
                    if !otherwise.is_empty() {
                        self.write(indent, "} else {");
                        self.block(otherwise, indent + 2);
                    }
                    self.write(indent, "}");
                }
                Inst::Loop { body, .. } => {
                    self.block(body, indent + 2);
                    self.write(indent, "}");
                }
                _ => {}
            }
        }
    }

    /// `%3: i32`
    fn defined(&self, v: Val) -> String {
        let ty: Option<Ty> = self.kernel.vals.get(v.0 as usize).copied();
        format!("{}: {}", val(v), ty.map_or("?", |ty| name_of(&TYPES, ty)))
    }

    /// An instruction on one line, without its blocks. One arm for each (tidy: long match).
    fn head(&self, inst: &Inst) -> String {
        match inst {
            Inst::Def(v, op) => format!("{} = {}", self.defined(*v), op_text(op)),
            Inst::Set(slot, v) => format!("set {} = {}", slot_name(*slot), val(*v)),
            Inst::Store(space, addr, v) => format!("store {} = {}", at(*space, *addr), val(*v)),
            Inst::Bar => "bar".into(),
            Inst::WarpBar => "warp_bar".into(),
            Inst::If { cond, .. } => format!("if {} {{", val(*cond)),
            Inst::Loop { afresh: false, .. } => "loop {".into(),
            Inst::Loop { afresh: true, .. } => "loop afresh {".into(),
            Inst::BreakIf(v) => format!("break_if {}", val(*v)),
            Inst::Mma(Mma { bf16, d, a, b }) => {
                format!("mma {} {} += {} * {}", half(*bf16), slots(d), vals(a), vals(b))
            }
            Inst::LdMatrix(LdMatrix { dst, addr, trans }) => {
                let dst: Vec<String> = dst.iter().map(|v| self.defined(*v)).collect();
                let word = if *trans { "ldmatrix_trans" } else { "ldmatrix" };
                format!("{} = {word} {}", dst.join(", "), at(Space::Shared, *addr))
            }
            Inst::AtomicInc(AtomicInc { dst, at: place, most }) => {
                let place = at(Space::Global, *place);
                format!("{} = atomic_inc {place}, most = {}", self.defined(*dst), val(*most))
            }
            Inst::Async(Async::Copy { dst, src, bytes }) => format!(
                "copy_async {} <- {}, bytes = {}",
                at(Space::Shared, *dst),
                at(Space::Global, *src),
                val(*bytes)
            ),
            Inst::Async(Async::Commit) => "commit_async".into(),
            Inst::Async(Async::Wait(n)) => format!("wait_async {n}"),
            Inst::Wgmma(op) => wgmma(op),
            Inst::NamedBar { wait, id, threads } => {
                let way = if *wait { "wait" } else { "arrive" };
                format!("named_bar {way} {id}, threads = {threads}")
            }
            Inst::Registers { count, more } => {
                format!("registers {} {count}", if *more { "more" } else { "fewer" })
            }
            Inst::Mbar(op) => mbar(op),
            Inst::Bulk(Bulk::Store { src, map, coords }) => {
                format!("tma_store map {map} {} <- {}", vals(coords), at(Space::Shared, *src))
            }
            Inst::Bulk(Bulk::Commit) => "commit_stores".into(),
            Inst::Bulk(Bulk::WaitRead(n)) => format!("wait_stores {n}"),
        }
    }
}

/// Marks the values that instructions define.
fn mark_defined(insts: &[Inst], defined: &mut [bool]) {
    let mut mark = |v: &Val| {
        if let Some(known) = defined.get_mut(v.0 as usize) {
            *known = true;
        }
    };
    for inst in insts {
        match inst {
            Inst::Def(v, _) => mark(v),
            Inst::LdMatrix(load) => load.dst.iter().for_each(&mut mark),
            Inst::AtomicInc(inc) => mark(&inc.dst),
            _ => {}
        }
    }
    for inst in insts {
        match inst {
            Inst::If { then, otherwise, .. } => {
                mark_defined(then, defined);
                mark_defined(otherwise, defined);
            }
            Inst::Loop { body, .. } => mark_defined(body, defined),
            _ => {}
        }
    }
}

fn val(v: Val) -> String {
    format!("%{}", v.0)
}

fn vals(all: &[Val]) -> String {
    let all: Vec<String> = all.iter().map(|v| val(*v)).collect();
    format!("[{}]", all.join(", "))
}

fn slot_name(slot: Slot) -> String {
    format!("s{}", slot.0)
}

/// `[s0..s4, s9]`: runs of neighbours are ranges.
fn slots(all: &[Slot]) -> String {
    let runs = all.chunk_by(|a, b| a.0.checked_add(1) == Some(b.0));
    let runs: Vec<String> = runs
        .map(|run| match run {
            [one] => slot_name(*one),
            run => format!("s{}..s{}", run[0].0, u64::from(run[0].0) + run.len() as u64),
        })
        .collect();
    format!("[{}]", runs.join(", "))
}

const fn half(bf16: bool) -> &'static str {
    if bf16 { "bf16" } else { "f16" }
}

fn at(space: Space, addr: Val) -> String {
    let space = match space {
        Space::Global => "global",
        Space::Shared => "shared",
    };
    format!("{space}[{}]", val(addr))
}

fn op_text(op: &Op) -> String {
    match op {
        Op::Int(x) => format!("int {x}"),
        Op::Float(x) => format!("float {}", float_text(*x)),
        Op::Param(n) => format!("param {n}"),
        Op::Tid => "tid".into(),
        Op::Ctaid => "ctaid".into(),
        Op::Nctaid => "nctaid".into(),
        Op::SharedBase => "shared_base".into(),
        Op::Bin(op, a, b) => format!("{} {}, {}", name_of(&BINS, *op), val(*a), val(*b)),
        Op::Un(op, a) => format!("{} {}", name_of(&UNS, *op), val(*a)),
        Op::Cmp(op, a, b) => format!("{} {}, {}", name_of(&CMPS, *op), val(*a), val(*b)),
        Op::Select(c, a, b) => format!("select {}, {}, {}", val(*c), val(*a), val(*b)),
        Op::Fma(a, b, c) => format!("fma {}, {}, {}", val(*a), val(*b), val(*c)),
        Op::Cast(cast, a) => format!("{} {}", name_of(&CASTS, *cast), val(*a)),
        Op::Load(space, addr) => format!("load {}", at(*space, *addr)),
        Op::Get(slot) => format!("get {}", slot_name(*slot)),
        Op::Pack { bf16, low, high } => format!("pack {} {}, {}", half(*bf16), val(*low), val(*high)),
        Op::Shfl(a, mask) => format!("shfl {}, {mask}", val(*a)),
        Op::Uniform(a) => format!("uniform {}", val(*a)),
    }
}

fn wgmma(op: &Wgmma) -> String {
    match op {
        Wgmma::Fence => "wgmma_fence".into(),
        Wgmma::Commit => "wgmma_commit".into(),
        Wgmma::Wait(n, all) => format!("wgmma_wait {n} {}", slots(all)),
        Wgmma::ProxyFence => "proxy_fence".into(),
        Wgmma::Product { bf16, d, a, b, trans_b, accumulate } => {
            let left = match a {
                WgmmaLeft::Shared(v) => format!("tile({})", val(*v)),
                WgmmaLeft::Registers(all) => vals(all),
            };
            let assign = if *accumulate { "+=" } else { "=" };
            let right = if *trans_b { "tile_trans" } else { "tile" };
            format!("wgmma {} {} {assign} {left} * {right}({})", half(*bf16), slots(d), val(*b))
        }
    }
}

fn mbar(op: &Mbar) -> String {
    match op {
        Mbar::Init { at, count } => format!("mbar_init {}, count = {count}", val(*at)),
        Mbar::FenceInit => "mbar_fence_init".into(),
        Mbar::ArriveExpect { at, bytes } => format!("mbar_expect {}, bytes = {bytes}", val(*at)),
        Mbar::Arrive { at } => format!("mbar_arrive {}", val(*at)),
        Mbar::Wait { at, parity } => format!("mbar_wait {}, parity = {}", val(*at), val(*parity)),
        Mbar::Copy { dst, map, coords, bar } => {
            format!("tma_load {} <- map {map} {}, bar = {}", at(Space::Shared, *dst), vals(coords), val(*bar))
        }
    }
}
