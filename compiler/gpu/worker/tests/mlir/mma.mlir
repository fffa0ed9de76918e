// A loop of a known, small number of rounds, which LLVM's -O3 would unroll: in each a barrier and a product of tensor
// cores as inline assembly, and a branch on the index, which -O3 would peel an iteration off for. Virtual registers are
// `alloca`s; operands come from dynamic shared memory.
llvm.mlir.global external @smem() {addr_space = 3 : i32, alignment = 1024 : i64} : !llvm.array<0 x i8>

llvm.func @mma(%out: i64) attributes {nvvm.kernel, nvvm.maxntid = array<i32: 32>} {
  %one = llvm.mlir.constant(1 : i32) : i32
  %zero = llvm.mlir.constant(0 : i32) : i32
  %rounds = llvm.mlir.constant(4 : i32) : i32
  %fzero = llvm.mlir.constant(0.0 : f32) : f32
  %index = llvm.alloca %one x i32 : (i32) -> !llvm.ptr
  %c0 = llvm.alloca %one x f32 : (i32) -> !llvm.ptr
  %c1 = llvm.alloca %one x f32 : (i32) -> !llvm.ptr
  %c2 = llvm.alloca %one x f32 : (i32) -> !llvm.ptr
  %c3 = llvm.alloca %one x f32 : (i32) -> !llvm.ptr
  %smem = llvm.mlir.addressof @smem : !llvm.ptr<3>
  %thread = nvvm.read.ptx.sreg.tid.x : i32
  llvm.store %zero, %index : i32, !llvm.ptr
  llvm.store %fzero, %c0 : f32, !llvm.ptr
  llvm.store %fzero, %c1 : f32, !llvm.ptr
  llvm.store %fzero, %c2 : f32, !llvm.ptr
  llvm.store %fzero, %c3 : f32, !llvm.ptr
  llvm.br ^head
^head:
  %i = llvm.load %index : !llvm.ptr -> i32
  %more = llvm.icmp "slt" %i, %rounds : i32
  llvm.cond_br %more, ^body, ^end
^body:
  %first = llvm.icmp "eq" %i, %zero : i32
  llvm.cond_br %first, ^fill, ^go
^fill:
  %pt = llvm.getelementptr %smem[%thread] : (!llvm.ptr<3>, i32) -> !llvm.ptr<3>, i32
  llvm.store %thread, %pt : i32, !llvm.ptr<3>
  llvm.br ^go
^go:
  llvm.inline_asm has_side_effects "bar.sync 0;", "~{memory}" : () -> ()
  %at = llvm.add %i, %thread : i32
  %pa = llvm.getelementptr %smem[%at] : (!llvm.ptr<3>, i32) -> !llvm.ptr<3>, i32
  %a = llvm.load %pa : !llvm.ptr<3> -> i32
  %d0 = llvm.load %c0 : !llvm.ptr -> f32
  %d1 = llvm.load %c1 : !llvm.ptr -> f32
  %d2 = llvm.load %c2 : !llvm.ptr -> f32
  %d3 = llvm.load %c3 : !llvm.ptr -> f32
  %r = llvm.inline_asm has_side_effects "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {$0,$1,$2,$3}, {$4,$4,$4,$4}, {$4,$4}, {$0,$1,$2,$3};", "=f,=f,=f,=f,r,0,1,2,3" %a, %d0, %d1, %d2, %d3 : (i32, f32, f32, f32, f32) -> !llvm.struct<(f32, f32, f32, f32)>
  %e0 = llvm.extractvalue %r[0] : !llvm.struct<(f32, f32, f32, f32)>
  %e1 = llvm.extractvalue %r[1] : !llvm.struct<(f32, f32, f32, f32)>
  %e2 = llvm.extractvalue %r[2] : !llvm.struct<(f32, f32, f32, f32)>
  %e3 = llvm.extractvalue %r[3] : !llvm.struct<(f32, f32, f32, f32)>
  llvm.store %e0, %c0 : f32, !llvm.ptr
  llvm.store %e1, %c1 : f32, !llvm.ptr
  llvm.store %e2, %c2 : f32, !llvm.ptr
  llvm.store %e3, %c3 : f32, !llvm.ptr
  %next = llvm.add %i, %one : i32
  llvm.store %next, %index : i32, !llvm.ptr
  nvvm.barrier0
  llvm.br ^head
^end:
  %f0 = llvm.load %c0 : !llvm.ptr -> f32
  %f3 = llvm.load %c3 : !llvm.ptr -> f32
  %sum = llvm.fadd %f0, %f3 : f32
  %pout = llvm.inttoptr %out : i64 to !llvm.ptr<1>
  %po = llvm.getelementptr %pout[%thread] : (!llvm.ptr<1>, i32) -> !llvm.ptr<1>, f32
  llvm.store %sum, %po : f32, !llvm.ptr<1>
  llvm.return
}
