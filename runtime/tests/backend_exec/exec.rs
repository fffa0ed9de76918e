//! Runs emitted code: executable memory, the argument block, one call for each task.

use attn_compiler::artifact::{DType, Intrinsic};
use attn_compiler::backend::cpu::{self, CpuCode};
use attn_compiler::target::{CpuArch, CpuFacts};
use attn_compiler::tile_ir::Program;
use half::{bf16, f16};

/// Facts of this host; `plain` leaves out every optional instruction.
pub fn facts(plain: bool) -> CpuFacts {
    #[cfg(target_arch = "x86_64")]
    let arch = CpuArch::X86_64 {
        sse41: !plain && std::is_x86_feature_detected!("sse4.1"),
        fma: !plain && std::is_x86_feature_detected!("fma"),
    };
    #[cfg(target_arch = "aarch64")]
    let arch = CpuArch::Aarch64;
    let _ = plain;
    CpuFacts { arch, l1d: 32 << 10, l2: 1 << 20, l3: 16 << 20, vector_bits: 128, pairs: false }
}

/// A tensor in host memory: bytes, and sizes and strides in elements.
#[derive(Clone, Debug)]
pub struct HostTensor {
    pub dtype: DType,
    pub bytes: Vec<u8>,
    pub shape: Vec<i64>,
    pub strides: Vec<i64>,
}

impl HostTensor {
    /// Contiguous, from values converted to the storage type.
    pub fn new(dtype: DType, shape: &[i64], values: impl Iterator<Item = f64>) -> HostTensor {
        let n = shape.iter().product::<i64>() as usize;
        let mut strides = vec![1; shape.len()];
        for d in (1..shape.len()).rev() {
            strides[d - 1] = strides[d] * shape[d];
        }
        let bytes: Vec<u8> = values.take(n).flat_map(|v| encode(dtype, v)).collect();
        assert_eq!(bytes.len(), n * dtype.size(), "as many values as elements");
        HostTensor { dtype, bytes, shape: shape.to_vec(), strides }
    }

    /// Contiguous zeros.
    pub fn zeros(dtype: DType, shape: &[i64]) -> HostTensor {
        HostTensor::new(dtype, shape, std::iter::repeat(0.0))
    }

    /// The f32 elements in storage order.
    pub fn f32s(&self) -> Vec<f32> {
        self.bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }

    /// The stored bytes of one element, `index` in range.
    pub fn element(&self, index: &[i64]) -> &[u8] {
        let at: i64 = index.iter().zip(&self.strides).map(|(i, s)| i * s).sum();
        &self.bytes[at as usize * self.dtype.size()..][..self.dtype.size()]
    }
}

fn encode(dtype: DType, v: f64) -> Vec<u8> {
    match dtype {
        DType::F32 => (v as f32).to_le_bytes().to_vec(),
        DType::F16 => f16::from_f64(v).to_le_bytes().to_vec(),
        DType::Bf16 => bf16::from_f64(v).to_le_bytes().to_vec(),
        DType::F64 => v.to_le_bytes().to_vec(),
        DType::I8 => (v as i8).to_le_bytes().to_vec(),
        DType::I32 => (v as i32).to_le_bytes().to_vec(),
        DType::I64 => (v as i64).to_le_bytes().to_vec(),
        DType::Bit => vec![u8::from(v != 0.0)],
        DType::F8E4M3 => vec![attn_compiler::f8::encode(v as f32)],
    }
}

/// A scalar argument as its word.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg {
    Int(i64),
    Float(f32),
    Bool(bool),
}

impl Arg {
    fn word(self) -> u64 {
        match self {
            Arg::Int(x) => x as u64,
            Arg::Float(x) => u64::from(x.to_bits()),
            Arg::Bool(x) => u64::from(x),
        }
    }
}

/// 64-byte aligned scratch, filled with NaN so that what was not written is seen.
pub struct ScratchMemory {
    lines: Vec<Line>,
}

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([u32; 16]);

impl ScratchMemory {
    fn new(bytes: usize) -> ScratchMemory {
        ScratchMemory { lines: vec![Line([f32::NAN.to_bits(); 16]); bytes.div_ceil(64)] }
    }

    fn address(&mut self) -> *mut u8 {
        self.lines.as_mut_ptr().cast()
    }

    /// A word of it as f32.
    pub fn f32_at(&self, byte: usize) -> f32 {
        f32::from_bits(self.lines[byte / 64].0[byte % 64 / 4])
    }
}

/// Code in executable memory.
pub struct Loaded {
    memory: memmap2::Mmap,
    pub code: CpuCode,
    layout: attn_compiler::artifact::ArgLayout,
}

impl Loaded {
    pub fn new(program: &Program, plain: bool) -> Loaded {
        let code = cpu::emit(program, &facts(plain)).expect("the backend has code for the program");
        let mut memory = memmap2::MmapMut::map_anon(code.code.len().max(1)).expect("memory");
        memory[..code.code.len()].copy_from_slice(&code.code);
        let memory = memory.make_exec().expect("executable memory");
        Loaded { memory, code, layout: cpu::arg_layout(program) }
    }

    /// The argument block over these tensors and scalars.
    pub fn args(
        &self,
        table: &'static [usize; Intrinsic::ALL.len()],
        tensors: &mut [HostTensor],
        scalars: &[Arg],
    ) -> Vec<u64> {
        self.args_at(table.as_ptr() as u64, tensors, scalars)
    }

    /// The same with the address of the table.
    pub fn args_at(&self, table: u64, tensors: &mut [HostTensor], scalars: &[Arg]) -> Vec<u64> {
        let mut words = vec![0; self.layout.words];
        words[0] = table;
        assert_eq!(tensors.len(), self.layout.tensors.len(), "every tensor is bound");
        for (t, tensor) in tensors.iter_mut().enumerate() {
            words[self.layout.address(t)] = tensor.bytes.as_mut_ptr() as u64;
            for d in 0..tensor.shape.len() {
                words[self.layout.size(t, d)] = tensor.shape[d] as u64;
                words[self.layout.stride(t, d)] = tensor.strides[d] as u64;
            }
        }
        assert_eq!(scalars.len(), self.layout.scalars.len(), "every scalar is bound");
        for (&word, arg) in self.layout.scalars.iter().zip(scalars) {
            words[word] = arg.word();
        }
        words
    }

    /// Runs tasks of one launch, each on fresh scratch, and returns the scratch of the last.
    pub fn run(&self, launch: usize, args: &[u64], tasks: i64) -> ScratchMemory {
        let mut scratch = ScratchMemory::new(0);
        for task in 0..tasks {
            scratch = ScratchMemory::new(self.code.scratch_bytes[launch]);
            let entry = &self.memory[self.code.entries[launch]..];
            // SAFETY: `entry` is the start of a function with this signature that the backend made; the memory
            // is executable, and the block and the scratch are as large as the code was told.
            unsafe {
                let f: extern "C" fn(*const u64, *mut u8, i64) = std::mem::transmute(entry.as_ptr());
                f(args.as_ptr(), scratch.address(), task);
            }
        }
        scratch
    }
}
