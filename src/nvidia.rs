//! NVIDIA's assembler and disassembler: PTX to machine code, what it takes of a GPU, and its listing.
//!
//! Comes in: PTX text, an architecture. Goes out: a cubin with the figures of each kernel, or SASS; or an [`Error`] that names
//! the tool and how to get it. What holds: the tools are never part of attnc. They are looked for in one order: the
//! variable (`ATTN_PTXAS`, `ATTN_NVDISASM`), `PATH`, `bin` of `CUDA_HOME`, and the packages of the python in `PATH`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use attn_compiler::target::GpuArch;

use crate::error::{Error, ErrorKind};

/// A program of NVIDIA's, and where it may lie.
struct Tool {
    name: &'static str,
    variable: &'static str,
    /// Folders of it in site-packages.
    packages: &'static [&'static str],
    what: &'static str,
    package: &'static str,
}

const PTXAS: Tool = Tool {
    name: "ptxas",
    variable: "ATTN_PTXAS",
    packages: &["nvidia/cuda_nvcc/bin", "nvidia/cu13/bin"],
    what: "PTX is assembled by NVIDIA's `ptxas`",
    package: "nvidia-cuda-nvcc-cu12",
};

const NVDISASM: Tool = Tool {
    name: "nvdisasm",
    variable: "ATTN_NVDISASM",
    packages: &["nvidia/cuda_nvdisasm/bin", "nvidia/cuda_nvcc/bin", "nvidia/cu13/bin"],
    what: "machine code for GPUs is listed by NVIDIA's `nvdisasm`",
    package: "nvidia-cuda-nvdisasm",
};

/// Lists machine code as well, where there is no `nvdisasm`.
const CUOBJDUMP: Tool =
    Tool { name: "cuobjdump", packages: &["nvidia/cuda_cuobjdump/bin", "nvidia/cu13/bin"], ..NVDISASM };

/// What a kernel takes of a GPU, as ptxas says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Name of the entry.
    pub entry: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of registers that are written to memory for lack of registers.
    pub spill_stores: u32,
    /// Bytes that are read back.
    pub spill_loads: u32,
    /// Bytes of shared memory that are declared in the code; what is asked for at launch is not among them.
    pub shared_bytes: u32,
    /// Bytes of memory of a thread's own.
    pub stack: u32,
}

/// What ptxas makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assembled {
    /// The machine code, an ELF file.
    pub cubin: Vec<u8>,
    /// Of each kernel, in ptxas's order.
    pub figures: Vec<Figures>,
    /// Its warnings, and its remarks that products are serialised.
    pub warnings: Vec<String>,
}

impl Tool {
    fn remedy(&self) -> String {
        format!(
            "install it with `pip install {}`, or name one in {}, PATH or CUDA_HOME",
            self.package, self.variable
        )
    }

    /// Errors: there is none, or the variable names none.
    fn find(&self, env: &dyn Fn(&str) -> Option<std::ffi::OsString>) -> Result<PathBuf, Error> {
        let given = |name: &str| env(name).filter(|value| !value.is_empty());
        if let Some(named) = given(self.variable) {
            let file = PathBuf::from(named);
            if file.is_file() {
                return Ok(file);
            }
            let message =
                format!("{} names {}, which is no file; {}", self.variable, file.display(), self.remedy());
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let file = format!("{}{}", self.name, std::env::consts::EXE_SUFFIX);
        let path = given("PATH").unwrap_or_default();
        let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(given);
        let dirs = std::env::split_paths(&path).chain(homes.map(|home| PathBuf::from(home).join("bin")));
        let in_dirs = dirs.map(|dir| dir.join(&file)).find(|file| file.is_file());
        let in_packages = || {
            let sites = site_packages(&path);
            let all = sites.iter().flat_map(|site| self.packages.iter().map(move |dir| site.join(dir)));
            all.map(|dir| dir.join(&file)).find(|file| file.is_file())
        };
        in_dirs.or_else(in_packages).ok_or_else(|| {
            let message = format!("{}, which is not found; {}", self.what, self.remedy());
            Error::new(ErrorKind::Unsupported, message)
        })
    }
}

/// Where the python in `PATH` looks for packages; nothing without one.
fn site_packages(path: &std::ffi::OsStr) -> Vec<PathBuf> {
    for name in ["python3", "python"] {
        let file = format!("{name}{}", std::env::consts::EXE_SUFFIX);
        let Some(python) = std::env::split_paths(path).map(|dir| dir.join(&file)).find(|f| f.is_file())
        else {
            continue;
        };
        let code = "import sys; print('\\n'.join(p for p in sys.path if p))";
        if let Ok(out) = Command::new(python).args(["-c", code]).output()
            && out.status.success()
        {
            return String::from_utf8_lossy(&out.stdout).lines().map(PathBuf::from).collect();
        }
    }
    Vec::new()
}

/// The file of ptxas. Errors: there is none.
pub fn ptxas() -> Result<PathBuf, Error> {
    PTXAS.find(&|name| std::env::var_os(name))
}

/// Machine code of PTX.
///
/// # Errors
/// `Unsupported` without ptxas, `Io` if it cannot be run, `Internal` if it refuses the text.
pub fn assemble(ptx: &str, arch: GpuArch) -> Result<Assembled, Error> {
    let ptxas = ptxas()?;
    let dir = tempfile::tempdir().map_err(|err| io("a temporary directory", &err))?;
    let (from, to) = (dir.path().join("kernel.ptx"), dir.path().join("kernel.cubin"));
    std::fs::write(&from, ptx).map_err(|err| io("the PTX for ptxas", &err))?;
    let mut command = Command::new(&ptxas);
    command.arg(format!("-arch={}", arch.name())).arg("-v").arg(&from).arg("-o").arg(&to);
    let out = run(&ptxas, &mut command)?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout);
    if !out.status.success() {
        let message = format!(
            "internal error in emit: {} refuses the PTX (for {}); it said:\n{}\nthis is a bug in attnc if that ptxas is of \
             CUDA 12.3 or later, please report it",
            ptxas.display(),
            arch.name(),
            said.trim()
        );
        return Err(Error::new(ErrorKind::Internal, message));
    }
    let cubin = std::fs::read(&to).map_err(|err| io("the cubin of ptxas", &err))?;
    Ok(Assembled { cubin, figures: figures(&said), warnings: warnings(&said) })
}

/// The listing of machine code.
///
/// # Errors
/// `Unsupported` without a disassembler, `Io` if it cannot be run or fails.
pub fn disassemble(cubin: &[u8]) -> Result<String, Error> {
    let env = |name: &str| std::env::var_os(name);
    let tool = NVDISASM.find(&env).or_else(|err| CUOBJDUMP.find(&env).map_err(|_| err))?;
    let dir = tempfile::tempdir().map_err(|err| io("a temporary directory", &err))?;
    let from = dir.path().join("kernel.cubin");
    std::fs::write(&from, cubin).map_err(|err| io("the cubin", &err))?;
    let mut command = Command::new(&tool);
    if tool.file_stem().is_some_and(|name| name.to_string_lossy().contains(CUOBJDUMP.name)) {
        command.arg("-sass");
    }
    let out = run(&tool, command.arg(&from))?;
    match String::from_utf8(out.stdout) {
        Ok(text) if out.status.success() && !text.trim().is_empty() => Ok(text),
        _ => {
            let said = String::from_utf8_lossy(&out.stderr);
            let message = format!("{} cannot list the machine code: {}", tool.display(), said.trim());
            Err(Error::new(ErrorKind::Io, message))
        }
    }
}

fn run(tool: &Path, command: &mut Command) -> Result<Output, Error> {
    command.output().map_err(|err| {
        let message = format!("{} cannot be started: {err}", tool.display());
        Error::new(ErrorKind::Io, message)
    })
}

fn io(what: &str, err: &std::io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("{what} cannot be written or read: {err}"))
}

/// The number before a word of a line: 12 of `12 bytes spill stores`, 40 of `Used 40 registers`.
fn before(line: &str, words: &str) -> Option<u32> {
    line.split_once(words)?.0.split_whitespace().last()?.parse().ok()
}

/// What `ptxas -v` says of each entry.
fn figures(said: &str) -> Vec<Figures> {
    let mut all: Vec<Figures> = Vec::new();
    for line in said.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let entry = rest.split('\'').next().unwrap_or(rest).to_string();
            all.push(Figures { entry, ..Figures::default() });
        }
        let Some(now) = all.last_mut() else { continue };
        let mut take = |words: &str, field: fn(&mut Figures) -> &mut u32| {
            if let Some(n) = before(line, words) {
                *field(now) = n;
            }
        };
        take(" bytes stack frame", |f| &mut f.stack);
        take(" bytes spill stores", |f| &mut f.spill_stores);
        take(" bytes spill loads", |f| &mut f.spill_loads);
        take(" registers", |f| &mut f.registers);
        take(" bytes smem", |f| &mut f.shared_bytes);
    }
    all
}

fn warnings(said: &str) -> Vec<String> {
    let matters = |line: &&str| line.contains("warning") || line.contains("C75");
    said.lines().filter(matters).map(|line| line.trim().to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    const SAID: &str = "ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'attn_a' for 'sm_80'
ptxas info    : Function properties for attn_a
    16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 2048 bytes smem, 388 bytes cmem[0]
ptxas info    : Compile time = 3.4 ms
ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized
ptxas info    : Compiling entry function 'attn_b' for 'sm_80'
ptxas info    : Function properties for attn_b
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 0 barriers, 388 bytes cmem[0]
";

    #[test]
    fn figures_of_each_entry() {
        let all = figures(SAID);
        let a = Figures {
            entry: "attn_a".into(),
            registers: 255,
            spill_stores: 12,
            spill_loads: 8,
            shared_bytes: 2048,
            stack: 16,
        };
        let b = Figures { entry: "attn_b".into(), registers: 40, ..Figures::default() };
        assert_eq!(all, [a, b]);
        assert_eq!(warnings(SAID).len(), 1);
    }

    #[test]
    fn tools_are_looked_for_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let put = |place: &str| {
            let file = dir.path().join(place);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, "").unwrap();
            file
        };
        let named = put("named");
        let in_path = put(&format!("path/ptxas{}", std::env::consts::EXE_SUFFIX));
        let in_home = put(&format!("home/bin/ptxas{}", std::env::consts::EXE_SUFFIX));
        let find = |given: &[(&str, &Path)]| {
            let given: Vec<(String, OsString)> =
                given.iter().map(|(n, p)| (n.to_string(), p.as_os_str().into())).collect();
            PTXAS.find(&move |name| given.iter().find(|(n, _)| n == name).map(|(_, p)| p.clone()))
        };
        let (path, home) = (in_path.parent().unwrap(), dir.path().join("home"));
        let all = [("ATTN_PTXAS", named.as_path()), ("PATH", path), ("CUDA_HOME", home.as_path())];
        assert_eq!(find(&all).unwrap(), named);
        assert_eq!(find(&all[1..]).unwrap(), in_path);
        assert_eq!(find(&all[2..]).unwrap(), in_home);
        for err in [find(&[]), find(&[("ATTN_PTXAS", Path::new("/none"))])] {
            let err = err.unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Unsupported);
            assert!(err.to_string().contains("pip install nvidia-cuda-nvcc-cu12"), "{err}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn packages_of_the_python_in_path_are_looked_through() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("site/nvidia/cuda_nvcc/bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::write(bin.join("ptxas"), "").unwrap();
        let python = dir.path().join("python3");
        std::fs::write(&python, format!("#!/bin/sh\necho {}/site\n", dir.path().display())).unwrap();
        std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).unwrap();
        let path = OsString::from(dir.path());
        // A file that another thread's fork still holds open for writing cannot be executed: try again.
        for _ in 0..1000 {
            if let Ok(found) = PTXAS.find(&|name| (name == "PATH").then(|| path.clone())) {
                assert_eq!(found, bin.join("ptxas"));
                return;
            }
            std::thread::yield_now();
        }
        panic!("the package is not found");
    }
}
