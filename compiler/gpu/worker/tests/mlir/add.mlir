// c[i] = a[i] + b[i] for i < n, a thread each. The index lives in an `alloca`, as virtual registers do.
llvm.func @add(%a: i64, %b: i64, %c: i64, %n: i32) attributes {nvvm.kernel, nvvm.maxntid = array<i32: 128>} {
  %one = llvm.mlir.constant(1 : i32) : i32
  %register = llvm.alloca %one x i32 : (i32) -> !llvm.ptr
  %block = nvvm.read.ptx.sreg.ctaid.x : i32
  %threads = nvvm.read.ptx.sreg.ntid.x : i32
  %thread = nvvm.read.ptx.sreg.tid.x : i32
  %first = llvm.mul %block, %threads : i32
  %i = llvm.add %first, %thread : i32
  llvm.store %i, %register : i32, !llvm.ptr
  %inside = llvm.icmp "slt" %i, %n : i32
  llvm.cond_br %inside, ^body, ^end
^body:
  %at = llvm.load %register : !llvm.ptr -> i32
  %pa = llvm.inttoptr %a : i64 to !llvm.ptr<1>
  %pb = llvm.inttoptr %b : i64 to !llvm.ptr<1>
  %pc = llvm.inttoptr %c : i64 to !llvm.ptr<1>
  %ea = llvm.getelementptr %pa[%at] : (!llvm.ptr<1>, i32) -> !llvm.ptr<1>, f32
  %eb = llvm.getelementptr %pb[%at] : (!llvm.ptr<1>, i32) -> !llvm.ptr<1>, f32
  %ec = llvm.getelementptr %pc[%at] : (!llvm.ptr<1>, i32) -> !llvm.ptr<1>, f32
  %va = llvm.load %ea : !llvm.ptr<1> -> f32
  %vb = llvm.load %eb : !llvm.ptr<1> -> f32
  %sum = llvm.fadd %va, %vb : f32
  llvm.store %sum, %ec : f32, !llvm.ptr<1>
  llvm.br ^end
^end:
  llvm.return
}
