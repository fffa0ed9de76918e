//! The text of a kernel in MLIR's `llvm` and `nvvm` dialects.
//!
//! Comes in: a verified kernel. Goes out: the text of a module, for the worker that runs MLIR and LLVM. What holds: one
//! line for an instruction, slots are `llvm.alloca` (LLVM makes registers of them), structured control becomes branches
//! between labelled blocks. Not here: any choice.

use std::fmt::Write as _;

use super::{
    Async, AtomicInc, Bin, Bulk, Cast, Cmp, Inst, Kernel, LdMatrix, Mbar, Mma, Op, Slot, Space, Ty, Un, Val,
    Wgmma, WgmmaLeft,
};

/// Name of the dynamic shared memory.
const SHARED: &str = "attn_shared";
/// Behind a loop's last branch: nothing is moved out of it.
const NO_LICM: &str = " {loop_annotation = #llvm.loop_annotation<licm = <disable = true>>}";

/// The module of a kernel.
pub fn module(kernel: &Kernel) -> String {
    let mut out = String::from("module {\n");
    if kernel.shared_bytes > 0 {
        let _ = writeln!(
            out,
            "llvm.mlir.global external @{SHARED}() {{addr_space = 3 : i32, alignment = 1024 : i64}} : !llvm.array<0 x i8>"
        );
    }
    Printer { kernel, out: &mut out, n_blocks: 0, n_temps: 0, exits: Vec::new() }.kernel();
    out.push_str("}\n");
    out
}

struct Printer<'a> {
    kernel: &'a Kernel,
    out: &'a mut String,
    n_blocks: u32,
    n_temps: u32,
    /// Blocks behind the open loops.
    exits: Vec<u32>,
}

const fn name(ty: Ty) -> &'static str {
    match ty {
        Ty::I1 => "i1",
        Ty::I8 => "i8",
        Ty::I16 => "i16",
        Ty::I32 => "i32",
        Ty::I64 => "i64",
        Ty::F16 => "f16",
        Ty::F32 => "f32",
        Ty::F64 => "f64",
    }
}

const fn bin(op: Bin) -> &'static str {
    match op {
        Bin::Add => "add",
        Bin::Sub => "sub",
        Bin::Mul => "mul",
        Bin::SDiv => "sdiv",
        Bin::And => "and",
        Bin::Or => "or",
        Bin::Xor => "xor",
        Bin::Shl => "shl",
        Bin::LShr => "lshr",
        Bin::AShr => "ashr",
        Bin::SMin => "intr.smin",
        Bin::SMax => "intr.smax",
        Bin::FAdd => "fadd",
        Bin::FSub => "fsub",
        Bin::FMul => "fmul",
        Bin::FDiv => "fdiv",
        Bin::FMax => "intr.maxnum",
    }
}

const fn cmp(op: Cmp) -> (&'static str, &'static str) {
    match op {
        Cmp::Eq => ("icmp", "eq"),
        Cmp::Ne => ("icmp", "ne"),
        Cmp::Slt => ("icmp", "slt"),
        Cmp::Sle => ("icmp", "sle"),
        Cmp::Ult => ("icmp", "ult"),
        Cmp::FEq => ("fcmp", "oeq"),
        Cmp::FNe => ("fcmp", "une"),
        Cmp::FLt => ("fcmp", "olt"),
        Cmp::FLe => ("fcmp", "ole"),
    }
}

impl Printer<'_> {
    fn line(&mut self, text: &str) {
        self.out.push_str("  ");
        self.out.push_str(text);
        self.out.push('\n');
    }

    fn ty(&self, v: Val) -> &'static str {
        name(self.kernel.vals[v.0 as usize])
    }

    fn slot_ty(&self, s: Slot) -> &'static str {
        name(self.kernel.slots[s.0 as usize])
    }

    fn temp(&mut self) -> String {
        self.n_temps += 1;
        format!("%t{}", self.n_temps)
    }

    fn new_block(&mut self) -> u32 {
        self.n_blocks += 1;
        self.n_blocks
    }

    fn kernel(mut self) {
        let k = self.kernel;
        let words = (0..k.n_params).map(|n| format!("%p{n}: i64"));
        let map = "!llvm.ptr {llvm.byval = !llvm.array<128 x i8>, llvm.align = 64 : i64, nvvm.grid_constant}";
        let maps = (0..k.n_maps).map(|n| format!("%m{n}: {map}"));
        let params: Vec<String> = words.chain(maps).collect();
        // Without `minctasm` ptxas spills a few registers so that more blocks fit a multiprocessor, and `setmaxnreg` does not
        // know how many a thread starts with.
        let _ = writeln!(
            self.out,
            "llvm.func @{}({}) attributes {{nvvm.kernel, nvvm.maxntid = array<i32: {}>, nvvm.minctasm = 1 : i32}} {{",
            k.name,
            params.join(", "),
            k.threads
        );
        self.line("%one = llvm.mlir.constant(1 : i32) : i32");
        if k.shared_bytes > 0 {
            self.line(&format!("%shared = llvm.mlir.addressof @{SHARED} : !llvm.ptr<3>"));
        }
        for (n, ty) in k.slots.iter().enumerate() {
            self.line(&format!("%s{n} = llvm.alloca %one x {} : (i32) -> !llvm.ptr", name(*ty)));
        }
        self.block(&k.body);
        self.line("llvm.return");
        self.out.push_str("}\n");
    }

    fn label(&mut self, block: u32) {
        let _ = writeln!(self.out, "^b{block}:");
    }

    fn block(&mut self, insts: &[Inst]) {
        for inst in insts {
            self.inst(inst);
        }
    }

    fn inst(&mut self, inst: &Inst) {
        match inst {
            Inst::Def(v, op) => self.def(*v, op),
            Inst::Set(slot, v) => {
                let ty = self.ty(*v);
                self.line(&format!("llvm.store %v{}, %s{} : {ty}, !llvm.ptr", v.0, slot.0));
            }
            Inst::Store(space, addr, v) => self.store(*space, *addr, *v),
            Inst::Bar => self.line("nvvm.barrier0"),
            Inst::WarpBar => {
                let all = self.temp();
                self.line(&format!("{all} = llvm.mlir.constant(-1 : i32) : i32"));
                self.line(&format!("nvvm.bar.warp.sync {all} : i32"));
            }
            Inst::If { cond, then, otherwise } => self.choice(*cond, then, otherwise),
            Inst::Loop { body, afresh } => {
                let (head, exit) = (self.new_block(), self.new_block());
                self.line(&format!("llvm.br ^b{head}"));
                self.label(head);
                self.exits.push(exit);
                self.block(body);
                self.exits.pop();
                let how = if *afresh { NO_LICM } else { "" };
                self.line(&format!("llvm.br ^b{head}{how}"));
                self.label(exit);
            }
            Inst::BreakIf(v) => {
                let next = self.new_block();
                let exit = self.exits.last().copied().unwrap_or(next);
                self.line(&format!("llvm.cond_br %v{}, ^b{exit}, ^b{next}", v.0));
                self.label(next);
            }
            Inst::Mma(mma) => self.mma(mma),
            Inst::LdMatrix(load) => self.ldmatrix(load),
            Inst::AtomicInc(inc) => self.atomic_inc(inc),
            Inst::Async(copy) => self.copy(copy),
            Inst::Wgmma(op) => self.wgmma(op),
            Inst::NamedBar { wait, id, threads } => {
                let way = if *wait { "sync" } else { "arrive" };
                self.asm(&format!("bar.{way} {id}, {threads};"), "~{memory}", &[], &[], "");
            }
            Inst::Registers { count, more } => {
                let way = if *more { "inc" } else { "dec" };
                self.asm(&format!("setmaxnreg.{way}.sync.aligned.u32 {count};"), "", &[], &[], "");
            }
            Inst::Mbar(op) => self.mbar(op),
            Inst::Bulk(op) => self.bulk(op),
        }
    }

    fn choice(&mut self, cond: Val, then: &[Inst], otherwise: &[Inst]) {
        let (yes, no, after) = (self.new_block(), self.new_block(), self.new_block());
        self.line(&format!("llvm.cond_br %v{}, ^b{yes}, ^b{no}", cond.0));
        for (block, insts) in [(yes, then), (no, otherwise)] {
            self.label(block);
            self.block(insts);
            self.line(&format!("llvm.br ^b{after}"));
        }
        self.label(after);
    }

    /// A pointer to an element.
    fn pointer(&mut self, space: Space, addr: Val) -> (String, &'static str) {
        let p = self.temp();
        match space {
            Space::Global => {
                self.line(&format!("{p} = llvm.inttoptr %v{} : i64 to !llvm.ptr<1>", addr.0));
                (p, "!llvm.ptr<1>")
            }
            Space::Shared => {
                self.line(&format!(
                    "{p} = llvm.getelementptr %shared[%v{}] : (!llvm.ptr<3>, i32) -> !llvm.ptr<3>, i8",
                    addr.0
                ));
                (p, "!llvm.ptr<3>")
            }
        }
    }

    fn store(&mut self, space: Space, addr: Val, v: Val) {
        let ty = self.kernel.vals[v.0 as usize];
        let (p, pointer) = self.pointer(space, addr);
        self.line(&format!(
            "llvm.store %v{}, {p} {{alignment = {} : i64}} : {}, {pointer}",
            v.0,
            ty.bytes(),
            name(ty)
        ));
    }

    /// One arm for each kind (tidy: long match).
    fn def(&mut self, v: Val, op: &Op) {
        let (d, ty) = (v.0, self.ty(v));
        let text = match op {
            Op::Int(x) if ty == "i1" => format!("llvm.mlir.constant({}) : i1", *x != 0),
            Op::Int(x) => format!("llvm.mlir.constant({x} : {ty}) : {ty}"),
            Op::Float(x) if ty == "f64" => format!("llvm.mlir.constant(0x{:016X} : f64) : f64", x.to_bits()),
            Op::Float(x) => format!("llvm.mlir.constant(0x{:08X} : f32) : f32", (*x as f32).to_bits()),
            Op::Param(n) => {
                let zero = self.temp();
                self.line(&format!("{zero} = llvm.mlir.constant(0 : i64) : i64"));
                format!("llvm.or %p{n}, {zero} : i64")
            }
            Op::Tid => "nvvm.read.ptx.sreg.tid.x : i32".into(),
            Op::Ctaid => "nvvm.read.ptx.sreg.ctaid.x : i32".into(),
            Op::Nctaid => "nvvm.read.ptx.sreg.nctaid.x : i32".into(),
            Op::SharedBase => "llvm.ptrtoint %shared : !llvm.ptr<3> to i32".into(),
            Op::Bin(op @ (Bin::SMin | Bin::SMax | Bin::FMax), a, b) => {
                format!("llvm.{}(%v{}, %v{}) : ({ty}, {ty}) -> {ty}", bin(*op), a.0, b.0)
            }
            Op::Bin(op, a, b) => format!("llvm.{} %v{}, %v{} : {ty}", bin(*op), a.0, b.0),
            Op::Un(op, a) => self.un(*op, *a, ty),
            Op::Cmp(op, a, b) => {
                let (kind, predicate) = cmp(*op);
                format!("llvm.{kind} \"{predicate}\" %v{}, %v{} : {}", a.0, b.0, self.ty(*a))
            }
            Op::Select(c, a, b) => format!("llvm.select %v{}, %v{}, %v{} : i1, {ty}", c.0, a.0, b.0),
            Op::Fma(a, b, c) => {
                format!("llvm.intr.fma(%v{}, %v{}, %v{}) : ({ty}, {ty}, {ty}) -> {ty}", a.0, b.0, c.0)
            }
            Op::Cast(cast, a) => self.cast(*cast, *a, ty),
            Op::Load(space, addr) => {
                let (p, pointer) = self.pointer(*space, *addr);
                let align = self.kernel.vals[v.0 as usize].bytes();
                format!("llvm.load {p} {{alignment = {align} : i64}} : {pointer} -> {ty}")
            }
            Op::Get(slot) => format!("llvm.load %s{} : !llvm.ptr -> {}", slot.0, self.slot_ty(*slot)),
            Op::Pack { bf16, low, high } => {
                let (function, of) = if *bf16 { ("ff2bf16x2", "bf16") } else { ("ff2f16x2", "f16") };
                let pair = self.temp();
                self.line(&format!(
                    "{pair} = llvm.call_intrinsic \"llvm.nvvm.{function}.rn\"(%v{}, %v{}) : (f32, f32) -> vector<2x{of}>",
                    high.0, low.0
                ));
                format!("llvm.bitcast {pair} : vector<2x{of}> to i32")
            }
            Op::Shfl(a, mask) => {
                let (all, by, clamp) = (self.temp(), self.temp(), self.temp());
                self.line(&format!("{all} = llvm.mlir.constant(-1 : i32) : i32"));
                self.line(&format!("{by} = llvm.mlir.constant({mask} : i32) : i32"));
                self.line(&format!("{clamp} = llvm.mlir.constant(31 : i32) : i32"));
                format!("nvvm.shfl.sync bfly {all}, %v{}, {by}, {clamp} : {ty} -> {ty}", a.0)
            }
            Op::Uniform(a) => {
                let (all, lane, clamp) = (self.temp(), self.temp(), self.temp());
                self.line(&format!("{all} = llvm.mlir.constant(-1 : i32) : i32"));
                self.line(&format!("{lane} = llvm.mlir.constant(0 : i32) : i32"));
                self.line(&format!("{clamp} = llvm.mlir.constant(31 : i32) : i32"));
                format!("nvvm.shfl.sync idx {all}, %v{}, {lane}, {clamp} : {ty} -> {ty}", a.0)
            }
        };
        self.line(&format!("%v{d} = {text}"));
    }

    fn un(&mut self, op: Un, a: Val, ty: &str) -> String {
        let function = match op {
            Un::FNeg => return format!("llvm.fneg %v{} : {ty}", a.0),
            Un::Ex2 => {
                return format!(
                    "llvm.call_intrinsic \"llvm.nvvm.ex2.approx.ftz.f\"(%v{}) : (f32) -> f32",
                    a.0
                );
            }
            Un::FAbs => "fabs",
            Un::Sqrt => "sqrt",
            Un::Floor => "floor",
            Un::Ceil => "ceil",
            Un::Rint => "rint",
        };
        format!("llvm.intr.{function}(%v{}) : ({ty}) -> {ty}", a.0)
    }

    fn cast(&mut self, cast: Cast, a: Val, to: &str) -> String {
        let from = self.ty(a);
        let op = match cast {
            Cast::SExt => "sext",
            Cast::ZExt => "zext",
            Cast::Trunc => "trunc",
            Cast::SiToF => "sitofp",
            Cast::FExt => "fpext",
            Cast::FTrunc => "fptrunc",
            Cast::Bits => "bitcast",
            Cast::FToSi => {
                let f = if to == "i64" { "f2ll" } else { "f2i" };
                return format!("llvm.call_intrinsic \"llvm.nvvm.{f}.rz\"(%v{}) : (f32) -> {to}", a.0);
            }
            Cast::ToBf16 => {
                let rounded = self.temp();
                self.line(&format!(
                    "{rounded} = llvm.call_intrinsic \"llvm.nvvm.f2bf16.rn\"(%v{}) : (f32) -> bf16",
                    a.0
                ));
                return format!("llvm.bitcast {rounded} : bf16 to i16");
            }
        };
        format!("llvm.{op} %v{} : {from} to {to}", a.0)
    }

    /// Inline assembly with side effects that returns a struct of results.
    fn asm(
        &mut self,
        text: &str,
        constraints: &str,
        args: &[String],
        types: &[&str],
        result: &str,
    ) -> String {
        let out = self.temp();
        let assign = if result.is_empty() { String::new() } else { format!("{out} = ") };
        let arrow = if result.is_empty() { "()" } else { result };
        self.line(&format!(
            "{assign}llvm.inline_asm has_side_effects asm_dialect = att \"{text}\", \"{constraints}\" {} : ({}) -> {arrow}",
            args.join(", "),
            types.join(", "),
        ));
        out
    }

    fn mma(&mut self, mma: &Mma) {
        let ty = if mma.bf16 { "bf16" } else { "f16" };
        let mut args: Vec<String> = mma.a.iter().chain(&mma.b).map(|v| format!("%v{}", v.0)).collect();
        for slot in mma.d {
            let old = self.temp();
            self.line(&format!("{old} = llvm.load %s{} : !llvm.ptr -> f32", slot.0));
            args.push(old);
        }
        let text = format!(
            "mma.sync.aligned.m16n8k16.row.col.f32.{ty}.{ty}.f32 {{$0,$1,$2,$3}}, {{$4,$5,$6,$7}}, {{$8,$9}}, {{$10,$11,$12,$13}};"
        );
        let types = [["i32"; 6].as_slice(), ["f32"; 4].as_slice()].concat();
        let result = "!llvm.struct<(f32, f32, f32, f32)>";
        let out = self.asm(&text, "=f,=f,=f,=f,r,r,r,r,r,r,0,1,2,3", &args, &types, result);
        for (n, slot) in mma.d.iter().enumerate() {
            let part = self.temp();
            self.line(&format!("{part} = llvm.extractvalue {out}[{n}] : {result}"));
            self.line(&format!("llvm.store {part}, %s{} : f32, !llvm.ptr", slot.0));
        }
    }

    /// The 32-bit address of a place in shared memory.
    fn shared_address(&mut self, offset: Val) -> String {
        let (base, at) = (self.temp(), self.temp());
        self.line(&format!("{base} = llvm.ptrtoint %shared : !llvm.ptr<3> to i32"));
        self.line(&format!("{at} = llvm.add {base}, %v{} : i32", offset.0));
        at
    }

    fn atomic_inc(&mut self, AtomicInc { dst, at, most }: &AtomicInc) {
        let args = [format!("%v{}", at.0), format!("%v{}", most.0)];
        let text = "atom.global.inc.u32 $0, [$1], $2;";
        let was = self.asm(text, "=r,l,r,~{memory}", &args, &["i64", "i32"], "i32");
        self.line(&format!("%v{} = llvm.bitcast {was} : i32 to i32", dst.0));
    }

    fn ldmatrix(&mut self, load: &LdMatrix) {
        let at = self.shared_address(load.addr);
        let trans = if load.trans { ".trans" } else { "" };
        let text = format!("ldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 {{$0,$1,$2,$3}}, [$4];");
        let result = "!llvm.struct<(i32, i32, i32, i32)>";
        let out = self.asm(&text, "=r,=r,=r,=r,r,~{memory}", &[at], &["i32"], result);
        for (n, v) in load.dst.iter().enumerate() {
            self.line(&format!("%v{} = llvm.extractvalue {out}[{n}] : {result}", v.0));
        }
    }

    /// Inline assembly that changes slots of F32: they are results and, tied to those, operands.
    fn asm_on_slots(&mut self, text: &str, slots: &[Slot], more: &[(String, &str, &str)]) {
        let n = slots.len();
        let mut args = Vec::new();
        let (mut types, mut constraints) = (Vec::new(), vec!["=f".to_string(); n]);
        for (arg, ty, constraint) in more {
            args.push(arg.clone());
            types.push(*ty);
            constraints.push((*constraint).to_string());
        }
        for (k, slot) in slots.iter().enumerate() {
            let old = self.temp();
            self.line(&format!("{old} = llvm.load %s{} : !llvm.ptr -> f32", slot.0));
            args.push(old);
            types.push("f32");
            constraints.push(k.to_string());
        }
        constraints.push("~{memory}".into());
        let result = format!("!llvm.struct<({})>", vec!["f32"; n].join(", "));
        let out = self.asm(text, &constraints.join(","), &args, &types, &result);
        for (k, slot) in slots.iter().enumerate() {
            let part = self.temp();
            self.line(&format!("{part} = llvm.extractvalue {out}[{k}] : {result}"));
            self.line(&format!("llvm.store {part}, %s{} : f32, !llvm.ptr", slot.0));
        }
    }

    fn wgmma(&mut self, op: &Wgmma) {
        let plain = |p: &mut Self, text: &str| _ = p.asm(text, "~{memory}", &[], &[], "");
        match op {
            Wgmma::Fence => plain(self, "wgmma.fence.sync.aligned;"),
            Wgmma::Commit => plain(self, "wgmma.commit_group.sync.aligned;"),
            Wgmma::ProxyFence => plain(self, "fence.proxy.async.shared::cta;"),
            Wgmma::Wait(n, slots) => {
                self.asm_on_slots(&format!("wgmma.wait_group.sync.aligned {n};"), slots, &[]);
            }
            Wgmma::Product { bf16, d, a, b, trans_b, accumulate } => {
                let (n, ty) = (d.len(), if *bf16 { "bf16" } else { "f16" });
                let list = |from: usize, count: usize| {
                    let all: Vec<String> = (from..from + count).map(|k| format!("${k}")).collect();
                    all.join(",")
                };
                let mut more = Vec::new();
                let left = match a {
                    WgmmaLeft::Shared(v) => {
                        more.push((format!("%v{}", v.0), "i64", "l"));
                        format!("${n}")
                    }
                    WgmmaLeft::Registers(all) => {
                        more.extend(all.iter().map(|v| (format!("%v{}", v.0), "i32", "r")));
                        format!("{{{}}}", list(n, 4))
                    }
                };
                let right = n + more.len();
                more.push((format!("%v{}", b.0), "i64", "l"));
                let trans_a = if matches!(a, WgmmaLeft::Shared(_)) { " 0," } else { "" };
                let text = format!(
                    "{{ .reg .pred p; setp.ne.b32 p, {}, 0; wgmma.mma_async.sync.aligned.m64n{}k16.f32.{ty}.{ty} {{{}}}, {left}, ${right}, p, 1, 1,{trans_a} {}; }}",
                    u8::from(*accumulate),
                    n * 2,
                    list(0, n),
                    u8::from(*trans_b),
                );
                self.asm_on_slots(&text, d, &more);
            }
        }
    }

    fn mbar(&mut self, op: &Mbar) {
        match op {
            Mbar::Init { at, count } => {
                let at = self.shared_address(*at);
                let text = format!("mbarrier.init.shared::cta.b64 [$0], {count};");
                self.asm(&text, "r,~{memory}", &[at], &["i32"], "");
            }
            Mbar::FenceInit => {
                self.asm("fence.mbarrier_init.release.cluster;", "~{memory}", &[], &[], "");
            }
            Mbar::ArriveExpect { at, bytes } => {
                let at = self.shared_address(*at);
                let text = format!("mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], {bytes};");
                self.asm(&text, "r,~{memory}", &[at], &["i32"], "");
            }
            Mbar::Arrive { at } => {
                let at = self.shared_address(*at);
                self.asm("mbarrier.arrive.shared::cta.b64 _, [$0];", "r,~{memory}", &[at], &["i32"], "");
            }
            Mbar::Wait { at, parity } => {
                let at = self.shared_address(*at);
                let text = "{ .reg .pred p; again: mbarrier.try_wait.parity.shared::cta.b64 p, [$0], $1; @p bra done; bra again; done: }";
                self.asm(text, "r,r,~{memory}", &[at, format!("%v{}", parity.0)], &["i32", "i32"], "");
            }
            Mbar::Copy { dst, map, coords, bar } => {
                let (dst, bar) = (self.shared_address(*dst), self.shared_address(*bar));
                let n = coords.len();
                let places: Vec<String> = (0..n).map(|k| format!("${}", k + 3)).collect();
                let text = format!(
                    "cp.async.bulk.tensor.{n}d.shared::cluster.global.mbarrier::complete_tx::bytes [$0], [$1, {{{}}}], [$2];",
                    places.join(", ")
                );
                let mut args = vec![dst, format!("%m{map}"), bar];
                args.extend(coords.iter().map(|c| format!("%v{}", c.0)));
                let mut types = vec!["i32", "!llvm.ptr", "i32"];
                types.extend(vec!["i32"; n]);
                let constraints = format!("r,l,r,{}~{{memory}}", "r,".repeat(n));
                self.asm(&text, &constraints, &args, &types, "");
            }
        }
    }

    fn bulk(&mut self, op: &Bulk) {
        match op {
            Bulk::Store { src, map, coords } => {
                let src = self.shared_address(*src);
                let n = coords.len();
                let places: Vec<String> = (0..n).map(|k| format!("${}", k + 2)).collect();
                let text = format!(
                    "cp.async.bulk.tensor.{n}d.global.shared::cta.bulk_group [$1, {{{}}}], [$0];",
                    places.join(", ")
                );
                let mut args = vec![src, format!("%m{map}")];
                args.extend(coords.iter().map(|c| format!("%v{}", c.0)));
                let mut types = vec!["i32", "!llvm.ptr"];
                types.extend(vec!["i32"; n]);
                let constraints = format!("r,l,{}~{{memory}}", "r,".repeat(n));
                self.asm(&text, &constraints, &args, &types, "");
            }
            Bulk::Commit => {
                self.asm("cp.async.bulk.commit_group;", "~{memory}", &[], &[], "");
            }
            Bulk::WaitRead(n) => {
                self.asm(&format!("cp.async.bulk.wait_group.read {n};"), "~{memory}", &[], &[], "");
            }
        }
    }

    fn copy(&mut self, copy: &Async) {
        match copy {
            Async::Copy { dst, src, bytes } => {
                let at = self.shared_address(*dst);
                let args = [at, format!("%v{}", src.0), format!("%v{}", bytes.0)];
                let text = "cp.async.cg.shared.global [$0], [$1], 16, $2;";
                self.asm(text, "r,l,r,~{memory}", &args, &["i32", "i64", "i32"], "");
            }
            Async::Commit => {
                self.asm("cp.async.commit_group;", "~{memory}", &[], &[], "");
            }
            Async::Wait(n) => {
                self.asm(&format!("cp.async.wait_group {n};"), "~{memory}", &[], &[], "");
            }
        }
    }
}
