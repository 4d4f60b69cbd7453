//! NVIDIA's own tools, where they are installed: PTX to machine code, machine code to text.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::error::{Error, ErrorKind, Result};

const HELP: &str = "install NVIDIA's CUDA toolkit or the Python packages nvidia-cuda-nvcc, nvidia-cuda-nvdisasm and \
                    nvidia-cuda-cuobjdump, and name ptxas with `--ptxas PATH`";

/// The tools' place.
#[derive(Debug, Clone, Default)]
pub struct Assembler {
    /// ptxas; `None`: the one on PATH. The other tools are looked for beside it first.
    pub ptxas: Option<PathBuf>,
}

impl Assembler {
    /// Machine code of `ptx` for `arch` (`sm_90a`). Errors: there is no ptxas; it refuses the text.
    pub fn cubin(&self, ptx: &[u8], arch: &str) -> Result<Vec<u8>> {
        let folder = folder()?;
        let (from, to) = (folder.path().join("module.ptx"), folder.path().join("module.cubin"));
        std::fs::write(&from, ptx).map_err(|e| Error::io("write", &from, e))?;
        let tool = self.ptxas.clone().unwrap_or_else(|| "ptxas".into());
        let arch = format!("-arch={arch}");
        // Relative names: the machine code may say where it came from, and shall not.
        let mut command = Command::new(&tool);
        command.args([arch.as_str(), "-O3", "module.ptx", "-o", "module.cubin"]).current_dir(folder.path());
        let Some(output) = start(&mut command, &tool)? else {
            let message = format!("there is no `{}` here", tool.display());
            return Err(Error::new(ErrorKind::Unsupported, message).help(HELP));
        };
        succeeded(&tool, &output)?;
        std::fs::read(&to).map_err(|e| Error::io("read", &to, e))
    }

    /// What ptxas says of its version; `None` where there is none.
    pub fn version(&self) -> Option<String> {
        let tool = self.ptxas.clone().unwrap_or_else(|| "ptxas".into());
        let output = start(Command::new(&tool).arg("--version"), &tool).ok()??;
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().find(|line| line.contains("release")).or(text.lines().last());
        output.status.success().then(|| line.unwrap_or("of no known version").trim().to_string())
    }

    /// Disassembly of machine code. Errors: there is neither nvdisasm nor cuobjdump; what they say.
    pub fn sass(&self, cubin: &[u8]) -> Result<Vec<u8>> {
        let folder = folder()?;
        let from = folder.path().join("module.cubin");
        std::fs::write(&from, cubin).map_err(|e| Error::io("write", &from, e))?;
        let beside = self.ptxas.as_deref().and_then(Path::parent);
        for (name, arguments) in [("nvdisasm", "-c"), ("cuobjdump", "-sass")] {
            let beside = beside.map(|folder| folder.join(name)).filter(|path| path.exists());
            let tool = beside.unwrap_or_else(|| name.into());
            let mut command = Command::new(&tool);
            command.args([arguments, "module.cubin"]).current_dir(folder.path());
            if let Some(output) = start(&mut command, &tool)? {
                succeeded(&tool, &output)?;
                return Ok(output.stdout);
            }
        }
        Err(Error::new(ErrorKind::Unsupported, "there is neither `nvdisasm` nor `cuobjdump` here").help(HELP))
    }
}

fn folder() -> Result<tempfile::TempDir> {
    tempfile::tempdir()
        .map_err(|e| Error::new(ErrorKind::Resource, format!("cannot make a temporary folder: {e}")))
}

/// What the tool gave; `None` where there is no such tool.
fn start(command: &mut Command, tool: &Path) -> Result<Option<Output>> {
    match command.output() {
        Ok(output) => Ok(Some(output)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("start", tool, e)),
    }
}

fn succeeded(tool: &Path, output: &Output) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().take(8).collect();
    let message = format!("{} failed ({}): {}", tool.display(), output.status, lines.join("; "));
    Err(Error::new(ErrorKind::Internal, message).help("the PTX is that of `--emit ptx`"))
}
